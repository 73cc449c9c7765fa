"""Runs or prediction files, and what is known of the images, as one report page."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from weakloc.api.data_sets import read
from weakloc.api.predictions import predictions_file, summary_beside
from weakloc.api.runs import TrainedRun, load_folder
from weakloc.data.images import open_image
from weakloc.data.sources import ImageSource, find_images
from weakloc.errors import DataError, ImageError, PredictionsError, SettingError
from weakloc.files import ByName
from weakloc.localize.maps import NORMALISATIONS, image_grid, resample
from weakloc.methods.settings import from_settings
from weakloc.metrics.result import EvaluationRecord, read_evaluations
from weakloc.output.exporters.jsonl import read_predictions
from weakloc.output.report import write_report
from weakloc.output.report_content import (
    HEAT_CELLS,
    CoarseHeat,
    ReportContent,
    ReportPicture,
    Totals,
    count_predictions,
)
from weakloc.output.report_gallery import PICTURE_SIDES
from weakloc.predictor.places import read_tags
from weakloc.predictor.predictor import Located, Predictor
from weakloc.settings import Look, Places, look_and_places
from weakloc.structures import PRESENT, BrokenImage, DataSet, Prediction, Sample, ScoreMaps
from weakloc.training.run_folder import read_record
from weakloc.work import Progress, silent

MOST_PICTURES = 200


@dataclass(frozen=True)
class Reporting:
    """What a report is made from besides its predictions.

    `images` is whatever `weakloc predict` takes; without it a run sees the split of `truth`, and
    a prediction file names its images itself. `run` gives a prediction file the heat maps.
    """

    images: str | None = None
    run: Path | None = None
    metrics: Path | None = None
    truth: DataSet | None = None
    split: str = "val"
    tags: Path | None = None
    most_pictures: int = MOST_PICTURES
    look: Look | None = None
    places: Places | None = None


def images_to_see(reporting: Reporting) -> Iterator[ImageSource]:
    """The images of the folder, list or shards that was named, else those of the split."""
    if reporting.images is not None:
        return find_images(reporting.images)
    if reporting.truth is None:
        raise DataError(
            "no images are given",
            remedy="Give a folder of images after the run, or a data set with --data",
        )
    samples = reporting.truth.split(reporting.split)
    return (ImageSource(sample.name, sample.path) for sample in samples)


def remembered(
    sources: Iterable[ImageSource], contents: dict[str, str | bytes]
) -> Iterator[ImageSource]:
    """The same images; what is in them is noted until somebody takes it out again."""
    for source in sources:
        contents[source.name] = source.content
        yield source


def contents_of(names: Collection[str], reporting: Reporting) -> dict[str, str | bytes]:
    """Where the images of these names are, as far as they are found."""
    if reporting.images is None and reporting.truth is None:
        return {}
    if reporting.images is not None and Path(reporting.images).is_dir():
        paths = {name: Path(reporting.images, name) for name in names}
        return {name: str(path) for name, path in paths.items() if path.is_file()}
    sources = images_to_see(reporting)
    return {source.name: source.content for source in sources if source.name in names}


def truth_by_name(reporting: Reporting) -> ByName[Sample]:
    if reporting.truth is None:
        return ByName({})
    samples = reporting.truth.split(reporting.split)
    return ByName({sample.name: sample for sample in samples})


def read_metrics_file(
    reporting: Reporting, folder: Path, run: Path | None
) -> EvaluationRecord | None:
    """The metrics that were named, else metrics.json in the folder; of several, the run's own."""
    file = reporting.metrics or folder / "metrics.json"
    if reporting.metrics is None and not file.is_file():
        return None
    records = read_evaluations(file)
    of_run = (
        record for record in records if run is not None and Path(record.evaluated).name == run.name
    )
    return next(of_run, records[0])


def run_behind(described: Mapping[str, Any], reporting: Reporting) -> TrainedRun | None:
    """The run that was named, else the one that made the predictions where it is still there."""
    if reporting.run is not None:
        return load_folder(reporting.run)
    named = described.get("run")
    if isinstance(named, str) and (Path(named) / "run.json").is_file():
        return load_folder(named)
    return None


def settings_of(described: Mapping[str, Any]) -> tuple[Look, Places]:
    """How the predictions were made; the defaults where that is not known."""
    stored = described.get("settings")
    if not isinstance(stored, Mapping):
        return Look(), Places()
    look, places = look_and_places(stored)
    try:
        return from_settings(Look, look), from_settings(Places, places)
    except SettingError:  # of another version
        return Look(), Places()


def no_picture(name: str) -> NoReturn:
    """Opens an image of which nobody knows where it is."""
    raise ImageError("the images of these predictions were not given", where=name)


_LARGEST_SIDE = max(side for _, side in PICTURE_SIDES)


@dataclass(frozen=True)
class Reported:
    path: Path
    num_shown: int
    num_images: int
    num_skipped: int = 0


