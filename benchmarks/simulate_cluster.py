"""How long a cluster takes for many images: measured constants, simulated workers that fail.

    python -m benchmarks.simulate_cluster --measure     the constants, on this machine
    python -m benchmarks.simulate_cluster --check 8     against so many actors of a real Ray
    python -m benchmarks.simulate_cluster [--images 100000000] [--worker-speed 50 ...]
        [--mean-hours-between-failures 24] [--slow-share 0.05] [--stat-ms 0.5] [--price PRICE]

The simulation is what `weakloc predict --engine ray` does, event by event. One process, the
command, lists images and asks each for its size and time of change, gives a part of 256 to every
worker that is idle, then waits for the next answer and writes it. A worker loads the run, works on
one part at a time, may be slow, and dies at random: Ray begins it anew and gives it the part again,
at most five times. --check replaces the network by sleep, so that two cores are enough for many
actors; listing, giving out and writing are the real ones.
"""

from __future__ import annotations

import argparse
import heapq
import math
import os
import pickle
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.measure import kept_rows, write_results
from weakloc.api.predictions import PART_SIZE

MOST_DEATHS = 5  # over one part, before the command gives up
WORKERS = (1, 2, 10, 100, 1000)
CONSTANTS = "cluster_constants"


@dataclass(frozen=True)
class Constants:
    """Seconds, for an image where nothing else is said."""

    list_image: float  # by the command: found, asked for size and time
    give_part: float  # by the command: sent to a worker and answered, without any work
    write_part: float
    join_image: float  # at the end, for all together
    load_run: float  # by a worker as it begins
    decode: float
    network: float
    places: float
    image_bytes: float
    line_bytes: float

    @property
    def work(self) -> float:
        return self.decode + self.network + self.places

    def command_part(self) -> float:
        """What a part costs the command, which does nothing else meanwhile."""
        return PART_SIZE * self.list_image + self.give_part + self.write_part


@dataclass(frozen=True)
class Cluster:
    workers: int
    image_seconds: float  # of a worker
    slow_share: float = 0.0  # of the workers
    slow_factor: float = 3.0
    hours_between_failures: float = math.inf  # mean, of one worker
    restart_seconds: float = 60.0  # until a dead worker's place is taken; then it loads the run


@dataclass(frozen=True)
class Outcome:
    seconds: float
    command_busy: float  # share of that time
    workers_busy: float  # share, of work that counted
    deaths: int
    ended_early: bool  # over one part too many workers died


@dataclass
class _Worker:
    image_seconds: float
    is_loaded: bool = False


