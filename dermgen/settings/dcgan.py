"""Settings of `dcgan.py`."""

from dataclasses import dataclass
from typing import Literal

from dermgen.config import option
from dermgen.settings.training import AdversarialConfig


@dataclass(frozen=True, kw_only=True)
class DcganConfig(AdversarialConfig):
    """Train a DCGAN, or with --class_conditional a conditional GAN, from scratch."""

    resolution: int = option(64, "height and width in pixels", power_of_2=True)
    latent_dim: int = option(100, "size of the latent vector of an image", at_least=1)
    generator_channels: int = option(
        128, "channels of the generator's last hidden layer; each earlier one has twice as many", at_least=1
    )
    discriminator_channels: int = option(
        64, "channels of the discriminator's first layer; each later one has twice as many", at_least=1
    )
    conditioning: Literal["projection", "embedding"] = option(
        "projection",
        "how the discriminator receives the class: by projection (Miyato and Koyama 2018), or as an image channel",
    )
    discriminator_norm: Literal["batch", "spectral", "none"] = option(
        "batch", "normalisation of the discriminator's layers"
    )
    r1_gamma: float = option(0.0, "weight of the R1 penalty, times a half; 0 is off", at_least=0)
    diff_augment: bool = option(
        False, "apply differentiable augmentation to all images of the discriminator, real and generated"
    )
