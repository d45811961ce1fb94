"""Settings of `dermgen tiny`."""

from dataclasses import dataclass
from typing import Literal

from dermgen.config import SEEDS, check, option


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Build a small Stable Diffusion and train it from scratch on the captions of a manifest."""

    data_dir: str = option(None, "manifest folder", required=True)
    output_dir: str = option(
        None, "folder of the pipeline; the stages' run folders are in it, under stages/", required=True, free=True
    )
    exclude_classes: list[str] | None = option(None, "train without these classes")
    max_images_per_class: int | None = option(
        None, "train the UNet on at most this many images of each class", at_least=1
    )
    resolution: int = option(64, "height and width in pixels", multiple_of=8)
    seed: int = option(0, "seed of weights, data order and noise", within=SEEDS)
    autoencoder_channels: int = option(32, "channels of the autoencoder", at_least=4)
    downsampling: int = option(4, "how many times smaller the latents are than the image", at_least=2, power_of_2=True)
    latent_channels: int = option(8, "channels of the latents; more keep more detail", at_least=3)
    autoencoder_steps: int = option(1200, "optimizer steps of the autoencoder", at_least=1, free=True)
    autoencoder_batch_size: int = option(8, "images per step of the autoencoder", at_least=1)
    unet_channels: list[int] | None = option(None, "channels of the UNet's levels; default 64 128 192")
    text_width: int = option(128, "hidden size of the text encoder", at_least=1)
    unet_steps: int = option(1400, "optimizer steps of the UNet and the text encoder", at_least=1, free=True)
    unet_batch_size: int = option(16, "images per step of the UNet", at_least=1)
    unet_learning_rate: float = option(4e-4, "peak learning rate of the UNet and the text encoder", at_least=0)
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(None, "overrides the accelerate config", free=True)
    report_to: str = option("tensorboard", "tensorboard, wandb or none", free=True)

    __post_init__ = check
