"""Training steps: the engine against a bare loop, our defaults against Lightning's.

    python -m benchmarks.bench_training [--rounds 5] [--steps 6] [--case resnet18] [--skip-frozen]

Batches are random and in memory, so nothing but the step is timed: forward, loss, backward,
optimiser. "bare" is a plain PyTorch loop; "Lightning" its Trainer with a minimal module and its
defaults (float32, channels first). The first steps of every variant are not timed. The last table
trains heads on 1,500 cached feature maps of 10 x 10 x 1280 for 20 epochs, all included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.measure import Timing, paired_ratio, write_results
from weakloc.data.augmentation import Augmentation
from weakloc.data.loaders import Batch, EveryImageOnce
from weakloc.data.transforms import Preprocessing
from weakloc.methods import METHODS
from weakloc.methods.method import Optimisation, build_optimiser
from weakloc.methods.wildcat import Wildcat
from weakloc.model.backbones import build_backbone
from weakloc.model.losses import LogisticLoss
from weakloc.model.network import LocalizationNetwork
from weakloc.model.trunk import BackboneSpec
from weakloc.settings import TrainSettings
from weakloc.structures import ABSENT, PRESENT, DataSet, Sample
from weakloc.training.fit import fit, make_trainer, quiet_engine
from weakloc.training.inputs import FeatureCache, Inputs, ResumableEpochs
from weakloc.training.module import LocalizationModule
from weakloc.training.plan import Division, TrainingPlan, chosen_hardware, count_labels, uses_bf16

NUM_CLASSES = 20
WARM_UP = 2
LOSS = LogisticLoss("mean")
OPTIMISATION = Optimisation(kind="sgd", learning_rate=1e-3, epochs=1, batch_size=1)


@dataclass(frozen=True)
class Case:
    backbone: str
    side: int
    batch_size: int

    @property
    def name(self) -> str:
        return f"{self.backbone}, {self.side} px, batch {self.batch_size}"

    def network(self) -> LocalizationNetwork:
        torch.manual_seed(0)
        backbone = build_backbone(BackboneSpec.parse(self.backbone, weights="none"))
        return Wildcat(maps_per_class=1).build_network(backbone, NUM_CLASSES)

    def batches(self, count: int, *, channels_last: bool) -> list[Batch]:
        generator = torch.Generator().manual_seed(0)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        size = (self.batch_size, 3, self.side, self.side)
        images = torch.randn(size, generator=generator).contiguous(memory_format=layout)
        labels = torch.where(torch.rand((self.batch_size, NUM_CLASSES)) < 0.2, 1, -1)
        names = tuple(str(index) for index in range(self.batch_size))
        places = (None,) * self.batch_size
        indices = torch.arange(self.batch_size)
        return [Batch(images, labels.to(torch.int8), names, places, indices)] * count


CASES = {"resnet18": Case("resnet18", 64, 32), "resnet50": Case("resnet50", 224, 16)}


class Stopwatch(Callback):
    """Wall and CPU seconds of the steps after the first ones."""

    def __init__(self) -> None:
        self.steps = 0
        self.began = self.seconds = (0.0, 0.0)

    def tick(self, last: int) -> None:
        self.steps += 1
        if self.steps == WARM_UP:
            self.began = now()
        if self.steps == last:
            wall, cpu = now()
            self.seconds = (wall - self.began[0], cpu - self.began[1])

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.tick(int(trainer.num_training_batches))


class PlainModule(LightningModule):
    def __init__(self, network: LocalizationNetwork) -> None:
        super().__init__()
        self.network = network

    def configure_optimizers(self) -> Any:
        return build_optimiser(self.network, OPTIMISATION)

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, labels = batch
        return LOSS(self.network(images).scores, labels)


def now() -> tuple[float, float]:
    times = os.times()
    return time.perf_counter(), times.user + times.system


def bare(case: Case, steps: int, *, fast: bool) -> tuple[float, float]:
    """`fast` is channels last and bfloat16 where the processor computes in it."""
    network = case.network().train()
    if fast:
        network = network.to(memory_format=torch.channels_last)
    optimiser = build_optimiser(network, OPTIMISATION)
    watch = Stopwatch()
    in_bf16 = fast and uses_bf16("auto")
    for batch in case.batches(steps, channels_last=fast):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=in_bf16):
            scores = network(batch.images).scores
        loss = LOSS(scores.float(), batch.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        watch.tick(steps)
    return watch.seconds


def lightning_defaults(case: Case, steps: int) -> tuple[float, float]:
    module, watch = PlainModule(case.network()), Stopwatch()
    pairs = [(batch.images, batch.labels) for batch in case.batches(steps, channels_last=False)]
    loader = DataLoader(pairs, batch_size=None)  # type: ignore[arg-type]
    with quiet_engine(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            callbacks=[watch],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader)
    return watch.seconds


class Ready(list[Batch]):
    """Batches that are there already, as one epoch."""

    broken = ()
    order = EveryImageOnce(1, batch_size=1)


def ready_plan(case: Case, settings: TrainSettings) -> TrainingPlan:
    """For batches that are there already."""
    return TrainingPlan(
        network=case.network(),
        loss=LOSS,
        augmentation=Augmentation(),
        division=Division((), (), "nothing"),
        hardware=chosen_hardware(settings),
        method=Wildcat(optimisation=OPTIMISATION),
        settings=settings,
        preprocessing=Preprocessing(size=case.side),
        class_names=tuple(str(index) for index in range(NUM_CLASSES)),
        labels=count_labels((), NUM_CLASSES),
        notes=(),
    )


def ours(case: Case, steps: int, *, fast: bool) -> tuple[float, float]:
    """The project's module and trainer; only the writing of checkpoints is left out."""
    settings = TrainSettings(
        precision="auto" if fast else "fp32", channels_last=fast, devices=1, backbone=case.backbone
    )
    plan, batches = ready_plan(case, settings), case.batches(steps, channels_last=fast)
    inputs, watch = Inputs(ResumableEpochs(Ready(batches)), None), Stopwatch()
    module = LocalizationModule(plan, inputs)
    with tempfile.TemporaryDirectory() as folder, quiet_engine():
        trainer = make_trainer(plan, Path(folder), [watch])
        trainer.fit(module, inputs.learned)
    return watch.seconds


