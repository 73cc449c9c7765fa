"""What it takes to begin: the command line, the import, the first image; beside the unavoidable.

    python -m benchmarks.bench_start [--rounds 5] [--run RUN --image FILE]

Each is a process of its own, started again and again in turn: seconds of wall and of CPU, from its
start to its end. Files are in the page cache and compiled functions in numba's, as from the second
time on ("warm"). Beside `weakloc predict` stands the least that could do its work: a process that
imports torch, loads the same weights, decodes the image and runs the network once. Without --run,
one of EfficientNet-Lite0 at 224 pixels is trained on a few drawn scenes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Timing, time_interleaved, write_results

GOALS = {
    "weakloc --help": 0.4,
    "import weakloc": 0.05,
    "weakloc predict, one image": 4.0,
}  # s, wall

# Nothing but what cannot be left out.
BARE_PASS = """
import sys
import numpy, timm, torch
from PIL import Image
from safetensors.torch import load_file
load_file(sys.argv[1] + "/model.safetensors")
network = timm.create_model("efficientnet_lite0").eval()
picture = Image.open(sys.argv[2]).convert("RGB").resize((224, 224))
pixels = torch.from_numpy(numpy.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255
with torch.inference_mode():
    network(pixels)
"""


def python(*arguments: str) -> Callable[[], object]:
    return partial(subprocess.run, [sys.executable, *arguments], check=True, capture_output=True)


def small_run(scratch: Path) -> tuple[Path, Path]:
    """A run, and an image for it."""
    commands = (
        ("scenes", scratch / "scenes", "--train", "16", "--val", "4"),
        ("train", scratch / "scenes", "--out", scratch / "run", "--frozen", "--epochs", "1",
         "--image-size", "224", "--no-refine"),
    )  # fmt: skip
    for command in commands:
        python("-m", "weakloc.cli", *map(str, command))()
    return scratch / "run", next((scratch / "scenes").rglob("*.jpg"))


def variants(run: Path, image: Path, scratch: Path) -> dict[str, Callable[[], object]]:
    numbers = iter(range(10**6))

    def predict() -> None:
        out = scratch / f"found-{next(numbers)}"
        python("-m", "weakloc.cli", "predict", str(run), str(image), "--out", str(out))()

    return {
        "python -c pass": python("-c", "pass"),
        "import weakloc": python("-c", "import weakloc"),
        "weakloc --help": python("-m", "weakloc.cli", "--help"),
        "import cyclopts, rich": python("-c", "import cyclopts, rich.console"),
        "import torch": python("-c", "import torch"),
        "import torch, timm, PIL; weights, one pass": python("-c", BARE_PASS, str(run), str(image)),
        "weakloc predict, one image": predict,
    }


UNAVOIDABLE = {
    "import weakloc": "python -c pass",
    "weakloc --help": "import cyclopts, rich",
    "weakloc predict, one image": "import torch, timm, PIL; weights, one pass",
}


def rows_of(timings: dict[str, Timing]) -> Sequence[dict[str, Any]]:
    """Goals are held against CPU time, that of `import weakloc` without Python's own start."""
    rows = []
    for name, timing in timings.items():
        base, goal = timings.get(UNAVOIDABLE.get(name, "")), GOALS.get(name)
        taken = timing.cpu - base.cpu if base and name == "import weakloc" else timing.cpu
        rows.append(
            {
                "start": name,
                "s": round(timing.wall, 3),
                "CPU s": round(timing.cpu, 3),
                "unavoidable": UNAVOIDABLE.get(name),
                "times the unavoidable (CPU)": timing.cpu / base.cpu if base else None,
                "CPU s beyond it": round(timing.cpu - base.cpu, 3) if base else None,
                "goal, s": goal,
                "met": None if goal is None else "yes" if taken <= goal else "no",
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--image", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        given = chosen.run, chosen.image
        run, image = given if all(given) else small_run(scratch)
        timings = time_interleaved(variants(run, image, scratch), rounds=chosen.rounds)
    write_results(
        "start",
        rows_of(timings),
        title="What it takes to begin",
        notes=[
            "medians of processes started in turn; files in the page cache, functions compiled",
            "goals are held against CPU time, that of `import weakloc` without Python's own start",
            "the pass stands for the least: the same weights read, the network run once at 224 px",
        ],
        timings=timings,
    )


if __name__ == "__main__":
    main()
