"""Every benchmark that has here what it needs, one after the other; then docs/performance.md.

    python -m benchmarks.all [--only NAME]... [--skip NAME]... [--list | --page]

Run it on a machine that does nothing else. Each writes its results with versions, date and load;
one that fails is named, and the others go on. One that lacks a peer, a package or data is named
and not run, so that earlier results stay whole. Data in CAPITALS are looked for under that name in
the folder of the call: a link will do. --page only writes the page anew.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.page import PAGE, page


@dataclass(frozen=True)
class Bench:
    """A module, what it is called with, the minutes it takes on two cores, and what it needs."""

    name: str
    minutes: int
    arguments: str = ""
    packages: tuple[str, ...] = ()  # names of modules, those of peers too
    data: tuple[str, ...] = ()  # among the arguments

    @property
    def command(self) -> str:
        return f"python -m benchmarks.{self.name} {self.arguments}".strip()

    def lacking(self) -> list[str]:
        """What keeps it from running."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        return missing + [name for name in self.data if not Path(name).exists()]


PEERS = ("torchcam", "pytorch_grad_cam", "cv2")
SERVING = ("starlette", "uvicorn")
BENCHES = (
    Bench("bench_peers", 6, packages=PEERS),
    Bench("bench_heat_maps", 10, packages=PEERS),
    Bench(
        "bench_metrics",
        5,
        "--public-evaluator WSOLEVALUATION",
        packages=("cv2", "faster_coco_eval"),
        data=("WSOLEVALUATION",),
    ),
    Bench("bench_component_tree", 2, packages=("cv2",)),
    Bench("bench_beam_search", 10, "--network resnet50 --network vgg16"),
    Bench("bench_scales", 30),
    Bench("bench_window_scores", 2),
    Bench("bench_crf", 2, packages=("pydensecrf",)),
    Bench("bench_training", 10),
    Bench("bench_pooling", 2),
    Bench("bench_loading", 5),
    Bench("bench_indexing", 4),
    Bench("bench_commands", 8, "--data CALTECH-3", data=("CALTECH-3",)),
    Bench("bench_start", 3),
    Bench("bench_growth", 30, "--many"),
    Bench("bench_report", 2),
    Bench("bench_exporters", 2),
    Bench("bench_serve", 5, packages=SERVING),
    Bench("bench_walks", 2),
    Bench("bench_learning", 40),
    Bench("simulate_cluster", 3, "--measure", packages=("ray",)),
    Bench("simulate_cluster", 1, "--check 2", packages=("ray",)),
    Bench("simulate_cluster", 1),
    Bench("bench_cluster", 10, packages=("ray",)),
    Bench("abuse_serve", 20, packages=SERVING),
    Bench("check_classifiers", 15),
    Bench("bench_engine_speed", 6, packages=("onnxruntime", "openvino")),
    Bench("bench_engines", 5, "RUN IMAGES", ("onnxruntime", "openvino"), ("RUN", "IMAGES")),
    Bench("bench_proposals", 5, "RUN DATA", data=("RUN", "DATA")),
    Bench("bench_distil", 10, "photographs RUN DATA", data=("RUN", "DATA")),
    Bench("bench_reviews", 8, "photographs RUN DATA", data=("RUN", "DATA")),
)


def run(bench: Bench) -> bool:
    print(f"\n$ {bench.command}", flush=True)
    began = time.monotonic()
    module, arguments = f"benchmarks.{bench.name}", shlex.split(bench.arguments)
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
    minutes = (time.monotonic() - began) / 60
    print(f"{bench.name}: exit status {done.returncode} after {minutes:.1f} min", flush=True)
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = sorted({bench.name for bench in BENCHES})
    parser.add_argument("--only", action="append", choices=names)
    parser.add_argument("--skip", action="append", choices=names, default=[])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--page", action="store_true")
    chosen = parser.parse_args()
    kept = [b for b in BENCHES if b.name in (chosen.only or names) and b.name not in chosen.skip]
    failed = []
    if not chosen.page:
        for bench in kept:
            lacking = bench.lacking()
            note = f"lacks {', '.join(lacking)}" if lacking else "runs"
            print(f"{bench.minutes:3d} min  {bench.command}: {note}")
        if chosen.list:
            return
        cores, load = os.cpu_count() or 1, os.getloadavg()[0]
        if load > cores / 2:
            print(f"the load is {load:.1f} on {cores} cores: other work runs beside this")
        failed = [bench for bench in kept if not bench.lacking() and not run(bench)]
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE.name}")
    if failed:
        sys.exit("failed: " + ", ".join(bench.command for bench in failed))


if __name__ == "__main__":
    main()
