"""Predictions of any number of images into a folder, in parts, by any number of processes."""

from __future__ import annotations

import itertools
import json
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypedDict

from PIL import Image

from weakloc import __version__
from weakloc.api.data_sets import Data, opened, require_same_classes
from weakloc.api.fused_runs import predictor_of
from weakloc.api.runs import version_of
from weakloc.data.readers.assembly import Problems
from weakloc.data.readers.table import table_rows
from weakloc.data.sources import ImageSource, find_images, folder_of_images, read_tags
from weakloc.errors import FailureError, PredictionsError, SettingError
from weakloc.files import (
    ByName,
    file_name_of,
    fit_json,
    is_so,
    is_url,
    only_writer,
    open_buffered,
    path_of,
    read_json,
    write_json,
)
from weakloc.localize.maps import minmax
from weakloc.output.drawing import draw_grid, draw_prediction, write_heat_maps
from weakloc.output.exporters import check_formats, export_all
from weakloc.output.exporters.jsonl import prediction_line, predictions_file, read_predictions
from weakloc.output.settings import ExportOptions
from weakloc.predictor.parts import SUMMARY_NAME, Part, PartStore, cut_into_parts, take_device
from weakloc.predictor.predictor import Located, Predictor
from weakloc.settings import Look, Places, ReaderOptions, require
from weakloc.structures import BrokenImage, DataSet, LabelVector, Problem, ScoreMaps
from weakloc.training.inputs import content_key
from weakloc.work import Progress, keep_freed_memory, silent


class Summary(TypedDict, total=False):
    """What is read of predictions.json."""

    classes: tuple[str, ...]
    thresholds: dict[str, float]
    settings: dict[str, Any]
    run: str
    images: str
    tags: str | None
    num_boxes_used: int
    thresholds_from: str
    weights_from: str


def summary_beside(file: Path) -> Summary:
    """What is said of the predictions beside it; empty where it is missing."""
    path = file.with_name(SUMMARY_NAME)
    try:
        stored = read_json(path, error=PredictionsError) if path.is_file() else {}
        summary = fit_json(stored, Summary)
    except ValueError as error:
        raise PredictionsError(str(error), location=str(path)) from error
    if is_url(summary.get("images", "")):
        del summary["images"]  # no file sends anybody into an object store
    return summary


def export_predictions(
    source: str | Path, formats: Sequence[str], out: Path, options: ExportOptions = ExportOptions()
) -> dict[str, Path]:
    """Every format into the folder of its name; classes and images as predictions.json says."""
    file = predictions_file(source)
    class_names, folder = classes_and_folder(file)
    groups = _groups(summary_beside(file).get("tags"), options.group_by)
    export = partial(export_all, class_names=class_names, image_root=folder, groups=groups)
    return export(file, formats, out, options=options)


def classes_and_folder(file: Path) -> tuple[Sequence[str], Path | None]:
    """The classes of predictions, and the folder of their images where that is known."""
    summary = summary_beside(file)
    images = summary.get("images")
    scored = (name for prediction in read_predictions(file) for name in prediction.scores)
    class_names = summary.get("classes") or list(dict.fromkeys(scored))
    return class_names, folder_of_images(images) if images else None


def _groups(tags: str | None, column: str | None) -> ByName[str] | None:
    """Image -> what a column of the table of tags says of it."""
    if column in (None, "folder"):
        return None
    # Read as the one label of each image, whatever signs are in it.
    options = ReaderOptions(labels_column=column, label_delimiter="\n")
    rows = table_rows(Path(tags), options, Problems()) if tags else []
    groups = {row.image: group for row in rows for group in row.claim.present}
    if not groups:
        reason = f"--group-by is {column!r}, of which no table of tags says anything"
        raise SettingError(reason, remedy="Give folder, or a column of the table of --tags")
    return ByName(groups)


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
        require(self.num_drawn >= 0, "draw", self.num_drawn, "Give a number of images")
        check_formats(self.formats)

    def write(self, out: Path, number: int, located: Located) -> None:
        """The files of one image, which is the `number`-th of all."""
        prediction, heat = located.prediction, located.heat
        if self.heat_maps:
            names = [list(prediction.scores)[index] for index in located.classes]
            folder = _path_of_image(out / "heat_maps", prediction.image)
            write_heat_maps(folder, heat, class_names=names)
        if number < self.num_drawn:
            stretched = ScoreMaps(minmax(heat.values), heat.transform, "cam")
            shown = stretched if located.classes else None
            picture = draw_prediction(located.image.picture, prediction, score_map=shown)
            path = _path_of_image(out / "pictures", prediction.image, ".png")
            with open_buffered(path) as file:
                picture.save(file, "PNG")

    def finish(self, out: Path, predictions: Path) -> dict[str, Path]:
        """What is made from all predictions together and the summary beside them, by name."""
        made: dict[str, Path] = {}
        if self.num_drawn:
            made["pictures"] = _write_sheet(out, predictions, self.num_drawn)
        if self.heat_maps:
            made["heat_maps"] = out / "heat_maps"
        if self.formats:
            made |= export_predictions(predictions, self.formats, out, self.options)
        return made


