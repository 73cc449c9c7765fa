"""weakloc: labels in, locations out. The public names, loaded when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weakloc.api.tour import demo

__version__ = "0.1.0"

_PUBLIC = {"demo": "weakloc.api.tour"}
__all__ = ["demo"]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'weakloc' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
