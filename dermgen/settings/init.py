"""Settings of `dermgen init`: the answers to its questions, and the recipe that it writes."""

from dataclasses import dataclass
from typing import Literal

from dermgen.config import check, option


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Write a recipe for your data and machine, and check it. `dermgen init [FILE]`

    What no flag answers is asked; without a terminal to ask on, all flags are needed.
    """

    recipe: str = option("recipe.yaml", "file of the recipe, which must not exist yet", positional=True)
    data_dir: str | None = option(None, "manifest folder of your images, made by `dermgen prepare`")
    goal: str | None = option(
        None, "a class, such as mel: more images of it; all: images of every class; classifier: a lesion classifier"
    )
    gpu_memory: float | None = option(None, "memory of your GPU in GB; 0: none", at_least=0)
    internet: Literal["yes", "no"] | None = option(None, "whether a pretrained model may be downloaded")
    time: Literal["full", "quick"] | None = option(
        None, "full: as long as the recipe trains; quick: a tenth of its steps, for a first look"
    )

    __post_init__ = check
