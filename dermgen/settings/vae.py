"""Settings of `vae.py`."""

from dataclasses import dataclass
from typing import Literal

from dermgen.config import InputError, option
from dermgen.settings.training import FromScratchConfig


@dataclass(frozen=True, kw_only=True)
class VaeConfig(FromScratchConfig):
    """Train a variational autoencoder from scratch."""

    architecture: Literal["convolutional", "dense"] = option(
        "convolutional", "strided convolutions, or one hidden layer of hidden_width"
    )
    channels: list[int] | None = option(
        None,
        "channels of the convolutions, each of which halves the size; default 32 64 128 256; not for dense",
        multiple_of=8,
    )
    hidden_width: int = option(256, "width of the dense variant's hidden layer", at_least=1)
    latent_dim: int = option(128, "size of the latent vector of an image", at_least=1)
    kl_weight: float = option(
        1.0, "weight of the KL term relative to the squared error, both summed over an image", at_least=0
    )
    kl_warmup_steps: int = option(0, "optimizer steps over which kl_weight rises from 0", at_least=0)
    learning_rate: float = option(1e-3, "peak learning rate")
    max_grad_norm: float = option(
        1.0, "largest gradient norm; without a limit a single batch can make a dense VAE diverge", infinite=True
    )
    lpips: Literal["none", "alex", "vgg"] = option(
        "none", "backbone of the LPIPS of reconstructions; none leaves it out"
    )

    def __post_init__(self):
        super().__post_init__()
        factor = 2 ** len(self.channels or [32, 64, 128, 256])
        if self.architecture == "convolutional" and self.resolution % factor:
            raise InputError(f"resolution must be a multiple of {factor} for these channels, got {self.resolution}")
