"""The one optimizer that every training uses, AdamW with the settings of its config, and its learning rate."""

from collections.abc import Callable, Iterable, Sequence

import torch
from diffusers.optimization import get_scheduler
from torch import nn
from torch.optim import Optimizer

from dermgen.settings.training import AdversarialConfig, TrainConfig


def adamw(
    parameters: Iterable[nn.Parameter],
    config: TrainConfig,
    optimizer_class: type[Optimizer] = torch.optim.AdamW,
    **changes: float,
) -> Optimizer:
    """AdamW with the config's settings and `changes` to them; without weight decay it is plain Adam."""
    if config.use_8bit_adam:
        import bitsandbytes

        optimizer_class = bitsandbytes.optim.AdamW8bit
    settings = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "weight_decay": config.adam_weight_decay,
        "eps": config.adam_epsilon,
    }
    return optimizer_class(parameters, **(settings | changes))


def adversarial(
    generator: nn.Module, discriminator: nn.Module, config: AdversarialConfig
) -> tuple[Optimizer, Optimizer]:
    """The optimizer of a generator, and that of its discriminator, which may have a learning rate of its own."""
    rate = config.discriminator_learning_rate
    rate = config.learning_rate if rate is None else rate
    return adamw(generator.parameters(), config), adamw(discriminator.parameters(), config, lr=rate)


def learning_rates(
    optimizers: Sequence[Optimizer], config: TrainConfig, steps: int, scale: float
) -> Callable[[int], list]:
    """`lr_at(step)`: every parameter group with its learning rate after `step` finished steps, times `scale`."""
    factor = get_scheduler(
        config.lr_scheduler,
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.learning_rate),
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=steps,
        num_cycles=config.lr_num_cycles,
        power=config.lr_power,
    ).lr_lambdas[0]
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    peaks = [group.setdefault("initial_lr", group["lr"]) * scale for group in groups]
    return lambda step: [(group, peak * factor(step)) for group, peak in zip(groups, peaks, strict=True)]