def simulate(constants: Constants, cluster: Cluster, num_images: int, *, seed: int = 0) -> Outcome:
    """From the start of the command to its last file."""
    drawn = random.Random(seed)
    num_slow = round(cluster.slow_share * cluster.workers)
    factors = [cluster.slow_factor] * num_slow + [1.0] * (cluster.workers - num_slow)
    idle = [_Worker(cluster.image_seconds * factor) for factor in factors]
    sizes = iter(
        [PART_SIZE] * (num_images // PART_SIZE)
        + [rest for rest in (num_images % PART_SIZE,) if rest]
    )
    running: list[tuple[float, int, _Worker]] = []  # (when it answers, number, who)
    now = busy = useful = 0.0
    deaths, number = 0, 0
    while True:
        while idle and (size := next(sizes, 0)):
            giving = size * constants.list_image + constants.give_part
            now, busy = now + giving, busy + giving
            worker = idle.pop()
            taken, died = _seconds_of_part(constants, cluster, worker, size, drawn)
            deaths += died
            if died > MOST_DEATHS:
                return Outcome(now + taken, busy / (now + taken), 0.0, deaths, True)
            useful += size * worker.image_seconds
            heapq.heappush(running, (now + taken, number, worker))
            number += 1
        if not running:
            break
        answered, _, worker = heapq.heappop(running)
        now = max(now, answered) + constants.write_part
        busy += constants.write_part
        idle.append(worker)
    joining = num_images * constants.join_image
    now, busy = now + joining, busy + joining
    return Outcome(now, busy / now, useful / (now * cluster.workers), deaths, False)


def _seconds_of_part(
    constants: Constants, cluster: Cluster, worker: _Worker, size: int, drawn: random.Random
) -> tuple[float, int]:
    """Until it is answered, with all that was lost on the way, and how often a worker died."""
    seconds, deaths = 0.0, 0
    while True:
        loading = 0.0 if worker.is_loaded else constants.load_run
        work = loading + size * worker.image_seconds
        lives = drawn.expovariate(1.0) * 3600 * cluster.hours_between_failures
        worker.is_loaded = lives >= work
        if worker.is_loaded or deaths > MOST_DEATHS:
            return seconds + work, deaths
        seconds += lives + cluster.restart_seconds
        deaths += 1


def rows_of(
    constants: Constants, clusters: Sequence[Cluster], num_images: int, price: float | None
) -> Iterator[dict[str, Any]]:
    """One cluster a row; money is that of the workers alone, at the price of an hour."""
    for cluster in clusters:
        outcome = simulate(constants, cluster, num_images)
        hours = outcome.seconds / 3600
        speed = num_images / outcome.seconds
        row = {
            "images/s of a worker": round(1 / cluster.image_seconds, 1),
            "workers": cluster.workers,
            "hours": round(hours, 2),
            "images/s": round(speed),
            "worker hours": round(hours * cluster.workers),
            "workers busy": round(outcome.workers_busy, 3),
            "command busy": round(outcome.command_busy, 3),
            "deaths": outcome.deaths,
            "reads MB/s": round(speed * constants.image_bytes / 1e6, 1),
            "bottleneck": "ended early" if outcome.ended_early else bottleneck(outcome),
        }
        if price is not None:
            row["price of the workers"] = round(hours * cluster.workers * price)
        yield row


def bottleneck(outcome: Outcome) -> str:
    return "the command" if outcome.command_busy > 0.95 else "workers"


def folder_of_files(scratch: Path, count: int) -> Path:
    """Images of 500 x 375, few of them different, in folders of a thousand."""
    from benchmarks.bench_heat_maps import write_photographs

    originals = scratch / "originals"
    originals.mkdir()
    write_photographs(originals, 16)
    paths = sorted(originals.iterdir())
    for number in range(count):
        path = scratch / "images" / f"{number // 1000:04}" / f"{number:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(paths[number % len(paths)], path)
    return scratch / "images"


def tasks_of(folder: Path) -> Iterator[tuple[Any, str]]:
    """Parts with their keys, as the command makes them."""
    from weakloc.api.predictions import unopened
    from weakloc.data.sources import find_images
    from weakloc.predictor.parts import cut_into_parts

    for part in cut_into_parts(find_images(str(folder)), size=PART_SIZE):
        known = "\n".join(unopened(image, None) for image in part.images)
        yield part, sha256(known.encode("utf-8", "surrogateescape")).hexdigest()


def seconds_for_each(
    count: int, work: Callable[[], object], clock: Callable[[], float] = time.process_time
) -> float:
    began = clock()
    work()
    return (clock() - began) / count


def measured_constants(network: str, num_images: int, actors: int) -> Constants:
    """All on this machine, one process and one thread; the part of Ray where it is installed."""
    from weakloc.output.exporters.jsonl import prediction_line
    from weakloc.predictor.parts import PartStore

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = folder_of_files(scratch, num_images)
        tasks: list[Any] = []
        list_image = seconds_for_each(num_images, lambda: tasks.extend(tasks_of(folder)))
        shares, predictions, load_run = seconds_of_an_image(network, tasks[0][0], scratch)
        lines = [prediction_line(prediction) for prediction in predictions]
        lines = [lines[number % len(lines)] for number in range(PART_SIZE)]
        store = PartStore(scratch / "out" / "parts")
        store.open({}, resume=False)
        write_part = seconds_for_each(
            len(tasks), lambda: [store.write(part, key, lines, []) for part, key in tasks]
        )
        stems = [part.stem for part, _ in tasks]
        files = scratch / "out" / "predictions.jsonl", scratch / "out" / "skipped.jsonl"
        join_image = seconds_for_each(num_images, lambda: store.join(stems, *files))
        sizes = [path.stat().st_size for path in (scratch / "originals").iterdir()]
        return Constants(
            list_image=list_image,
            give_part=seconds_to_give(tasks[:16] * 8, actors),
            write_part=write_part,
            join_image=join_image,
            load_run=load_run,
            **shares,
            image_bytes=sum(sizes) / len(sizes),
            line_bytes=sum(map(len, lines)) / len(lines),
        )


def seconds_of_an_image(
    network: str, part: Any, scratch: Path
) -> tuple[dict[str, float], list[Any], float]:
    """Of decoding, network and places, each alone; what was said; and of loading a run."""
    from benchmarks.bench_device import run_of
    from weakloc.api.runs import load_folder
    from weakloc.data.images import open_image
    from weakloc.settings import Look, Places

    run = run_of(network, 224, scratch)
    began = time.process_time()
    predictor = load_folder(run.path).predictor(Look(workers=0), Places(min_score=1.0, top=1))
    load_run = time.process_time() - began
    images = part.images[:16]
    [*predictor.predict(images[:2])]  # compiled
    decode = seconds_for_each(
        len(images), lambda: [open_image(image.content, name=image.name) for image in images]
    )
    seen: list[Any] = []
    see = seconds_for_each(len(images), lambda: seen.extend(predictor.see(images)))
    predictor.seer = lambda _images: iter(seen)
    predictions: list[Any] = []
    places = seconds_for_each(len(images), lambda: predictions.extend(predictor.predict(images)))
    return {"decode": decode, "network": see - decode, "places": places}, predictions, load_run


def sleep_over(task: tuple[Any, str], seconds: float) -> tuple[list[str], list[str]]:
    """What a worker does in --check: it takes its time and answers with lines like ours."""
    time.sleep(seconds)
    return ["x" * 1000 + "\n"] * len(task[0].images), []


def seconds_to_give(tasks: Sequence[Any], actors: int) -> float:
    """One part to a worker and its answer back, one after the other; pickling alone without Ray."""
    try:
        from weakloc.ray import map_in_actors
    except ImportError:
        return seconds_for_each(len(tasks), lambda: [pickle.dumps(task) for task in tasks])
    answers = map_in_actors(
        partial(sleep_over, seconds=0.0),
        tasks,
        actors=1,
        address=None,
        if_killed=lambda _task: ([], []),
        prepare=dict,
    )
    begin_ray(actors)
    next(answers)
    return seconds_for_each(len(tasks) - 1, lambda: [*answers], time.perf_counter)


def begin_ray(actors: int) -> None:
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        num_cpus=actors, log_to_driver=False, logging_level="WARNING", ignore_reinit_error=True
    )


