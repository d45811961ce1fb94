"""The recipes of training, those that ship with dermgen and a user's own files, and which method each is for."""

import difflib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dermgen import shipped
from dermgen.blocks import Table, for_terminal
from dermgen.config import InputError, parse, read_yaml
from dermgen.settings.methods import METHODS, RECIPES
from dermgen.settings.study import StudyConfig
from dermgen.settings.training import TrainConfig

CONFIGS, LAUNCH_CONFIGS = "train_scripts/configs", "accelerate_configs"
STUDY = "study"  # what `method` says where a recipe is for `dermgen study`


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read.

    Attributes:
        path: of its file.
        method: its name in `METHODS`, or `STUDY`.
        settings: that it gives, with what flags changed.
    """

    path: Path
    method: str
    settings: TrainConfig | StudyConfig

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def data(self) -> str:
        """Folder of its real images."""
        settings = vars(self.settings)
        return settings.get("real") or settings.get("data_dir") or settings.get("instance_data_dir") or ""

    @property
    def resolution(self) -> int:
        """Height and width of its images, in pixels."""
        if isinstance(self.settings, StudyConfig):
            return read(self.settings.classifier).resolution
        return vars(self.settings)["resolution"]

    @property
    def needs(self) -> str:
        """What it needs, by the comment `# Needs: …` at its top; "" without one."""
        text = self.path.read_text(encoding="utf-8-sig")
        match = re.search(r"^# Needs: (.*(?:\n# (?!\w+:)\S.*)*)", text, re.MULTILINE)
        return match[1].replace("\n# ", " ") if match else ""

    @property
    def gpu_memory(self) -> int | None:
        """Memory in GB of the GPU that it needs; 0 for any GPU, None where a CPU does."""
        if match := re.search(r"GPU with (\d+) GB", self.needs):
            return int(match[1])
        return 0 if "GPU" in self.needs and "CPU" not in self.needs else None


def shipped_recipes() -> dict[str, Path]:
    """The recipes that ship with dermgen, by name."""
    return {path.stem: path for path in sorted(shipped.folder(CONFIGS).glob("*.yaml"))}


def launch_configs() -> dict[str, Path]:
    """The accelerate configs that ship with dermgen, by name."""
    return {path.stem: path for path in sorted(shipped.folder(LAUNCH_CONFIGS).glob("*.yaml"))}


def find(text: str) -> Path:
    """The file of a recipe: one of that path, or the shipped one of that name.

    `train_scripts/configs/NAME.yaml`, as recipes and pages name a shipped one, is found where there is no clone too.

    Raises:
        InputError: if there is neither.
    """
    path = Path(text)
    if path.is_file():
        return path
    known = shipped_recipes()
    name = path.stem if path == Path(CONFIGS, f"{path.stem}.yaml") else text
    if name not in known:
        raise InputError(f"no such recipe: {text}{_nearest(path.stem, known)}")
    return known[name]


def _nearest(name: str, known: Mapping[str, Path]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    if not close:
        return "; `dermgen recipes` lists those that ship with dermgen"
    return f"; did you mean {' or '.join(close)}?"


def method_of(path: Path, method: str | None = None) -> str:
    """The method of a recipe: `method` if it is given, else what the recipe says, else what its file name begins with.

    Raises:
        InputError: for a recipe that cannot be read, or whose method is unknown or said in two ways.
    """
    recipe = read_yaml(path)
    said = recipe.get("method") if isinstance(recipe, dict) else None
    if said is not None and said not in METHODS:
        raise InputError(f"{path}: unknown method {said!r}: give one of {', '.join(METHODS)}")
    if said and method and said != RECIPES[method]:
        raise InputError(f"{path} is a recipe for {said}, not for {method}: leave out --method")
    if method or said:
        return RECIPES[method or said]
    named = [name for name in [*RECIPES, STUDY] if path.stem.startswith(name)]
    if not named:
        raise InputError(
            f"the file name of {path} does not begin with a method's name: add --method, or a line `method: NAME` to "
            f"the recipe; the methods are {', '.join(METHODS)}"
        )
    return RECIPES.get(max(named, key=len), STUDY)


def read(text: str, method: str | None = None, flags: Sequence[str] = ()) -> Recipe:
    """The recipe of that path or name, its settings changed by `flags`.

    Raises:
        InputError: if there is none, its method is unknown, or a setting is wrong.
    """
    path = find(text)
    name = method_of(path, method)
    settings = StudyConfig if name == STUDY else METHODS[name].settings
    return Recipe(path, name, parse(settings, ["--config", str(path), *flags]))


def table() -> str:
    """The recipes that ship with dermgen, for a terminal."""
    rows = []
    for name in shipped_recipes():
        recipe = read(name)
        memory = recipe.gpu_memory
        device = "CPU" if memory is None else f"GPU, {memory} GB" if memory else "GPU"
        rows.append([name, recipe.method, recipe.data, str(recipe.resolution), device])
    return for_terminal([Table(("recipe", "method", "data", "px", "device"), rows)])


def text_of(name: str) -> str:
    """A recipe or launch config that ships with dermgen, as it is written.

    Raises:
        InputError: if there is none of that name.
    """
    known = shipped_recipes() | launch_configs()
    if name not in known:
        raise InputError(f"no such recipe or launch config: {name}{_nearest(name, known)}")
    return known[name].read_text(encoding="utf-8")


def copy(name: str, file: str | None = None) -> Path:
    """Write a recipe or launch config that ships with dermgen to `file`, default `NAME.yaml`.

    Raises:
        InputError: if there is none of that name, or the file is there already.
    """
    path = Path(file or f"{name}.yaml")
    text = text_of(name)
    write_new(path, text if name in launch_configs() else edited(read(name), path, {}))
    return path


def edited(recipe: Recipe, path: Path, changes: Mapping[str, Any]) -> str:
    """The text of a recipe as a file of its own, its comments kept, that says how to train it and for which method.

    Args:
        recipe: whose file is changed.
        path: of the new file.
        changes: values by option; options that the recipe does not give are added.
    """
    text = recipe.path.read_text(encoding="utf-8-sig").rstrip() + "\n"
    header, body = re.fullmatch(r"((?:#[^\n]*\n|\n)*)(.*)", text, re.DOTALL).groups()
    header = re.sub(r"(?:#   .*\n)+", f"#   dermgen train {shlex.quote(str(path))}\n", header, count=1)
    if recipe.method != STUDY:
        body = f"method: {recipe.method}\n" + re.sub(r"^method:.*\n", "", body, flags=re.MULTILINE)
    for name, value in changes.items():
        line = yaml.safe_dump({name: value}, allow_unicode=True, width=1000)
        body, found = re.subn(rf"^{name}:.*\n(?:[ -].*\n)*", lambda _, line=line: line, body, flags=re.MULTILINE)
        body = body if found else body + line
    return header + body


def write_new(path: Path, text: str) -> None:
    """Write `text` to a file that must not be there yet.

    Raises:
        InputError: if it is, or it cannot be written.
    """
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(f"{path} is there already: choose another file, or remove it") from error
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}): choose another file") from error
