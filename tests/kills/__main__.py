"""Commands disturbed at random moments, gone on with, and compared bit by bit.

    python -m tests.kills COMMAND --times N [--fault kill] [--seed S] [--seconds T] [--log FILE]

COMMAND is one of the list, several with commas between them, or `all`. The exit code is 1 where a
result differs from the undisturbed one, or a command cannot be gone on with.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from tests.habits import log, parser_of
from tests.kills.commands import COMMANDS
from tests.kills.stories import FAULTS, Stage, as_line, disturb, summary, tell
from weakloc.api import predictions

# What commands import when they begin: a kill shall not meet that.
MODULES = (
    *("torch", "torchvision", "lightning.pytorch", "timm", "numba", "sklearn", "scipy.ndimage"),
    *("weakloc.cli", "weakloc.api.label", "weakloc.api.training", "weakloc.api.predictions"),
    *("weakloc.api.calibration", "weakloc.api.reports", "weakloc.api.evaluation"),
    *("weakloc.synthetic.scenery", "weakloc.training.fine_layers"),
)
SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None


def main() -> int:
    parser = parser_of("tests.kills", __doc__, COMMANDS)
    parser.add_argument("--times", type=int, default=10, help="interruptions of each command")
    parser.add_argument("--fault", choices=FAULTS, default="kill")
    parser.add_argument("--seconds", type=float, default=3600.0, help="time for each command")
    chosen = parser.parse_args()
    for module in MODULES:
        importlib.import_module(module)
    predictions.PART_SIZE = 5
    is_good = True
    for name in chosen.subjects:
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
            log(chosen.log, {"seed": chosen.seed, **record})
    return int(not is_good)


if __name__ == "__main__":
    sys.exit(main())
