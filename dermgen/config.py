"""Settings: one frozen dataclass per command, filled from a YAML recipe and command-line flags."""

import argparse
import dataclasses
import difflib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

Config = TypeVar("Config")

# What a trial of a recipe gives an option instead of a folder: a new one, or one with a few rows of its manifest or a
# few of its images.
NEW_FOLDER, FEW_ROWS, FEW_IMAGES = object(), object(), object()
_AS_GIVEN = object()
SEEDS = f"[0, {2**32 - 1}]"  # PyTorch's generator on the CPU drops the higher bits of a seed


class InputError(ValueError):
    """A user's mistake, as one sentence: what was expected, what was given and what to do."""


def option(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    within: str | None = None,
    multiple_of: int | None = None,
    power_of_2: bool = False,
    in_words: bool = False,
    choices: Sequence[str] | None = None,
    required: bool = False,
    free: bool = False,
    fixed: bool = False,
    positional: bool = False,
    infinite: bool = False,
    also: str | None = None,
    trial: Any = _AS_GIVEN,
) -> Any:
    """A dataclass field that is a command-line option; a subclass with another default inherits its rules.

    `check` holds the rules for a value that is not None, and for each value of a list.

    Args:
        default: of the field.
        help: its help text, to which `--help` adds the rules.
        at_least: the lowest value.
        above: a limit that the value must exceed.
        within: an interval like "[0, 1)".
        multiple_of: the value must be a positive multiple of this.
        power_of_2: the value must be a power of 2.
        in_words: the value must be a text of two words or more.
        choices: the values, if a `Literal` cannot list them.
        required: a command without it is refused.
        free: a job may resume with another value.
        fixed: even a job that starts over in its folder keeps the value (see `job.claim_folder`).
        positional: it takes the words before the first flag, as in `dermgen report DIR DIR --title …`.
        infinite: the number may be infinite.
        also: a second spelling of the flag; both together take one value.
        trial: its value when `dermgen doctor` tries a recipe, or `NEW_FOLDER`, `FEW_ROWS`, `FEW_IMAGES`.
    """
    rules = {k: v for k, v in locals().items() if k not in ("default", "trial") and v is not None and v is not False}
    return dataclasses.field(default=default, metadata=rules if trial is _AS_GIVEN else {**rules, "trial": trial})


def rules_of(config_cls: type) -> dict[str, dict[str, Any]]:
    """The arguments of `option`, by the option's name; a subclass inherits those that it does not override."""
    rules: dict[str, dict[str, Any]] = {}
    for cls in filter(dataclasses.is_dataclass, reversed(config_cls.__mro__)):
        for field in dataclasses.fields(cls):
            rules[field.name] = rules.get(field.name, {}) | dict(field.metadata)
    kinds = get_type_hints(config_cls)
    for field in dataclasses.fields(config_cls):
        kind = _kind(kinds[field.name])[0]
        if get_origin(kind) is Literal:
            rules[field.name]["choices"] = get_args(kind)
    return rules


def check(config: Any) -> None:
    """The first part of a `__post_init__`: check every option against its rules.

    Raises:
        InputError: for the first option that breaks one.
    """
    for name, rules in rules_of(type(config)).items():
        value = getattr(config, name)
        if rules.get("required") and not value:
            place = ", or words before the first flag" if rules.get("positional") else ""
            raise InputError(f"--{name} is needed{place}: {rules['help']}")
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        limits = _limits(rules, several=isinstance(value, list))
        if limits and not (values and all(holds(v) for v in values for holds in limits.values())):
            raise InputError(f"{name} must be {' and '.join(limits)}, got {value!r}")


def _limits(rules: dict[str, Any], several: bool) -> dict[str, Callable[[Any], bool]]:
    """The rules for a value: the words that follow "must be", and a function; `several` words those of a list."""
    limits: dict[str, Callable[[Any], bool]] = {}
    if "at_least" in rules:
        limits[f"at least {rules['at_least']}"] = lambda value: value >= rules["at_least"]
    if "above" in rules:
        limits[f"above {rules['above']}"] = lambda value: value > rules["above"]
    if "within" in rules:
        interval = rules["within"]
        low, high = interval[1:-1].split(", ")
        words = {"[]": f"from {low} to {high}", "(]": f"above {low} and at most {high}"}
        limits[words.get(interval[0] + interval[-1], f"in {interval}")] = lambda value: _is_inside(value, interval)
    if "multiple_of" in rules:
        number = rules["multiple_of"]
        words = "multiples of" if several else "a positive multiple of"
        limits[f"{words} {number}"] = lambda value: value > 0 and value % number == 0
    if "power_of_2" in rules:
        limits["a power of 2"] = lambda value: value > 0 and value & (value - 1) == 0
    if "in_words" in rules:
        limits["a reason in words"] = lambda value: len(value.split()) > 1
    if "choices" in rules:
        limits[f"one of {', '.join(map(str, rules['choices']))}"] = lambda value: value in rules["choices"]
    return limits


