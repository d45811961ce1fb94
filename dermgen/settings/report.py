"""Settings of `dermgen report`."""

from dataclasses import dataclass

from dermgen.config import InputError, option


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write report.html from stage folders. `dermgen report DIR… --output_dir OUT`"""

    folders: list[str] = option(None, "folders of stages, or folders that hold such folders")
    output_dir: str = option(None, "folder of report.html and its plots")
    title: str = option("Synthetic skin lesions: report", "heading of the page")

    def __post_init__(self):
        if not self.folders or not self.output_dir:
            raise InputError("report needs folders of stages and --output_dir: dermgen report DIR… --output_dir OUT")
