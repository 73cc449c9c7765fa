"""`weakloc demo`: the main job on photographs that it draws, offline, from nothing but tags.

Scenes of large objects are labelled by their tags; then the boxes are held against the drawn
truth of scenes that were not learned from, beside the class maps alone and trivial answers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from weakloc.api.data_sets import read, scenes
from weakloc.api.evaluation import Evaluated, document_of, evaluate, markdown_of
from weakloc.api.label import Labelled, label
from weakloc.data.images import open_image
from weakloc.files import open_buffered, require_own, write_json, write_text
from weakloc.output.drawing import draw_grid, draw_prediction
from weakloc.output.exporters.jsonl import read_predictions
from weakloc.settings import EvaluateSettings, LabelSettings, Look
from weakloc.structures import DataSet
from weakloc.work import NO_DISPLAY, Display

LOOKS = {"label": Look(), "class maps alone": Look(localiser="score_map")}
PICTURES = 12  # shown, in so many columns of such cells:
COLUMNS, CELL_SIZE = 4, (320, 320)
MARK = "weakloc-demo"  # names the folder as one that a new tour may replace
SEED = 0


@dataclass(frozen=True)
class TourSize:
    """The defaults take about two minutes on two cores."""

    num_train: int = 180
    num_val: int = 48
    epochs: int | None = None  # the method's
    image_size: int = 224


@dataclass(frozen=True)
class Tour:
    """What the tour made; `evaluated` has one entry a look."""

    folder: Path
    labelled: Labelled
    pictures: Path
    evaluated: tuple[Evaluated, ...]

    @property
    def headline(self) -> dict[str, dict[str, float]]:
        """What was measured -> number -> value."""
        return {
            evaluated.evaluated: {
                result.name: result.value
                for result in evaluated.metrics
                if result.value is not None
            }
            for evaluated in self.evaluated
        }


def demo(
    out: str | Path = "demo",
    *,
    size: TourSize | None = None,
    say: Callable[[str], None] = lambda _text: None,
    display: Display = NO_DISPLAY,
) -> Tour:
    """Labels scenes that it draws itself, and measures the boxes."""
    folder, size = Path(out), size or TourSize()
    require_own(folder, ("*",), marks=(MARK,))
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / MARK, "made by weakloc demo, which may replace it\n")
    say(f"Drawing {size.num_train} scenes to learn from and {size.num_val} to measure with")
    drawn = folder / "scenes"
    scenes(drawn, kind="large", num_train=size.num_train, num_val=size.num_val, seed=SEED)
    data_set = read(drawn)
    say("Labelling them by their tags alone")
    settings = LabelSettings(
        image_size=size.image_size, epochs=size.epochs, masks="threshold", seed=SEED
    )
    labelled = label(data_set, folder / "labelled", settings=settings, display=display)
    pictures = folder / "labelled.jpg"
    _draw(labelled, data_set, pictures)
    say("Measuring the boxes of scenes that were not learned from")
    measured = EvaluateSettings(resamples=200)
    evaluated = [
        replace(evaluate(labelled.folder / "run", data_set, measured, look=look), evaluated=name)
        for name, look in LOOKS.items()
    ]
    write_json(folder / "metrics.json", document_of(evaluated))
    write_text(folder / "metrics.md", markdown_of(evaluated))
    return Tour(folder, labelled, pictures, tuple(evaluated))


def _draw(labelled: Labelled, data_set: DataSet, to: Path) -> None:
    """The first images that were not learned from, with their boxes and masks."""
    paths = {sample.name: Path(sample.path) for sample in data_set.splits["val"]}
    predictions = read_predictions(labelled.folder / "predictions" / "predictions.jsonl")
    shown = [item for item in predictions if item.image in paths][:PICTURES]
    drawn = [draw_prediction(open_image(paths[item.image]), item) for item in shown]
    with open_buffered(to) as file:
        draw_grid(drawn, num_columns=COLUMNS, cell_size=CELL_SIZE).save(file, "JPEG")
