"""`metrics.jsonl`: one line for every few steps, the mean of what was logged in them."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from dermgen.config import whole_file


def read(path: Path) -> list[dict]:
    """The whole lines of a metrics.jsonl, without one that a killed run left half written; none without the file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def append(path: Path, step: int, scalars: Mapping[str, float]) -> None:
    """Add one line."""
    with open(path, "a") as file:
        file.write(json.dumps({"step": step, **scalars}) + "\n")


def cut(path: Path, step: int) -> None:
    """Drop the lines after `step`: those steps will be repeated."""
    if path.exists():
        kept = [line for line in read(path) if line["step"] <= step]
        with whole_file(path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))


class PendingMeans:
    """Scalars logged since the last line: those of the step in progress, and the sums over finished steps."""

    def __init__(self):
        self._step: dict[str, list[torch.Tensor]] = {}
        self._sums: dict[str, float] = {}
        self._steps = 0

    def log(self, name: str, value: torch.Tensor) -> None:
        """Note a scalar of the step in progress."""
        self._step.setdefault(name, []).append(value)

    def end_step(self) -> dict[str, torch.Tensor]:
        """The means over the step in progress, on this process."""
        means = {name: torch.stack(values).mean() for name, values in self._step.items()}
        self._step = {}
        return means

    def add(self, means: Mapping[str, float]) -> None:
        """Add the means of a finished step over all processes."""
        for name, value in means.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1

    def take(self) -> dict[str, float]:
        """The means over the finished steps since the last call."""
        means = {name: total / self._steps for name, total in self._sums.items()}
        self._sums, self._steps = {}, 0
        return means

    def state(self) -> dict:
        """What a checkpoint holds of it."""
        return {"pending": self._sums, "pending_steps": self._steps}

    def load(self, state: Mapping) -> None:
        """Continue from what `state` gave."""
        self._sums, self._steps = state["pending"], state["pending_steps"]
