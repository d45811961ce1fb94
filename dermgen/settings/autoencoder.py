"""Settings of the autoencoder of a small Stable Diffusion."""

from dataclasses import dataclass

from dermgen.config import InputError, option
from dermgen.settings.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(TrainConfig):
    """Train an AutoencoderKL from scratch on a manifest."""

    data_dir: str = option(None, "manifest folder", required=True)
    exclude_classes: list[str] | None = option(None, "leave these classes out")
    resolution: int = option(64, "height and width in pixels", multiple_of=8)
    channels: list[int] | None = option(
        None, "channels of the levels; each but the first halves the size; default 16 32 64"
    )
    latent_channels: int = option(4, "channels of the latents", at_least=1)
    kl_weight: float = option(
        1e-6, "weight of the KL term, both terms summed over an image; Rombach et al. 2022 use 1e-6"
    )
    edge_weight: float = option(1.0, "weight of the error of neighbour differences, which keeps lines sharp")
    validation_steps: int = option(500, "optimizer steps between two sheets of reconstructions", at_least=1)

    def __post_init__(self):
        super().__post_init__()
        if self.channels and (self.channels[0] < 4 or any(c % (self.channels[0] // 4) for c in self.channels)):
            raise InputError(f"channels must be multiples of the first one's quarter, at least 4, got {self.channels}")
