"""weakloc: labels in, locations out. The public names, loaded when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weakloc.api.calibration import calibrate
    from weakloc.api.classifiers import localize
    from weakloc.api.data_sets import check, read, scenes
    from weakloc.api.evaluation import evaluate
    from weakloc.api.predictions import predict_to_folder
    from weakloc.api.reports import report
    from weakloc.api.runs import ExportedNetwork, TrainedRun, export, load
    from weakloc.api.tour import demo
    from weakloc.api.training import refine, train
    from weakloc.errors import WeaklocError
    from weakloc.settings import (
        CalibrateSettings,
        Cut,
        DataSettings,
        EvaluateSettings,
        Look,
        Places,
        RefineSettings,
        ReportSettings,
        TrainSettings,
    )
    from weakloc.structures import Prediction

__version__ = "0.1.0"

_PUBLIC = {
    "CalibrateSettings": "weakloc.settings",
    "Cut": "weakloc.settings",
    "DataSettings": "weakloc.settings",
    "EvaluateSettings": "weakloc.settings",
    "ExportedNetwork": "weakloc.api.runs",
    "Look": "weakloc.settings",
    "Places": "weakloc.settings",
    "Prediction": "weakloc.structures",
    "RefineSettings": "weakloc.settings",
    "ReportSettings": "weakloc.settings",
    "TrainSettings": "weakloc.settings",
    "TrainedRun": "weakloc.api.runs",
    "WeaklocError": "weakloc.errors",
    "calibrate": "weakloc.api.calibration",
    "check": "weakloc.api.data_sets",
    "demo": "weakloc.api.tour",
    "evaluate": "weakloc.api.evaluation",
    "export": "weakloc.api.runs",
    "load": "weakloc.api.runs",
    "localize": "weakloc.api.classifiers",
    "predict_to_folder": "weakloc.api.predictions",
    "read": "weakloc.api.data_sets",
    "refine": "weakloc.api.training",
    "report": "weakloc.api.reports",
    "scenes": "weakloc.api.data_sets",
    "train": "weakloc.api.training",
}
__all__ = [
    "CalibrateSettings",
    "Cut",
    "DataSettings",
    "EvaluateSettings",
    "ExportedNetwork",
    "Look",
    "Places",
    "Prediction",
    "RefineSettings",
    "ReportSettings",
    "TrainSettings",
    "TrainedRun",
    "WeaklocError",
    "calibrate",
    "check",
    "demo",
    "evaluate",
    "export",
    "load",
    "localize",
    "predict_to_folder",
    "read",
    "refine",
    "report",
    "scenes",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'weakloc' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
