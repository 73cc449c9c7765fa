"""Hostile inputs for the readers, counted by what came of them.

    python -m tests.fuzz TARGET --runs N --seed S --seconds T [--start N] [--keep FOLDER]
        [--log FILE]

TARGET is one of the readers, several with commas between them, or `all`, which shares the runs and
the seconds. The same target, seed and number are the same input on every machine. The exit code is
1 where an input ended in anything but an answer, a listed problem or an error in one line, and
known.txt does not list that; `--keep` makes each such input smaller and writes it as a case.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.fuzz.arena import GOOD, OUTCOMES, REPOSITORY, Tally, generated, prepare, run
from tests.fuzz.readers import READERS
from tests.fuzz.shrinking import keep
from tests.habits import log, parser_of

KNOWN = Path(__file__).with_name("known.txt")


def main() -> int:
    parser = parser_of("tests.fuzz", __doc__, READERS)
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs in all")
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument("--seconds", type=float, default=60.0, help="time in all")
    parser.add_argument("--keep", type=Path, help="folder for cases")
    chosen = parser.parse_args()
    targets = chosen.subjects
    prepare(targets)
    tallies = {}
    end = time.monotonic() + chosen.seconds
    for number, target in enumerate(targets):
        left = len(targets) - number
        until = time.monotonic() + max(0.1, (end - time.monotonic()) / left)
        tally = run(
            generated(target, chosen.seed),
            chosen.runs // len(targets),
            target=target,
            until=until,
            start=chosen.start,
        )
        tallies[target] = tally
        print(_line(target, tally), flush=True)
        for finding in tally.findings.values():
            times = tally.times[finding.signature]
            print(f"    {times} x {finding.signature}: input {finding.number}", flush=True)
        if chosen.log is not None:
            log(chosen.log, _record(target, tally, chosen.seed, chosen.start))
    whole = Tally()
    for tally in tallies.values():
        whole.counts.update(tally.counts)
        whole.seconds += tally.seconds
    print(_line("all", whole))
    for tally in tallies.values() if chosen.keep is not None else ():
        for finding in tally.findings.values():
            print(keep(finding, seed=chosen.seed, folder=chosen.keep), flush=True)
    new = {name for tally in tallies.values() for name in tally.findings} - known_signatures()
    for signature in sorted(new):
        print(f"not known: {signature}")
    return int(bool(new))


def known_signatures() -> set[str]:
    """What is still to be mended."""
    lines = KNOWN.read_text("utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def _line(target: str, tally: Tally) -> str:
    counts = ", ".join(f"{tally.counts[name]:,} {name}" for name in OUTCOMES if tally.counts[name])
    rate = tally.num_inputs / max(tally.seconds, 1e-9)
    return f"{target}: {tally.num_inputs:,} inputs at {rate:,.0f}/s: {counts}"


def _record(target: str, tally: Tally, seed: int, start: int) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "commit": commit,
        "target": target,
        "seed": seed,
        "start": start,
        "inputs": tally.num_inputs,
        "seconds": round(tally.seconds, 1),
        "counts": dict(tally.counts),
        "bad": sum(count for name, count in tally.counts.items() if name not in GOOD),
        "signatures": dict(tally.times),
    }


if __name__ == "__main__":
    sys.exit(main())
