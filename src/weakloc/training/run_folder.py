"""The run folder, written after every epoch and read with every check.

model.safetensors   the weights that were kept
run.json            what they belong to: method, settings, classes, history, thresholds
epochs.csv          the history once more, for spreadsheets
last.ckpt           where --resume continues
cells.safetensors   what `weakloc refine` learned, where it was run
detector.safetensors   what `weakloc distil` learned, where it was run
"""

from __future__ import annotations

import csv
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias, TypeVar

import numpy as np
import torch
from msgspec import UNSET, Meta, Struct, UnsetType, to_builtins
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors

from weakloc.data.transforms import Preprocessing
from weakloc.errors import RunError, SettingError, WeaklocError, WeightsError
from weakloc.extensions import package_of, require_package
from weakloc.files import fit_json, open_synced, open_whole, parse_json, write_text, write_whole
from weakloc.methods import method_named
from weakloc.methods.method import Method
from weakloc.methods.settings import from_settings, to_settings
from weakloc.model.backbones import Backbone, build_backbone
from weakloc.model.fine_layers import CellClassifier, Detector
from weakloc.model.network import LocalizationNetwork
from weakloc.model.trunk import BackboneSpec
from weakloc.model.weights import first_not_finite, load_file_into, supervision_of_weights
from weakloc.settings import DistilSettings, RefineSettings, TrainSettings
from weakloc.structures import BrokenImage, LabelStatistics
from weakloc.training.plan import TrainingPlan

MODEL_NAME = "model.safetensors"
RECORD_NAME = "run.json"
TABLE_NAME = "epochs.csv"
CHECKPOINT_NAME = "last.ckpt"
CELLS_NAME = "cells.safetensors"
DETECTOR_NAME = "detector.safetensors"
OWN_FILES = (MODEL_NAME, CELLS_NAME, DETECTOR_NAME, TABLE_NAME, RECORD_NAME)
FORMAT = "weakloc.run"
FORMAT_VERSION = 1
_NUMBERS = re.compile(r"\[\n[-+\d.eE,\s]+\]")  # a list of numbers goes on one line
_COUNTS = ("present", "absent", "unknown", "co_occurrence")
_PACKAGES = ("weakloc", "torch", "torchvision", "lightning", "timm", "numpy", "pillow")


def _write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]
) -> None:
    here = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = save_tensors(here, metadata=metadata)
    # The library writes its metadata in an order that changes from process to process.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # tensors begin where numbers do
    with open_synced(path) as file:
        file.write(len(header).to_bytes(8, "little") + header + content[end:])


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
    boxes or masks that training or selection used. `cells` is what `weakloc refine` learned,
    `detector` what `weakloc distil` did.
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
    detector: Detector | None = None


Learned: TypeAlias = CellClassifier | Detector
_LEARNED: Mapping[type[Learned], tuple[str, str, str]] = {  # file, format, command that learns it
    CellClassifier: (CELLS_NAME, "weakloc.cells.2", "refine"),
    Detector: (DETECTOR_NAME, "weakloc.detector.1", "distil"),
}


def save_learned(
    folder: Path, learned: Learned, backbone: Backbone, settings: RefineSettings | DistilSettings
) -> None:
    """What was learned on fine features of a backbone, with what tells that it belongs to it."""
    name, version, _ = _LEARNED[type(learned)]
    facts = {
        "channels": {str(level): count for level, count in learned.channels.items()},
        "backbone": backbone.weights_digest(),
        "settings": to_settings(settings),
    }
    metadata = {"format": version, "facts": json.dumps(facts)}
    _write_tensors(folder / name, learned.state_dict(), metadata)


class LearnedFacts(Struct):
    """What is read of the facts beside the weights: channels by stride, the backbone's digest."""

    channels: dict[str, Annotated[int, Meta(ge=1, le=65_536)]]
    backbone: str


LearnedKind = TypeVar("LearnedKind", CellClassifier, Detector)


def load_learned(
    kind: type[LearnedKind], folder: Path, weights_digest: Callable[[], str], num_classes: int
) -> LearnedKind | None:
    """None where the run never learned it; the digest is that of the backbone's weights."""
    name, version, _ = _LEARNED[kind]
    path = folder / name
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != version:
            raise ValueError(f"its format is not {version}")
        if odd_name := first_not_finite(tensors):
            raise ValueError(f"{odd_name} holds NaN or infinity")
        facts = fit_json(parse_json(metadata.get("facts", "")), LearnedFacts)
        learned = kind({int(stride): n for stride, n in facts.channels.items()}, num_classes)
        learned.load_state_dict(tensors)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _unfit(kind, path, f"it cannot be read ({str(error).splitlines()[0]})") from error
    if facts.backbone != weights_digest():
        raise _unfit(kind, path, "it belongs to other weights than those of this run")
    return learned.eval()


