"""Walks through the code: how many functions in how many modules an image passes on its way.

    python -m benchmarks.bench_walks [--before COMMIT] [--routes FILE] [--results FOLDER]

24 scenes in the Pascal VOC layout, the tiny backbone, no worker processes. Counted are calls of
functions whose source lies in weakloc, seen by sys.setprofile; what runs while modules are loaded,
comprehensions and what a dataclass writes for itself are not. Every walk takes place in a process
of its own, and starts and ends where files of images are opened: it asks nothing of names, so that
it can also be taken in the tree of `--before`.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
NUM_IMAGES, FEW, BATCH = 24, 12, 8
SMALL = ("--backbone", "tiny", "--weights", "none", "--image-size", "64", "--workers", "0")
WALKS = {
    "train: command line to the first image": "train start",
    "train: one image": "train image",
    f"train: one batch of {BATCH}": "train batch",
    "predict: command line to the first image": "predict start",
    "predict: one image": "predict image",
    "evaluate: one image": "evaluate image",
}
NOTES = (
    (
        f"{NUM_IMAGES} scenes, tiny backbone, wildcat; what runs while modules are loaded, "
        "comprehensions and compiled functions are not counted."
    ),
    (
        "An image of training: from one opened file to the next within a batch. A batch: what lies "
        "between the last file of one and the first of the next beyond that."
    ),
    (
        f"An image of predict and evaluate: what {NUM_IMAGES} images have beyond {FEW}, divided by "
        f"{NUM_IMAGES - FEW}; evaluate reads its truth and its line, too."
    ),
)
Function = tuple[str, str]


@dataclass
class Recorder:
    """Calls in their order, and how many there had been when each file of an image was opened."""

    source: str
    calls: list[Function] = field(default_factory=list)
    opened: list[tuple[str, int]] = field(default_factory=list)
    modules_begun: int = 0

    def see_call(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(self.source):
            return
        if code.co_name == "<module>":
            self.modules_begun += 1 if event == "call" else -1
        elif event == "call" and not self.modules_begun and self.is_function(frame):
            self.calls.append((frame.f_globals["__name__"], code.co_qualname))

    def is_function(self, frame: FrameType) -> bool:
        """Not the body of a class, nor a comprehension, nor what a compiler reads for itself."""
        name = frame.f_code.co_name
        is_named = not name.startswith("<") or name == "<lambda>"
        has_own_scope = bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)
        return is_named and has_own_scope and "__name__" in frame.f_globals

    def see_open(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith(IMAGE_SUFFIXES):
            self.opened.append((Path(str(arguments[0])).stem, len(self.calls)))


def record(command: Sequence[str], *, watched: bool) -> Recorder:
    """One command of weakloc in this process; to be called once a process."""
    from weakloc.cli import run

    recorder = Recorder(str(Path(sys.modules["weakloc"].__file__ or "").parent) + os.sep)
    sys.addaudithook(recorder.see_open)
    if watched:
        threading.setprofile(recorder.see_call)
        sys.setprofile(recorder.see_call)
    try:
        status = run([*command, "--quiet"])
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    if status != 0:
        raise SystemExit(f"weakloc {command[0]} ended with {status}")
    return recorder


def of_training(recorder: Recorder, names: Iterable[str]) -> dict[str, Counter[Function]]:
    """To the first image; from one image to the next; what the end of a batch has beyond that."""
    known = set(names)
    marks = [count for name, count in recorder.opened if name in known]
    between = [Counter(recorder.calls[start:end]) for start, end in pairwise(marks)]
    last = 2 * BATCH - 1  # the last image of the second batch
    return {
        "train start": Counter(recorder.calls[: recorder.opened[0][1]]),
        "train image": between[last - 2],
        "train batch": between[last] - between[last - 2],
    }


def after_first_image(recorder: Recorder) -> Counter[Function]:
    return Counter(recorder.calls[recorder.opened[0][1] :])


def for_each(many: Counter[Function], few: Counter[Function]) -> Counter[Function]:
    """Calls an image: what grows with the number of images, divided by the images added."""
    grown = many - few
    return Counter({name: -(-count // (NUM_IMAGES - FEW)) for name, count in grown.items()})


def walks_of(source: Path, scratch: Path) -> dict[str, Counter[Function]]:
    """All walks in the tree whose `weakloc` lies in the folder `source`."""
    names = next(scratch.parent.rglob("ImageSets/Main/train.txt")).read_text().split()
    _walk(source, scratch / "rehearsed")  # compiles kernels, which nobody should watch
    trained, predicted, measured = _walk(source, scratch, "--record")
    many, few = [after_first_image(recorder) for recorder in predicted]
    return {
        **of_training(trained, names),
        "predict start": Counter(predicted[0].calls[: predicted[0].opened[0][1]]),
        "predict image": for_each(many, few),
        "evaluate image": for_each(*(Counter(recorder.calls) for recorder in measured)),
    }


def _walk(
    source: Path, folder: Path, mode: str = "--rehearse"
) -> tuple[Recorder, list[Recorder], list[Recorder]]:
    """A training; predictions of many and of few images; their evaluations."""
    scenes, run = folder.parent, str(folder / "run")
    while not (scenes / f"scenes{FEW}").is_dir():
        scenes = scenes.parent
    walk = partial(_recorded, source, mode)
    options = ("--epochs", "1", "--batch-size", str(BATCH), *SMALL)
    trained = walk("train", str(scenes / f"scenes{NUM_IMAGES}"), "--out", run, *options)
    predicted, measured = [], []
    for number in (NUM_IMAGES, FEW):
        out = folder / f"predicted{number}"
        pictures = str(scenes / f"pictures{number}")
        options = ("--batch-size", "1", "--workers", "0")
        predicted.append(walk("predict", run, pictures, "--out", str(out), *options))
        data, metrics = str(scenes / f"scenes{number}"), str(folder / f"metrics{number}")
        file = str(out / "predictions.jsonl")
        measured.append(walk("evaluate", file, data, "--out", metrics))
    return trained, predicted, measured


def _recorded(source: Path, mode: str, *command: str) -> Recorder:
    """One command in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "calls.json"
        subprocess.run(
            [sys.executable, __file__, mode, str(answer), *command],
            env={**os.environ, "PYTHONPATH": str(source)},
            check=True,
        )
        content = json.loads(answer.read_text())
    calls = [(module, name) for module, name in content["calls"]]
    return Recorder("", calls, [(name, count) for name, count in content["opened"]])