@dataclass
class _Chosen:
    """The most doubtful of a stream of predictions, and the totals of all."""

    most: int
    heap: list[tuple[float, int, ReportPicture]] = field(default_factory=list)
    num_seen: int = 0
    num_skipped: int = 0

    def add(self, picture: ReportPicture) -> None:
        entry = (picture.prediction.doubt, -self.num_seen, picture)
        self.num_seen += 1
        if len(self.heap) < self.most:
            heapq.heappush(self.heap, entry)
        else:
            heapq.heappushpop(self.heap, entry)

    @property
    def pictures(self) -> list[ReportPicture]:
        return [picture for _, _, picture in sorted(self.heap, reverse=True, key=lambda e: e[:2])]


def report(
    source: str | Path | TrainedRun,
    out: str | Path,
    *,
    images: str | None = None,
    run: str | Path | None = None,
    metrics: str | Path | None = None,
    data: str | Path | DataSet | None = None,
    split: str = "val",
    tags: str | Path | None = None,
    most_pictures: int = MOST_PICTURES,
    look: Look | None = None,
    places: Places | None = None,
) -> Reported:
    """One HTML page about a run (which then predicts `images`) or about predictions."""
    reporting = Reporting(
        images=images,
        run=None if run is None else Path(run),
        metrics=None if metrics is None else Path(metrics),
        truth=data if data is None or isinstance(data, DataSet) else read(data),
        split=split,
        tags=None if tags is None else Path(tags),
        most_pictures=most_pictures,
        look=look,
        places=places,
    )
    return make_report(source, Path(out), reporting)


def make_report(
    source: str | Path | TrainedRun,
    out: Path,
    reporting: Reporting,
    on_progress: Progress = silent,
) -> Reported:
    """`report` with all that can be chosen."""
    if isinstance(source, TrainedRun):
        return _report_run(source, out, reporting, on_progress)
    path = Path(source)
    if (path / "run.json").is_file():
        return _report_run(load_folder(path), out, reporting, on_progress)
    file = predictions_file(path)
    if not file.is_file():
        raise PredictionsError(
            "is neither a run folder nor predictions",
            where=str(path),
            remedy="Give the --out of `weakloc train` or of `weakloc predict`",
        )
    return _report_predictions(file, out, reporting, on_progress)


def _report_run(
    run: TrainedRun, out: Path, reporting: Reporting, on_progress: Progress
) -> Reported:
    predictor = run.predictor(reporting.look or Look(), reporting.places or Places())
    chosen = _Chosen(reporting.most_pictures)
    truths = truth_by_name(reporting)
    contents: dict[str, str | bytes] = {}  # of images on their way through the network
    sources = remembered(images_to_see(reporting), contents)
    tags = None if reporting.tags is None else read_tags(reporting.tags, run.class_names)[0]

    def predictions() -> Iterator[Prediction]:
        for found in predictor.predict_with_heat(sources, tags):
            on_progress(chosen.num_seen + chosen.num_skipped + 1, None)
            if isinstance(found, BrokenImage):
                contents.pop(found.name, None)
                chosen.num_skipped += 1
                continue
            name = found.prediction.image
            heat = _heat_of(found, predictor, _present(truths.get(name), reporting))
            chosen.add(_picture(found.prediction, contents.pop(name, name), heat))
            yield found.prediction

    totals = count_predictions(predictions())
    content = _content_of_run(run, predictor, reporting)
    return _written(out, content, chosen, totals, reporting)


def _report_predictions(
    file: Path, out: Path, reporting: Reporting, on_progress: Progress
) -> Reported:
    described = summary_beside(file)
    reporting = replace(reporting, images=reporting.images or described.get("images"))
    chosen = _Chosen(reporting.most_pictures)
    names: dict[str, None] = {}

    def predictions() -> Iterator[Prediction]:
        for prediction in read_predictions(file):
            names.update(dict.fromkeys(prediction.scores))
            chosen.add(ReportPicture(prediction, partial(no_picture, prediction.image)))
            yield prediction

    totals = count_predictions(predictions())
    shown = {picture.prediction.image for picture in chosen.pictures}
    contents = contents_of(shown, reporting)
    run = run_behind(described, reporting)
    class_names = tuple(described.get("classes") or (run.class_names if run else names))
    if run is None:
        pictures = [_opened(picture, contents) for picture in chosen.pictures]
        content = ReportContent(class_names, (), thresholds=described.get("thresholds") or {})
    else:
        look, places = settings_of(described)
        predictor = run.predictor(reporting.look or look, reporting.places or places)
        pictures = list(_with_heat(chosen.pictures, contents, predictor, on_progress))
        content = _content_of_run(run, predictor, reporting)
    chosen.heap = [(item.prediction.doubt, -place, item) for place, item in enumerate(pictures)]
    facts = {**content.facts, "Predictions": str(file)}
    metrics = read_metrics_file(reporting, file.parent, None)
    content = replace(content, facts=facts, metrics=content.metrics or metrics)
    return _written(out, content, chosen, totals, reporting)


