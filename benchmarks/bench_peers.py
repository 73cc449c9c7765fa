"""From a folder of JPEGs to boxes: this package against what people write around others.

    python -m benchmarks.bench_peers [--images 16] [--rounds 5]

ResNet-50 with 1,000 classes and random weights, at 224 pixels; 500 x 375 JPEGs; one box an image,
of its likeliest class. Ours is the predictor of `weakloc predict` with a run, as it is by default
(float32) and with `--precision auto`, and with somebody's classifier, as `timm:NAME` has it. Each
says points and doubt, too. The peers' way: decode, resize and normalise with Pillow; their map; a
threshold of 0.2 of its range, OpenCV's contours, the box of the largest. They take part where they
are installed: `pip install torchcam grad-cam opencv-python-headless`.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.bench_heat_maps import (
    SIDE,
    batches_of,
    cam_source,
    enlarged,
    torchvision_network,
    write_photographs,
)
from benchmarks.measure import Timing, paired_ratio, write_results
from benchmarks.own_processes import own_processes
from weakloc.data.sources import find_images
from weakloc.data.transforms import Preprocessing
from weakloc.methods.method import PlaceRules
from weakloc.predictor.classifier_source import ClassifierSource
from weakloc.predictor.predictor import Predictor
from weakloc.settings import Look, Places
from weakloc.structures import BrokenImage
from weakloc.training.plan import uses_bf16
from weakloc.work import keep_freed_memory

NETWORK = "resnet50"
SHARE = 0.2  # of a map's range, above which a pixel is the object's
SIZE = (500, 375)
OURS, OURS_AUTO = "weakloc, a run", "weakloc, a run, --precision auto"
TORCH_CAM, GRAD_CAM = "torch-cam, CAM", "pytorch-grad-cam, GradCAM"
GOALS = {TORCH_CAM: 2.0, GRAD_CAM: 5.0}

Boxes = list[tuple[float, ...]]


def weakloc_run(folder: str, precision: str) -> Callable[[], Boxes]:
    keep_freed_memory()
    look, places = Look(map_side=SIDE, precision=precision), Places(min_score=1.0, top=1)  # type: ignore[arg-type]
    source = cam_source(NETWORK, look, in_bf16=uses_bf16(precision))
    rules = PlaceRules(threshold=SHARE, boxes="largest")
    return partial(our_boxes, Predictor(source, look, places, rules=rules), folder)


def weakloc_classifier(folder: str) -> Callable[[], Boxes]:
    keep_freed_memory()
    places = Places(min_score=1.0, top=1)
    source = ClassifierSource(
        torchvision_network(NETWORK),
        places,
        class_names=None,
        preprocessing=Preprocessing(size=(SIDE, SIDE)),
        activation="softmax",
    )
    rules = PlaceRules(threshold=SHARE, boxes="largest")
    return partial(our_boxes, Predictor(source, Look(), places, rules=rules), folder)


def our_boxes(predictor: Predictor, folder: str) -> Boxes:
    boxes: Boxes = []
    for answer in predictor.predict(find_images(folder)):
        assert not isinstance(answer, BrokenImage)
        boxes += [box.box for box in answer.boxes]
    return boxes


def torch_cam(folder: str) -> Callable[[], Boxes]:
    from torchcam.methods import CAM  # type: ignore[import-not-found]

    model = torchvision_network(NETWORK)
    extractor = CAM(model)

    def work() -> Boxes:
        boxes = []
        for image in batches_of(folder, 1):
            scores = model(image)
            (found,) = extractor(int(scores.argmax()), scores)
            boxes.append(largest_box(enlarged(found)[0, 0].detach().numpy()))
        return boxes

    return work


def pytorch_grad_cam(folder: str) -> Callable[[], Boxes]:
    from pytorch_grad_cam import GradCAM  # type: ignore[import-not-found]

    model = torchvision_network(NETWORK)
    extractor = GradCAM(model=model, target_layers=[model.layer4[-1]])
    return lambda: [largest_box(extractor(im, targets=None)[0]) for im in batches_of(folder, 1)]


def largest_box(heat: NDArray[np.floating[Any]]) -> tuple[float, ...]:
    """In pixels of the image; what the documentation of such packages would have one write."""
    cut = heat.min() + SHARE * (heat.max() - heat.min())
    binary = (heat > cut).astype(np.uint8)
    contours, _ = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return (0.0, 0.0, float(SIZE[0]), float(SIZE[1]))
    left, top, width, height = cv2.boundingRect(max(contours, key=cv2.contourArea))
    across, down = SIZE[0] / SIDE, SIZE[1] / SIDE
    return (left * across, top * down, (left + width) * across, (top + height) * down)


def timed(make: Callable[..., Callable[[], Boxes]], *arguments: str) -> Callable[[], Any]:
    """(boxes, wall seconds, CPU seconds) of the process."""
    torch.manual_seed(0)
    work = make(*arguments)

    def measured() -> tuple[int, float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        count = len(work())
        return count, time.perf_counter() - wall, time.process_time() - cpu

    return measured


def variants_of(folder: str) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    variants: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        OURS: (timed, (weakloc_run, folder, "fp32")),
        OURS_AUTO: (timed, (weakloc_run, folder, "auto")),
        "weakloc, any classifier": (timed, (weakloc_classifier, folder)),
    }
    if importlib.util.find_spec("torchcam"):
        variants[TORCH_CAM] = (timed, (torch_cam, folder))
    if importlib.util.find_spec("pytorch_grad_cam"):
        variants[GRAD_CAM] = (timed, (pytorch_grad_cam, folder))
    return variants


def measured_rounds(folder: str, rounds: int, num_images: int) -> tuple[dict[str, Timing], Any]:
    """Once without being counted, then so many rounds, their order turning round."""
    with own_processes(variants_of(folder)) as processes:
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
        for number in range(rounds + 1):
            for name in list(processes)[:: 1 if number % 2 == 0 else -1]:
                count, wall, cpu = processes[name]()
                assert count == num_images, f"{name}: {count} boxes of {num_images} images"
                if number > 0:
                    seconds[name].append((wall, cpu))
        peaks = {name: process.peak_mebibytes() for name, process in processes.items()}
    timings = {}
    for name, pairs in seconds.items():
        walls, cpus = zip(*pairs, strict=True)
        timings[name] = Timing(statistics.median(walls), statistics.median(cpus), walls, cpus)
    return timings, peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), chosen.images, SIZE)
        timings, peaks = measured_rounds(folder, chosen.rounds, chosen.images)
    ours, automatic = timings[OURS], timings[OURS_AUTO]
    rows = []
    for name, timing in timings.items():
        goal, ratio = GOALS.get(name), paired_ratio(timing, ours, clock="cpu")
        rows.append(
            {
                "way": name,
                "images/s": round(chosen.images / timing.wall, 2),
                "CPU ms an image": round(1000 * timing.cpu / chosen.images, 1),
                "CPU time / ours": ratio,
                "CPU time / ours with auto": paired_ratio(timing, automatic, clock="cpu"),
                "goal": goal,
                "met": None if goal is None else "yes" if ratio >= goal else "no",
                "peak MiB": round(peaks[name]),
            }
        )
    others = [name for name in GOALS if name not in timings]
    numbers = "bfloat16" if uses_bf16("auto") else "float32"
    notes = [
        f"{chosen.images} JPEGs of {SIZE[0]} x {SIZE[1]}, {NETWORK} at {SIDE}, random weights",
        f"{chosen.rounds} rounds in turn, each way in a process of its own; paired medians",
        f"--precision auto: {numbers} on this processor; all others: float32",
        *(f"{name}: not installed, so not measured" for name in others),
    ]
    title = "From a folder of photographs to boxes"
    write_results("peers", rows, title=title, notes=notes, timings=timings)


if __name__ == "__main__":
    main()
