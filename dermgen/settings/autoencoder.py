"""Settings of the autoencoder of a small Stable Diffusion."""

from dataclasses import dataclass

from dermgen.config import option
from dermgen.settings.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(TrainConfig):
    """Train an AutoencoderTiny from scratch on a manifest."""

    data_dir: str = option(None, "manifest folder", required=True)
    exclude_classes: list[str] | None = option(None, "leave these classes out")
    resolution: int = option(64, "height and width in pixels", multiple_of=8)
    channels: int = option(32, "channels of every level", at_least=4)
    downsampling: int = option(4, "how many times smaller the latents are than the image", at_least=2, power_of_2=True)
    latent_channels: int = option(4, "channels of the latents; the first 3 begin as colours", at_least=3)
    latent_noise: float = option(
        0.1,
        "standard deviation of the noise on the latents in training, which makes the decoder smooth; the latents' own "
        "is about 0.5",
        at_least=0,
    )
    edge_weight: float = option(1.0, "weight of the error of neighbour differences, which keeps lines sharp")
    validation_steps: int = option(500, "optimizer steps between two sheets of reconstructions", at_least=1)
