"""The trained weights of models: without the frozen rest, as checkpoints keep them, and their moving average."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer

from dermgen.blocks import counted
from dermgen.config import InputError


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trained parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Trained parameters and buffers: without the frozen base a LoRA checkpoint is megabytes, not gigabytes."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {name: value.contiguous() for name, value in model.state_dict().items() if name not in frozen}


def load_trained_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load trained weights into `model`, whose frozen weights are in place already.

    Raises:
        InputError: if a trained weight is missing from `state`, or `state` has one that the model lacks.
    """
    expected = trained_state(model).keys()
    if state.keys() != expected:
        missing, unknown = sorted(expected - state.keys()), sorted(state.keys() - expected)
        raise InputError(
            "the checkpoint does not fit the model: "
            f"{counted(len(missing), 'trained weight is', 'trained weights are')} missing, "
            f"{counted(len(unknown), 'is', 'are')} unknown (such as {(missing + unknown)[0]}); resume with the version "
            "and settings that wrote it, or choose a new output_dir"
        )
    model.load_state_dict(state, strict=False)


def save_models(models: Sequence[nn.Module], folder: Path) -> None:
    """Write each model's trained weights: `model.safetensors`, `model_1.safetensors`, …"""
    for i, model in enumerate(models):
        save_file(trained_state(model), folder / _weights_name(i))


def load_models(models: Sequence[nn.Module], folder: Path) -> None:
    """Read what `save_models` wrote."""
    for i, model in enumerate(models):
        load_trained_state(model, load_file(folder / _weights_name(i)))


class MovingAverage:
    """The exponential moving average of the trained weights of one or several models."""

    def __init__(self, models: Sequence[nn.Module], decay: float):
        self.models = models
        self.ema = EMAModel(self._weights().values(), decay=decay, foreach=True)

    def step(self) -> None:
        """Update the average with the current weights."""
        self.ema.step(self._weights().values())

    def is_trained_by(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer trains these models."""
        first = next(iter(self._weights().values()))
        return any(p is first for group in optimizer.param_groups for p in group["params"])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the models hold the average; a block inside such a block does nothing."""
        if self.ema.temp_stored_params is not None:
            yield
            return
        parameters = list(self._weights().values())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

    def save(self, path: Path) -> None:
        shadow = dict(zip(self._weights(), self.ema.shadow_params, strict=True))
        save_file({name: value.contiguous() for name, value in shadow.items()}, path)

    def load(self, path: Path) -> None:
        shadow = load_file(path)
        for (name, live), target in zip(self._weights().items(), self.ema.shadow_params, strict=True):
            # Older versions averaged the first model alone.
            target.copy_(shadow.get(name, live) if name.startswith("model_1.") else shadow[name])

    def _weights(self) -> dict[str, nn.Parameter]:
        """Trained weights by name, those of the second model after `model_1.` and so on."""
        prefixes = ["", *(f"model_{i}." for i in range(1, len(self.models)))]
        return {
            prefix + name: weight
            for prefix, model in zip(prefixes, self.models, strict=True)
            for name, weight in trained(model).items()
        }


def _weights_name(i: int) -> str:
    return "model.safetensors" if i == 0 else f"model_{i}.safetensors"
