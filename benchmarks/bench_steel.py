"""Points and boxes on photographs of steel defects, learned from tags alone.

    python -m benchmarks.bench_steel NEU-DET WEIGHTS [--seed 0] [--seed 1] [--seed 2]

NEU-DET in Pascal VOC layout: 1,200 images to learn from, 300 to measure, six classes. Features of
an ImageNet MobileNetV2 at 320 px are computed once and kept as they are; only the class maps are
learned. Nothing is tuned on the validation images; thresholds are the fixed ones of an
uncalibrated run.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import write_results
from weakloc.api.data_sets import read
from weakloc.api.evaluating import Evaluated, Judging, judge
from weakloc.api.training import train
from weakloc.config import PredictSettings, TrainSettings
from weakloc.structures import DataSet

BACKBONE = "mobilenetv2_100[pad_type=same,mean=0.5,std=0.5]"
METRICS = ("classification_map", "point_map", "pointing_accuracy", "box_map_50", "corloc")
WAYS = {
    "class maps": PredictSettings(),
    "class maps x objectness": PredictSettings(objectness="distance"),
    "class maps x objectness x centre": PredictSettings(objectness="distance", center_prior=True),
}


def measure(data_set: DataSet, weights: Path, seed: int, folder: Path) -> list[dict[str, Any]]:
    settings = TrainSettings(
        backbone=BACKBONE,
        weights=str(weights),
        frozen=True,
        image_size=320,
        epochs=20,
        seed=seed,
        workers=0,
        feature_cache=str(folder / "features"),
    )
    run = train(data_set, method="wildcat", out=folder / f"seed{seed}", settings=settings)
    judging = Judging(data_set, "val", num_resamples=0)
    found = {way: judge(run, judging, settings=how) for way, how in WAYS.items()}
    rows = [{"way": way, "seed": seed, **_values(each)} for way, each in found.items()]
    return [*rows, {"way": "best trivial answer", "seed": seed, **_baselines(found["class maps"])}]


def _values(evaluated: Evaluated) -> dict[str, float | None]:
    values = {result.name: result.value for result in evaluated.report.results}
    return {name: values[name] for name in METRICS}


def _baselines(evaluated: Evaluated) -> dict[str, float]:
    return {name: max(evaluated.report.baselines[name].values()) for name in METRICS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--seed", type=int, action="append")
    arguments = parser.parse_args()
    data_set = read(arguments.data)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seed or (0, 1, 2):
            rows += measure(data_set, arguments.weights, seed, Path(folder))
    notes = ["wildcat, frozen MobileNetV2 at 320 px, 20 epochs; no drawn box was used"]
    write_results("steel", rows, title="Steel defects from tags alone", notes=notes)


if __name__ == "__main__":
    main()
