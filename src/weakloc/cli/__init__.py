"""The command line: flags in, one-line errors and exit codes out."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, CycloptsError, Parameter

from weakloc import __version__
from weakloc.cli.data import data, demo, scenes
from weakloc.cli.judge import evaluate, report
from weakloc.cli.label import label
from weakloc.cli.learn import calibrate, distil, refine, train
from weakloc.cli.options import ALL_OPTIONS, FIRST_CHOICE, FirstChoiceFormatter
from weakloc.cli.papers import reproduce
from weakloc.cli.use import export, predict, push, serve
from weakloc.errors import FailureError, StoppedError, WeaklocError
from weakloc.files import plain, refusal

TERMINATED = 143
# In the order in which a newcomer meets them.
COMMANDS = (
    *(demo, label, scenes, data, train, refine, distil, calibrate, predict),
    *(evaluate, report, export, push, serve, reproduce),
)

app = App(
    name="weakloc",
    version=__version__,
    help="Labels in, locations out: points, boxes and masks learned from image tags alone.",
    default_parameter=Parameter(negative_iterable=()),
)
for _command in COMMANDS:
    app.command(_command)


def main() -> None:
    # As an exception, so that nothing half-written stays behind and no process goes on alone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code: 0 done, 2 a mistake the user can mend, 1 a failure, 130 interrupted."""
    command = arguments[0] if arguments else ""
    formatter = None
    if ALL_OPTIONS in arguments:
        arguments = [command, "--help"]
    elif command in FIRST_CHOICE and {"--help", "-h"} & set(arguments):
        formatter = FirstChoiceFormatter(command)
    if command in FIRST_CHOICE:
        app[command].help_formatter = formatter
    try:
        app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
        if formatter:
            print(f"All options: weakloc {command} {ALL_OPTIONS}")
        sys.stdout.flush()
    except CycloptsError as error:
        return _complain(f"{error} (weakloc {' '.join(arguments[:1])} --help tells more)", 2)
    except WeaklocError as error:
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _complain("interrupted", StoppedError.exit_code)
    except BrokenPipeError:  # `weakloc ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # whatever no module has met, such as a full disk behind a pipe
        path = Path(error.filename or "standard output")
        return _complain(str(refusal(path, error)), FailureError.exit_code)
    return 0


def _complain(message: str, exit_code: int) -> int:
    print(f"weakloc: {' '.join(plain(message).splitlines())}", file=sys.stderr)
    return exit_code
