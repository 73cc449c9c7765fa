"""Images a second on a GPU, or whatever computes here, against the same network on random tensors.

    python -m benchmarks.bench_device train|predict|places [--tiny] [--results FOLDER]

The bare loop has its tensors on the device and does nothing but the network's arithmetic: forward,
loss, backward and step of training, or the forward pass of prediction, its batch norms folded.
"train" and "predict" put beside it our loops on the same tensors, and the whole way from JPEGs.
"places" is what an image costs beside its network: decoding, boxes with doubt, masks by CRF; how
many processes of `--devices` it takes until none of them holds up the network. `benchmarks/gpu.sh`
runs all three.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_heat_maps import write_photographs
from benchmarks.bench_training import LOSS, OPTIMISATION, Case, Ready, Stopwatch, ready_plan
from benchmarks.measure import RESULTS, write_results
from weakloc.api.data_sets import read
from weakloc.api.predictions import predict_to_folder
from weakloc.api.runs import TrainedRun, load_folder
from weakloc.data.loaders import Batch
from weakloc.data.sources import find_images
from weakloc.methods import METHODS
from weakloc.methods.method import build_optimiser
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import NetworkSource, SeenImage
from weakloc.settings import Look, Places, TrainSettings
from weakloc.training.fit import fit, make_trainer, quiet_engine
from weakloc.training.inputs import Inputs, ResumableEpochs
from weakloc.training.module import LocalizationModule
from weakloc.training.plan import accelerator
from weakloc.training.run_folder import read_record
from weakloc.work import keep_freed_memory, map_in_processes, num_cores

NUM_DISTINCT = 64  # photographs; the folder holds each many times
DATA_RESIDENT, END_TO_END = 0.9, 0.8  # goals, as shares of the bare loop


@dataclass(frozen=True)
class Amounts:
    """How much is done; `networks` are (name, side)."""

    networks: Sequence[tuple[str, int]]
    train_batch: int
    predict_batch: int
    images: int
    steps: int
    epochs: int
    placed: int


FULL = Amounts((("resnet50", 224), ("vit_small_patch16_224", 224)), 128, 128, 16384, 30, 2, 24)
TINY = Amounts((("tiny[width=4]", 64),), 4, 4, 512, 3, 1, 4)


def repeated_photographs(folder: Path, count: int) -> None:
    """Two folders of classes, with links to a few photographs as many as there are images."""
    originals = folder / "originals"
    originals.mkdir()
    write_photographs(originals, min(NUM_DISTINCT, count))
    paths = sorted(originals.iterdir())
    for number in range(count):
        class_folder = folder / "data" / ("a", "b")[number % 2]
        class_folder.mkdir(parents=True, exist_ok=True)
        os.link(paths[number % len(paths)], class_folder / f"{number:06}.jpg")


def seconds_of(work: Callable[[], object]) -> float:
    """Until the device has done it, too."""
    began = time.perf_counter()
    work()
    if accelerator() == "gpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def device() -> torch.device:
    return torch.device("cuda" if accelerator() == "gpu" else "cpu")


def batches_on_device(case: Case, count: int) -> list[Batch]:
    return [batch.to(device()) for batch in case.batches(count, channels_last=True)]


def bare_training(case: Case, steps: int) -> float:
    """Images a second of a plain loop in our format."""
    network = case.network().train().to(device()).to(memory_format=torch.channels_last)
    optimiser = build_optimiser(network, OPTIMISATION)

    def work(batches: Sequence[Batch]) -> None:
        for batch in batches:
            with torch.autocast(device().type, dtype=torch.bfloat16):
                scores = network(batch.images).scores
            loss = LOSS(scores.float(), batch.labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    batches = batches_on_device(case, steps)
    work(batches[:3])
    return steps * case.batch_size / seconds_of(lambda: work(batches))


def our_training(case: Case, steps: int) -> float:
    """The same on the same tensors by our module and the engine."""
    settings = TrainSettings(precision="bf16", devices=1, backbone=case.backbone)
    plan, watch = ready_plan(case, settings), Stopwatch()
    inputs = Inputs(ResumableEpochs(Ready(batches_on_device(case, steps + 2))), None)
    with tempfile.TemporaryDirectory() as folder, quiet_engine():
        trainer = make_trainer(plan, Path(folder), [watch])
        trainer.fit(LocalizationModule(plan, inputs), inputs.learned)
    return steps * case.batch_size / watch.seconds[0]


def trained_from_files(case: Case, folder: Path, epochs: int, out: Path) -> list[float]:
    """Images a second of every epoch of `weakloc train`."""
    settings = TrainSettings(
        precision="bf16",
        devices=1,
        backbone=case.backbone,
        weights="none",
        image_size=case.side,
        batch_size=case.batch_size,
        epochs=epochs,
        hold_out=0.0,
    )
    data_set = read(str(folder))
    fit(data_set, METHODS["wildcat"].practical(), settings, out)
    history = read_record(out)["history"]
    count = sum(map(len, data_set.splits.values()))
    return [count / epoch["seconds"] for epoch in history]


def training_rows(amounts: Amounts, scratch: Path) -> Iterator[dict[str, Any]]:
    for name, side in amounts.networks:
        case = Case(name, side, amounts.train_batch)
        bare = bare_training(case, amounts.steps)
        row = partial(compared, network=name, bare=bare)
        yield row("bare loop, tensors on the device", bare)
        resident = our_training(case, amounts.steps)
        yield row("weakloc, tensors on the device", resident, goal=DATA_RESIDENT)
        speeds = trained_from_files(case, scratch / "data", amounts.epochs, scratch / name)
        yield row("weakloc train, JPEGs, first epoch", speeds[0])
        yield row("weakloc train, JPEGs, last epoch", speeds[-1], goal=END_TO_END)


def compared(
    way: str, speed: float, *, network: str, bare: float, goal: float | None = None
) -> dict[str, Any]:
    met = None if goal is None else "yes" if speed >= goal * bare else "no"
    row = {"network": network, "way": way, "images/s": speed, "of the bare loop": speed / bare}
    return {**row, "goal": goal, "met": met}


def run_of(name: str, side: int, scratch: Path) -> TrainedRun:
    """A run of random weights, trained on a few photographs."""
    folder = scratch / "runs" / name
    if not folder.exists():
        few = scratch / "few"
        if not few.exists():
            few.mkdir()
            repeated_photographs(few, 8)
        trained_from_files(Case(name, side, 8), few / "data", 1, folder)
    return load_folder(folder)


# One class of two is looked for in each image, as in a data set with one tag an image.
ONE_CLASS = Places(min_score=1.0, top=1)


def predictor_of(run: TrainedRun, batch: int, workers: int, places: Places) -> Predictor:
    return run.predictor(Look(batch_size=batch, workers=workers, precision="bf16"), places)


def bare_prediction(source: NetworkSource, images: torch.Tensor, count: int) -> float:
    network = source.network
    images = images.to(device(), memory_format=torch.channels_last)

    @torch.inference_mode()
    def work(repeats: int) -> None:
        for _ in range(repeats):
            with torch.autocast(device().type, torch.bfloat16):
                network(images)

    work(3)
    return count * len(images) / seconds_of(lambda: work(count))


def speed_of_processes(
    run: TrainedRun, scratch: Path, look: Look, processes: int, images: int
) -> float:
    """Images a second of `weakloc predict --devices`, from a third of them on: all are at work."""
    paths = [f"{image.content}\n" for image in find_images(str(scratch / "data"))]
    listed = scratch / f"list-{processes}.txt"
    listed.write_text("".join(paths[:images]))
    marks: list[tuple[int, float]] = []
    predict_to_folder(
        run.path,
        str(listed),
        scratch / f"out-{run.path.name}-{processes}",
        look=look,
        places=ONE_CLASS,
        workers=partial(map_in_processes, processes=processes) if processes > 1 else None,
        on_progress=lambda done, _total: marks.append((done, time.perf_counter())),
    )
    counted = [mark for mark in marks if mark[0] >= images // 3]
    (first, began), (last, ended) = counted[0], counted[-1]
    return (last - first) / (ended - began)


def prediction_rows(amounts: Amounts, scratch: Path) -> Iterator[dict[str, Any]]:
    for name, side in amounts.networks:
        run = run_of(name, side, scratch)
        case = Case(name, side, amounts.predict_batch)
        (batch,) = case.batches(1, channels_last=True)
        source = predictor_of(run, amounts.predict_batch, 2, ONE_CLASS).source
        assert isinstance(source, NetworkSource)
        images = batch.images.to(device())
        bare = bare_prediction(source, images, amounts.steps)
        row = partial(compared, network=name, bare=bare)
        yield row("bare loop, tensors on the device", bare)
        source.read(images)
        work = [source.read] * amounts.steps
        seconds = seconds_of(lambda: [read(images) for read in work])  # noqa: B023
        speed = amounts.steps * len(images) / seconds
        yield row("weakloc, tensors on the device, maps as arrays", speed, goal=DATA_RESIDENT)
        for processes in sorted({1, num_cores()}):
            look = Look(batch_size=amounts.predict_batch, precision="bf16")
            most = amounts.images if processes > 1 else max(amounts.images // 8, 512)
            speed = speed_of_processes(run, scratch, look, processes, most)
            goal = END_TO_END if processes == num_cores() else None
            yield row(f"weakloc predict, JPEGs to boxes, {processes} processes", speed, goal=goal)


def place_rows(amounts: Amounts, scratch: Path) -> Iterator[dict[str, Any]]:
    """Of one process and one thread of reading."""
    name, side = amounts.networks[0]
    run, count = run_of(name, side, scratch), amounts.placed
    predictor = predictor_of(run, amounts.predict_batch, 0, ONE_CLASS)
    source = predictor.source
    assert isinstance(source, NetworkSource)
    (batch,) = Case(name, side, amounts.predict_batch).batches(1, channels_last=True)
    network = bare_prediction(source, batch.images, amounts.steps)
    images = [*islice(find_images(str(scratch / "data")), count)]
    seen: list[SeenImage] = []
    seconds = {"decoding and network": seconds_of(lambda: seen.extend(predictor.see(images)))}
    for way, places in (
        ("boxes, points, doubt", ONE_CLASS),
        ("the same and masks by CRF", replace(ONE_CLASS, masks="crf")),
    ):
        at_hand = predictor_of(run, amounts.predict_batch, 0, places)
        at_hand.seer = lambda _images: iter(seen)
        [*at_hand.predict(images[:2])]  # compiled
        seconds[way] = seconds_of(lambda: [*at_hand.predict(images)])  # noqa: B023
    yield {"work": f"network of {name}, on the device", "images/s": network, "processes": None}
    for work, taken in seconds.items():
        speed = count / taken
        yield {"work": work, "images/s": speed, "processes": ceil(network / speed)}


STEPS = {
    "train": (training_rows, "Training against the same network on random tensors"),
    "predict": (prediction_rows, "Prediction against the same network on random tensors"),
    "places": (place_rows, "What an image costs beside its network"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--tiny", action="store_true", help="minutes of a GPU are seconds of a CPU")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    keep_freed_memory()
    amounts = TINY if chosen.tiny else FULL
    rows_of, title = STEPS[chosen.step]
    with tempfile.TemporaryDirectory() as scratch:
        repeated_photographs(Path(scratch), amounts.images)
        rows = [*rows_of(amounts, Path(scratch))]
    kind = torch.cuda.get_device_name() if accelerator() == "gpu" else "no GPU"
    notes = [
        f"{kind}, {num_cores()} cores; bfloat16; JPEGs of 500 x 375 in the page cache",
        f"batches of {amounts.train_batch} to train and {amounts.predict_batch} to predict",
    ]
    if chosen.tiny:
        notes.append("--tiny: a trial of the script, no measurement")
    if chosen.step == "places":
        notes.append("processes: so many keep up with the network")
    topic = f"device_{chosen.step}"
    write_results(topic, rows, title=title, notes=notes, folder=chosen.results)


if __name__ == "__main__":
    main()