def checked(constants: Constants, actors: int, seconds: float, parts: int) -> dict[str, Any]:
    """Real actors that sleep, and the same simulated: parts a second once all are at work.

    What the command's own work took in that time is what the simulation is told of it.
    """
    from weakloc.predictor.parts import PartStore
    from weakloc.ray import map_in_actors

    begin_ray(actors)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = folder_of_files(scratch, parts * PART_SIZE)
        store = PartStore(scratch / "out" / "parts")
        store.open({}, resume=False)
        asking, writing, marks = [], [], list[float]()

        def listed() -> Iterator[Any]:
            tasks, began = tasks_of(folder), time.perf_counter()
            for task in tasks:
                asking.append(time.perf_counter() - began)
                yield task
                began = time.perf_counter()

        for (part, key), (lines, skipped) in map_in_actors(
            partial(sleep_over, seconds=seconds),
            listed(),
            actors=actors,
            address=None,
            if_killed=lambda _task: ([], []),
            prepare=dict,
        ):
            began = time.perf_counter()
            store.write(part, key, lines, skipped)
            marks.append(time.perf_counter())
            writing.append(marks[-1] - began)
    first, last = 2 * actors, parts - actors  # all have begun, none has ended
    measured = (last - first) / (marks[last - 1] - marks[first - 1])
    here = replace(
        constants,
        list_image=sum(asking) / parts / PART_SIZE,
        write_part=sum(writing) / parts,
        load_run=0.0,
        join_image=0.0,
    )
    cluster = Cluster(actors, seconds / PART_SIZE)
    few, many = (simulate(here, cluster, count * PART_SIZE).seconds for count in (parts, 2 * parts))
    simulated = parts / (many - few)
    return {
        "actors": actors,
        "s of a part": seconds,
        "parts/s measured": measured,
        "parts/s simulated": simulated,
        "measured / simulated": measured / simulated,
        "parts/s if no actor waited": actors / seconds,
        "parts/s that the command can do": 1 / here.command_part(),
    }


