"""Settings of `dermgen report`."""

from dataclasses import dataclass

from dermgen.config import check, option


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write report.html from result folders. `dermgen report DIR… --output_dir OUT`"""

    folders: list[str] = option(None, "result folders, or their parent folders", required=True, positional=True)
    output_dir: str = option(None, "folder of report.html and its plots", required=True)
    title: str = option("Synthetic skin lesions: report", "heading of the page")

    __post_init__ = check
