"""`weakloc predict` by two actors of a Ray cluster against two plain processes; and its memory.

    python -m benchmarks.bench_cluster [--images N] [--many N] [--rounds N]

Both ways are measured in turn, from a third of the parts to the last but one, so that their start
does not count: seconds, and processor time of all processes together, Ray's own with
them. Then so many images that are empty files, which the command lists, shares and writes but has
nothing to look for in: the greatest resident memory of the command, for a tenth of them and for
all. Needs Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

import psutil

from tests.kills import cluster
from tests.kills.commands import RUN

PART_SIZE = 32  # images; that of the command is 256
VIEWS = ("--scales", "1", "--scales", "4", "--flip")  # some work for each image
PREDICT = ("predict", "run", "--out", "out", "--devices", "2", *VIEWS)


def processor_seconds() -> float:
    """Of all that this process has started and that still runs."""
    seconds = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system
    return seconds


def steady(folder: Path, way: Sequence[str], num_parts: int) -> tuple[float, float]:
    """Seconds and processor seconds from a third of the parts to the last but one."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    command = cluster.start(folder, *PREDICT, "photos", *way, part_size=PART_SIZE)
    marks = []
    for count in (num_parts // 3, num_parts - 1):
        while len(list((folder / "out" / "parts").glob("*.key"))) < count:
            if command.exitcode is not None:
                cluster.finished(command, folder)
                raise RuntimeError("the parts were written too quickly; give more images")
            time.sleep(0.02)
        marks.append((time.monotonic(), processor_seconds()))
    cluster.finished(command, folder)
    (began, before), (ended, after) = marks
    return ended - began, after - before


def greatest_memory(folder: Path, images: str, way: Sequence[str]) -> float:
    """Of the command, in MB; its actors are others."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    command = cluster.start(folder, *PREDICT, images, *way, part_size=256)
    greatest = 0
    while command.exitcode is None:
        with suppress(psutil.NoSuchProcess):
            greatest = max(greatest, psutil.Process(command.pid).memory_info().rss)
        time.sleep(0.05)
    cluster.finished(command, folder)
    return greatest / 2**20


def empty_files(folder: Path, counts: Sequence[int]) -> Iterator[str]:
    """The names of folders with so many each."""
    for count in counts:
        name = f"empty{count}"
        for number in range(count):
            path = folder / name / f"{number // 1000:03}" / f"{number:06}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        yield name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path]))
    cluster.DRIVERS.set_forkserver_preload(cluster.MODULES)
    from ray.cluster_utils import Cluster

    machines = cluster.Machines(Cluster())
    measured: dict[str, list[tuple[float, float]]] = {"processes": [], "actors": []}
    with tempfile.TemporaryDirectory(prefix="cluster-") as name:
        folder = Path(name)
        cluster.draw_images(folder / "photos", chosen.images)
        for arguments in RUN:
            cluster.finished(cluster.start(folder, *arguments), folder)
        machines.join(num_cpus=2)
        ways = {"processes": (), "actors": ("--engine", "ray", "--address", machines.address)}
        for _ in range(chosen.rounds):
            for way, flags in ways.items():
                measured[way].append(steady(folder, flags, chosen.images // PART_SIZE))
                print(way, measured[way][-1], flush=True)
        few, many = (
            greatest_memory(folder, images, ways["actors"])
            for images in empty_files(folder, (chosen.many // 10, chosen.many))
        )
    machines.cluster.shutdown()
    rounds = zip(measured["processes"], measured["actors"], strict=True)
    ratios = [(actors[0] / plain[0], actors[1] / plain[1]) for plain, actors in rounds]
    record = {
        "images": chosen.images,
        "measured": measured,
        "seconds_of_actors_over_processes": round(median(ratio for ratio, _ in ratios), 3),
        "processor_time_of_actors_over_processes": round(median(cpu for _, cpu in ratios), 3),
        "megabytes": {chosen.many // 10: round(few), chosen.many: round(many)},
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
