"""Timing shared by the benchmarks: interleaved rounds, medians, and a table with its circumstances.

Every benchmark prints a table and writes `benchmarks/results/<topic>.json` and `.md`.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("weakloc", "torch", "torchvision", "numpy", "numba", "pillow", "timm", "lightning"),
    *("torchcam", "grad-cam", "opencv-python-headless"),
)


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds, in seconds; CPU time includes finished child processes."""

    wall: float
    cpu: float
    walls: tuple[float, ...]
    cpus: tuple[float, ...]


def time_interleaved(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1
) -> dict[str, Timing]:
    """Run every variant once a round, so that a change of the machine's load meets all of them.

    The order turns round from one round to the next.
    """
    for _ in range(warmup):
        for run in variants.values():
            run()
    walls: dict[str, list[float]] = {name: [] for name in variants}
    cpus: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        names = list(variants) if number % 2 == 0 else list(list(variants)[::-1])
        for name in names:
            wall, cpu = _time_once(variants[name])
            walls[name].append(wall)
            cpus[name].append(cpu)
    return {
        name: Timing(
            statistics.median(walls[name]),
            statistics.median(cpus[name]),
            tuple(walls[name]),
            tuple(cpus[name]),
        )
        for name in variants
    }


def _time_once(run: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = _cpu_seconds(), time.perf_counter()
    run()
    return time.perf_counter() - wall, _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def paired_ratio(first: Timing, second: Timing, *, clock: Literal["wall", "cpu"] = "wall") -> float:
    """The median of first / second, each from the same round."""
    times = (first.walls, second.walls) if clock == "wall" else (first.cpus, second.cpus)
    pairs = zip(*times, strict=True)
    return statistics.median(a / b for a, b in pairs)


def circumstances() -> dict[str, Any]:
    """Machine, versions, date, command and load: what a reader needs to judge the numbers."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "load": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_results(
    topic: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    title: str,
    notes: Sequence[str] = (),
    timings: Mapping[str, Timing] | None = None,
    folder: Path = RESULTS,
) -> None:
    """Print the rows as a table and keep them, with their circumstances, in two files."""
    around = circumstances()
    raw = {name: asdict(timing) for name, timing in (timings or {}).items()}
    record = {"topic": topic, **around, "rows": [dict(row) for row in rows], "timings": raw}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{topic}.json").write_text(json.dumps(record, indent=2) + "\n")
    versions = ", ".join(f"{name} {found}" for name, found in around["versions"].items())
    text = "\n".join(
        [
            f"# {title}",
            "",
            _table(rows),
            "",
            *(f"- {note}" for note in notes),
            f"- {around['date']}, `{around['command']}`, {around['machine']}",
            f"- load {around['load']}; Python {around['python']}, {versions}",
        ]
    )
    (folder / f"{topic}.md").write_text(text + "\n")
    print(text)


def kept_rows(topic: str) -> list[dict[str, Any]]:
    """Those that an earlier call wrote; none where there was no such call."""
    path = RESULTS / f"{topic}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
