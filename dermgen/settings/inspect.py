"""Settings of `dermgen inspect`."""

from dataclasses import dataclass

from dermgen.config import InputError, option


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Tell whether images say that they are synthetic: by their text and by their watermark."""

    files: list[str] = option(None, "images, or folders of images")

    def __post_init__(self):
        if not self.files:
            raise InputError("inspect needs images: dermgen inspect FILE…")
