"""`weakloc predict --engine ray` on a cluster whose actors, machines and driver are killed.

    python -m tests.kills.cluster --times N [--seed S] [--images N] [--log FILE]

The cluster has two machines, each a raylet of its own here. At random moments a process of an
actor, the second machine (another joins a little later) or the driver is killed; the driver is
then begun again with --resume. Each story has to end with the very files that `weakloc predict`
writes. Needs Ray. The exit code is 1 where a result differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
from PIL import Image

from tests.habits import log
from tests.kills.commands import RUN
from weakloc.api import predictions
from weakloc.cli import main as main_of_weakloc

VICTIMS = ("actor", "machine", "driver")
MOST_KILLS = 3  # in one story
SECONDS = 600.0  # a story takes so long at most
PART_SIZE = 5  # images, so that few images have many parts
RESULTS = ("predictions.jsonl", "skipped.jsonl")
SAID = "said.txt"  # what a command wrote to standard error
# Drivers are forked from a process that has imported all they need, but nothing of Ray.
DRIVERS = multiprocessing.get_context("forkserver")
MODULES = ["weakloc.cli", "weakloc.api.predictions", "weakloc.api.training", "lightning.pytorch"]


def play(folder: Path, arguments: Sequence[str], part_size: int) -> None:
    """The whole life of a driver."""
    os.chdir(folder)
    os.dup2(os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    predictions.PART_SIZE = part_size
    sys.argv = ["weakloc", *arguments, "--quiet"]
    main_of_weakloc()


def start(folder: Path, *arguments: str, part_size: int = PART_SIZE) -> ForkServerProcess:
    command = DRIVERS.Process(target=play, args=(folder, arguments, part_size))
    command.start()
    return command


def finished(command: ForkServerProcess, folder: Path) -> None:
    command.join(SECONDS)
    if command.exitcode != 0:
        raise RuntimeError(f"ends with {command.exitcode}: {(folder / SAID).read_text()[-3000:]}")


def draw_images(folder: Path, count: int) -> None:
    """Small ones of noise, of which one is broken."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        pixels = random.integers(0, 255, (4 + number % 5, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((96, 16 * len(pixels)), Image.Resampling.NEAREST)
        picture.save(folder / f"{number:06}.png")
    (folder / f"{count // 2:06}.png").write_bytes(b"")


@dataclass
class Machines:
    """Two raylets, the first of which also keeps the state of the cluster."""

    cluster: Any
    second: Any = None

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def join(self, num_cpus: int = 1) -> None:
        """As soon as it can: Ray gives up after half a minute on a busy machine."""
        while self.second is None:
            with suppress(Exception):
                self.second = self.cluster.add_node(
                    num_cpus=num_cpus, object_store_memory=100 * 2**20
                )

    def kill_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None


@dataclass
class Verdicts:
    stories: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    in_work: int = 0  # kills that met a driver which had not ended by itself
    differences: list[str] = field(default_factory=list)


def actors() -> Iterator[psutil.Process]:
    """The processes of actors that the machines have begun."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any("ray::_Actor" in part for part in process.cmdline()):
                yield process


def tell(machines: Machines, folder: Path, seconds: float, kills: int, random: Random) -> list[str]:
    """One story; who was killed, an empty name where the driver had ended before."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    arguments = ["predict", "run", "photos", "--out", "out"]
    arguments += ["--engine", "ray", "--address", machines.address]
    driver, killed = start(folder, *arguments), []
    for _ in range(kills):
        time.sleep(random.uniform(0.1, 1.0) * seconds)
        victim = random.choice(VICTIMS)
        if driver.exitcode is not None:
            killed.append("")
            continue
        if victim == "actor":
            processes: list[psutil.Process] = []
            while driver.exitcode is None and not processes:  # none has begun
                time.sleep(0.05)
                processes = list(actors())
            victim = "actor" if processes else ""
            with suppress(psutil.NoSuchProcess, IndexError):
                random.choice(processes).kill()
        elif victim == "machine":
            machines.kill_second()
            time.sleep(random.uniform(0, 10))
            machines.join()
        else:
            driver.kill()
            driver.join()
            driver = start(folder, *arguments, "--resume")
        killed.append(victim)
    finished(driver, folder)
    return killed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=30, help="kills in all")
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path)
    chosen = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path]))
    DRIVERS.set_forkserver_preload(MODULES)
    from ray.cluster_utils import Cluster

    random, verdicts = Random(chosen.seed), Verdicts()
    with tempfile.TemporaryDirectory(prefix="cluster-") as name:
        folder = Path(name)
        draw_images(folder / "photos", chosen.images)
        for arguments in RUN:
            finished(start(folder, *arguments), folder)
        finished(start(folder, "predict", "run", "photos", "--out", "right"), folder)
        right = {name: (folder / "right" / name).read_bytes() for name in RESULTS}
        head = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
        machines = Machines(Cluster(initialize_head=True, head_node_args=head))
        machines.join()
        began = time.monotonic()
        tell(machines, folder, 0, 0, random)
        seconds = time.monotonic() - began
        while (count := verdicts.kills.total()) < chosen.times:
            verdicts.stories += 1
            kills = random.randint(1, min(MOST_KILLS, chosen.times - count))
            victims = tell(machines, folder, seconds / kills, kills, random)
            verdicts.kills.update(victim or "too late" for victim in victims)
            verdicts.in_work += sum(map(bool, victims))
            for file, content in right.items():
                if (folder / "out" / file).read_bytes() != content:
                    verdicts.differences.append(f"{file} after {', '.join(victims)}")
            print(verdicts.stories, victims, verdicts.differences, flush=True)
        machines.cluster.shutdown()
    record = {"images": chosen.images, "seconds_undisturbed": round(seconds, 1), **vars(verdicts)}
    print(json.dumps(record))
    if chosen.log is not None:
        log(chosen.log, {"seed": chosen.seed, **record})
    return int(bool(verdicts.differences))


if __name__ == "__main__":
    sys.exit(main())
