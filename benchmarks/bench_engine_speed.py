"""How fast `weakloc predict` is with a run, and with the file of `weakloc export` in two engines.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_engine_speed [--network NAME]... [--rounds 5]

Random weights at 224 pixels, 20 classes; 500 x 375 JPEGs; one box an image, of its likeliest class.
Each way is the predictor that the command line uses, from a folder of files to points, boxes and
doubt; all compute with as many threads as torch does. OpenVINO takes part where it is installed:
it reads the same file, once in float32 and once in what it prefers on this processor.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bench_engines import OpenVinoSource
from benchmarks.bench_heat_maps import write_photographs
from benchmarks.measure import Timing, paired_ratio, time_interleaved, write_results
from weakloc.api.runs import ExportedNetwork, LoadedRun, export, load_folder
from weakloc.api.training import train
from weakloc.data.sources import find_images
from weakloc.predictor.onnx_file import OnnxSource
from weakloc.settings import Look, Places, TrainSettings
from weakloc.structures import PRESENT, BrokenImage, DataSet, Sample
from weakloc.training.plan import uses_bf16
from weakloc.work import keep_freed_memory

NETWORKS = ("tf_efficientnet_lite0", "mobilenetv2_100", "resnet50", "vit_small_patch16_224")
SIDE, SIZE, NUM_CLASSES = 224, (500, 375), 20
RUN, AUTO, FILE = "a run", "a run, --precision auto", "ONNX Runtime"
OPENVINO, OPENVINO_AUTO = "OpenVINO", "OpenVINO, its precision"

Work = Callable[[], int]


def made_run(network: str, photographs: Path, folder: Path) -> Path:
    """A run of random weights, of which only the class maps were trained, on a few images."""
    samples = []
    for number, path in enumerate(sorted(photographs.iterdir())[:4]):
        labels = np.full(NUM_CLASSES, -PRESENT, dtype=np.int8)
        labels[number] = PRESENT
        samples.append(Sample(path.name, str(path), labels))
    names = tuple(f"class {number}" for number in range(NUM_CLASSES))
    settings = TrainSettings(
        backbone=network,
        weights="none",
        image_size=SIDE,
        epochs=1,
        batch_size=4,
        frozen=True,
        feature_flip=False,
        workers=0,
        hold_out=0.0,
    )
    data_set = DataSet(photographs, "folders", names, {"train": samples})
    train(data_set, out=folder / network, settings=settings)
    return folder / network


def predicting(run: LoadedRun, photographs: Path, precision: str = "fp32") -> Work:
    look, places = Look(workers=0, precision=precision), Places(min_score=1.0, top=1)  # type: ignore[arg-type]
    return partial(count_boxes, run.predictor(look, places), photographs)


def count_boxes(predictor: Any, photographs: Path) -> int:
    answers = list(predictor.predict(find_images(str(photographs))))
    assert not any(isinstance(answer, BrokenImage) for answer in answers)
    return sum(len(answer.boxes) for answer in answers)


def ways_of(network: str, photographs: Path, folder: Path) -> dict[str, Work]:
    run = load_folder(made_run(network, photographs, folder))
    file = export(run, folder / f"{network}.onnx").path
    ways = {
        RUN: predicting(run, photographs),
        AUTO: predicting(load_folder(folder / network), photographs, "auto"),
        FILE: predicting(ExportedNetwork(OnnxSource(file)), photographs),
    }
    if importlib.util.find_spec("openvino"):
        for name, precision in ((OPENVINO, "f32"), (OPENVINO_AUTO, "")):
            ways[name] = predicting(ExportedNetwork(OpenVinoSource(file, precision)), photographs)
    return ways


def rows_of(network: str, timings: dict[str, Timing], num_images: int) -> list[dict[str, Any]]:
    return [
        {
            "network": network,
            "way": way,
            "images/s": round(num_images / timing.wall, 2),
            "CPU ms an image": round(1000 * timing.cpu / num_images, 1),
            "CPU time / a run": round(paired_ratio(timing, timings[RUN], clock="cpu"), 3),
            "CPU time / a run with auto": round(
                paired_ratio(timing, timings[AUTO], clock="cpu"), 3
            ),
        }
        for way, timing in timings.items()
    ]


def written(
    rows: Sequence[Mapping[str, Any]], timings: Mapping[str, Timing], chosen: argparse.Namespace
) -> None:
    """After every network, so that what was measured is kept."""
    import onnxruntime

    versions = [f"onnxruntime {onnxruntime.__version__}"]
    if importlib.util.find_spec("openvino"):
        import openvino

        versions.append(f"OpenVINO {openvino.__version__.partition('-')[0]}")
    write_results(
        "engine_speed",
        rows,
        title="Prediction with a run, and with its file in ONNX Runtime and OpenVINO",
        notes=[
            f"{chosen.images} JPEGs of {SIZE[0]} x {SIZE[1]} at {SIDE}, {NUM_CLASSES} classes",
            f"random weights; {', '.join(versions)}",
            f"{chosen.rounds} rounds in turn, {torch.get_num_threads()} threads; paired medians",
            f"--precision auto: {'bfloat16' if uses_bf16('auto') else 'float32'} on this processor",
        ],
        timings=timings,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="append", choices=NETWORKS)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    keep_freed_memory()
    rows, timings = [], {}
    for network in chosen.network or NETWORKS:
        with tempfile.TemporaryDirectory() as name:
            photographs = Path(name, "photographs")
            photographs.mkdir()
            write_photographs(photographs, chosen.images, SIZE)
            ways = ways_of(network, photographs, Path(name))
            measured = time_interleaved(ways, rounds=chosen.rounds)
        rows += rows_of(network, measured, chosen.images)
        timings |= {f"{network}, {way}": timing for way, timing in measured.items()}
        written(rows, timings, chosen)


if __name__ == "__main__":
    main()
