"""weakloc: labels in, locations out. The public names, loaded when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weakloc.api.calibration import calibrate
    from weakloc.api.classifiers import localize
    from weakloc.api.data_sets import check, from_supervision, read, scenes
    from weakloc.api.evaluation import evaluate
    from weakloc.api.label import label
    from weakloc.api.predictions import predict_to_folder
    from weakloc.api.pushed_runs import push
    from weakloc.api.reports import report
    from weakloc.api.runs import ExportedNetwork, TrainedRun, export, load
    from weakloc.api.tour import demo
    from weakloc.api.training import distil, refine, train
    from weakloc.errors import WeaklocError
    from weakloc.settings import (
        CalibrateSettings,
        Cut,
        DataSettings,
        DistilSettings,
        EvaluateSettings,
        LabelSettings,
        Look,
        Places,
        RefineSettings,
        ReportSettings,
        TrainSettings,
    )
    from weakloc.structures import Prediction

__version__ = "0.1.0"

# The verbs, their settings, and what they give.
__all__ = ["calibrate", "check", "demo", "distil", "evaluate", "export", "from_supervision"]
__all__ += ["label", "load", "localize", "predict_to_folder", "push", "read", "refine", "report"]
__all__ += ["scenes", "train"]
__all__ += ["CalibrateSettings", "Cut", "DataSettings", "DistilSettings", "EvaluateSettings"]
__all__ += ["LabelSettings", "Look", "Places", "RefineSettings", "ReportSettings", "TrainSettings"]
__all__ += ["ExportedNetwork", "Prediction", "TrainedRun", "WeaklocError"]

_MODULES = {
    "api.calibration": ("calibrate",),
    "api.classifiers": ("localize",),
    "api.data_sets": ("check", "from_supervision", "read", "scenes"),
    "api.evaluation": ("evaluate",),
    "api.label": ("label",),
    "api.predictions": ("predict_to_folder",),
    "api.pushed_runs": ("push",),
    "api.reports": ("report",),
    "api.runs": ("ExportedNetwork", "TrainedRun", "export", "load"),
    "api.tour": ("demo",),
    "api.training": ("distil", "refine", "train"),
    "errors": ("WeaklocError",),
    "structures": ("Prediction",),
}  # all others are settings


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'weakloc' has no attribute {name!r}")
    modules = (module for module, names in _MODULES.items() if name in names)
    return getattr(importlib.import_module(f"weakloc.{next(modules, 'settings')}"), name)
