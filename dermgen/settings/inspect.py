"""Settings of `dermgen inspect`."""

from dataclasses import dataclass

from dermgen.config import check, option


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Report whether images are marked as synthetic, by their metadata or by a watermark. `dermgen inspect FILE…`"""

    files: list[str] = option(None, "image files, or folders of images", required=True, positional=True)

    __post_init__ = check
