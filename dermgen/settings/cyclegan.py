"""Settings of `cyclegan.py`."""

from dataclasses import dataclass

from dermgen.config import InputError, option, require_at_least
from dermgen.settings.training import AdversarialConfig


@dataclass(frozen=True, kw_only=True)
class CycleganConfig(AdversarialConfig):
    """Train translations between two classes of a manifest, or between two manifests (devices)."""

    data_dir_b: str | None = option(
        None, "manifest of the second kind, all its classes, resized likewise; or give class_a and class_b"
    )
    class_a: str | None = option(None, "class of the first kind, e.g. nv")
    class_b: str | None = option(None, "class of the second kind, e.g. mel")
    generator_channels: int = option(64, "of the generators' first layer")
    residual_blocks: int | None = option(None, "in the generators; default 6 below 256 px, 9 from there on")
    discriminator_channels: int = option(64, "of the discriminators' first layer")
    cycle_weight: float = option(10.0, "of the difference after there and back")
    identity_weight: float = option(0.5, "of the change of images that are of the target's kind, times cycle_weight")
    pool_size: int = option(50, "translated images from before that the discriminators are shown; 0 is off")
    train_batch_size: int = option(1, "images per process and forward pass")
    decay_start: float = option(0.5, "share of the training after which the learning rate falls to 0, in a line")

    def __post_init__(self):
        super().__post_init__()
        if (self.data_dir_b is None) == (self.class_a is None or self.class_b is None):
            raise InputError(
                "give either --class_a and --class_b (of one manifest) or --data_dir_b (a second manifest)"
            )
        if self.class_a is not None and self.class_a == self.class_b:
            raise InputError(f"class_a and class_b are both {self.class_a!r}: there is nothing to translate")
        if self.data_dir_b and (self.class_a or self.class_b):
            raise InputError("class_a and class_b choose from one manifest: leave them out with --data_dir_b")
        if self.only_classes or self.exclude_classes or self.class_conditional:
            raise InputError("a CycleGAN's kinds are class_a and class_b, or two manifests: leave other classes out")
        if self.resolution % 4 or self.resolution < 32:
            raise InputError(f"a CycleGAN's resolution must be a multiple of 4 from 32 on, got {self.resolution}")
        require_at_least(1, generator_channels=self.generator_channels)
        require_at_least(1, discriminator_channels=self.discriminator_channels)
        require_at_least(0, cycle_weight=self.cycle_weight, identity_weight=self.identity_weight)
        require_at_least(0, pool_size=self.pool_size)
        if self.residual_blocks is not None:
            require_at_least(1, residual_blocks=self.residual_blocks)
        if not 0 <= self.decay_start <= 1:
            raise InputError(f"decay_start must be in [0, 1], got {self.decay_start}")

    @property
    def kinds(self) -> tuple[str, str]:
        """Names of the two kinds: class codes, or a and b for manifests."""
        return (self.class_a, self.class_b) if self.class_a else ("a", "b")
