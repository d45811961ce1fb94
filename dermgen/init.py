"""`dermgen init`: five questions, answered by flags or at the terminal, choose a recipe for the user's data."""

import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dermgen import recipes
from dermgen.config import InputError, parse, read_yaml
from dermgen.installation import gpus
from dermgen.job import saved_settings
from dermgen.labels import from_labels
from dermgen.recipes import Recipe
from dermgen.settings.init import InitConfig

ALL, CLASSIFIER = "all", "classifier"
# Methods that serve a goal, the best first; of all others the goal is a class.
METHODS_FOR = {ALL: ("ddpm",), CLASSIFIER: ("classifier",)}
METHODS_FOR_A_CLASS = ("dreambooth_lora", "ddpm")
# What a quick look divides by ten.
LENGTHS = "max_train_steps num_train_epochs lr_warmup_steps validation_steps held_out_steps checkpointing_steps".split()


def init(config: InitConfig) -> Path:
    """Ask what no flag answers, choose a recipe that ships with dermgen, and write it with the user's data and goal.

    Returns:
        The file of the recipe.

    Raises:
        InputError: for an answer that is wrong, a file that is there already, or questions without a terminal.
    """
    path = Path(config.recipe)
    if path.exists():
        raise InputError(f"{path} is there already: choose another file, as in `dermgen init my_recipe.yaml`")
    config = _answered(config)
    recipe = choose(config.goal, config.gpu_memory, config.internet == "yes")
    recipes.write_new(path, recipes.edited(recipe, path, changes(config, recipe)))
    print(f"{path} is written, from {recipe.name} (`dermgen recipes`). Train it with: dermgen train {path}")
    prepared = saved_settings(config.data_dir).get("resolution")
    if prepared and prepared < recipe.resolution:
        print(
            f"note: {config.data_dir} was prepared at {prepared} px, and the recipe trains at {recipe.resolution} px: "
            f"better prepare it with --resolution {recipe.resolution}"
        )
    return path


def choose(goal: str, gpu_memory: float, internet: bool) -> Recipe:
    """Of the recipes that ship with dermgen and serve the goal, the one that makes most of the machine.

    Args:
        goal: a class, `ALL` or `CLASSIFIER`.
        gpu_memory: in GB; 0 without a GPU.
        internet: whether a model may be downloaded.
    """
    all_recipes = [recipes.read(name) for name in recipes.shipped_recipes()]
    for method in METHODS_FOR.get(goal, METHODS_FOR_A_CLASS):
        fitting = [r for r in all_recipes if r.method == method and _serves(r, goal) and _fits(r, gpu_memory, internet)]
        if fitting:
            return max(fitting, key=lambda r: (-1 if r.gpu_memory is None else r.gpu_memory, -_length(r)))
    raise InputError(f"no recipe of dermgen's makes {goal} on such a machine")


def _serves(recipe: Recipe, goal: str) -> bool:
    settings = vars(recipe.settings)
    return goal == CLASSIFIER or "instance_class" in settings or settings.get("class_conditional", False)


def _fits(recipe: Recipe, gpu_memory: float, internet: bool) -> bool:
    settings = vars(recipe.settings)
    pretrained = settings.get("pretrained_model_name_or_path") and not settings.get("from_scratch")
    if pretrained and (not internet or recipe.gpu_memory is None):
        return False  # a pretrained model that a CPU can fine-tune is one of drawn lesions
    return recipe.gpu_memory is None or (gpu_memory > 0 and gpu_memory >= recipe.gpu_memory)


def _length(recipe: Recipe) -> int:
    return recipe.settings.max_train_steps or recipe.settings.num_train_epochs


def changes(config: InitConfig, recipe: Recipe) -> dict[str, Any]:
    """What the answers change of a recipe, by option."""
    changed: dict[str, Any] = {"data_dir": config.data_dir, "output_dir": f"runs/{Path(config.recipe).stem}"}
    if "instance_class" in vars(recipe.settings):
        name = from_labels(_classes(config.data_dir))[config.goal].name
        prompt = recipe.settings.class_prompt[0].replace("skin lesion", name)
        changed |= {"instance_class": config.goal, "instance_prompt": prompt, "validation_prompt": [prompt]}
    if config.time == "quick":
        given = read_yaml(recipe.path)
        changed |= {name: max(1, given[name] // 10) for name in LENGTHS if given.get(name)}
    return changed


def _answered(config: InitConfig) -> InitConfig:
    """The config with an answer to every question."""
    missing = [name for name in _questions(config) if getattr(config, name) is None]
    if missing and not sys.stdin.isatty():
        flags = ", ".join(f"--{name}" for name in missing)
        raise InputError(f"standard input is not a terminal, so nothing can be asked: give {flags}")
    _check_folder(config)
    for name in missing:
        question, usual = _questions(config)[name]
        while getattr(config, name) is None:
            answer = _ask(question, usual)
            try:
                value = getattr(parse(InitConfig, [f"--{name}={answer}"], recipes=False), name)
                _check_folder(dataclasses.replace(config, **{name: value}))
            except InputError as error:
                print(error)
                continue
            config = dataclasses.replace(config, **{name: value})
    return config


def _questions(config: InitConfig) -> dict[str, tuple[str, str]]:
    """A question for each answer, and the answer to it that an empty line gives; "" for none."""
    classes = _classes(config.data_dir) if config.data_dir else []
    memory = max(gpus(), default=0) / 2**30
    return {
        "data_dir": ("1/5 Your images: which folder did `dermgen prepare` write?", ""),
        "goal": (
            f"2/5 What do you want? {', '.join(classes)}: more images of that class; {ALL}: images of every class; "
            f"{CLASSIFIER}: a lesion classifier",
            "",
        ),
        "gpu_memory": ("3/5 How many GB of memory does your GPU have? 0: there is none", f"{memory:.0f}"),
        "internet": ("4/5 May a pretrained model be downloaded? yes or no", "yes"),
        "time": ("5/5 How long? full: as the recipe says; quick: a tenth of its steps, for a first look", "full"),
    }


def _ask(question: str, usual: str) -> str:
    try:
        while not (answer := input(f"{question}{f' [{usual}]' if usual else ''}: ").strip() or usual):
            pass
        return answer
    except (EOFError, KeyboardInterrupt) as error:
        print()
        raise InputError("stopped: nothing is written") from error


def _check_folder(config: InitConfig) -> None:
    """Raise `InputError` if the folder is no manifest folder, or the goal is no class of it."""
    if config.data_dir is None:
        return
    classes = _classes(config.data_dir)
    if config.goal is not None and config.goal not in (*classes, ALL, CLASSIFIER):
        known = ", ".join([*classes, ALL, CLASSIFIER])
        raise InputError(f"goal must be one of {known}, got {config.goal!r}")


def _classes(folder: str) -> Sequence[str]:
    path = Path(folder, "metadata.csv")
    if not path.is_file():
        raise InputError(f"{folder!r} has no metadata.csv: make a manifest folder with `dermgen prepare`")
    with open(path, newline="", encoding="utf-8") as file:
        classes = {row.get("dx") or "" for row in csv.DictReader(file)} - {""}
    if not classes:
        raise InputError(f"{folder} names no class of any image: a recipe is chosen for classes")
    return sorted(classes)
