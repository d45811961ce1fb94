"""Settings of `dermgen demo`."""

from dataclasses import dataclass

from dermgen.config import check, option


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Fine-tune the base model that ships with dermgen on a class that it has never seen, and judge the result.

    Everything is computed on this machine, in about five minutes on two CPU cores; a demo that was interrupted
    resumes.
    """

    output_dir: str = option("demo", "folder of everything that the demo makes", positional=True, free=True)

    __post_init__ = check
