"""weakloc: labels in, locations out. The public names, loaded when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weakloc.api.classifiers import localize
    from weakloc.api.data_sets import check, read, scenes
    from weakloc.api.evaluation import evaluate
    from weakloc.api.runs import ExportedNetwork, TrainedRun, load
    from weakloc.api.tour import demo
    from weakloc.api.training import refine, train
    from weakloc.config import DataSettings, PredictSettings, RefineSettings, TrainSettings
    from weakloc.errors import WeaklocError
    from weakloc.structures import Prediction

__version__ = "0.1.0"

_PUBLIC = {
    "DataSettings": "weakloc.config",
    "ExportedNetwork": "weakloc.api.runs",
    "PredictSettings": "weakloc.config",
    "Prediction": "weakloc.structures",
    "RefineSettings": "weakloc.config",
    "TrainSettings": "weakloc.config",
    "TrainedRun": "weakloc.api.runs",
    "WeaklocError": "weakloc.errors",
    "check": "weakloc.api.data_sets",
    "demo": "weakloc.api.tour",
    "evaluate": "weakloc.api.evaluation",
    "load": "weakloc.api.runs",
    "localize": "weakloc.api.classifiers",
    "read": "weakloc.api.data_sets",
    "refine": "weakloc.api.training",
    "scenes": "weakloc.api.data_sets",
    "train": "weakloc.api.training",
}
__all__ = [
    "DataSettings",
    "ExportedNetwork",
    "PredictSettings",
    "Prediction",
    "RefineSettings",
    "TrainSettings",
    "TrainedRun",
    "WeaklocError",
    "check",
    "demo",
    "evaluate",
    "load",
    "localize",
    "read",
    "refine",
    "scenes",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'weakloc' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