def _path_of_image(folder: Path, image: str, ending: str = "") -> Path:
    return folder.joinpath(*map(file_name_of, f"{image}{ending}".split("/")))


def _write_sheet(out: Path, predictions: Path, num_drawn: int) -> Path:
    """The pictures side by side, in the order of the predictions."""
    pictures, captions = [], []
    for prediction in itertools.islice(read_predictions(predictions), num_drawn):
        path = _path_of_image(out / "pictures", prediction.image, ".png")
        if path.is_file():  # broken images count as images but have no picture
            with Image.open(path) as picture:
                picture.thumbnail(SHEET_CELL)
                pictures.append(picture.copy())
            captions.append(prediction.image)
    sheet = draw_grid(pictures, num_columns=SHEET_COLUMNS, cell_size=SHEET_CELL, captions=captions)
    with open_buffered(out / "pictures.png") as file:
        sheet.save(file, "PNG")
    return out / "pictures.png"


PART_SIZE = 256  # images: at most so many are lost when a run is killed
NOTHING = SideFiles()


@dataclass(frozen=True)
class Written:
    """What lies in the folder."""

    predictions: Path
    skipped: Path
    problems: tuple[Problem, ...]  # of the table of tags
    num_done: int
    num_skipped: int
    others: Mapping[str, Path]
    licence: str | None  # of a classifier's published weights, as timm has it


def predict_to_folder(
    run: str | Path,
    images: Data,
    out: str | Path,
    *,
    also: Sequence[str] = (),
    tags: str | Path | None = None,
    look: Look = Look(),
    places: Places = Places(),
    beside: SideFiles = NOTHING,
    resume: bool = False,
    workers: Workers | None = None,
    on_progress: Progress = silent,
) -> Written:
    """predictions.jsonl, skipped.jsonl, predictions.json and what comes with them in `out`.

    `run` is a run folder, `hf:USER/NAME`, an exported file or `timm:NAME`; `also` are further runs
    on its classes, `tags` a table of what is in the images; a data set brings its own. `resume`
    goes on after an interruption, unless something else made the parts that are there. What was
    changed in images or tags since is predicted again. `workers` are further processes, each of
    which takes the next part that nobody has: `partial(map_in_processes, processes=2)`.
    """
    load = partial(predictor_of, str(run), also, look, places)
    predictor, origin = load()
    class_names = predictor.source.class_names
    data_set = None if isinstance(images, str | Path) else opened(images)
    sources, known, problems = _sources_and_tags(data_set or str(images), tags, class_names)
    if data_set:
        images, tags = data_set.root, tags or data_set.root
    work_of = partial(_Work, tags=known, beside=beside, out=Path(out))
    work = work_of(predictor)
    origin |= {"tags": tags and str(tags), "images": str(images), "settings": predictor.settings}
    parts = cut_into_parts(sources, size=PART_SIZE)
    first = next(parts)  # nothing is made in `out` before the first image is found
    store = PartStore(work.out / "parts")
    with only_writer(work.out):
        version = version_of(predictor, origin)
        guarded = {"part_size": PART_SIZE, "heat_maps": beside.heat_maps, "draw": beside.num_drawn}
        store.open({**origin, **guarded, "version": version}, resume=resume)
        answers: Workers = partial(map, lambda task: (task, work.answer(task[0], on_progress)))
        if workers is not None:
            prepare = partial(_take_up, load, work_of, version, first.landmark)
            answers = partial(workers, _answer, if_killed=_fail, prepare=prepare)
        stems = work.fill(store, itertools.chain((first,), parts), answers, on_progress)
        results = work.out / "predictions.jsonl", work.out / "skipped.jsonl"
        num_done, num_skipped = store.join(stems, *results)
        work.write_summary({**origin, "num_done": num_done, "num_skipped": num_skipped})
        others = beside.finish(work.out, results[0])
        store.remove()
    return Written(*results, tuple(problems), num_done, num_skipped, others, origin.get("licence"))


def _sources_and_tags(
    images: str | DataSet, tags: str | Path | None, class_names: Sequence[str]
) -> tuple[Iterator[ImageSource], ByName[LabelVector] | None, list[Problem]]:
    """The images with what a data set or a table says of them, and what was odd in the table."""
    if isinstance(images, DataSet):
        names, location, kept = images.class_names, str(images.root), _kept_splits(images)
        sources = (ImageSource(s.name, s.path, split=kept.get(s.name)) for s in images.samples())
        if not names:
            return sources, None, []
        remedy = "Name the classes of the run, in its order"
        require_same_classes(names, class_names, of="the run", location=location, remedy=remedy)
        return sources, ByName({s.name: s.labels for s in images.samples()}), []
    known, problems = (None, []) if tags is None else read_tags(tags, class_names)
    return find_images(images), known, problems