def _is_inside(value: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(", "))
    return low < value < high or (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")


def parse(config_cls: type[Config], argv: Sequence[str] | None = None, recipes: bool = True) -> Config:
    """Read `--config recipe.yaml` first, then let the other flags override it.

    A recipe is turned into flags, so that one parser checks both: an unknown key, a wrong type or a value outside a
    `Literal` is an error, and a recipe can hold only what the command line can.

    Args:
        config_cls: the dataclass of settings, its fields made by `option`. Its `FOREIGN` may list flags of other
            programs that are not fields: None for one that is accepted without effect, else why it is refused.
        argv: default that of the command line.
        recipes: whether there is a `--config`.

    Raises:
        InputError: for an unreadable recipe, an unknown key or flag, or a value that the config refuses.
    """
    argv = _with_positional(list(sys.argv[1:] if argv is None else argv), config_cls)
    rules, foreign = rules_of(config_cls), foreign_options(config_cls)
    parser = _parser(config_cls)
    if recipes:
        parser.add_argument("--config", metavar="RECIPE", help="a YAML file of these options; flags override it")
        argv = _with_recipe(argv, config_cls)
    values, unknown = parser.parse_known_args(argv)
    if unknown and not unknown[0].startswith("-"):
        raise InputError(
            f"unexpected word {unknown[0]!r}: put a value of several words in quotes; --help lists all options"
        )
    if unknown:
        # Never what follows: it may be a secret.
        name = unknown[0].split("=")[0]
        raise InputError(f"unknown option {name!r}{_closest(name.lstrip('-'), list(rules))}")
    for name, why in foreign.items():
        if why and name in values:
            raise InputError(f"--{name} {why}")
    return config_cls(**{name: getattr(values, name) for name in rules})


def parse_known(config_cls: type[Config], argv: Sequence[str]) -> tuple[Config, list[str]]:
    """The settings among `argv` that are options of the dataclass, and the other words, which another one may know.

    Raises:
        InputError: for a value that the config refuses.
    """
    values, others = _parser(config_cls).parse_known_args(_with_positional(argv, config_cls))
    return config_cls(**{name: getattr(values, name) for name in rules_of(config_cls)}), others


def foreign_options(config_cls: type) -> dict[str, str | None]:
    """Flags of other programs that `parse` accepts without effect (None), or refuses for a reason."""
    return getattr(config_cls, "FOREIGN", {})


def _shown_default(default: Any) -> str:
    """The default as `--help` shows it; empty for None and False, which mean that an option is not used."""
    if default is None or default is False:
        return ""
    return f" (default: {' '.join(map(str, default)) if isinstance(default, (list, tuple)) else default})"


def _parser(config_cls: type) -> argparse.ArgumentParser:
    """One flag per field: `--flag VALUE`, `--flag A B` of a list, `--flag` or `--flag false` of a switch."""

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise InputError(f"{message}; --help lists all options")

    hints, rules_by_name = get_type_hints(config_cls), rules_of(config_cls)
    words = [name.upper() for name, rules in rules_by_name.items() if rules.get("positional")]
    usage = " ".join(["%(prog)s", *words, "[options]"])
    parser = Parser(allow_abbrev=False, description=config_cls.__doc__, usage=usage)
    for field in dataclasses.fields(config_cls):
        rules = rules_by_name[field.name]
        kind, several = _kind(hints[field.name])
        limits = [] if "choices" in rules else _limits(rules, several)
        default = " (required)" if rules.get("required") else _shown_default(field.default)
        flag = {"help": ("; ".join([rules["help"], *limits]) + default).replace("%", "%%")}
        if "choices" in rules:
            flag["choices"] = rules["choices"]
        if get_origin(kind) is Literal:
            kind = type(get_args(kind)[0])
        if several:
            flag["nargs"] = "+"
        if kind is bool:
            flag |= {"nargs": "?", "const": True}
        if "also" in rules:
            flag["action"] = _Once
        spellings = [*_spellings(field.name), *filter(None, [rules.get("also")])]
        number = _number if rules.get("infinite") else _finite
        parser.add_argument(
            *spellings,
            dest=field.name,
            type={bool: _switch, float: number}.get(kind, kind),
            default=field.default,
            **flag,
        )
        if field.default is True:
            negated = [spelling.replace("--", "--no_" if "_" in spelling else "--no-", 1) for spelling in spellings]
            parser.add_argument(*negated, dest=field.name, action="store_false", help=argparse.SUPPRESS)
    for name, why in foreign_options(config_cls).items():
        text = f"refused: it {why}" if why else "accepted without effect"
        parser.add_argument(*_spellings(name), nargs="*" if why else "?", default=argparse.SUPPRESS, help=text)
    return parser


def _spellings(name: str) -> list[str]:
    return [f"--{name}", *([f"--{name.replace('_', '-')}"] if "_" in name else [])]


def _kind(hint: Any) -> tuple[Any, bool]:
    """The type of one value, and whether an option takes several: `int` and True of `list[int] | None`."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (k for k in get_args(hint) if k is not type(None))
    return (get_args(hint)[0], True) if get_origin(hint) is list else (hint, False)


class _Once(argparse.Action):
    """Refuse a second value of an option, which would silently replace the first."""

    def __call__(self, parser, namespace, value, option_string=None):
        if (earlier := getattr(namespace, self.dest)) is not None:
            parser.error(f"one {option_string} is read, got {earlier} and {value}")
        setattr(namespace, self.dest, value)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"a number expected, got {text!r}") from error
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f"a finite number expected, got {text!r}")
    return value


def _finite(text: str) -> float:
    value = _number(text)
    if math.isinf(value):  # or every check of a limit would have to handle it
        raise argparse.ArgumentTypeError(f"a finite number expected, got {text!r}")
    return value


def _switch(text: str) -> bool:
    if text.lower() in ("true", "t", "yes", "y", "on", "1"):
        return True
    if text.lower() in ("false", "f", "no", "n", "off", "0"):
        return False
    raise argparse.ArgumentTypeError(f"true or false expected, got {text!r}")


def _with_positional(argv: Sequence[str], config_cls: type) -> list[str]:
    """The words before the first flag as values of the option that takes them."""
    names = [name for name, rules in rules_of(config_cls).items() if "positional" in rules]
    return [f"--{names[0]}", *argv] if names and argv and not argv[0].startswith("-") else list(argv)


def _with_recipe(argv: list[str], config_cls: type) -> list[str]:
    """The flags of the recipe that `--config` names, before those of the command line."""
    paths, rest, i = [], [], 0
    while i < len(argv):
        if argv[i] == "--config":
            if i + 1 == len(argv):
                raise InputError("--config needs the path of a YAML recipe")
            paths.append(argv[i + 1])
            i += 1
        elif argv[i].startswith("--config="):
            paths.append(argv[i].removeprefix("--config="))
        else:
            rest.append(argv[i])
        i += 1
    if len(paths) > 1:
        raise InputError(f"one --config is read, got {len(paths)}: {', '.join(paths)}")
    return [*_recipe_flags(Path(paths[0]), config_cls), *rest] if paths else rest


class _YamlLoader(yaml.SafeLoader):
    """YAML as its version 1.2 reads it: `no` and `on` are words, and a key occurs once."""

    def construct_mapping(self, node, deep=False):
        merge = "tag:yaml.org,2002:merge"
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != merge]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} occurs twice")
        return super().construct_mapping(node, deep)


_YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_yaml(path: Path, what: str = "the recipe") -> Any:
    """The value in a YAML file that a user wrote.

    Raises:
        InputError: if it cannot be read, or a key occurs twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), _YamlLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {what} {path}: {' '.join(str(error).split())}") from error


