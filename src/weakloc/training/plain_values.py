"""Frozen dataclasses <-> what JSON can hold."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import numpy as np

Kind = TypeVar("Kind")
_UNIONS = (Union, types.UnionType)


def to_plain(value: Any) -> Any:
    """Dataclasses become objects, tuples and arrays lists, paths text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): to_plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(part) for part in value]
    return _plain_leaf(value)


def _plain_leaf(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    is_number = not isinstance(value, float) or math.isfinite(value)
    return value if is_number else None


def from_plain(kind: type[Kind], value: Any, *, where: str) -> Kind:
    """The dataclass that `to_plain` took apart; ValueError names what does not fit."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} should hold the fields of {kind.__name__}")
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    unknown = sorted(set(value) - known)
    if unknown:
        raise ValueError(f"{where}.{unknown[0]} is not known")
    parts = {name: _part(hints[name], value[name], f"{where}.{name}") for name in value}
    try:
        return kind(**parts)
    except TypeError as error:  # a field without default is missing
        raise ValueError(f"{where}: {error}") from error


def _part(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in _UNIONS:
        return _first_that_fits(typing.get_args(kind), value, where)
    if origin is tuple:
        return _tuple(typing.get_args(kind), value, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_plain(kind, value, where=where)
    if not _fits(kind, origin, value):
        raise ValueError(f"{where} is {value!r}, not {getattr(kind, '__name__', kind)}")
    return kind(value) if kind in (float, Path) else value


def _fits(kind: Any, origin: Any, value: Any) -> bool:
    if kind is Any:
        return True
    if origin is Literal:
        return value in typing.get_args(kind)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    accepted = {float: (int, float), Path: str}.get(kind, origin or kind)
    return isinstance(value, accepted)  # type: ignore[arg-type]


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, list) and kinds[-1:] == (...,):
        kinds = kinds[:1] * len(value)
    if not isinstance(value, list) or len(kinds) != len(value):
        raise ValueError(f"{where} is {value!r}, not a list of {len(kinds)}")
    pairs = zip(kinds, value, strict=True)
    return tuple(_part(kind, part, f"{where}[{i}]") for i, (kind, part) in enumerate(pairs))


def _first_that_fits(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    complaints = []
    for kind in kinds:
        try:
            return _part(kind, value, where)
        except ValueError as error:
            complaints.append(str(error))
    raise ValueError("; ".join(complaints[:1]))
