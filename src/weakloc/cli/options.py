"""Settings as groups of options, the help of a command, and what is refused before torch loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Literal,  # noqa: F401 - cyclopts reads the inherited fields of UntaggedPlaces in here
)

from cyclopts import Parameter
from cyclopts.help import DefaultFormatter

from weakloc.errors import RunError
from weakloc.extensions import require_backbone
from weakloc.files import path_of
from weakloc.output.settings import ExportOptions
from weakloc.settings import (
    Checked,
    Cut,
    DataSettings,
    EvaluateSettings,
    LabelSettings,
    Look,
    Places,
    TrainSettings,
)

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

# Where the help of a command shows the settings that it takes.
_SHOWN: Mapping[type, Parameter] = {
    Checked: Parameter(name="*"),
    DataSettings: Parameter(group="How the data is read"),
    LabelSettings: Parameter(group="How much is learned, and what is said"),
    TrainSettings: Parameter(group="How the network is trained"),
    Look: Parameter(group="How images are seen"),
    Places: Parameter(group="What is said of them"),
    Cut: Parameter(group="What gets a box"),  # after Places, which would inherit it
    ExportOptions: Parameter(group="What goes into other formats"),
    EvaluateSettings: Parameter(negative=()),
}
for _settings, _parameter in _SHOWN.items():
    _parameter(_settings)


@dataclass(frozen=True, kw_only=True)
class UntaggedPlaces(Places):
    """What is said of images of which no tag is known that the model could contradict."""

    sure: Annotated[float, Parameter(parse=False)] = Places.sure


def require_there(*sources: str | Path | None) -> None:
    """RunError where a run, or what was made by one, is named by a path at which nothing is."""
    for path in (path_of(source) for source in sources if source):
        if (source := str(path)).startswith("timm:"):
            require_backbone(source.split(":")[1], location=source)
        elif not source.startswith("hf:") and not path.exists():
            reason = "there is no such file or folder"
            raise RunError(reason, location=source, remedy="Check the path")


ALL_OPTIONS = "--help-all"
# What a newcomer needs of a command with more options than fit on a page.
FIRST_CHOICE: Mapping[str, frozenset[str]] = {
    command: frozenset(f"--{name}" for name in names.split())
    for command, names in {
        "label": "out tags new open format minutes images backbone weights image-size "
        "masks drawn seed val-share group-by layout quiet json",
        "train": "out method preset set resume backbone weights frozen refine image-size epochs "
        "batch-size learning-rate seed labels layout class-names quiet json",
        "distil": "out boxes boxes-per-class split folds epochs seed labels layout class-names "
        "strict quiet json",
        "calibrate": "also boxes boxes-per-class split granularity oracle choose-rescoring scales "
        "flip localiser batch-size workers min-area min-share labels layout quiet json",
        "predict": "out also tags resume devices heat-maps draw format scales flip localiser "
        "batch-size workers min-score threshold boxes points masks quiet json",
        "evaluate": "split compare ap resamples compatible out scales flip localiser batch-size "
        "workers min-score threshold boxes masks labels layout class-names quiet json",
        "report": "out data split metrics run tags pictures flip localiser batch-size workers "
        "min-score threshold masks labels layout quiet json",
        "serve": "also token host port root allow-url learn queue max-megabytes score-threshold "
        "best-per-class flip batch-size min-score threshold boxes points masks quiet json",
        "reproduce": "data out budget seeds jobs cell set backbone weights image-size epochs "
        "batch-size labels layout quiet json",
    }.items()
}


class FirstChoiceFormatter(DefaultFormatter):
    """Help with the options of first choice of the command it is asked of."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command = command

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        shown = FIRST_CHOICE[self._command]
        entries = [
            entry
            for entry in panel.entries
            if panel.format != "parameter" or not entry.names or shown & set(entry.names)
        ]
        if entries:
            super().__call__(console, options, panel.copy(entries=entries))
