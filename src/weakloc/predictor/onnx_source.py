"""An exported network as a source of maps, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weakloc.data.transforms import Preprocessing
from weakloc.errors import MissingPackageError, RunError, SettingError
from weakloc.geometry import GridTransform
from weakloc.predictor.map_source import Activation, RawMaps
from weakloc.predictor.onnx_record import KEY, OnnxRecord, read_record
from weakloc.predictor.ranks import own_device
from weakloc.structures import MapKind

ERRORS_ONLY = 3
CUDA = "CUDAExecutionProvider"


class OnnxSource:
    """Maps of a file that `weakloc export` wrote."""

    map_kind: MapKind = "logit"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session = open_session(path, own_device())
        stored = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        self.record: OnnxRecord = read_record(stored, where=str(self.path))
        self.class_names = self.record.class_names
        self.preprocessing: Preprocessing = self.record.preprocessing
        self.activation: Activation = self.record.activation

    def read(self, images: Tensor) -> RawMaps:
        self._check_size(images.shape[3], images.shape[2])
        scores, maps = self._session.run(["scores", "maps"], {"images": images.numpy()})
        return RawMaps(scores, maps)

    def cell_transform(
        self, input_transform: GridTransform, rows: int, columns: int
    ) -> GridTransform:
        return self.record.geometry.cell_transform(input_transform, rows, columns)

    def _check_size(self, width: int, height: int) -> None:
        fixed = self.record.fixed_size
        if fixed is not None and (width, height) != fixed:
            raise SettingError(
                f"the network takes images of {fixed[0]} x {fixed[1]} pixels only, "
                f"not {width} x {height}: {self.record.fixed_because}",
                where=str(self.path),
                remedy="Leave out --scales and --map-scales",
            )


def open_session(path: Path, device: torch.device) -> Any:
    """An onnxruntime session, on a GPU where the installed package can use it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package(error) from error
    if not path.is_file():
        raise RunError("there is no such file", where=str(path), remedy="Check the path")
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
        raise RunError(f"onnxruntime cannot read it ({first_line})", where=str(path)) from error


def missing_package(error: ImportError) -> MissingPackageError:
    return MissingPackageError(
        f"ONNX needs the package {error.name}",
        remedy='Install it: pip install "weakloc[onnx]"',
    )
