"""Predicting images that lie in an object store against the same ones on the disk.

    python -m benchmarks.bench_remote [--images 192] [--rounds 5] [--latency 0.05]

The store is moto's server, a process of this machine that waits before each answer; its client is
s3fs. The network is one that does nothing for so many seconds an image, as a device does which is
waited for: then what is measured is reading, and not how two processors are shared. Goal: with
0.05 s an image and 0.05 s a request at least 0.85 of the speed from the disk. Needs
`moto[server]` and `s3fs`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.measure import Timing, paired_ratio, time_interleaved, write_results
from tests.slow_bucket import BUCKET, slow_bucket
from weakloc.api.data_sets import scenes
from weakloc.api.runs import load
from weakloc.api.training import train
from weakloc.data.sources import find_images
from weakloc.predictor.views import RawMaps
from weakloc.settings import Look, Places, TrainSettings

SECONDS_AN_IMAGE = (0.05, 0.02, 0.01)


@dataclass
class Waiting:
    """A source of maps that takes its time as well."""

    source: Any
    seconds: float = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def read(self, images: Tensor) -> RawMaps:
        time.sleep(self.seconds * len(images))
        answer: RawMaps = self.source.read(images)
        return answer


def predict(run: Path, source: str, seconds: float, look: Look) -> int:
    predictor = load(run).predictor(look, Places())
    waiting = Waiting(predictor.source, seconds)
    slow = type(predictor)(
        waiting, predictor.look, predictor.places, rules=predictor.rules, heat=predictor.heat
    )
    return sum(1 for _ in slow.predict(find_images(source)))


def measured(
    folder: Path, chosen: argparse.Namespace, seconds: float
) -> tuple[dict[str, Any], dict[str, Timing]]:
    look = Look(workers=2)
    places = {"disk": str(folder / "photos"), "store": f"s3://{BUCKET}/photos"}
    variants = {
        name: partial(predict, folder / "run", source, seconds, look)
        for name, source in places.items()
    }
    timings = time_interleaved(variants, rounds=chosen.rounds)
    disk, store = timings["disk"], timings["store"]
    row = {
        "network, s an image": seconds,
        "from the disk, images/s": chosen.images / disk.wall,
        "from the store, images/s": chosen.images / store.wall,
        "ratio": paired_ratio(disk, store),
        "processor time, ratio": paired_ratio(store, disk, clock="cpu"),
    }
    return row, {f"{name}, {seconds} s": timing for name, timing in timings.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency", type=float, default=0.05)
    chosen = parser.parse_args()
    rows, timings = [], dict[str, Timing]()
    with tempfile.TemporaryDirectory() as name, slow_bucket() as bucket:
        folder = Path(name)
        scenes(folder / "drawn", num_train=chosen.images, num_val=1)
        (folder / "drawn/JPEGImages").rename(folder / "photos")
        next((folder / "photos").glob("val*")).unlink()
        scenes(folder / "few", num_train=8, num_val=0)
        small = TrainSettings(backbone="tiny[width=8]", image_size=96, epochs=1, workers=0)
        train(folder / "few", out=folder / "run", settings=small)
        bucket.put_folder(folder / "photos")
        bucket.latency.value = chosen.latency
        bucket.asked()
        predict(folder / "run", f"s3://{BUCKET}/photos", 0.0, Look(workers=2))
        asked = bucket.asked()
        for seconds in SECONDS_AN_IMAGE:
            row, of_row = measured(folder, chosen, seconds)
            rows.append(row)
            timings |= of_row
    versions = ", ".join(f"{name} {version(name)}" for name in ("s3fs", "moto"))
    write_results(
        "remote",
        rows,
        title="Images in an object store",
        notes=(
            f"{chosen.images} drawn scenes, {1000 * chosen.latency:.0f} ms before each answer",
            f"batches of 8, two threads that decode; {versions}",
            f"requests for all of them: {asked}",
            "ratio: images a second over those from the disk in the same round, median",
            "processor time: of this process, the client with it, without the store's",
        ),
        timings=timings,
    )


if __name__ == "__main__":
    main()
