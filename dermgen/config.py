"""Settings: one frozen dataclass per command, filled from a YAML recipe and command-line flags."""

import argparse
import dataclasses
import difflib
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

Config = TypeVar("Config")


class InputError(ValueError):
    """A mistake in what the user gave: one sentence that says what was expected, what came and what to do."""


def option(default: Any, help: str, **flag: Any) -> Any:
    """A dataclass field whose help text is also the command-line help.

    `flag` goes to argparse's `add_argument`; `also` in it names a second spelling of the flag, and `infinite` lets a
    number be infinite.
    """
    return dataclasses.field(default=default, metadata={"help": help, **flag})


def parse(
    config_cls: type[Config], argv: Sequence[str] | None = None, words: str | None = None, recipes: bool = True
) -> Config:
    """Read `--config recipe.yaml` first, then let the other flags override it.

    A recipe is turned into flags, so one parser checks both: an unknown key, a wrong type or a value outside a
    `Literal` is an error, and a recipe cannot hold what the command line could not say.

    Args:
        config_cls: the dataclass of settings, its fields made by `option`.
        argv: default the command line's.
        words: the option that takes the words before the first flag, as in `dermgen report DIR DIR --title …`.
        recipes: whether there is a `--config`.

    Raises:
        InputError: for an unreadable recipe, an unknown key or flag, or a value that the config refuses.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    names = [field.name for field in dataclasses.fields(config_cls)]
    parser = _parser(config_cls)
    if words and argv and not argv[0].startswith("-"):
        argv = [f"--{words}", *argv]
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
        raise InputError(f"unknown option {name!r}{_closest(name.lstrip('-'), names)}")
    return config_cls(**{name: getattr(values, name) for name in names})


def _parser(config_cls: type) -> argparse.ArgumentParser:
    """One flag a field: `--flag VALUE`, `--flag A B` of a list, `--flag` or `--flag false` of a switch."""

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise InputError(f"{message}; --help lists all options")

    parser = Parser(
        allow_abbrev=False, description=config_cls.__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    kinds = get_type_hints(config_cls)
    for field in dataclasses.fields(config_cls):
        flag = dict(field.metadata)
        spellings = [f"--{field.name}", *([f"--{field.name.replace('_', '-')}"] if "_" in field.name else [])]
        if "also" in flag:
            spellings.append(flag.pop("also"))
            flag["action"] = _Once
        number = _number if flag.pop("infinite", False) else _finite
        kind = _without_none(kinds[field.name])
        if get_origin(kind) is list:
            flag |= {"nargs": "+"}
            kind = get_args(kind)[0]
        if get_origin(kind) is Literal:
            flag |= {"choices": get_args(kind)}
            kind = type(get_args(kind)[0])
        if kind is bool:
            flag |= {"nargs": "?", "const": True}
        flag["help"] = flag["help"].replace("%", "%%")
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
    return parser


def _without_none(kind: Any) -> Any:
    """`int` of `int | None`."""
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (k for k in get_args(kind) if k is not type(None))
    return kind


class _Once(argparse.Action):
    """An option of which a second value would make the first one look as if it had been read."""

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
    if math.isinf(value):  # for which every check of a limit would have to look
        raise argparse.ArgumentTypeError(f"a finite number expected, got {text!r}")
    return value


def _switch(text: str) -> bool:
    if text.lower() in ("true", "t", "yes", "y", "on", "1"):
        return True
    if text.lower() in ("false", "f", "no", "n", "off", "0"):
        return False
    raise argparse.ArgumentTypeError(f"true or false expected, got {text!r}")


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
    """Within the block write to the path that is given; it takes the place of `path` once the block has succeeded."""
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
    recipe, kinds = read_yaml(path), get_type_hints(config_cls)
    names = [field.name for field in dataclasses.fields(config_cls)]
    if not isinstance(recipe, dict):
        raise InputError(f"{path} must hold `option: value` lines, got {type(recipe).__name__}")
    flags = []
    for key, value in recipe.items():
        if key not in names:
            raise InputError(f"{path}: unknown key {key!r}{_closest(str(key), names)}")
        if value == "None" and type(None) in get_args(kinds[key]):
            value = None  # as Python spells null
        if isinstance(value, float) and value.is_integer() and _without_none(kinds[key]) is int:
            value = int(value)
        if isinstance(value, list):
            flags += [f"--{key}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{key}={value}")
    return flags


def _closest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else "; --help lists all options"


def require_at_least(lowest: float, **values: float) -> None:
    """Raise `InputError` for the first of the named `values` below `lowest`."""
    for name, value in values.items():
        if value < lowest:
            raise InputError(f"{name} must be at least {lowest}, got {value}")


def require_given(config: Any, *names: str) -> None:
    """Raise `InputError` for the first of the named settings that is not given, with what it is."""
    for field in dataclasses.fields(config):
        if field.name in names and not getattr(config, field.name):
            raise InputError(f"--{field.name} is needed: {field.metadata['help']}")


def require_seed(seed: int, number: int = 1) -> None:
    """Raise `InputError` for a seed, or one of the `number` from it on, of which PyTorch's CPU generator drops bits."""
    if not 0 <= seed <= 2**32 - number:
        raise InputError(f"seed must be from 0 to {2**32 - number}, got {seed}")
