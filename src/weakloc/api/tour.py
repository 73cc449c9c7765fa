"""`weakloc demo`: the whole tour in one folder, offline, from nothing but tags.

Drawn scenes, three methods trained on their tags, metrics with baselines, a closer look at what
stands out, predictions, exports to COCO and YOLO, and the report.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from weakloc.api.data_sets import read, scenes
from weakloc.api.evaluation import Evaluated, evaluate, write_markdown, write_metrics
from weakloc.api.predictions import SideFiles, predict_to_folder
from weakloc.api.reports import report
from weakloc.api.runs import TrainedRun
from weakloc.api.training import train
from weakloc.errors import DataError
from weakloc.settings import EvaluateSettings, Look, Places, ReportSettings, TrainSettings
from weakloc.structures import DataSet

METHODS = ("wildcat", "max_mil", "cam")
SHOWN_METHOD = "wildcat"  # the default of `weakloc train`
CLOSER = Look(objectness="distance")  # drawn objects stand out from what is around
SHOWN_METRICS = "metrics-shown.json"  # of the look that the report and the predictions show
FORMATS = ("coco", "yolo")
MARK = "weakloc-demo"  # names the folder as one that a new tour may replace
SEED = 0


@dataclass(frozen=True)
class TourSize:
    """The defaults take about two minutes on two cores."""

    num_train: int = 480
    num_val: int = 60
    epochs: int = 10
    image_size: int = 128


@dataclass(frozen=True)
class Tour:
    """What the tour made; `evaluated` begins with the shown method, as it comes and closer."""

    folder: Path
    evaluated: tuple[Evaluated, ...]
    exports: Mapping[str, Path]
    report: Path

    @property
    def headline(self) -> dict[str, dict[str, float]]:
        """What was measured -> number -> value."""
        return {
            Path(evaluated.name).name: {
                result.name: result.value
                for result in evaluated.report.results
                if result.value is not None
            }
            for evaluated in self.evaluated
        }


def demo(
    out: str | Path = "demo",
    *,
    size: TourSize | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Tour:
    """Everything that weakloc does, on scenes that it draws itself."""
    folder, size = Path(out), size or TourSize()
    _clear(folder)
    say(f"Drawing {size.num_train} training and {size.num_val} validation scenes")
    scenes(folder / "scenes", num_train=size.num_train, num_val=size.num_val, seed=SEED)
    data_set = read(folder / "scenes")
    measured = EvaluateSettings(resamples=200)
    runs: dict[str, TrainedRun] = {}
    evaluated: list[Evaluated] = []
    for method in METHODS:
        say(f"Training {method} on the tags of {size.num_train} scenes")
        runs[method] = _train(data_set, method, folder / method, size)
        evaluated.append(evaluate(runs[method], data_set, measured))
    shown = runs[SHOWN_METHOD]
    say(f"Looking with {SHOWN_METHOD} at what stands out as well")
    closer = evaluate(shown, data_set, measured, look=CLOSER)
    evaluated.insert(1, replace(closer, name=f"{SHOWN_METHOD} x objectness"))
    write_metrics(folder / "metrics.json", evaluated)
    write_metrics(folder / SHOWN_METRICS, evaluated[1:2])
    write_markdown(folder / "metrics.md", evaluated)
    say(f"Predicting with {SHOWN_METHOD}, exporting to {' and '.join(FORMATS)}")
    predicted = predict_to_folder(
        shown.path,
        str(folder / "scenes" / "JPEGImages"),
        folder / "predictions",
        tags=folder / "scenes" / "tags.csv",  # known, as to somebody who wants images annotated
        look=CLOSER,
        places=Places(masks="threshold"),
        beside=SideFiles(formats=FORMATS),
    )
    settings = ReportSettings(metrics=folder / SHOWN_METRICS)
    page = report(
        shown.path, folder / "report.html", data=data_set, settings=settings, look=CLOSER
    ).path
    return Tour(folder, tuple(evaluated), predicted.others, page)


def _clear(folder: Path) -> None:
    """Only what an earlier tour made is ever removed."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise DataError(
                "is there already, and no earlier tour made it",
                location=str(folder),
                remedy="Give another --out",
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("made by weakloc demo, which may replace it\n")


def _train(data_set: DataSet, method: str, out: Path, size: TourSize) -> TrainedRun:
    settings = TrainSettings(
        backbone="tiny",
        weights="none",
        image_size=size.image_size,
        epochs=size.epochs,
        batch_size=32,
        learning_rate=3e-3,
        cache="memory",
        workers=0,
        seed=SEED,
    )
    return train(data_set, method=method, out=out, settings=settings)
