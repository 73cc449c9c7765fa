"""Predictions of any number of images into a folder, in parts, by any number of processes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import truediv
from pathlib import Path
from typing import Any

from PIL import Image

from weakloc import __version__
from weakloc.api.fused_runs import predictor_of
from weakloc.data.sources import find_images, folder_of_images
from weakloc.errors import PredictionsError, SettingError
from weakloc.files import file_name_of, read_json, write_json, write_whole
from weakloc.localize.maps import minmax
from weakloc.output.drawing import draw_grid, draw_prediction, write_heat_maps
from weakloc.output.exporters import check_formats, export_all
from weakloc.output.exporters.jsonl import prediction_line, read_predictions
from weakloc.predictor.parts import Part, PartStore, cut_into_parts, joined_ranks
from weakloc.predictor.places import Tags, read_tags
from weakloc.predictor.predictor import Located, Predictor
from weakloc.settings import ExportOptions, Look, Places
from weakloc.structures import BrokenImage, Problem, ScoreMaps
from weakloc.work import Progress, silent


def predictions_file(source: str | Path) -> Path:
    """The predictions.jsonl of a folder; a file is taken as it is."""
    path = Path(source)
    return path / "predictions.jsonl" if path.is_dir() else path


def summary_beside(file: Path) -> Mapping[str, Any]:
    """What predictions.json says of the predictions beside it; empty where it is missing."""
    path = file.with_name("predictions.json")
    return read_json(path, error=PredictionsError) if path.is_file() else {}


def export_predictions(
    source: str | Path,
    formats: Sequence[str],
    out: Path,
    options: ExportOptions = ExportOptions(),
) -> dict[str, Path]:
    """Every format into the folder of its name; classes and images as predictions.json says."""
    file = predictions_file(source)
    summary = summary_beside(file)
    images = summary.get("images")
    scored = (name for prediction in read_predictions(file) for name in prediction.scores)
    return export_all(
        file,
        formats,
        out,
        class_names=summary.get("classes") or list(dict.fromkeys(scored)),
        image_root=folder_of_images(images) if isinstance(images, str) else None,
        options=options,
    )


SHEET_COLUMNS = 4
SHEET_CELL = (320, 320)  # pixels


@dataclass(frozen=True)
class SideFiles:
    """Heat maps of the classes that have places, pictures of the first images, other formats."""

    heat_maps: bool = False
    num_drawn: int = 0
    formats: tuple[str, ...] = ()
    options: ExportOptions = ExportOptions()

    def __post_init__(self) -> None:
        if self.num_drawn < 0:
            raise SettingError(f"--draw is {self.num_drawn}", remedy="Give a number of images")
        check_formats(self.formats)

    def write(self, out: Path, number: int, located: Located) -> None:
        """The files of one image, which is the `number`-th of all."""
        prediction, heat = located.prediction, located.heat
        if self.heat_maps:
            names = [list(prediction.scores)[index] for index in located.classes]
            write_heat_maps([(prediction.image, heat)], out / "heat_maps", class_names=names)
        if number < self.num_drawn:
            stretched = ScoreMaps(minmax(heat.values), heat.transform, "cam")
            shown = stretched if located.classes else None
            picture = draw_prediction(located.image.picture, prediction, score_map=shown)
            with write_whole(_picture_path(out, prediction.image)) as temporary:
                picture.save(temporary)

    def finish(self, out: Path, predictions: Path) -> dict[str, Path]:
        """What is made from all predictions together and the summary beside them, by name."""
        made: dict[str, Path] = {}
        if self.num_drawn:
            made["pictures"] = _write_sheet(out, predictions, self.num_drawn)
        if self.heat_maps:
            made["heat_maps"] = out / "heat_maps"
        return made | export_predictions(predictions, self.formats, out, self.options)


def _picture_path(out: Path, image: str) -> Path:
    *folders, name = map(file_name_of, image.split("/"))
    return out.joinpath("pictures", *folders, f"{name}.png")


def _write_sheet(out: Path, predictions: Path, num_drawn: int) -> Path:
    """The pictures side by side, in the order of the predictions."""
    pictures, captions = [], []
    for prediction in itertools.islice(read_predictions(predictions), num_drawn):
        path = _picture_path(out, prediction.image)
        if path.is_file():  # broken images count as images but have no picture
            with Image.open(path) as picture:
                factor = min(map(truediv, SHEET_CELL, picture.size))
                width, height = (max(round(side * factor), 1) for side in picture.size)
                pictures.append(picture.resize((width, height)))
            captions.append(prediction.image)
    sheet = draw_grid(pictures, num_columns=SHEET_COLUMNS, cell_size=SHEET_CELL, captions=captions)
    with write_whole(out / "pictures.png") as temporary:
        sheet.save(temporary)
    return out / "pictures.png"


PART_SIZE = 256  # images: at most so many are lost when a run is killed
NOTHING = SideFiles()


@dataclass(frozen=True)
class Written:
    """What lies in the folder; only the first of several processes has counts."""

    predictions: Path
    skipped: Path
    num_done: int
    num_skipped: int
    others: Mapping[str, Path] = field(default_factory=dict)
    is_first_rank: bool = True
    problems: tuple[Problem, ...] = ()  # of the table of tags


def predict_to_folder(
    run: str | Path,
    images: str,
    out: str | Path,
    *,
    also: Sequence[str] = (),
    tags: str | Path | None = None,
    look: Look = Look(),
    places: Places = Places(),
    beside: SideFiles = NOTHING,
    resume: bool = False,
    on_progress: Progress = silent,
) -> Written:
    """predictions.jsonl and what comes with it in `out`, of any number of images.

    `run` is a run folder, an exported file or `timm:NAME`; `also` are further runs on the same
    classes, `tags` a table of what is in the images. `resume` goes on after an interruption.
    """
    predictor, described = predictor_of(str(run), also, look, places)
    known: Tags | None = None
    problems: list[Problem] = []
    if tags is not None:
        known, problems = read_tags(Path(tags), predictor.source.class_names)
    written = write_predictions(
        predictor,
        images,
        Path(out),
        described={**described, "tags": None if tags is None else str(tags)},
        tags=known,
        beside=beside,
        resume=resume,
        on_progress=on_progress,
    )
    return replace(written, problems=tuple(problems))


def write_predictions(
    predictor: Predictor,
    images: str,
    out: Path,
    *,
    described: Mapping[str, Any],
    tags: Tags | None = None,
    beside: SideFiles = NOTHING,
    resume: bool = False,
    part_size: int = PART_SIZE,
    on_progress: Progress = silent,
) -> Written:
    """predictions.jsonl, skipped.jsonl and predictions.json in `out`.

    `described` says what made them (run, tags) and, with the settings, guards a resumed run
    against parts that something else made. Under torchrun the ranks share the parts.
    """
    store = PartStore(out / "parts")
    work = _Work(predictor, tags, beside, out, part_size)
    described = {**described, "images": images, "settings": predictor.settings}
    guarded = {"part_size": part_size, "heat_maps": beside.heat_maps, "draw": beside.num_drawn}
    parts = cut_into_parts(find_images(images), size=part_size)
    first = next(parts)  # nothing is made in `out` before the first image is found
    with joined_ranks() as ranks:
        if ranks.rank == 0:
            store.open({**described, **guarded}, resume=resume)
        ranks.wait_for_all()
        stems = []
        num_seen = 0
        for part in itertools.chain((first,), parts):
            stems.append(part.stem)
            if part.index % ranks.world_size == ranks.rank and not store.is_done(part):
                store.write(part, *work.lines(part))
            num_seen += len(part.images)
            on_progress(num_seen, None)
        ranks.wait_for_all()
        predictions, skipped = out / "predictions.jsonl", out / "skipped.jsonl"
        if ranks.rank != 0:
            return Written(predictions, skipped, 0, 0, is_first_rank=False)
        num_done, num_skipped = store.join(stems, predictions, skipped)
        counts = {"num_done": num_done, "num_skipped": num_skipped}
        _write_summary(out / "predictions.json", predictor, {**described, **counts})
        others = beside.finish(out, predictions)
    return Written(predictions, skipped, num_done, num_skipped, others)


@dataclass(frozen=True)
class _Work:
    """What is done with every part."""

    predictor: Predictor
    tags: Tags | None
    beside: SideFiles
    out: Path
    part_size: int

    def lines(self, part: Part) -> tuple[list[str], list[str]]:
        """The lines of predictions.jsonl and of skipped.jsonl."""
        lines: list[str] = []
        skipped: list[str] = []
        answers = self.predictor.predict_with_heat(part.images, self.tags)
        for number, answer in enumerate(answers, start=part.index * self.part_size):
            if isinstance(answer, BrokenImage):
                record = {"image": answer.name, "reason": answer.reason}
                skipped.append(json.dumps(record, ensure_ascii=False) + "\n")
            else:
                self.beside.write(self.out, number, answer)
                lines.append(prediction_line(answer.prediction))
        return lines, skipped


def _write_summary(path: Path, predictor: Predictor, described: Mapping[str, Any]) -> None:
    names, locating = predictor.source.class_names, predictor.locating
    record = {
        "format": "weakloc.predictions.summary/1",
        "version": __version__,
        **described,
        "classes": list(names),
        "thresholds": dict(zip(names, locating.thresholds, strict=True)),
    }
    write_json(path, record)
