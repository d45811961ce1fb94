"""Settings of `dermgen doctor`."""

from dataclasses import dataclass

from dermgen import recipes
from dermgen.config import InputError, check, option
from dermgen.settings.methods import RECIPES
from dermgen.settings.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check the installation and, with a recipe, everything that it needs; takes under a minute."""

    recipe: str | None = option(
        None, "training recipe to check: a file, or a name of `dermgen recipes`", also="--config"
    )
    method: str | None = option(
        None,
        "training method of the recipe; default the one that it names, or that its file name begins with",
        choices=list(RECIPES),
    )
    hub: str | None = option(None, "also check that you may write to this repository on the Hub, org/name")

    __post_init__ = check

    def training(self) -> tuple[str, TrainConfig] | None:
        """The name of the recipe's training and its settings; None without a recipe.

        Raises:
            InputError: for a recipe that cannot be read, or whose training cannot be known by its name.
        """
        if self.recipe is None:
            return None
        recipe = recipes.read(self.recipe, self.method)
        if not isinstance(recipe.settings, TrainConfig):
            raise InputError(f"{self.recipe} is the recipe of a study: check that of its classifier")
        return recipe.method, recipe.settings
