"""Settings of `cyclegan.py`."""

from dataclasses import dataclass

from dermgen.config import FEW_ROWS, InputError, option
from dermgen.settings.training import AdversarialConfig


@dataclass(frozen=True, kw_only=True)
class CycleganConfig(AdversarialConfig):
    """Train translations between two classes of a manifest, or between two manifests (devices)."""

    data_dir_b: str | None = option(
        None,
        "manifest of the second domain, with all its classes; instead of class_a and class_b",
        trial=FEW_ROWS,
    )
    class_a: str | None = option(None, "class of the first domain, e.g. nv")
    class_b: str | None = option(None, "class of the second domain, e.g. mel")
    resolution: int = option(64, "height and width in pixels", at_least=32, multiple_of=4)
    generator_channels: int = option(64, "channels of the generators' first layer", at_least=1)
    residual_blocks: int | None = option(
        None, "residual blocks of the generators; default 6 below 256 px, otherwise 9", at_least=1
    )
    discriminator_channels: int = option(64, "channels of the discriminators' first layer", at_least=1)
    cycle_weight: float = option(
        10.0, "weight of the cycle loss: the difference of an image translated to the other domain and back", at_least=0
    )
    identity_weight: float = option(
        0.5,
        "weight of the identity loss, relative to cycle_weight: the change of images already in the target domain",
        at_least=0,
    )
    pool_size: int = option(
        50, "earlier translations that are kept and shown to the discriminators again; 0 is off", at_least=0
    )
    train_batch_size: int = option(1, "images per process and forward pass")
    decay_start: float = option(
        0.5, "share of the training after which the learning rate falls linearly to 0", within="[0, 1]"
    )

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
            raise InputError(
                "a CycleGAN's domains are class_a and class_b, or two manifests: leave out only_classes, "
                "exclude_classes and class_conditional"
            )

    @property
    def domains(self) -> tuple[str, str]:
        """Names of the two domains: class codes, or a and b for manifests."""
        return (self.class_a, self.class_b) if self.class_a else ("a", "b")
