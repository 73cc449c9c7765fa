"""Do the network, ONNX Runtime and OpenVINO name the same places?

    python -m benchmarks.bench_engines RUN IMAGES [RUN IMAGES ...] [--images 120]

Every run is exported to ONNX, and its predictions of the images are compared with those that the
file gives in either engine: points, boxes and scores, through everything that `weakloc predict`
does. OpenVINO takes part where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import write_results
from weakloc.api.runs import ExportedNetwork, LoadedRun, export, load_folder
from weakloc.data.sources import find_images
from weakloc.geometry import box_iou
from weakloc.predictor.onnx_file import OnnxSource
from weakloc.settings import Look, Places
from weakloc.structures import BrokenImage, Prediction

EQUAL = 0.01  # pixels: a box ends on a cell's border, so another border is far more


class OpenVinoSession:
    """The answers of OpenVINO where onnxruntime's are asked for.

    In the precision `f32`, as in the file, or `bf16`; in what OpenVINO prefers where it is empty.
    """

    def __init__(self, path: Path, precision: str) -> None:
        import openvino

        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
        if precision:
            settings["INFERENCE_PRECISION_HINT"] = precision
        self._model: Any = openvino.Core().compile_model(str(path), "CPU", settings)

    def run(self, _names: None, inputs: dict[str, Any]) -> list[Any]:
        answers = self._model(inputs)
        return [answers[output] for output in self._model.outputs]


class OpenVinoSource(OnnxSource):
    def __init__(self, path: Path, precision: str = "f32") -> None:
        super().__init__(path)
        self._session = OpenVinoSession(path, precision)


def predicted(run: LoadedRun, folder: str, count: int) -> list[Prediction]:
    predictor = run.predictor(Look(workers=0), Places())
    images = itertools.islice(find_images(folder), count)
    found = list(predictor.predict(images))
    return [answer for answer in found if not isinstance(answer, BrokenImage)]


def compared(own: Sequence[Prediction], other: Sequence[Prediction]) -> dict[str, object]:
    pairs = list(zip(own, other, strict=True))
    assert all(first.image == second.image for first, second in pairs)
    sides = [side for pair in pairs for side in box_differences(*pair)]
    points = [distance for pair in pairs for distance in point_differences(*pair)]
    scores = [
        abs(value - second.scores[name])
        for first, second in pairs
        for name, value in first.scores.items()
    ]
    ranks = [
        abs(box.score - twin.score)
        for first, second in pairs
        if len(first.boxes) == len(second.boxes)
        for box, twin in zip(first.boxes, second.boxes, strict=True)
    ]
    return {
        "images": len(pairs),
        "boxes": len(sides),
        "equal boxes": share_of_equal(sides),
        "farthest side, px": max(sides),
        "points": len(points),
        "equal points": share_of_equal(points),
        "farthest point, px": max(points),
        "class scores, at most": max(scores),
        "box scores, at most": max(ranks),
    }


def share_of_equal(differences: Sequence[float]) -> str:
    return f"{100 * np.mean(np.array(differences) < EQUAL):.4g} %"


def box_differences(own: Prediction, other: Prediction) -> Iterator[float]:
    """Of every box its farthest side from the nearest one of its class; infinity without one."""
    for box in own.boxes:
        same = [each.box for each in other.boxes if each.class_name == box.class_name]
        nearest = max(same, key=lambda each: box_iou(box.box, each), default=(np.inf,) * 4)
        yield float(np.abs(np.subtract(box.box, nearest)).max())
    yield from [np.inf] * (len(other.boxes) - len(own.boxes))  # the network did not say these


def point_differences(own: Prediction, other: Prediction) -> Iterator[float]:
    names = [point.class_name for point in own.points]
    if names != [point.class_name for point in other.points]:
        yield np.inf
        return
    for first, second in zip(own.points, other.points, strict=True):
        yield float(np.hypot(first.x - second.x, first.y - second.y))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", nargs="+", metavar="RUN IMAGES")
    parser.add_argument("--images", type=int, default=120)
    arguments = parser.parse_args()
    engines: dict[str, Callable[[Path], OnnxSource]] = {"ONNX Runtime": OnnxSource}
    versions = []
    if importlib.util.find_spec("openvino"):
        import openvino

        engines["OpenVINO"] = OpenVinoSource
        versions.append(f"OpenVINO {openvino.__version__.partition('-')[0]}")
    import onnxruntime

    versions.append(f"onnxruntime {onnxruntime.__version__}")
    rows = []
    for run, images in zip(arguments.pairs[::2], arguments.pairs[1::2], strict=True):
        trained = load_folder(run)
        own = predicted(trained, images, arguments.images)
        with tempfile.TemporaryDirectory() as folder:
            file = export(trained, Path(folder, "model.onnx"))
            for engine, source in engines.items():
                other = predicted(ExportedNetwork(source(file.path)), images, arguments.images)
                rows.append(
                    {
                        "run": Path(run).name,
                        "images of": Path(images).parent.name,
                        "places from": file.record.looking.localiser,
                        "engine": engine,
                        **compared(own, other),
                    }
                )
    write_results(
        "engines",
        rows,
        title="The same places from the network, ONNX Runtime and OpenVINO",
        notes=[
            f"{', '.join(versions)}; the file and all engines compute in fp32 on the CPU",
            (
                f"boxes and points are equal where no side, or the point, is {EQUAL} px away; "
                "every box of the network is compared with the nearest one of its class"
            ),
            "from a file of an image to its points and boxes, as `weakloc predict` says them",
        ],
    )


if __name__ == "__main__":
    main()