VARIANTS: dict[str, Callable[[Case, int], tuple[float, float]]] = {
    "bare, float32, channels first": lambda case, steps: bare(case, steps, fast=False),
    "Lightning, its defaults": lightning_defaults,
    "ours, float32, channels first": lambda case, steps: ours(case, steps, fast=False),
    "bare, our format": lambda case, steps: bare(case, steps, fast=True),
    "ours, our defaults": lambda case, steps: ours(case, steps, fast=True),
}


def time_case(case: Case, *, rounds: int, steps: int) -> dict[str, Timing]:
    """All variants in every round, the order turning round."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    for number in range(rounds):
        for name in list(VARIANTS)[:: 1 if number % 2 == 0 else -1]:
            seconds[name].append(VARIANTS[name](case, steps + WARM_UP))
    return {name: _timing(pairs) for name, pairs in seconds.items()}


def _timing(pairs: list[tuple[float, float]]) -> Timing:
    walls, cpus = zip(*pairs, strict=True)
    return Timing(statistics.median(walls), statistics.median(cpus), walls, cpus)


def rows_of(case: Case, timings: dict[str, Timing], steps: int) -> Iterator[dict[str, Any]]:
    peer = timings["Lightning, its defaults"]
    partners = {
        "ours, float32, channels first": timings["bare, float32, channels first"],
        "ours, our defaults": timings["bare, our format"],
    }
    for name, timing in timings.items():
        partner = partners.get(name)
        yield {
            "case": case.name,
            "variant": name,
            "images/s": steps * case.batch_size / timing.wall,
            "x Lightning": paired_ratio(peer, timing),
            "x Lightning (cpu)": paired_ratio(peer, timing, clock="cpu"),
            "x bare loop": paired_ratio(partner, timing) if partner else None,
            "x bare loop (cpu)": paired_ratio(partner, timing, clock="cpu") if partner else None,
        }


def frozen_rows(*, num_images: int, epochs: int) -> Iterator[dict[str, Any]]:
    """Features are random: what is timed is everything after they were cached."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        data_set = _random_images(Path(folder), num_images, random)

        def invented(_cache: FeatureCache, images: Tensor) -> NDArray[np.float16]:
            size = (len(images), 10, 10, 1280)
            return random.standard_normal(size, dtype=np.float32).astype(np.float16)

        FeatureCache._compute = invented  # type: ignore[method-assign]
        for name in ("wildcat", "max_mil", "cam"):
            chosen = TrainSettings(
                backbone="mobilenetv2_100",
                weights="none",
                frozen=True,
                image_size=320,
                batch_size=32,
                epochs=epochs,
                devices=1,
                feature_flip=False,
                feature_cache=f"{folder}/cache",
            )
            method = METHODS[name].practical()
            filling = replace(chosen, epochs=1)
            fit(data_set, method, filling, Path(folder) / f"{name} filling")
            began = now()
            fit(data_set, method, chosen, Path(folder) / name)
            wall, cpu = (end - start for end, start in zip(now(), began, strict=True))
            yield {"head": name, "images": num_images, "epochs": epochs, "s": wall, "cpu s": cpu}


def _random_images(folder: Path, count: int, random: np.random.Generator) -> DataSet:
    samples = []
    for index in range(count):
        path = folder / f"{index}.png"
        Image.fromarray(random.integers(0, 255, (8, 9, 3), dtype=np.uint8)).save(path)
        labels = np.where(random.random(10) < 0.3, PRESENT, ABSENT).astype(np.int8)
        samples.append(Sample(path.name, str(path), labels))
    names = tuple(f"class {index}" for index in range(10))
    return DataSet(folder, "folders", names, {"train": samples, "val": samples[: count // 10]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--skip-frozen", action="store_true")
    parser.add_argument("--images", type=int, default=1500)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    kept: dict[str, Timing] = {}
    for key in arguments.case or CASES:
        timings = time_case(CASES[key], rounds=arguments.rounds, steps=arguments.steps)
        rows.extend(rows_of(CASES[key], timings, arguments.steps))
        kept.update({f"{key}: {name}": timing for name, timing in timings.items()})
    notes = ["x Lightning, x bare loop: speed, the median of the pairs of one round"]
    write_results("training", rows, title="Training steps", notes=notes, timings=kept)
    if not arguments.skip_frozen:
        frozen = list(frozen_rows(num_images=arguments.images, epochs=20))
        write_results("training_frozen", frozen, title="Heads on cached features, 10 x 10 x 1280")


if __name__ == "__main__":
    main()