def _written(
    out: Path, content: ReportContent, chosen: _Chosen, totals: Totals, reporting: Reporting
) -> Reported:
    pictures = chosen.pictures
    facts = dict(content.facts)
    if reporting.images is not None:
        facts["Images"] = reporting.images
    if chosen.num_skipped:
        facts["Unreadable images"] = f"{chosen.num_skipped}, not in this report"
    truth_names = None
    if reporting.truth is not None:
        truths = truth_by_name(reporting)
        pictures = [replace(each, truth=truths.get(each.prediction.image)) for each in pictures]
        truth_names = reporting.truth.class_names
        facts["Truth"] = f"{reporting.truth.root}, split {reporting.split}"
    write_report(
        out,
        replace(
            content, pictures=pictures, totals=totals, facts=facts, truth_class_names=truth_names
        ),
    )
    return Reported(out, len(pictures), totals.num_images, chosen.num_skipped)


def _content_of_run(run: TrainedRun, predictor: Predictor, reporting: Reporting) -> ReportContent:
    calibration = run.calibration
    tuned = "nothing; `weakloc calibrate` does" if calibration is None else calibration.supervision
    thresholds = zip(run.class_names, predictor.locating.thresholds, strict=True)
    return ReportContent(
        class_names=run.class_names,
        pictures=(),
        title=run.path.absolute().name,
        run=read_record(run.path),
        metrics=read_metrics_file(reporting, run.path, run.path),
        thresholds=dict(thresholds),
        facts={"Thresholds tuned by": tuned},
        min_area=predictor.places.min_area,
    )


def coarse_heat(
    heat: ScoreMaps, class_names: Sequence[str], predictor: Predictor
) -> dict[str, CoarseHeat]:
    """Each class's map as thresholds see it, on HEAT_CELLS cells along the long side."""
    if not class_names:
        return {}
    shares = NORMALISATIONS[predictor.places.threshold_mode](heat.values)
    grid = image_grid(heat.transform.image_size, long_side=HEAT_CELLS)
    small = resample(ScoreMaps(shares, heat.transform, "cam"), grid).values
    cells = np.rint(np.clip(small, 0.0, 1.0) * 255.0).astype(np.uint8)
    return dict(zip(class_names, cells, strict=True))


def _heat_of(found: Located, predictor: Predictor, truth: frozenset[str]) -> dict[str, CoarseHeat]:
    """The maps of the classes that have places; also of missed ones and of the likeliest.

    A beam search is too slow to look for what nobody asked for.
    """
    names = predictor.source.class_names
    heat = coarse_heat(found.heat, [names[index] for index in found.classes], predictor)
    if predictor.look.localiser == "beam_search":
        return heat
    likeliest = int(found.image.probabilities.argmax())
    more = [
        index
        for index, name in enumerate(names)
        if name not in heat and (index == likeliest or name in truth)
    ]
    if not more:
        return heat
    maps = predictor.heat(found.image, more, predictor.look)
    return heat | coarse_heat(maps, [names[index] for index in more], predictor)


def _with_heat(
    pictures: Sequence[ReportPicture],
    contents: Mapping[str, str | bytes],
    predictor: Predictor,
    on_progress: Progress,
) -> Iterator[ReportPicture]:
    """The heat of the classes that each prediction has a place for."""
    known = {name: index for index, name in enumerate(predictor.source.class_names)}
    sources = (
        ImageSource(name, contents[name])
        for name in (each.prediction.image for each in pictures)
        if name in contents
    )
    seen_images = predictor.see(sources)
    for done, picture in enumerate(pictures, start=1):
        on_progress(done, len(pictures))
        name = picture.prediction.image
        seen = next(seen_images) if name in contents else BrokenImage(name, "not found")
        if isinstance(seen, BrokenImage):
            yield _opened(picture, contents)
            continue
        placed = {point.class_name for point in picture.prediction.points}
        placed.update(box.class_name for box in picture.prediction.boxes)
        wanted = sorted(known[each] for each in placed if each in known)
        maps = predictor.heat(seen, wanted, predictor.look) if wanted else None
        names = [predictor.source.class_names[index] for index in wanted]
        heat = {} if maps is None else coarse_heat(maps, names, predictor)
        yield _picture(picture.prediction, contents[name], heat)


def _present(sample: Sample | None, reporting: Reporting) -> frozenset[str]:
    """The classes that the data set says are there."""
    if sample is None or reporting.truth is None:
        return frozenset()
    names = reporting.truth.class_names
    return frozenset(names[index] for index in np.flatnonzero(sample.labels == PRESENT))


def _opened(picture: ReportPicture, contents: Mapping[str, str | bytes]) -> ReportPicture:
    content = contents.get(picture.prediction.image)
    return picture if content is None else _picture(picture.prediction, content, {})


def _picture(
    prediction: Prediction, content: str | bytes, heat: Mapping[str, CoarseHeat]
) -> ReportPicture:
    side = (_LARGEST_SIDE, _LARGEST_SIDE)
    opener = partial(open_image, content, name=prediction.image, shrink_to=side)
    return ReportPicture(prediction, opener, heat)
