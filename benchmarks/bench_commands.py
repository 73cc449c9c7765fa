"""What each command costs on the same images, against what the network alone takes for them.

    python -m benchmarks.bench_commands [--data FOLDER] [--images 100] [--rounds 3]

A run with a frozen backbone and learned cells is trained once, then every command looks at the
same images in turn; `refine` and `label`, which learn, are timed once. "network" reads them as the
commands do, in batches that are decoded and resized beforehand. A pass is what enters the first
layer for an image, in images of that size: so often a command looks, in part or in whole, and less
than those passes no way of doing it takes. Without --data, scenes are drawn.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measure import Timing, time_interleaved, write_results
from weakloc.api import calibration, data_sets, evaluation, reports, training
from weakloc.api.label import label
from weakloc.api.predictions import predict_to_folder
from weakloc.api.runs import TrainedRun, load_folder
from weakloc.data.images import open_image
from weakloc.predictor.views import View, make_view
from weakloc.settings import CalibrateSettings, Look, Places, TrainSettings
from weakloc.structures import DataSet, Sample
from weakloc.work import keep_freed_memory

BATCH = 8
SIDE = 224


def read_data(folder: str | None, scratch: Path, num_images: int) -> DataSet:
    """At most so many images to learn from, and as many to look at."""
    if folder is None:
        folder = str(scratch / "scenes")
        data_sets.scenes(Path(folder), kind="single", num_train=num_images, num_val=num_images)
    data_set = data_sets.read(folder)
    splits = {name: _spread(data_set.split(name), num_images) for name in ("train", "val")}
    return replace(data_set, splits=splits)


def _spread(samples: Sequence[Sample], count: int) -> tuple[Sample, ...]:
    count = min(count, len(samples))
    return tuple(samples[number * len(samples) // count] for number in range(count))


def network_alone(run: TrainedRun, samples: Sequence[Sample]) -> Callable[[], None]:
    source = run.predictor(Look(), Places()).source
    inputs = [
        make_view(open_image(sample.path, name=sample.name), View(), source.preprocessing)[0]
        for sample in samples
    ]
    batches = [torch.stack(inputs[at : at + BATCH]) for at in range(0, len(inputs), BATCH)]

    def work() -> None:
        for images in batches:
            source.read(images)

    return work


def training_of(data_set: DataSet, folder: Path) -> Callable[[], object]:
    settings = TrainSettings(frozen=True, image_size=SIDE, epochs=5, val_split="val")
    return partial(training.train, data_set, out=folder, settings=settings)


def learning(data_set: DataSet, folder: Path, scratch: Path) -> dict[str, Callable[[], object]]:
    """Refining the run that is there, and all of `weakloc label` on the images it learned from."""
    copied = scratch / "refined"
    shutil.copytree(folder, copied)
    photographs = replace(data_set, splits={"train": data_set.split("train")})
    return {
        "refine": partial(training.refine, copied, data_set),
        "label": partial(label, photographs, scratch / "labelled"),
    }


@contextmanager
def counted_passes() -> Iterator[list[float]]:
    """What enters layers of three channels, the first ones, in images of the usual side."""
    passes: list[float] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], _output: object) -> None:
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 3:
            number, _, height, width = inputs[0].shape
            passes.append(number * height * width / SIDE**2)

    hook = nn.modules.module.register_module_forward_hook(count)
    try:
        yield passes
    finally:
        hook.remove()


def done_once(
    commands: dict[str, Callable[[], object]], num_images: int
) -> tuple[dict[str, Timing], dict[str, float]]:
    """How long each takes, and how many passes an image it makes."""
    passes: dict[str, float] = {}

    def counted(name: str) -> None:
        with counted_passes() as areas:
            commands[name]()
        passes[name] = sum(areas) / num_images

    works = {name: partial(counted, name) for name in commands}
    return time_interleaved(works, rounds=1, warmup=0), passes


def looks(data_set: DataSet, folder: Path, scratch: Path) -> dict[str, Callable[[], object]]:
    samples, images = data_set.split("val"), scratch / "val.txt"
    images.write_text("".join(f"{Path(sample.path).absolute()}\n" for sample in samples))
    numbers = iter(range(10**6))
    return {
        "network": network_alone(load_folder(folder), samples),
        "predict": lambda: predict_to_folder(folder, str(images), scratch / f"p{next(numbers)}"),
        "evaluate": partial(evaluation.evaluate, str(folder), data_set),
        "calibrate": partial(
            calibration.oracle, load_folder(folder), data_set, CalibrateSettings()
        ),
        "report": partial(reports.report, folder, scratch / "report.html", data=data_set),
    }


def row(
    name: str, timings: dict[str, Timing], passes: dict[str, float], num_images: int
) -> dict[str, object]:
    times_the_network = timings[name].cpu / timings["network"].cpu
    return {
        "command": name,
        "CPU ms an image": 1000 * timings[name].cpu / num_images,
        "times the network": times_the_network,
        "passes an image": passes[name],
        "times its passes": times_the_network * passes["network"] / passes[name],
        "times predict": timings[name].cpu / timings["predict"].cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch:
        data_set = read_data(arguments.data, Path(scratch), arguments.images)
        num_images = len(data_set.split("val"))
        folder = Path(scratch, "run")
        trained, passes = done_once({"train": training_of(data_set, folder)}, num_images)
        learned, passes_to_learn = done_once(learning(data_set, folder, Path(scratch)), num_images)
        commands = looks(data_set, folder, Path(scratch))
        _, passes_to_look = done_once(commands, num_images)  # compiles what is compiled
        passes |= passes_to_learn | passes_to_look
        looked = time_interleaved(commands, rounds=arguments.rounds, warmup=0)
        timings = looked | trained | learned
    write_results(
        "commands",
        [row(name, timings, passes, num_images) for name in timings],
        title="Commands against the network alone",
        notes=[
            f"{num_images} images of {data_set.root.name}, a frozen lite0 at {SIDE} px with cells",
            "calibrate by all boxes; train is 5 epochs and cells over as many others",
            "evaluate with every metric, its baselines and 1,000 resamples; report with all images",
            "label learns from as many others, and finds, exports and reports the places in them",
            "CPU time without imports, medians of interleaved rounds; train, refine, label once",
            "times its passes: CPU time over what the network alone takes for so many",
        ],
        timings=timings,
    )


if __name__ == "__main__":
    main()
