"""Which folders are shown: runs, begun or finished, and the sets and results of other stages."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dermgen import stages
from dermgen.config import InputError
from dermgen.job import saved_settings

DEPTH = 3  # levels below the folder given; `dermgen tiny` keeps its runs in NAME/stages/


def require_jobs(places: Sequence[str]) -> None:
    """Report what is wrong with the folders given, as far as that is seen without torch.

    Raises:
        InputError: if one is missing, or none of them holds anything that dermgen wrote.
    """
    for place in places:
        if not Path(place).is_dir():
            raise InputError(f"no such folder: {place}")
    if not find(places, lambda folder: bool(stages.of(folder) or saved_settings(folder))):
        raise nothing_in(places)


def nothing_in(places: Sequence[str]) -> InputError:
    """The error for folders without a run or a set."""
    return InputError(f"no run or set of dermgen in {', '.join(places)}: give a folder that holds runs")


def find(places: Sequence[str], is_shown: Callable[[Path], bool]) -> list[Path]:
    """The folders to show among those given and those up to `DEPTH` levels inside them; none lies in another."""
    found = [folder for place in places for folder in _inside(Path(place), DEPTH, is_shown)]
    return list(dict.fromkeys(found))


def _inside(folder: Path, levels: int, is_shown: Callable[[Path], bool]) -> Iterator[Path]:
    if is_shown(folder):
        yield folder
    elif levels:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith((".", "checkpoint-")):
                yield from _inside(path, levels - 1, is_shown)
