"""Settings of `dermgen phantom`."""

from dataclasses import dataclass

from dermgen.config import SEEDS, check, option
from dermgen.labels import HAM10000


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """Draw dermoscopy-like phantom lesions of the 7 HAM10000 classes, in the HAM10000 layout."""

    output_dir: str = option(None, "a new folder for the images, masks and tables", required=True, free=True)
    num_lesions: int = option(
        210, "number of lesions, spread evenly over the classes; each has 1 to 4 images", at_least=1
    )
    seed: int = option(0, "seed; the same one gives the same files", within=SEEDS)
    height: int = option(192, "image height in pixels; the width is 4/3 of it, as in HAM10000", at_least=48)
    classes: list[str] | None = option(None, "draw only these classes; default all 7")

    def __post_init__(self):
        check(self)
        for code in self.classes or ():
            HAM10000[code]
