"""A method <-> plain values, as run.json keeps them; reading checks every field."""

from __future__ import annotations

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


def from_settings(kind: type[Values], values: Mapping[str, Any], *, where: str = "") -> Values:
    """The dataclass with these fields; fields not given keep their defaults."""
    hints = get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            remedy = did_you_mean(name, fields)
            raise SettingError(f"there is no setting {where + name!r}", remedy=remedy)
    read = {name: _read(value, hints[name], where + name) for name, value in values.items()}
    for name, item in fields.items():
        has_default = {item.default, item.default_factory} != {dataclasses.MISSING}
        if name not in read and not has_default:
            raise SettingError("no value is given", where=where + name)
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


def _read(value: Any, hint: Any, where: str) -> Any:
    """A JSON value as the annotated type."""
    origin = get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _read_union(value, hint, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return _read_tuple(value, get_args(hint), where)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_settings(typing.cast("type[Any]", hint), value, where=f"{where}.")
    is_option = origin is Literal and value in get_args(hint)
    if is_option or (isinstance(hint, type) and type(value) is hint):
        return value
    if hint is float and (value == "inf" or type(value) is int):
        return float(value)
    raise _unfit(value, _described(hint), where)


def _read_union(value: Any, hint: Any, where: str) -> Any:
    if value is None and type(None) in get_args(hint):
        return None
    for option in get_args(hint):
        try:
            return _read(value, option, where)
        except SettingError:
            continue
    raise _unfit(value, _described(hint), where)


def _read_tuple(value: Any, parts: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if parts[-1] is Ellipsis:
        return tuple(_read(part, parts[0], where) for part in value)
    if len(parts) != len(value):
        raise SettingError(
            f"{value!r} will not do", where=where, remedy=f"Give {len(parts)} values"
        )
    return tuple(_read(part, hint, where) for part, hint in zip(value, parts, strict=True))


def _unfit(value: Any, wanted: str, where: str) -> SettingError:
    return SettingError(f"{value!r} will not do", where=where, remedy=f"Give {wanted}")


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
