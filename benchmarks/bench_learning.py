"""What each method learns from tags alone on cluttered scenes, from scratch, in three minutes.

    python -m benchmarks.bench_learning [--method wildcat] [--seed 0] [--images 1500] [--epochs 36]

Scenes of several objects among distractors; 1,500 to learn from, 500 to measure, of which nothing
but the class mAP of each epoch is seen before the end. Networks have at most a million parameters.
Objects lie at any angle, so images are also learned from in quarter turns.
Reported as they come out: classification mAP and point AP (VOC 2012 area, tolerance 0, one point
at the highest cell of one scale) after the last epoch, with the seconds of training.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.measure import write_results
from weakloc.data.readers import read_data_set
from weakloc.methods import METHODS
from weakloc.methods.beam import Beam
from weakloc.methods.cam import Cam
from weakloc.methods.max_mil import MaxMil
from weakloc.methods.method import Method, Optimisation
from weakloc.methods.wildcat import Wildcat
from weakloc.settings import ReaderOptions, TrainSettings
from weakloc.structures import DataSet
from weakloc.synthetic.scenery import artist_of, write_scenes
from weakloc.training.fit import fit

SIDE = 128
EPOCHS = 36
NUM_VAL = 500


def methods(epochs: int) -> Mapping[str, Method]:
    """The practical presets at this size, with a schedule for a network that starts from chance."""
    schedule = Optimisation(
        kind="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        decayed="kernels",
        schedule="cosine",
        warm_up_epochs=1,
        epochs=epochs,
        batch_size=16,
    )
    steeper = replace(schedule, learning_rate=2e-2, backbone_factor=0.1)
    given: dict[str, Any] = {"side": SIDE, "resize": "warp", "optimisation": schedule}
    return {
        "max_mil": MaxMil(scale_jitter=(0.8, 1.2), **given),
        "beam": Beam(reduced_channels=16, hidden=(64,), balance=False, **given),
        "wildcat": Wildcat(loss="logistic_mean", k_max=0.02, k_min=0.02, alpha=0.3, **given),
        # Averaged over all cells, small objects need far larger head weights; crops lose them.
        "cam": Cam(loss="logistic_mean", augment="none", **{**given, "optimisation": steeper}),
    }


def learn(method: Method, data_set: DataSet, seed: int, out: Path) -> dict[str, Any]:
    chosen = TrainSettings(
        backbone="tiny", weights="none", seed=seed, devices=1, cache="memory", quarter_turns=True
    )
    began = time.perf_counter()
    run = fit(data_set, method, chosen, out)
    last = run.history[-1]
    return {
        "method": run.method.name,
        "seed": seed,
        "classification mAP": last.classification_map,
        "point AP": last.point_map,
        "s": time.perf_counter() - began,
        "parameters": sum(value.numel() for value in run.network.parameters()),
    }


def summaries(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Mean over the seeds of each method, best first."""
    for name in {row["method"]: None for row in rows}:
        own = [row for row in rows if row["method"] == name]
        means = {
            key: statistics.mean(row[key] for row in own)
            for key in ("classification mAP", "point AP", "s")
        }
        yield {"method": name, "seed": "mean", **means, "parameters": own[0]["parameters"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artist = artist_of("clutter")
        write_scenes(folder / "data", artist, (arguments.images, NUM_VAL), seed=0)
        data_set = read_data_set(folder / "data", options=ReaderOptions())
        chosen = methods(arguments.epochs)
        for key, seed in product(arguments.method or METHODS, arguments.seed or (0, 1, 2)):
            rows += [learn(chosen[key], data_set, seed, folder / f"{key}{seed}")]
    rows.extend(summaries(list(rows)))
    notes = [f"{arguments.images} images, {arguments.epochs} epochs, {SIDE} px, tiny backbone"]
    write_results("learning", rows, title="Learning from tags on cluttered scenes", notes=notes)


if __name__ == "__main__":
    main()