def kept_constants() -> Constants:
    return Constants(**{row["constant"]: row["value"] for row in kept_rows(CONSTANTS)})


def write_constants(network: str, num_images: int, actors: int) -> None:
    constants = measured_constants(network, num_images, actors)
    rows = [{"constant": name, "value": value} for name, value in asdict(constants).items()]
    notes = [
        "CPU seconds of one core, for an image or for a part of 256 of them, and bytes",
        "give_part is wall: to an actor of Ray and back without work; pickling where Ray is not",
        "what a disk or a network makes wait comes on top",
        f"{network} at 224 px, {num_images} JPEGs of 500 x 375 on a local disk, in its cache",
    ]
    write_results(CONSTANTS, rows, title="What a cluster's command and workers take", notes=notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--check", type=int, metavar="ACTORS")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--files", type=int, default=5120)
    parser.add_argument("--images", type=int, default=100_000_000)
    parser.add_argument("--workers", type=int, action="append")
    parser.add_argument("--worker-speed", type=float, action="append", help="images a second")
    parser.add_argument("--stat-ms", type=float, help="of one image, asked over a network")
    parser.add_argument("--slow-share", type=float, default=0.05)
    parser.add_argument("--mean-hours-between-failures", type=float, default=24.0)
    parser.add_argument("--price", type=float, help="of one worker for an hour, in your currency")
    chosen = parser.parse_args()
    if chosen.measure:
        write_constants(chosen.network, chosen.files, 2)
        return
    constants = kept_constants()
    if chosen.check:
        with tempfile.TemporaryDirectory() as name:
            task = next(tasks_of(folder_of_files(Path(name), PART_SIZE)))
            given = seconds_to_give([task] * 128, chosen.check)
        constants = replace(constants, give_part=given)
        rows = [checked(constants, chosen.check, seconds, 64) for seconds in (1.0, 0.1, 0.01)]
        notes = ["actors of a real Ray on this machine, which sleep instead of looking"]
        write_results("cluster_check", rows, title="Simulated and real actors", notes=notes)
        return
    if chosen.stat_ms is not None:
        constants = replace(constants, list_image=constants.list_image + chosen.stat_ms / 1000)
    clusters = [
        Cluster(
            workers,
            1 / speed,
            slow_share=chosen.slow_share,
            hours_between_failures=chosen.mean_hours_between_failures,
        )
        for speed in chosen.worker_speed or (1 / constants.work, 1000.0)
        for workers in chosen.workers or WORKERS
    ]
    rows = [*rows_of(constants, clusters, chosen.images, chosen.price)]
    most = PART_SIZE / constants.command_part()
    microseconds = 1e6 * constants.list_image
    hours, share = chosen.mean_hours_between_failures, chosen.slow_share
    notes = [
        f"{chosen.images:,} images; a worker dies once in {hours:g} h on average",
        f"60 s until a dead one is replaced; {share:.0%} of them are three times as slow",
        f"the command asks for, gives out and writes at most {most:,.0f} images a second",
        f"of which asking takes {microseconds:.0f} microseconds an image",
        "images/s of a worker: as measured here on one core, or as given",
    ]
    write_results("cluster", rows, title="Many machines, simulated", notes=notes)


if __name__ == "__main__":
    main()
