"""What a check of a recipe finds, each a line, and what every fine-tuning says of the model that it starts from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

TOO_LARGE_FOR_A_CPU = 300e6  # weights: one step would take minutes


@dataclass(frozen=True)
class Finding:
    """One thing that was checked: fine, to be fixed, or worth knowing."""

    state: Literal["ok", "FIX", "note"]
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:<5} {self.name:<10} {self.text}"


def of_base_model(name: str, weights: int | None) -> Iterator[Finding]:
    """Whether a base model is on this machine, and whether it is one for a GPU.

    Args:
        name: a folder or Hub id.
        weights: number of them; None if the model is not here.
    """
    if weights is None:
        yield Finding("FIX", "model", f"{name} is not on this machine: hf download {name}")
        return
    yield Finding("ok", "model", f"{name}: {weights / 1e6:,.1f} M weights")
    if weights > TOO_LARGE_FOR_A_CPU and not torch.cuda.is_available():
        yield Finding("FIX", "device", "this recipe needs a GPU: one step of it on a CPU takes minutes")