def _unfit(kind: type[Learned], path: Path, reason: str) -> RunError:
    remedy = f"Delete the file, and run 'weakloc {_LEARNED[kind][2]}' again for a new one"
    return RunError(reason, location=str(path), remedy=remedy)


def save_distilled(
    run: Run, folder: Path, detector: Detector | None, settings: DistilSettings
) -> Run:
    """A folder of its own for the run with a detector, or as it is with what was looked at.

    Thresholds tune no box of a detector.
    """
    record = {**read_record(run.path), "hidden_supervision": run.hidden_supervision}
    for name in OWN_FILES:
        if name != RECORD_NAME and (run.path / name).is_file():
            with write_whole(folder / name) as copy:
                shutil.copyfile(run.path / name, copy)
    if detector is not None:
        save_learned(folder, detector, run.network.backbone, settings)
        record["thresholds"] = None
        run = replace(run, detector=detector, thresholds=None)
    write_record(folder, record)  # last: without it the folder is no run
    return replace(run, path=folder)


def publish(
    folder: Path,
    plan: TrainingPlan,
    weights: Mapping[str, torch.Tensor] | None,
    history: Sequence[EpochRecord],
    kept_epoch: int,
    *,
    broken: Sequence[BrokenImage] = (),
    is_finished: bool = False,
) -> None:
    """Weights before the record: the record never speaks of weights that are not there.

    Without new weights those that are there stay.
    """
    if weights is not None:
        _write_tensors(folder / MODEL_NAME, weights, {"format": FORMAT})
    keeps_best = plan.settings.select == "best"
    by = "best classification mAP (tags only)" if keeps_best else "last epoch"
    notes = plan.notes
    if broken:
        first = f"{broken[0].name}: {broken[0].reason}"
        notes += (f"{len(broken)} images could not be read; the first, {first}",)
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    record = RunRecord(
        method=MethodRecord.of(plan.method),
        settings=to_settings(plan.settings),
        seed=plan.settings.seed,
        backbone=BackboneRecord.of(plan.network.backbone),
        class_names=plan.class_names,
        labels=plan.labels,
        preprocessing=to_settings(plan.preprocessing),
        selection=Selection(kept_epoch, by, plan.division.watched_name),
        hidden_supervision=0,
        thresholds=None,
        notes=notes,
        versions=versions,
        git_revision=_git_revision(),
        history=tuple(history),
        finished=is_finished,
    )
    write_record(folder, to_builtins(record))
    with open_whole(folder / TABLE_NAME) as file:
        table = csv.DictWriter(file, EpochRecord.__annotations__, lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(epoch) for epoch in history)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    text = _NUMBERS.sub(lambda numbers: " ".join(numbers[0].split()), text)
    write_text(folder / RECORD_NAME, f"{text}\n")


def save_thresholds(run: Run, thresholds: Mapping[str, Any] | None) -> Run:
    """The run with thresholds, also on disk: plain JSON that says what tuned it, or None."""
    kept = None if thresholds is None else dict(thresholds)
    write_record(run.path, {**read_record(run.path), "thresholds": kept})
    return replace(run, thresholds=kept)


class MethodRecord(Struct, kw_only=True, omit_defaults=True):
    """`package` is the installed one that adds it, None where weakloc brings it."""

    name: str
    package: str | None = None
    settings: dict[str, Any]

    @classmethod
    def of(cls, method: Method) -> Self:
        package = package_of("methods", method.name)
        return cls(name=method.name, package=package, settings=to_settings(method))

    def read(self, file: str) -> Method:
        require_package("methods", self.name, self.package, record=file)
        return method_named(self.name, "practical", self.settings, prefix=f"{self.name}.")


class BackboneRecord(Struct, kw_only=True, omit_defaults=True):
    """`loaded` names the weights where they come from, None random ones; once it was not kept.

    `made_from` and `licence` are written for readers: what those weights were made from, and what
    timm says that others may do with them.
    """

    name: str
    package: str | None = None
    weights: str
    loaded: str | UnsetType | None = UNSET
    made_from: str = ""
    licence: str | None = None
    output_stride: int | None

    @classmethod
    def of(cls, backbone: Backbone) -> Self:
        spec = backbone.spec
        return cls(
            name=str(spec),
            package=package_of("backbones", spec.name),
            weights=spec.weights,
            loaded=backbone.loaded_weights,
            made_from=supervision_of_weights(backbone.loaded_weights),
            licence=backbone.licence,
            output_stride=spec.output_stride,
        )

    def read(self, file: str) -> BackboneSpec:
        spec = BackboneSpec.parse(self.name, weights="none", output_stride=self.output_stride)
        spec.require_plain()
        require_package("backbones", spec.name, self.package, record=file)
        return spec