def make_scenes(folder: Path) -> None:
    """Scenes, the same with fewer images to measure, and a folder of pictures for each."""
    from weakloc.api.data_sets import scenes

    many, few = folder / f"scenes{NUM_IMAGES}", folder / f"scenes{FEW}"
    scenes(many, kind="clutter", num_train=NUM_IMAGES, num_val=NUM_IMAGES, seed=0)
    shutil.copytree(many, few)
    names = next(many.rglob("ImageSets/Main/val.txt")).read_text().split()
    for file in few.rglob("ImageSets/*/*val.txt"):
        lines = file.read_text().splitlines()
        kept = [line for line in lines if line.split()[0] in names[:FEW]]
        file.write_text("".join(f"{line}\n" for line in kept))
    for number in (NUM_IMAGES, FEW):
        pictures = folder / f"pictures{number}"
        pictures.mkdir()
        for name in names[:number]:
            path = next(many.rglob(f"JPEGImages/{name}.*"))
            shutil.copy(path, pictures / path.name)


def checked_out(commit: str, folder: Path) -> Path:
    """The source folder of another commit of this repository."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "archive", commit, "src"], cwd=ROOT, check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder / "src"


def row(title: str, tree: str, calls: Counter[Function]) -> dict[str, Any]:
    built = sum(
        count
        for (_, name), count in calls.items()
        if name in {"truth_arrays", "ImageTruth.objects"}
    )
    return {
        "walk": title,
        "tree": tree,
        "calls": calls.total(),
        "functions": len(calls),
        "modules": len({module for module, _ in calls}),
        "truth arrays built": built if title.startswith("evaluate") else None,
    }


def routes(walks: dict[str, dict[str, Counter[Function]]]) -> str:
    """For each walk and tree the modules, in the order of their first call, with what is called."""
    lines = []
    for title, walk in WALKS.items():
        for tree, counted in walks.items():
            modules: dict[str, list[str]] = {}
            for (module, name), count in counted[walk].items():
                modules.setdefault(module, []).append(name + (f" x{count}" if count > 1 else ""))
            lines.append(f"\n{title} ({tree}): {len(modules)} modules")
            lines += [f"  {module}: {', '.join(names)}" for module, names in modules.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", metavar="COMMIT", help="also walk through this commit")
    parser.add_argument("--routes", type=Path, help="file for the functions met, by module")
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    from benchmarks.measure import RESULTS, write_results

    with tempfile.TemporaryDirectory() as scratch:
        make_scenes(Path(scratch))
        trees = {"now": ROOT / "src"}
        if arguments.before:
            trees = {
                arguments.before: checked_out(arguments.before, Path(scratch) / "tree"),
                **trees,
            }
        walks = {name: walks_of(source, Path(scratch) / name) for name, source in trees.items()}
    if arguments.routes:
        arguments.routes.write_text(routes(walks))
    write_results(
        "walks",
        [
            row(title, tree, counted[walk])
            for title, walk in WALKS.items()
            for tree, counted in walks.items()
        ],
        title="Functions and modules on the way of an image",
        notes=NOTES,
        folder=arguments.results or RESULTS,
    )


if __name__ == "__main__":
    if sys.argv[1:2] in (["--record"], ["--rehearse"]):
        seen = record(sys.argv[3:], watched=sys.argv[1] == "--record")
        Path(sys.argv[2]).write_text(json.dumps({"calls": seen.calls, "opened": seen.opened}))
    else:
        main()
