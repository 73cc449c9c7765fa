"""`weakloc serve --learn`, killed while people correct and while it learns what they corrected.

    python -m tests.kills.learning --times N [--seed S] [--log FILE]

At a random moment the server is killed, alone or with what it started; then it is begun again. What
was answered before is in the review, the newest whole version answers, /health tells that learning
was stopped, and what is then learned is what `weakloc distil` learns from the same review by
itself. The exit code is 1 where something else is found.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil
from PIL import Image

from tests.habits import log
from tests.kills.commands import COMMANDS
from tests.kills.stories import SAID, StoryError, as_line, digests, finished, kill, start
from tests.serving.running import Client
from weakloc.data.readers import read_data_set
from weakloc.data.readers.review import read_review
from weakloc.output.exporters.label_studio import labelling_config
from weakloc.serving import corrections
from weakloc.settings import ReaderOptions
from weakloc.structures import Sample

SECONDS = 120.0  # learning takes so long at most
FEW = 6  # images that are corrected before learning begins
# As the server's own Python, but of few steps where boxes are learned.
PYTHON = """#!/bin/sh
test "$3" = distil && set -- "$@" --epochs 1
exec {python} "$@"
"""
SERVE = ("serve", "run", "--root", "data", "--learn", "learned", "--port", "0", "--json")
DISTIL = ("distil", "run", "data", "--labels", "learned/review.json", "--epochs", "1")


@dataclass
class Server:
    """A server in a process of its own, whose children are its learners."""

    folder: Path
    process: int = 0
    port: int = 0

    def begin(self) -> None:
        said = self.folder.with_name(SAID)
        said.unlink(missing_ok=True)
        python = self.folder.with_name("python")
        python.write_text(PYTHON.format(python=sys.executable))
        python.chmod(0o755)

        def with_few_steps() -> None:
            corrections.sys.executable = str(python)

        self.process = start(SERVE, self.folder, prepare=with_few_steps)
        until(lambda: said.is_file() and bool(re.search(r'url": "\S+:\d+"', said.read_text())))
        self.port = int(re.findall(r':(\d+)"', said.read_text())[0])

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        client = Client(self.port)
        reply = client.ask(method, path) if body is None else client.post_json(path, body)
        if reply.status != 200:
            raise StoryError(f"{path} answers {reply.status}: {reply.error}")
        return reply.json

    def health(self) -> Any:
        return self.ask("GET", "/health")

    def learn(self) -> str:
        """What it says in the end."""
        self.ask("POST", "/train", {"action": "START_TRAINING"})
        until(lambda: not self.health()["learning"]["running"])
        return str(self.health()["learning"]["progress"])

    def kill(self, *, alone: bool) -> list[psutil.Process]:
        """Its children, which go with it or have to go by themselves."""
        process, self.process = self.process, 0
        children = psutil.Process(process).children(recursive=True)
        if alone:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        else:
            kill(process)
        return children


def until(is_so: Any) -> None:
    end = time.monotonic() + SECONDS
    while not is_so():
        if time.monotonic() > end:
            raise StoryError("it takes too long")
        time.sleep(0.02)


@dataclass
class People:
    """They correct one image after the other, and know what was answered."""

    samples: Sequence[Sample]
    class_names: Sequence[str]
    answered: list[Sample] = field(default_factory=list)

    def correct(self, server: Server, sample: Sample) -> None:
        number = self.samples.index(sample)
        task = {"id": number, "data": {"image": sample.name}}
        annotation = {"id": number, "result": [*self.regions(sample)]}
        interface = {"label_config": labelling_config(self.class_names, masks="rle")}
        notice = {"task": task, "annotation": annotation, "project": interface}
        server.ask("POST", "/webhook", {"action": "ANNOTATION_CREATED", **notice})
        self.answered.append(sample)

    def regions(self, sample: Sample) -> Iterator[dict[str, Any]]:
        across, along = Image.open(sample.path).size
        for drawn in sample.drawn.boxes:
            left, top, right, bottom = drawn.box
            place = {"x": 100 * left / across, "y": 100 * top / along}
            size = {"width": 100 * (right - left) / across, "height": 100 * (bottom - top) / along}
            labels = [self.class_names[drawn.class_index]]
            value = {**place, **size, "rectanglelabels": labels}
            yield {"type": "rectanglelabels", "from_name": "boxes", "value": value}

    def missing(self, review: Path) -> list[str]:
        """Images that were answered for, and are not in the review as they were drawn."""
        kept = {image.name: image for image in read_review(review).images}
        return [
            sample.name
            for sample in self.answered
            if sample.name not in kept
            or sorted(tuple(round(side) for side in box) for _, box in kept[sample.name].boxes)
            != sorted(tuple(round(side) for side in drawn.box) for drawn in sample.drawn.boxes)
        ]


def tell(server: Server, people: People, seconds: float, random: Random) -> tuple[bool, list[str]]:
    """One story: whether the kill met learning, and what was wrong."""
    learned = server.folder / "learned"
    shutil.rmtree(learned, ignore_errors=True)
    order = random.sample(people.samples, len(people.samples))
    people.answered.clear()
    server.begin()
    for sample in order[:FEW]:
        people.correct(server, sample)
    server.ask("POST", "/train", {"action": "START_TRAINING"})
    others = threading.Thread(target=correct_slowly, args=(server, people, order[FEW:]))
    others.start()
    time.sleep(random.uniform(0, 1.1 * seconds))
    was_learning = server.health()["learning"]["running"]
    children = server.kill(alone=random.random() < 0.7)
    others.join()
    wrong = [f"lost {name}" for name in people.missing(learned / "review.json")]
    server.begin()
    versions = sorted(path.name for path in learned.glob("run-*"))
    state = server.health()
    answering = str(state["model_version"]).rpartition("-")[0]
    if answering != ["run", *versions][-1]:
        wrong.append(f"{state['model_version']} answers, and there are {versions}")
    if state["learning"]["running"] or bool(state["learning"]["progress"]) == bool(versions):
        wrong.append(f"{versions} and {state['learning']}")
    _, alive = psutil.wait_procs(children, timeout=10)
    wrong += ["a learner goes on alone"] * any(map(is_at_work, alive))
    for sample in order:
        people.correct(server, sample)
    said = server.learn()
    version = f"run-{len(versions) + 1:03}"
    if not said.startswith(f"learned {version}-"):
        wrong.append(f"{version} should be learned: {said}")
    else:
        boxes = sum(len(image.boxes) for image in read_review(learned / "review.json").images)
        wrong += differences(server.folder, learned / version, boxes)
    wrong += [f"lost {name} later" for name in people.missing(learned / "review.json")]
    server.kill(alone=False)
    left = {path.name for path in learned.iterdir()} - {"review.json", ".weakloc.lock"}
    wrong += [f"{name} is left" for name in left if not re.fullmatch(r"run-\d{3}", name)]
    return was_learning, wrong


def is_at_work(process: psutil.Process) -> bool:
    """Nobody may be there to hear of its end."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def correct_slowly(server: Server, people: People, samples: Sequence[Sample]) -> None:
    for sample in samples:
        try:
            people.correct(server, sample)
        except OSError:  # which people see
            return
        time.sleep(0.2)


