"""An exported network: read as a source of maps, and written after its answers were compared.

torch.export records the network once for any batch, height and width. A network that it can only
record at one size is exported at that size, which the file's metadata then says.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weakloc.data.transforms import LARGEST_SIDE, PixelSize, Preprocessing
from weakloc.errors import FailureError, RunError, SettingError, needing
from weakloc.files import fit_json, parse_json, write_whole
from weakloc.localize.places import ThresholdMode
from weakloc.methods.method import LEARNED, Looking
from weakloc.methods.settings import from_settings, to_settings
from weakloc.model.fine_layers import EVIDENCE, CellReading, fine_features
from weakloc.model.network import GridHead, LocalizationNetwork, fold_batch_norms
from weakloc.model.trunk import CellGeometry
from weakloc.predictor.parts import own_device
from weakloc.predictor.views import RawMaps
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

    The file's input `images` is (batch, 3, height, width), RGB. Of its outputs `scores` (batch,
    classes) are logits, which become probabilities by `activation`, after any averaging; `maps`
    (batch, classes, rows, columns) are logits as well, and where `looking` has learned cells their
    heat from 0 to 1. With a detector there are `boxes` (batch, N, 4) in pixels of the input and
    `votes` (batch, classes, N): how likely each of them holds an object. `fixed_size` (width,
    height) is set where the file takes no other, for the reason in `fixed_because`; elsewhere sides
    are at least `smallest_side`. `version` is weakloc's. `threshold_mode` None: the thresholds were
    not tuned. `num_boxes_used` counts drawn boxes that made the file what it is;
    `hidden_supervision` leaves out those that tuned its thresholds.
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
    weights_from: str = "unknown"
    opset: int = OPSET
    format: str = FORMAT

    def __post_init__(self) -> None:
        num_classes, sides = len(self.class_names), (self.smallest_side, *(self.fixed_size or ()))
        numbers, counts = range(num_classes), range(2**53)
        fits = len(self.thresholds) in (0, num_classes) and all(
            pair.first in numbers and pair.second in numbers and pair.count in counts
            for pair in self.together
        )
        if not fits or not all(map(math.isfinite, self.thresholds)):
            raise SettingError(f"thresholds or pairs do not fit {num_classes} classes")
        if not all(1 <= side <= LARGEST_SIDE for side in sides):
            raise SettingError(f"sides of {sides} pixels are not 1 to {LARGEST_SIDE}")

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
    pairs = np.argwhere(np.triu(co_occurrence)).tolist()
    return tuple(Together(i, j, int(co_occurrence[i, j])) for i, j in pairs)


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
        if values.get("format") != FORMAT:
            raise RunError(
                f"its format is {values.get('format')!r}, and this weakloc knows {FORMAT!r}",
                location=location,
                remedy="Update weakloc, or export the run again",
            )
        return from_settings(OnnxRecord, values)
    except (ValueError, SettingError) as error:
        raise RunError(f"its metadata is damaged ({error})", location=location) from error


ERRORS_ONLY = 3
# Field 4 of a node, in each way in which its tag and its length may be written.
_LOOPS = re.compile(
    rb"(?:\x22|\xa2\x80*\x00)(?:(?:\x04|\x84\x80*\x00)(?:Loop|Scan)"
    rb"|(?:\x0b|\x8b\x80*\x00)SequenceMap)"
)
CUDA = "CUDAExecutionProvider"


class OnnxSource:
    """Maps of a file that `weakloc export` wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session = open_session(path, own_device())
        try:
            stored = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        except UnicodeDecodeError as error:
            raise RunError(f"its metadata is damaged ({error})", location=str(path)) from error
        self.record: OnnxRecord = read_record(stored, location=str(self.path))
        self.class_names = self.record.class_names
        self.preprocessing: Preprocessing = self.record.preprocessing
        self.activation: Activation = self.record.activation
        is_learned = self.record.looking.localiser in LEARNED
        self.map_kind: MapKind = "probability" if is_learned else "logit"
        self.geometry = self.record.geometry

    def read(self, images: Tensor) -> RawMaps:
        height, width = images.shape[2:]
        fixed = self.record.fixed_size
        if fixed is not None and (width, height) != fixed:
            raise SettingError(
                f"the network takes images of {fixed[0]} x {fixed[1]} pixels only, "
                f"not {width} x {height}: {self.record.fixed_because}",
                location=str(self.path),
                remedy="Leave out --scales and --map-scales",
            )
        try:
            scores, maps, *proposed = self._session.run(None, {"images": images.numpy()})
        except Exception as error:  # onnxruntime's errors share no narrower class
            raise self._unusable(str(error).strip().partition("\n")[0]) from error
        num_classes = len(self.class_names)
        fits = maps.ndim == 4 and len(maps) == len(images) and maps.shape[1] >= num_classes
        if scores.shape != (len(images), num_classes) or not fits:
            raise self._unusable(
                f"its scores are {scores.shape} and its maps {maps.shape} for {len(images)} images "
                f"of {num_classes} classes"
            )
        return RawMaps(scores, maps, *proposed)

    def _unusable(self, reason: str) -> RunError:
        return RunError(f"onnxruntime cannot use it ({reason})", location=str(self.path))


