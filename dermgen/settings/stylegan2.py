"""Settings of `stylegan2.py`."""

from dataclasses import dataclass
from typing import Literal

from dermgen.config import InputError, option
from dermgen.settings.training import AdversarialConfig


@dataclass(frozen=True, kw_only=True)
class Stylegan2Config(AdversarialConfig):
    """Train a StyleGAN2 from scratch."""

    resolution: int = option(64, "height and width in pixels", power_of_2=True)
    loss: Literal["logistic", "wgan_gp"] = option("logistic", "non-saturating logistic with R1, or WGAN-GP")
    latent_dim: int = option(512, "size of the latent vectors z and w", at_least=1)
    mapping_layers: int = option(8, "layers of the mapping network, from z to w", at_least=1)
    channel_base: int = option(16384, "a layer of H pixels has this / H channels, at most channel_max", at_least=1)
    channel_max: int = option(512, "largest number of channels of a layer", at_least=1)
    style_mixing: float = option(0.9, "share of images whose later layers get a second style", within="[0, 1]")
    n_critic: int = option(1, "discriminator updates per step, each on a new batch", at_least=1)
    learning_rate: float = option(2.5e-3, "learning rate of the generator")
    adam_beta1: float = option(0.0, "Adam's decay of the first moment")
    adam_beta2: float = option(0.99, "Adam's decay of the second moment")
    ema_decay: float = option(0.999, "decay of the generator's moving average; 0 disables it")
    r1_gamma: float | None = option(
        None, "weight of the R1 penalty, times a half; default 0.0002 x resolution² / images per step", at_least=0
    )
    r1_interval: int = option(16, "apply the R1 penalty every so many steps, multiplied by that number", at_least=1)
    path_length_weight: float = option(2.0, "weight of path-length regularisation; 0 is off", at_least=0)
    path_length_interval: int = option(
        4, "apply the path-length penalty every so many steps, multiplied by that number", at_least=1
    )
    ada_target: float | None = option(
        None,
        "mean sign of D(real) at which adaptive augmentation aims; default no augmentation; 0.6 is the paper's value",
        within="(-1, 1)",
    )
    ada_kimg: float = option(
        500.0, "thousands of images over which the probability of augmentation can rise from 0 to 1", at_least=1
    )
    gradient_penalty_weight: float = option(10.0, "weight of WGAN-GP's gradient penalty", at_least=0)
    spectral_norm: bool = option(
        False, "spectral normalisation of the discriminator's convolutions, instead of equalised learning rates"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.loss == "wgan_gp" and self.ada_target is not None:
            raise InputError("ada_target uses the sign of logits, which a WGAN's critic does not have: leave it out")
        if self.loss == "wgan_gp" and self.r1_gamma is not None:
            raise InputError("r1_gamma belongs to the logistic loss: with wgan_gp set gradient_penalty_weight instead")
        logistic = "r1_interval path_length_weight path_length_interval"
        for name in logistic.split() if self.loss == "wgan_gp" else ["gradient_penalty_weight"]:
            if getattr(self, name) not in (getattr(Stylegan2Config, name), 0):
                raise InputError(f"{name} has no effect with --loss {self.loss}: leave it out")
