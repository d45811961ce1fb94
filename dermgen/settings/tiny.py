"""Settings of `dermgen tiny`."""

from dataclasses import dataclass

from dermgen.config import InputError, option, require_at_least, require_seed


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Build a small Stable Diffusion and train it from scratch on the captions of a manifest."""

    data_dir: str = option(None, "manifest folder")
    output_dir: str = option(None, "folder of the pipeline; the stages' run folders are in it, under stages/")
    exclude_classes: list[str] | None = option(None, "train without these classes")
    max_images_per_class: int | None = option(None, "show the UNet at most this many images of each class")
    resolution: int = option(64, "height and width in pixels")
    seed: int = option(0, "of weights, data order and noise")
    autoencoder_channels: list[int] | None = option(None, "of the autoencoder's levels; default 16 32 64")
    latent_channels: int = option(8, "of a latent pixel; more keep more detail")
    autoencoder_steps: int = option(1200, "optimizer steps of the autoencoder")
    autoencoder_batch_size: int = option(8, "images per step of the autoencoder")
    unet_channels: list[int] | None = option(None, "of the UNet's levels; default 64 128 192")
    text_width: int = option(128, "hidden size of the text encoder")
    unet_steps: int = option(1400, "optimizer steps of the UNet and the text encoder")
    unet_batch_size: int = option(16, "images per step of the UNet")
    unet_learning_rate: float = option(4e-4, "peak learning rate of the UNet and the text encoder")
    mixed_precision: str | None = option(None, "no, fp16 or bf16; default that of the accelerate config")
    report_to: str = option("tensorboard", "tensorboard, wandb or none")

    def __post_init__(self):
        require_seed(self.seed)
        if not self.data_dir or not self.output_dir:
            raise InputError("--data_dir (a manifest folder) and --output_dir are needed")
        require_at_least(1, autoencoder_steps=self.autoencoder_steps, unet_steps=self.unet_steps)
