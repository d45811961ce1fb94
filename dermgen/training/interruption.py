"""Ctrl-C and SIGTERM: the step in progress is finished and saved before the program ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """The signal that this process received; 0 before."""

    def __init__(self):
        self.number = 0

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Within the block the first signal is noted; a second one ends the program."""

        def note(number, frame):
            self.number = number
            signal.signal(number, previous[number])

        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
