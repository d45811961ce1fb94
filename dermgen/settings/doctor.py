"""Settings of `dermgen doctor`, and which training a recipe is for."""

from dataclasses import dataclass
from pathlib import Path

from dermgen.config import InputError, check, option, parse
from dermgen.settings.methods import METHODS, RECIPES
from dermgen.settings.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check the installation, and with a recipe everything that it needs, in under a minute."""

    recipe: str | None = option(None, "a training recipe", also="--config")
    method: str | None = option(
        None, "training script of the recipe; default what its file name begins with", choices=list(RECIPES)
    )
    hub: str | None = option(None, "also ask the Hub whether this repository may be written, org/name")

    __post_init__ = check

    def training(self) -> tuple[str, TrainConfig] | None:
        """The name of the recipe's training and its settings; None without a recipe.

        Raises:
            InputError: for a recipe that cannot be read, or whose training cannot be known by its name.
        """
        if self.recipe is None:
            return None
        if not Path(self.recipe).is_file():
            raise InputError(f"no such recipe: {self.recipe}")
        named = [name for name in RECIPES if Path(self.recipe).stem.startswith(name)]
        if not self.method and not named:
            raise InputError(
                f"the file name of {self.recipe} does not begin with a method's name: add --method, one of "
                f"{', '.join(RECIPES)}"
            )
        name = RECIPES[self.method or max(named, key=len)]
        return name, parse(METHODS[name].settings, ["--config", self.recipe])
