"""The one optimizer that every training uses: AdamW with the settings of its config."""

from collections.abc import Iterable

import torch
from torch import nn

from dermgen.settings.training import TrainConfig


def adamw(parameters: Iterable[nn.Parameter], config: TrainConfig, **changes: float) -> torch.optim.Optimizer:
    """AdamW with the config's settings, or with a rate `lr` of its own; without weight decay it is plain Adam."""
    kind = torch.optim.AdamW
    if config.use_8bit_adam:
        import bitsandbytes

        kind = bitsandbytes.optim.AdamW8bit
    settings = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "weight_decay": config.adam_weight_decay,
        "eps": config.adam_epsilon,
    }
    return kind(parameters, **(settings | changes))
