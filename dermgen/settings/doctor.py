"""Settings of `dermgen doctor`, and the trainings whose recipes it knows."""

from dataclasses import dataclass
from pathlib import Path

from dermgen.config import InputError, check, option, parse
from dermgen.settings.classifier import ClassifierConfig
from dermgen.settings.cyclegan import CycleganConfig
from dermgen.settings.dcgan import DcganConfig
from dermgen.settings.ddpm import DdpmConfig
from dermgen.settings.dreambooth import DreamboothConfig, DreamboothLoraConfig
from dermgen.settings.stylegan2 import Stylegan2Config
from dermgen.settings.training import TrainConfig
from dermgen.settings.vae import VaeConfig

# By what the name of a recipe begins with.
TRAININGS: dict[str, type[TrainConfig]] = {
    "dreambooth_lora": DreamboothLoraConfig,
    "dreambooth": DreamboothConfig,
    "classifier": ClassifierConfig,
    "ddpm": DdpmConfig,
    "vae": VaeConfig,
    "dcgan": DcganConfig,
    "cgan": DcganConfig,
    "stylegan2": Stylegan2Config,
    "cyclegan": CycleganConfig,
}


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check the installation, and with a recipe everything that it needs, in under a minute."""

    recipe: str | None = option(None, "a training recipe", also="--config")
    method: str | None = option(
        None, "training script of the recipe; default what its file name begins with", choices=list(TRAININGS)
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
        named = [name for name in TRAININGS if Path(self.recipe).stem.startswith(name)]
        if not self.method and not named:
            raise InputError(
                f"{self.recipe} does not begin with a method's name: add --method, one of {', '.join(TRAININGS)}"
            )
        name = self.method or max(named, key=len)
        return name, parse(TRAININGS[name], ["--config", self.recipe])