def _kept_splits(data_set: DataSet) -> dict[str, str]:
    """Image -> train, val or test; where no image is for val, only those for test are kept so."""
    kept: dict[str, str] = {}
    for split, samples in reversed(list(data_set.splits.items())):  # the first that has it counts
        use = split if split in ("val", "test") else "train"
        if use != "train" or "val" in data_set.splits:
            kept |= dict.fromkeys((sample.name for sample in samples), use)
    return kept if data_set.splits.keys() - {"val", "test"} else {}


def unopened(image: ImageSource, tags: LabelVector | None) -> str:
    """All that is known of an image without opening it: name, split, tags, place, size, time."""
    content = image.content
    try:
        key = content_key(content) if isinstance(content, str) else sha256(content).hexdigest()
    except (OSError, ValueError):  # missing, a circle of links, a zero byte in the name
        key = "cannot be opened"
    return f"{image.name}\n{image.split}\n{'' if tags is None else tags.tobytes().hex()}\n{key}"


PartTask: TypeAlias = tuple[Part, str]  # with the key of what is known of its images
PartLines: TypeAlias = tuple[list[str], list[str]]  # of predictions.jsonl and of skipped.jsonl
Answers: TypeAlias = Iterable[tuple[PartTask, PartLines]]
Workers: TypeAlias = Callable[..., Answers]  # as `map_in_processes` that knows by how many


@dataclass(frozen=True)
class _Work:
    """What is done with every part, and said of all of them."""

    predictor: Predictor
    tags: ByName[LabelVector] | None
    beside: SideFiles
    out: Path

    def __post_init__(self) -> None:
        if self.tags is None and self.beside.options.tagged_only:
            remedy = "Give a table with --tags"
            raise SettingError("--tagged-only needs to know what is in the images", remedy=remedy)

    def fill(
        self, store: PartStore, parts: Iterable[Part], answers: Workers, on_progress: Progress
    ) -> list[str]:
        """Writes the parts that are not there; the stems of all."""
        stems: list[str] = []
        num_seen = 0

        def missing() -> Iterator[PartTask]:
            nonlocal num_seen
            for part in parts:
                stems.append(part.stem)
                tags = (None if self.tags is None else self.tags.get(i.name) for i in part.images)
                known = "\n".join(map(unopened, part.images, tags))
                key = sha256(known.encode("utf-8", "surrogateescape")).hexdigest()
                if not store.is_done(part, key):
                    yield part, key
                else:
                    num_seen += len(part.images)

        for (part, key), (lines, skipped) in answers(missing()):
            store.write(part, key, lines, skipped)
            num_seen += len(part.images)
            on_progress(num_seen, None)
        return stems

    def answer(self, part: Part, on_progress: Progress) -> PartLines:
        """The lines of a part; the files beside are written on the way."""
        lines: list[str] = []
        skipped: list[str] = []
        answers = self.predictor.predict_with_heat(part.images, self.tags)
        pairs = zip(part.images, answers, strict=True)
        for number, (image, answer) in enumerate(pairs, start=part.first):
            on_progress(number, None)
            if isinstance(answer, BrokenImage):
                record = {"image": answer.name, "reason": answer.reason}
                skipped.append(json.dumps(record, ensure_ascii=False) + "\n")
            else:
                self.beside.write(self.out, number, answer)
                split = {"split": image.split} if image.split else {}
                extra = {**answer.prediction.extra, **split}
                lines.append(prediction_line(replace(answer.prediction, extra=extra)))
        return lines, skipped

    def write_summary(self, described: Mapping[str, Any]) -> None:
        names, thresholds = self.predictor.source.class_names, self.predictor.thresholds
        record = {
            "format": "weakloc.predictions.summary/1",
            "version": __version__,
            **described,
            "classes": list(names),
            "thresholds": dict(zip(names, thresholds, strict=True)),
        }
        write_json(self.out / SUMMARY_NAME, record)


_WORKS = deque[_Work](maxlen=1)  # of a process that was started for parts


def _take_up(
    load: Callable[[], tuple[Predictor, dict[str, Any]]],
    work_of: Callable[[Predictor], _Work],
    version: str,
    landmark: str | None,
) -> None:
    """Makes this process one for parts; `version` is that of the run where the command began.

    On another machine `landmark`, an image, might be missing, and then all would be called broken.
    """
    keep_freed_memory()
    take_device()
    predictor, origin = load()
    is_there = landmark is None or is_so(path_of(landmark).is_file)
    if version_of(predictor, origin) != version or not is_there:
        raise FailureError(
            f"the machine {socket.gethostname()} has another run, or does not see {landmark}",
            remedy="Put the run and the images where every machine sees them by the same path",
        )
    _WORKS.append(work_of(predictor))


def _answer(task: PartTask) -> PartLines:
    return _WORKS[0].answer(task[0], silent)


def _fail(_task: object) -> NoReturn:
    raise FailureError(
        "a process of this command was killed, or could not begin",
        remedy="Look for a lack of memory; the same command with --resume goes on",
    )
