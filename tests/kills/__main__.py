"""Commands disturbed at random moments, gone on with, and compared bit by bit.

    python -m tests.kills COMMAND --times N [--fault kill] [--seed S] [--seconds T] [--log FILE]

COMMAND is one of the list, several with commas between them, or `all`. The exit code is 1 where a
result differs from the undisturbed one, or a command cannot be gone on with.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from tests.kills.commands import COMMANDS
from tests.kills.stories import FAULTS, Stage, as_line, disturb, summary, tell

# What commands import when they begin: a kill shall not meet that.
MODULES = (
    *("torch", "torchvision", "lightning.pytorch", "timm", "numba", "sklearn", "scipy.ndimage"),
    *("weakloc.cli", "weakloc.api.label", "weakloc.api.training", "weakloc.api.predictions"),
    *("weakloc.api.calibration", "weakloc.api.reports", "weakloc.api.evaluation"),
    *("weakloc.synthetic.folder", "weakloc.training.fine_layers", "torch.distributed"),
)
SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", help=f"all, or some of: {', '.join(COMMANDS)}")
    parser.add_argument("--times", type=int, default=10, help="interruptions of each command")
    parser.add_argument("--fault", choices=FAULTS, default="kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0, help="time for each command")
    parser.add_argument("--log", type=Path, help="a line of JSON for each command is added to it")
    chosen = parser.parse_args()
    names = list(COMMANDS) if chosen.command == "all" else chosen.command.split(",")
    for module in MODULES:
        importlib.import_module(module)
    is_good = True
    for name in names:
        with tempfile.TemporaryDirectory(
            prefix="kills-", dir=SCRATCH, ignore_cleanup_errors=True
        ) as folder:
            stage = Stage(name, Path(folder))
            random = Random(f"{name} {chosen.fault} {chosen.seed}")
            until = time.monotonic() + chosen.seconds
            if chosen.fault == "kill":
                verdicts = tell(stage, chosen.times, random, until)
            else:
                verdicts = disturb(stage, chosen.fault, chosen.times, random, until)
        record = summary(name, chosen.fault, stage, verdicts)
        print(as_line(record), flush=True)
        is_good &= not verdicts.differences
        if chosen.log is not None:
            about = {"date": time.strftime("%Y-%m-%d %H:%M:%S"), "seed": chosen.seed}
            with chosen.log.open("a", encoding="utf-8") as stream:
                stream.write(as_line({**about, **record}) + "\n")
    return int(not is_good)


if __name__ == "__main__":
    sys.exit(main())