def save(config: Any, path: Path) -> None:
    """Write `config` as YAML that `parse(type(config), ["--config", path])` reads back."""
    with whole_file(path) as partial:
        partial.write_text(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as strict JSON (a NaN is an error), whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Within the block write to the path that is given; it replaces `path` once the block has succeeded."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # or a power cut can leave the new name on an empty file
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _recipe_flags(path: Path, config_cls: type) -> list[str]:
    recipe, hints = read_yaml(path), get_type_hints(config_cls)
    names, foreign = [field.name for field in dataclasses.fields(config_cls)], foreign_options(config_cls)
    if not isinstance(recipe, dict):
        raise InputError(f"{path} must hold `option: value` lines, got {type(recipe).__name__}")
    flags = []
    for key, value in recipe.items():
        if key not in names and key not in foreign:
            raise InputError(f"{path}: unknown key {key!r}{_closest(str(key), names)}")
        if value == "None" and type(None) in get_args(hints.get(key)):
            value = None  # as Python spells null
        if isinstance(value, float) and value.is_integer() and _kind(hints.get(key))[0] is int:
            value = int(value)
        if isinstance(value, list):
            flags += [f"--{key}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{key}={value}")
    return flags


def _closest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else "; --help lists all options"


def require_seeds(first: int, number: int) -> None:
    """Raise `InputError` if one of the `number` seeds from `first` on is too large (see `SEEDS`)."""
    if first > 2**32 - number:
        raise InputError(f"seed must be from 0 to {2**32 - number}, got {first}")