class RescoringRecord(Struct):
    """What is read of the weight that calibration gave to classes tagged together."""

    alpha: float


class RunRecord(Struct, kw_only=True):
    """What run.json holds; settings are checked by the classes they belong to."""

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    method: MethodRecord
    settings: dict[str, Any]
    seed: int
    backbone: BackboneRecord
    class_names: tuple[str, ...]
    labels: LabelStatistics
    preprocessing: dict[str, Any]
    selection: Selection
    hidden_supervision: int
    thresholds: dict[str, Any] | None
    rescoring: RescoringRecord | UnsetType = UNSET
    notes: tuple[str, ...]
    versions: dict[str, str]
    git_revision: str | None
    history: tuple[EpochRecord, ...]
    finished: bool


def load_run(path: Path) -> Run:
    """The run of a folder, checked; nothing in it is executed."""
    file = str(path / RECORD_NAME)
    stored = read_record(path)
    try:
        record = fit_json(stored, RunRecord)
        method = record.method.read(file)
        spec = record.backbone.read(file)
        num_classes = len(record.class_names)
        for name in _COUNTS:
            shape = (num_classes,) * (2 if name == "co_occurrence" else 1)
            if np.array(getattr(record.labels, name), dtype=np.int64).shape != shape:
                raise ValueError(f"labels.{name} does not fit {num_classes} classes")
        with torch.random.fork_rng():
            network = method.build_network(build_backbone(spec), num_classes).eval()
        run = Run(
            path=path,
            network=network,
            method=method,
            settings=from_settings(TrainSettings, record.settings, prefix="settings."),
            class_names=record.class_names,
            preprocessing=from_settings(
                Preprocessing, record.preprocessing, prefix="preprocessing."
            ),
            labels=record.labels,
            history=record.history,
            selection=record.selection,
            is_finished=record.finished,
            notes=record.notes,
            hidden_supervision=record.hidden_supervision,
            thresholds=record.thresholds,
        )
        if np.min(run.preprocessing.size) < network.backbone.min_input:
            least = f"the {network.backbone.min_input} pixels that its network needs"
            raise ValueError(f"preprocessing.size is {run.preprocessing.size}, below {least}")
    except SettingError as error:
        setting = f"{error.location}: " if error.location else ""
        raise _damaged(file, setting + error.message) from error
    except WeaklocError:
        raise
    except Exception as error:  # a network of arguments that nobody tried may raise anything
        raise _damaged(file, str(error) or type(error).__name__) from error
    _load_weights(network, path)
    network.backbone.loaded_weights = record.backbone.loaded or None
    of_run = path, cache(network.backbone.weights_digest), num_classes
    cells, detector = load_learned(CellClassifier, *of_run), load_learned(Detector, *of_run)
    return replace(run, cells=cells, detector=detector)


def read_record(path: Path) -> dict[str, Any]:
    """run.json, after checking that this version understands it."""
    if not path.is_dir():
        raise RunError("there is no such run folder", location=str(path), remedy="Check the path")
    file = path / RECORD_NAME
    if not file.is_file():
        raise _missing(path, RECORD_NAME)
    try:
        record = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(str(file), str(error)) from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise RunError(
            "this is not the record of a weakloc run",
            location=str(file),
            remedy="Give the folder that 'weakloc train --out' made",
        )
    stored = record.get("format_version")
    if not isinstance(stored, int) or stored > FORMAT_VERSION:
        raise RunError(
            f"it has format version {stored}, and this weakloc knows up to {FORMAT_VERSION}",
            location=str(file),
            remedy="Update weakloc",
        )
    return record


def _load_weights(network: LocalizationNetwork, path: Path) -> None:
    file = path / MODEL_NAME
    if not file.is_file():
        raise _missing(path, MODEL_NAME)
    try:
        load_file_into(network, str(file))
    except WeightsError as error:
        remedy = "Take both files from the same run, or train again"
        raise RunError(error.message, location=str(file), remedy=remedy) from error


def _missing(path: Path, name: str) -> RunError:
    remedy = "Give the folder that 'weakloc train --out' made, or train again"
    if (path / CHECKPOINT_NAME).is_file():
        remedy = "Continue the training with the same command and --resume; it writes it again"
    return RunError(f"{name} is missing", location=str(path), remedy=remedy)


def _damaged(file: str, reason: str) -> RunError:
    return RunError(
        f"this record is damaged or of another version: {reason}",
        location=file,
        remedy="Restore the file, or update weakloc if the run was made by a newer version",
    )


@cache
def _git_revision() -> str | None:
    """Of the source tree that weakloc runs from, where it is one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