def differences(folder: Path, version: Path, boxes: int) -> Iterator[str]:
    """Between a version and what the command makes of the same review."""
    expected = folder / "expected"
    shutil.rmtree(expected, ignore_errors=True)
    command = (*DISTIL, "--boxes", str(boxes), "--out", expected.name)
    code, said = finished(start(command, folder), folder)
    if code != 0:
        yield f"distil ends with {code}: {said}"
    found, right = digests(version), digests(expected)
    if "detector.safetensors" in right:  # else thresholds came after it
        yield from (f"{name} is other" for name in right if found.get(name) != right[name])


def told(
    server: Server, people: People, times: int, random: Random
) -> tuple[float, int, list[str]]:
    """The seconds that learning takes, how many kills met it, and what was wrong."""
    server.begin()
    for sample in people.samples[:FEW]:
        people.correct(server, sample)
    began = time.monotonic()
    server.learn()
    seconds = time.monotonic() - began
    server.kill(alone=False)
    in_work, wrong = 0, list[str]()
    for _ in range(times):
        met, found = tell(server, people, seconds, random)
        in_work += met
        wrong += found
    return seconds, in_work, wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills.learning")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as name:
        folder = Path(name, "work")
        folder.mkdir()
        for command in COMMANDS["distil"].before:
            code, said = finished(start(command, folder), folder)
            if code != 0:
                raise StoryError(f"{command[0]} ends with {code}: {said}")
        data_set = read_data_set(folder / "data", options=ReaderOptions())
        people = People(data_set.splits["train"], data_set.class_names)
        server, random = Server(folder), Random(chosen.seed)
        try:
            seconds, in_work, wrong = told(server, people, chosen.times, random)
        finally:
            if server.process:
                server.kill(alone=False)
    counts = {"stories": chosen.times, "in_work": in_work, "different": len(wrong)}
    record = {"command": "serve --learn", "fault": "kill", **counts, "differences": wrong[:9]}
    print(as_line({**record, "seconds_undisturbed": round(seconds, 2)}), flush=True)
    if chosen.log is not None:
        log(chosen.log, {"seed": chosen.seed, **record})
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
