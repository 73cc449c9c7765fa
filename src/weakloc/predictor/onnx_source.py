"""An exported network as a source of maps, run by onnxruntime."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weakloc.data.transforms import PixelSize, Preprocessing
from weakloc.errors import MissingPackageError, RunError, SettingError
from weakloc.files import fit_json, parse_json
from weakloc.localize.boxes import ThresholdMode
from weakloc.methods.method import Looking
from weakloc.methods.settings import from_settings, to_settings
from weakloc.model.trunk import CellGeometry, CellTransform
from weakloc.predictor.network_source import RawMaps
from weakloc.predictor.parts import own_device
from weakloc.structures import Activation, MapKind

Counts: TypeAlias = NDArray[np.int64]

KEY = "weakloc"
FORMAT = "weakloc.onnx/1"
OPSET = 18  # what torch 2.6 and all later ones write without converting


@dataclass(frozen=True)
class Together:
    """`count` training images have both classes; of one class twice: that have it."""

    first: int
    second: int
    count: int


@dataclass(frozen=True)
class OnnxRecord:
    """Everything but the weights.

    The file's input `images` is (batch, 3, height, width), RGB; its outputs are the logits
    `scores` (batch, classes) and `maps` (batch, classes, rows, columns). They become probabilities
    by `activation`, after any averaging. `fixed_size` (width, height) is set where the file takes
    no other, for the reason in `fixed_because`; elsewhere sides are at least `smallest_side`.
    `version` is weakloc's. `threshold_mode` None: the thresholds were not tuned. `num_boxes_used`
    counts drawn boxes that made the file what it is; `hidden_supervision` leaves out those that
    tuned its thresholds.
    """

    class_names: tuple[str, ...]
    activation: Activation
    method: str
    preprocessing: Preprocessing
    geometry: CellGeometry
    looking: Looking
    thresholds: tuple[float, ...]
    threshold_mode: ThresholdMode | None
    thresholds_from: str
    smallest_side: int
    version: str
    fixed_size: PixelSize | None = None
    fixed_because: str = ""
    rescoring: float = 0.0
    together: tuple[Together, ...] = ()
    num_boxes_used: int = 0
    hidden_supervision: int = 0
    opset: int = OPSET
    format: str = FORMAT

    def to_json(self) -> str:
        return json.dumps(to_settings(self), ensure_ascii=False)

    def co_occurrence(self) -> Counts:
        """(C, C), symmetric."""
        counts = np.zeros((len(self.class_names),) * 2, dtype=np.int64)
        for pair in self.together:
            counts[pair.first, pair.second] = counts[pair.second, pair.first] = pair.count
        return counts


def pairs_of(co_occurrence: Counts) -> tuple[Together, ...]:
    """The pairs of classes that met, each once."""
    rows, columns = np.nonzero(np.triu(co_occurrence))
    return tuple(
        Together(i, j, int(co_occurrence[i, j]))
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
    )


def read_record(text: str | None, *, location: str) -> OnnxRecord:
    """The record of a file, checked."""
    if text is None:
        raise RunError(
            "this is an ONNX file, but not of weakloc",
            location=location,
            remedy="Give a file that 'weakloc export' wrote",
        )
    try:
        values = fit_json(parse_json(text), dict[str, Any])
    except ValueError as error:
        raise RunError(f"its metadata is damaged ({error})", location=location) from error
    if values.get("format") != FORMAT:
        raise RunError(
            f"its format is {values.get('format')!r}, and this weakloc knows {FORMAT!r}",
            location=location,
            remedy="Update weakloc, or export the run again",
        )
    try:
        return from_settings(OnnxRecord, values)
    except SettingError as error:
        raise RunError(f"its metadata is damaged ({error})", location=location) from error


ERRORS_ONLY = 3
CUDA = "CUDAExecutionProvider"


class OnnxSource:
    """Maps of a file that `weakloc export` wrote."""

    map_kind: MapKind = "logit"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session = open_session(path, own_device())
        stored = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        self.record: OnnxRecord = read_record(stored, location=str(self.path))
        self.class_names = self.record.class_names
        self.preprocessing: Preprocessing = self.record.preprocessing
        self.activation: Activation = self.record.activation
        self.cell_transform: CellTransform = self.record.geometry.cell_transform

    def read(self, images: Tensor) -> RawMaps:
        self._check_size(images.shape[3], images.shape[2])
        scores, maps = self._session.run(["scores", "maps"], {"images": images.numpy()})
        return RawMaps(scores, maps)

    def _check_size(self, width: int, height: int) -> None:
        fixed = self.record.fixed_size
        if fixed is not None and (width, height) != fixed:
            raise SettingError(
                f"the network takes images of {fixed[0]} x {fixed[1]} pixels only, "
                f"not {width} x {height}: {self.record.fixed_because}",
                location=str(self.path),
                remedy="Leave out --scales and --map-scales",
            )


def open_session(path: Path, device: torch.device) -> Any:
    """An onnxruntime session, on a GPU where the installed package can use it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package(error) from error
    if not path.is_file():
        raise RunError("there is no such file", location=str(path), remedy="Check the path")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = ERRORS_ONLY
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and CUDA in onnxruntime.get_available_providers():
        providers.insert(0, (CUDA, {"device_id": device.index}))
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no narrower class
        first_line = str(error).strip().splitlines()[0]
        raise RunError(f"onnxruntime cannot read it ({first_line})", location=str(path)) from error


def missing_package(error: ImportError) -> MissingPackageError:
    return MissingPackageError(
        f"ONNX needs the package {error.name}",
        remedy='Install it: pip install "weakloc[onnx]"',
    )
