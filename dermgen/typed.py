"""Dataclasses from the values of a JSON file, and back."""

import dataclasses
import json
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dermgen.config import InputError

Kind = TypeVar("Kind")


def read(kind: type[Kind], path: Path) -> Kind:
    """The dataclass `kind` from a JSON file; keys that it does not know are ignored.

    Raises:
        InputError: if the file is missing or damaged, or lacks a field that has no default.
    """
    try:
        return from_value(kind, json.loads(path.read_text()))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged, or was written by another version of dermgen ({error}): run its command again"
        ) from error


def from_value(kind: Any, value: Any) -> Any:
    """`value`, of dicts, lists and plain values, as the type `kind`: dataclasses, and lists, dicts or None of them."""
    if value is None:
        return None
    if get_origin(kind) in (Union, UnionType):
        kind = next(option for option in get_args(kind) if option is not type(None))
    if dataclasses.is_dataclass(kind):
        types = get_type_hints(kind)
        given = {f.name: from_value(types[f.name], value[f.name]) for f in dataclasses.fields(kind) if f.name in value}
        return kind(**given)
    if get_origin(kind) is list:
        return [from_value(get_args(kind)[0], item) for item in value]
    if get_origin(kind) is dict:
        return {key: from_value(get_args(kind)[1], item) for key, item in value.items()}
    return value


def to_value(thing: Any) -> Any:
    """The dicts, lists and plain values that `from_value` reads; a field that is None by default is then left out."""
    if dataclasses.is_dataclass(thing):
        values = {f.name: (f.default, getattr(thing, f.name)) for f in dataclasses.fields(thing)}
        return {
            name: to_value(value)
            for name, (default, value) in values.items()
            if not (default is None and value is None)
        }
    if isinstance(thing, dict):
        return {key: to_value(value) for key, value in thing.items()}
    return [to_value(value) for value in thing] if isinstance(thing, (list, tuple)) else thing