def open_session(path: Path, device: torch.device) -> Any:
    """An onnxruntime session, on a GPU where the installed package can use it."""
    with needing("weakloc[onnx]"):
        import onnxruntime
    if not path.is_file():
        raise RunError("there is no such file", location=str(path), remedy="Check the path")
    if _LOOPS.search(path.read_bytes()):
        raise RunError(
            "it holds a loop, which might not end and which no file of weakloc export has",
            location=str(path),
            remedy="Give a file that 'weakloc export' wrote",
        )
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


TOLERANCE = 1e-4  # of scores and maps, relative where they exceed 1
ANOTHER_WAY = "Another backbone may do, or newer versions of torch and onnxscript"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class ExportedGraph(nn.Module):
    """Images -> everything that a file says of them, as arrays in the order of `output_names`."""

    def __init__(self, network: LocalizationNetwork, reading: CellReading | None = None) -> None:
        super().__init__()
        self.network, self.reading = network, reading
        has_boxes = reading is not None and reading.detector is not None
        self.output_names = ["scores", "maps", *(["boxes", "votes"] if has_boxes else [])]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.reading is None:
            output = self.network(images)
            return output.scores, output.maps
        output = self.network(images, (self.reading.cells.common_level,))
        fine = fine_features(self.network.backbone, images, self.reading.levels)
        return output.scores, *self.reading(fine, output, images.shape[2:])

    def comparable(self, outputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Heat has a root of the class map's share, steep at 0: its power is compared. The edges
        of boxes are differences of pixels: shares of the sides are."""
        if self.reading is None:
            return list(outputs)
        scores, heat, *proposed = outputs
        if self.reading.detector is not None:
            proposed[0] = proposed[0] / self.reading.detector.reach.numpy()
        return [scores, heat ** (1 / EVIDENCE), *proposed]


ImageBatchShape: TypeAlias = tuple[int, int, int]  # (batch, height, width)


@dataclass(frozen=True)
class Parity:
    """The largest difference between file and network on one batch of noise."""

    batch: int
    width: int
    height: int
    difference: float


@dataclass(frozen=True)
class ExportedFile:
    path: Path
    record: OnnxRecord
    parity: tuple[Parity, ...]


def write_onnx(graph: ExportedGraph, path: Path, record: OnnxRecord) -> ExportedFile:
    """The graph as a file at `path`, checked at three sizes; none is left if one differs."""
    for package in PACKAGES:
        with needing("weakloc[onnx]"):
            importlib.import_module(package)
    if isinstance(graph.network.head, GridHead):
        record = _fixed(record, "its head reads a fixed grid of cells")
    elif graph.reading is not None:
        record = _fixed(record, "its cells see the image go on beyond its border")
    elif any(type(layer).__name__ == "Conv2dSame" for layer in graph.network.modules()):
        # timm's; torch needs ten minutes and more for what follows from it at every size.
        record = _fixed(record, "its padding follows from the size of the image")
    try:
        return _write(graph, path, record)
    except FailureError:
        if record.fixed_size is not None:
            raise
        return _write(graph, path, _fixed(record, "torch can only record it at one size"))


def _write(graph: ExportedGraph, path: Path, record: OnnxRecord) -> ExportedFile:
    program = _record_graph(graph, record)
    program.model.metadata_props[KEY] = record.to_json()
    with write_whole(path) as temporary:
        program.save(str(temporary))
        parity = check_parity(temporary, graph, record)
    return ExportedFile(path, record, parity)


def check_parity(path: Path, graph: ExportedGraph, record: OnnxRecord) -> tuple[Parity, ...]:
    """FailureError where the file's scores or maps are not the network's."""
    session = open_session(path, torch.device("cpu"))
    compared = []
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in _sizes_to_compare(record):
        images = torch.randn(batch, 3, height, width, generator=generator)
        with torch.inference_mode():
            expected = [output.numpy() for output in graph(images)]
        try:
            answers = session.run(graph.output_names, {"images": images.numpy()})
        except Exception as error:  # onnxruntime's errors share no narrower class
            reason = str(error).strip().splitlines()[0]
            message = f"onnxruntime cannot run what torch exported ({reason})"
            raise FailureError(message, remedy=ANOTHER_WAY) from error
        difference = max(map(_difference, graph.comparable(answers), graph.comparable(expected)))
        if not difference <= TOLERANCE:  # so that NaN fails, too
            raise FailureError(
                f"the exported file differs from the network by {difference:.2g} on {batch} images "
                f"of {width} x {height}, and {TOLERANCE:g} is allowed",
                location=str(path.parent),
                remedy="Nothing was written; please report the backbone and the versions of torch "
                "and onnxruntime",
            )
        compared.append(Parity(batch, width, height, difference))
    return tuple(compared)


def _record_graph(graph: ExportedGraph, record: OnnxRecord) -> Any:
    network = graph.network
    folded = fold_batch_norms(network, side=network.backbone.probe_side)
    graph = ExportedGraph(folded, graph.reading).eval()
    try:
        program = _export(graph, record)
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        reason = str(cause).strip().splitlines()[0]
        raise FailureError(
            f"torch cannot export this network ({type(cause).__name__}: {reason})",
            remedy=ANOTHER_WAY,
        ) from error
    _name_dimensions(program, record)
    # torch notes the stack of every operation, with the paths of this machine.
    for node in program.model.graph:
        node.metadata_props.clear()
    return program


def _export(graph: ExportedGraph, record: OnnxRecord) -> Any:
    axes = (0, 2, 3) if record.fixed_size is None else (0,)
    example = torch.zeros(2, 3, *_sizes_to_compare(record)[0][1:])
    with warnings.catch_warnings():
        # torch warns of its own classes here: 2.11 does while it copies what it recorded.
        warnings.simplefilter("ignore", FutureWarning)
        return torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=graph.output_names,
            dynamic_shapes=(dict.fromkeys(axes, torch.export.Dim.DYNAMIC),),
            verbose=False,
        )


def _fixed(record: OnnxRecord, because: str) -> OnnxRecord:
    """At the size of the preprocessing; the method's other sizes cannot be looked at."""
    looking = replace(record.looking, score_scales=(1.0,), map_scales=(1.0,))
    return replace(record, fixed_size=_usual_size(record), fixed_because=because, looking=looking)


def _sizes_to_compare(record: OnnxRecord) -> list[ImageBatchShape]:
    """(batch, height, width), the first of which is also what the graph is recorded with."""
    if record.fixed_size is not None:
        width, height = record.fixed_size
        return [(batch, height, width) for batch in (2, 1, 3)]
    width, height = _usual_size(record)
    step = _multiple(record, record.geometry.stride)
    smallest = _multiple(record, record.smallest_side)
    return [(2, height, width + step), (1, height + 3 * step, width), (3, smallest, smallest)]


def _usual_size(record: OnnxRecord) -> PixelSize:
    size = replace(record.preprocessing, resize="warp").fixed_size
    assert size is not None
    return size


def _multiple(record: OnnxRecord, length: int) -> int:
    unit = record.preprocessing.multiple_of
    return math.ceil(length / unit) * unit


def _difference(of_file: NDArray[np.float32], of_network: NDArray[np.float32]) -> float:
    """The greatest, relative where the network's exceeds 1."""
    if of_file.shape != of_network.shape:
        return math.inf
    return float((np.abs(of_file - of_network) / np.maximum(np.abs(of_network), 1.0)).max())


def _name_dimensions(program: Any, record: OnnxRecord) -> None:
    """Words for torch's symbols, in what a reader of the file sees of its inputs and outputs."""
    words = {"images": ("height", "width"), "maps": ("rows", "columns")}
    graph = program.model.graph
    for value in (*graph.inputs, *graph.outputs):
        value.shape[0] = "batch"
        if record.fixed_size is None:
            for axis, word in enumerate(words.get(value.name, ()), start=2):
                value.shape[axis] = word
