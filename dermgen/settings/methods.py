"""The training methods, one row each: what a method is and what it can do.

A row names the module that trains and loads. It is imported only when it is used, since it imports torch and, for a
GAN, the scores of its validation (100 MiB).
"""

import importlib
from dataclasses import dataclass
from types import ModuleType

from dermgen.settings.classifier import ClassifierConfig
from dermgen.settings.cyclegan import CycleganConfig
from dermgen.settings.dcgan import DcganConfig
from dermgen.settings.ddpm import DdpmConfig
from dermgen.settings.dreambooth import DreamboothConfig, DreamboothLoraConfig
from dermgen.settings.stylegan2 import Stylegan2Config
from dermgen.settings.training import TrainConfig
from dermgen.settings.vae import VaeConfig


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way of training a model.

    Attributes:
        title: its usual name.
        settings: the options of its script.
        module: has `train(settings)`; of a method trained from scratch also `load_generator(weights, classes, device,
            options)`, and `load_critic(folder, classes, resolution, device, domain)` if it has a discriminator; of any
            other `examine(settings)`, what `dermgen doctor` says of its base model and prompts.
        networks: folders of the networks that generate; none of a method that is not trained from scratch.
        options: of `dermgen generate` that only some of the methods trained from scratch have.
        judges: whether it trains a discriminator, with which `dermgen filter` can score images.
        translates: whether it makes images from given ones, so that classes cannot be requested.
        generates: whether it generates images, which may be copies.
        holds_base: whether what it saves holds the weights of the base model that it started from.
        recipes: what else the name of a recipe may begin with.
    """

    title: str
    settings: type[TrainConfig]
    module: str
    networks: tuple[str, ...] = ()
    options: frozenset[str] = frozenset()
    judges: bool = False
    translates: bool = False
    generates: bool = True
    holds_base: bool = False
    recipes: tuple[str, ...] = ()

    def load(self) -> ModuleType:
        """The module that trains and loads."""
        return importlib.import_module(self.module)


# By the name of the script and of the card.
METHODS = {
    "dreambooth": Method(
        title="DreamBooth", settings=DreamboothConfig, module="dermgen.methods.dreambooth", holds_base=True
    ),
    "dreambooth_lora": Method(
        title="DreamBooth-LoRA", settings=DreamboothLoraConfig, module="dermgen.methods.dreambooth"
    ),
    "classifier": Method(
        title="Classifier",
        settings=ClassifierConfig,
        module="dermgen.classify.classifier",
        generates=False,
        holds_base=True,
    ),
    "ddpm": Method(
        title="DDPM",
        settings=DdpmConfig,
        module="dermgen.methods.ddpm",
        networks=("unet",),
        options=frozenset({"guidance_scale", "num_inference_steps", "scheduler"}),
    ),
    "vae": Method(title="VAE", settings=VaeConfig, module="dermgen.methods.vae", networks=("vae",)),
    "dcgan": Method(
        title="DCGAN",
        settings=DcganConfig,
        module="dermgen.methods.dcgan",
        networks=("generator",),
        judges=True,
        recipes=("cgan",),
    ),
    "stylegan2": Method(
        title="StyleGAN2",
        settings=Stylegan2Config,
        module="dermgen.methods.stylegan2",
        networks=("generator",),
        options=frozenset({"truncation"}),
        judges=True,
    ),
    "cyclegan": Method(
        title="CycleGAN",
        settings=CycleganConfig,
        module="dermgen.methods.cyclegan",
        networks=("generator_a_to_b", "generator_b_to_a"),
        options=frozenset({"init_images", "init_split", "direction"}),
        judges=True,
        translates=True,
    ),
}
FROM_SCRATCH = {name: method for name, method in METHODS.items() if method.networks}
# By what the name of a recipe begins with.
RECIPES = {start: name for name, method in METHODS.items() for start in (name, *method.recipes)}
