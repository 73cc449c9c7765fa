"""A trained run: the network with all that is needed to use it and to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakloc.config import TrainSettings
from weakloc.data.transforms import Preprocessing
from weakloc.methods.method import Method
from weakloc.model.cell_classifier import CellClassifier
from weakloc.model.network import LocalizationNetwork
from weakloc.training.label_statistics import LabelStatistics


@dataclass(frozen=True)
class EpochRecord:
    """One line of a run's history; epochs count from 1."""

    epoch: int
    loss: float
    learning_rate: float
    classification_map: float | None
    point_map: float | None
    seconds: float


@dataclass(frozen=True)
class Selection:
    """Which epoch's weights were kept, by what, and on which images."""

    epoch: int
    by: str
    watched: str


@dataclass(frozen=True)
class Run:
    """What `load_run` gives; the network is in evaluation mode.

    `thresholds` is what a calibration wrote, None before one. `hidden_supervision` counts drawn
    boxes or masks that training or selection used. `cells` is what `weakloc refine` learned.
    """

    path: Path
    network: LocalizationNetwork
    method: Method
    settings: TrainSettings
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    labels: LabelStatistics
    history: tuple[EpochRecord, ...]
    selection: Selection
    is_finished: bool
    notes: tuple[str, ...] = ()
    hidden_supervision: int = 0
    thresholds: Mapping[str, Any] | None = None
    cells: CellClassifier | None = None
