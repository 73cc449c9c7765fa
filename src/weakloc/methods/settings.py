"""A method <-> plain values, as run.json keeps them; reading checks every field."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from weakloc.errors import SettingError, did_you_mean

Values = TypeVar("Values")


def to_settings(value: Any) -> dict[str, Any]:
    """The fields of a frozen dataclass as JSON values; infinity becomes "inf"."""
    return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}


def from_settings(kind: type[Values], values: Mapping[str, Any], *, prefix: str = "") -> Values:
    """The dataclass with these fields; fields not given keep their defaults.

    `prefix` stands before a field's name in errors. msgspec.convert would pass over names that do
    not exist, knows no infinity, and says neither the value met nor the options there are.
    """
    hints = get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            remedy = did_you_mean(name, fields)
            raise SettingError(f"there is no setting {prefix + name!r}", remedy=remedy)
    read = {name: _read(value, hints[name], prefix + name) for name, value in values.items()}
    for name, item in fields.items():
        has_default = {item.default, item.default_factory} != {dataclasses.MISSING}
        if name not in read and not has_default:
            raise SettingError("no value is given", location=prefix + name)
    return kind(**read)


def merged_settings(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with the changes, part by part; unknown names are kept for the check to meet."""
    merged = dict(fields)
    for name, value in changes.items():
        part = merged.get(name)
        is_part = isinstance(value, Mapping) and isinstance(part, Mapping)
        merged[name] = merged_settings(part or {}, value) if is_part else value
    return merged


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_settings(value)
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return "inf" if value == math.inf else value


def _read(value: Any, hint: Any, field: str) -> Any:
    """A JSON value as the annotated type."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for option in parts:
            with contextlib.suppress(SettingError):
                return _read(value, option, field)
    elif origin is tuple and isinstance(value, (list, tuple)):
        hints = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        if len(hints) == len(value):
            return tuple(
                _read(part, option, field) for part, option in zip(value, hints, strict=True)
            )
        remedy = f"Give {len(hints)} values"
        raise SettingError(f"{value!r} will not do", location=field, remedy=remedy)
    elif dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_settings(typing.cast("type[Any]", hint), value, prefix=f"{field}.")
    elif hint is float and (value == "inf" or (type(value) is int and abs(value) < 2**1023)):
        return float(value)
    elif value in parts if origin is Literal else type(value) is hint:
        return value
    raise SettingError(f"{value!r} will not do", location=field, remedy=f"Give {_described(hint)}")


def _described(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(hint))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_described(option) for option in get_args(hint))
    if origin is tuple:
        return "a list"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return "nothing" if hint is type(None) else names.get(hint, "a table of settings")
