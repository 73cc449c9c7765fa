"""Runs or prediction files, and what is known of the images, as one report page."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import attrgetter
from pathlib import Path

import numpy as np
from PIL.Image import Image

from weakloc.api.data_sets import Data, opened
from weakloc.api.predictions import Summary, classes_and_folder, summary_beside
from weakloc.api.runs import TrainedRun, load_folder
from weakloc.data.images import open_image
from weakloc.data.sources import ImageSource, find_images, read_tags
from weakloc.errors import DataError, ImageError, PredictionsError, SettingError
from weakloc.files import ByName, is_so, leads_out, path_of
from weakloc.localize.maps import NORMALISATIONS, image_grid, resample
from weakloc.methods.settings import from_settings
from weakloc.metrics.result import evaluation_of
from weakloc.output.exporters.jsonl import predictions_file, read_predictions
from weakloc.output.report import write_report
from weakloc.output.report_gallery import (
    HEAT_CELLS,
    PICTURE_SIDES,
    CoarseHeat,
    ReportContent,
    ReportPicture,
    Totals,
)
from weakloc.predictor.predictor import Located, Predictor
from weakloc.predictor.views import SeenImage
from weakloc.settings import DataSettings, Look, Places, ReportSettings, look_and_places
from weakloc.structures import PRESENT, BrokenImage, DataSet, Prediction, Sample, ScoreMaps
from weakloc.training.hub import folder_of
from weakloc.training.run_folder import read_record
from weakloc.work import Progress, silent

_LARGEST_SIDE = max(side for _, side in PICTURE_SIDES)


@dataclass(frozen=True)
class Reported:
    """Where the page is, and how many of the images it shows."""

    path: Path
    num_shown: int
    num_images: int
    num_skipped: int = 0


@dataclass(frozen=True)
class _Reporting:
    """What there is to show besides what is said of the images, and where it goes."""

    out: Path
    images: str | None
    data_set: DataSet | None
    samples: Sequence[Sample]  # of the data set's split
    settings: ReportSettings
    look: Look | None
    places: Places | None
    on_progress: Progress

    def sources(self) -> Iterator[ImageSource]:
        """The images of the folder, list or shards that was named, else those of the split."""
        if self.images is not None:
            return find_images(self.images)
        if self.data_set is None:
            raise DataError(
                "no images are given",
                remedy="Give a folder of images after the run, or a data set with --data",
            )
        return map(ImageSource.of, self.samples)

    def contents_of(self, names: Collection[str]) -> dict[str, str | bytes]:
        """Where the images of these names are, as far as they are found."""
        if self.images is None and self.data_set is None:
            return {}
        if self.images is not None and is_so(path_of(self.images).is_dir):
            paths = {name: path_of(self.images) / name for name in names if not leads_out(name)}
            return {name: str(path) for name, path in paths.items() if is_so(path.is_file)}
        return {source.name: source.content for source in self.sources() if source.name in names}

    @cached_property
    def truths(self) -> ByName[Sample]:
        return ByName({sample.name: sample for sample in self.samples})

    def tags_of(self, image: str) -> frozenset[str]:
        """The classes that the data set says are there."""
        sample = self.truths.get(image)
        if sample is None or self.data_set is None:
            return frozenset()
        names = self.data_set.class_names
        return frozenset(names[index] for index in np.flatnonzero(sample.labels == PRESENT))

    def picture(
        self, prediction: Prediction, content: str | bytes | None, heat: Mapping[str, CoarseHeat]
    ) -> ReportPicture:
        opener = partial(_opened, content, prediction.image)
        return ReportPicture(prediction, opener, heat, self.truths.get(prediction.image))

    def of_run(self, run: TrainedRun) -> Reported:
        """What the run sees in the images."""
        predictor = run.predictor(self.look or Look(), self.places or Places())
        table = self.settings.tags
        tags = None if table is None else read_tags(table, run.class_names)[0]
        totals = Totals()
        broken: list[BrokenImage] = []

        def pictures() -> Iterator[ReportPicture]:
            sources, copies = itertools.tee(self.sources())
            answers = predictor.predict_with_heat(copies, tags)
            for done, (image, located) in enumerate(zip(sources, answers, strict=True), start=1):
                self.on_progress(done, None)
                if isinstance(located, BrokenImage):
                    broken.append(located)
                    continue
                totals.add(located.prediction)
                heat = _heat_of(located, predictor, self.tags_of(image.name))
                yield self.picture(located.prediction, image.content, heat)

        by_doubt = attrgetter("prediction.doubt")
        shown = heapq.nlargest(self.settings.pictures, pictures(), key=by_doubt)
        return self._written(self._content_of(run, predictor), shown, totals, len(broken))

    def of_predictions(self, file: Path, described: Summary) -> Reported:
        """What the predictions say; `described` is the summary beside them."""
        material = replace(self, images=self.images or described.get("images"))
        totals = Totals()

        def counted() -> Iterator[Prediction]:
            for prediction in read_predictions(file):
                totals.add(prediction)
                yield prediction

        shown = heapq.nlargest(self.settings.pictures, counted(), key=attrgetter("doubt"))
        images = {prediction.image for prediction in shown}
        if self.images is None:  # a list that the predictions name is not the user's word
            images = {image for image in images if not leads_out(image)}
        contents = material.contents_of(images)
        made_with = None if self.look is None else (self.look, Places())
        look, places = look_and_places(described.get("settings", {}))
        with suppress(SettingError):  # of another version
            made_with = from_settings(Look, look), from_settings(Places, places)
        named = self.settings.run
        if named is None and (maker := described.get("run")):
            named = Path(maker) if is_so((Path(maker) / "run.json").is_file) else None
        run = None if named is None else load_folder(named)
        heats: Iterable[Mapping[str, CoarseHeat]] = itertools.repeat({})
        if run is None or made_with is None:
            class_names = tuple(classes_and_folder(file)[0])
            content = ReportContent(class_names, (), thresholds=described.get("thresholds") or {})
        else:
            predictor = run.predictor(self.look or made_with[0], self.places or made_with[1])
            heats = _heats(shown, contents, predictor, self.on_progress)
            content = self._content_of(run, predictor)
        facts = {**content.facts, "Predictions": str(file)}
        if made_with is None:
            facts["Heat"] = "not shown: predicted with settings that this weakloc does not have"
        metrics = content.metrics or evaluation_of(file.parent, self.settings.metrics, "")
        pictures = [
            material.picture(prediction, contents.get(prediction.image), heat)
            for prediction, heat in zip(shown, heats, strict=False)
        ]
        return material._written(replace(content, facts=facts, metrics=metrics), pictures, totals)

    def _content_of(self, run: TrainedRun, predictor: Predictor) -> ReportContent:
        calibration = run.calibration
        tuned = "nothing; `weakloc calibrate` does"
        thresholds = zip(run.class_names, predictor.thresholds, strict=True)
        name = Path(run.name).absolute().name
        return ReportContent(
            class_names=run.class_names,
            pictures=(),
            title=name,
            run=read_record(run.path),
            metrics=evaluation_of(run.path, self.settings.metrics, name),
            thresholds=dict(thresholds),
            facts={"Thresholds tuned by": calibration.supervision if calibration else tuned},
            min_area=predictor.places.min_area,
        )

    def _written(
        self,
        content: ReportContent,
        pictures: Sequence[ReportPicture],
        totals: Totals,
        num_skipped: int = 0,
    ) -> Reported:
        facts, class_names = dict(content.facts), None
        if self.images is not None:
            facts["Images"] = self.images
        if num_skipped:
            facts["Unreadable images"] = f"{num_skipped}, not in this report"
        if self.data_set is not None:
            facts["Truth"] = f"{self.data_set.root}, split {self.settings.split}"
            class_names = self.data_set.class_names
        content = replace(
            content, pictures=pictures, totals=totals, facts=facts, truth_class_names=class_names
        )
        page = write_report(self.out, content)
        return Reported(page, len(pictures), totals.num_images, num_skipped)


def report(
    source: str | Path | TrainedRun,
    out: str | Path,
    *,
    images: str | None = None,
    data: Data | None = None,
    settings: ReportSettings = ReportSettings(),
    look: Look | None = None,
    places: Places | None = None,
    reading: DataSettings = DataSettings(),
    on_progress: Progress = silent,
) -> Reported:
    """One HTML page about a run, which then predicts `images`, or about predictions.

    `images` is whatever `weakloc predict` takes; without it a run sees the split of `data`, and
    predictions name their images themselves.
    """
    data_set = None if data is None else opened(data, reading)
    samples = () if data_set is None else data_set.split(settings.split)
    work = _Reporting(Path(out), images, data_set, samples, settings, look, places, on_progress)
    source = source if isinstance(source, TrainedRun) else folder_of(source)
    if isinstance(source, TrainedRun) or (source / "run.json").is_file():
        return work.of_run(load_folder(source))
    if not (file := predictions_file(source)).is_file():
        raise PredictionsError(
            "is neither a run folder nor predictions",
            location=str(source),
            remedy="Give the --out of `weakloc train` or of `weakloc predict`",
        )
    return work.of_predictions(file, summary_beside(file))


def _opened(content: str | bytes | None, name: str) -> Image:
    if content is None:
        raise ImageError("the images of these predictions were not given", location=name)
    return open_image(content, name=name, shrink_to=(_LARGEST_SIDE, _LARGEST_SIDE))


def _coarse_heat(
    image: SeenImage, classes: Sequence[int], predictor: Predictor, heat: ScoreMaps | None
) -> dict[str, CoarseHeat]:
    """Each class's map as thresholds see it, on HEAT_CELLS cells along the long side."""
    if not classes:
        return {}
    heat = heat or predictor.heat(image, classes, predictor.look)
    shares = NORMALISATIONS[predictor.rules.threshold_mode](heat.values)
    grid = image_grid(heat.transform.image_size, long_side=HEAT_CELLS)
    small = resample(ScoreMaps(shares, heat.transform, "cam"), grid).values
    cells = np.rint(np.clip(small, 0.0, 1.0) * 255.0).astype(np.uint8)
    names = predictor.source.class_names
    return {names[index]: cells[row] for row, index in enumerate(classes)}


def _heat_of(located: Located, predictor: Predictor, tags: frozenset[str]) -> dict[str, CoarseHeat]:
    """The maps of the classes that have places; also of missed ones and of the likeliest.

    A beam search is too slow to look for what nobody asked for.
    """
    heat = _coarse_heat(located.image, located.classes, predictor, located.heat)
    if predictor.look.localiser == "beam_search":
        return heat
    likeliest = int(located.image.probabilities.argmax())
    more = [
        index
        for index, name in enumerate(predictor.source.class_names)
        if name not in heat and (index == likeliest or name in tags)
    ]
    return heat | _coarse_heat(located.image, more, predictor, None)


def _heats(
    predictions: Sequence[Prediction],
    contents: Mapping[str, str | bytes],
    predictor: Predictor,
    on_progress: Progress,
) -> Iterator[dict[str, CoarseHeat]]:
    """Of each prediction the heat of the classes that it has a place for."""
    known = {name: index for index, name in enumerate(predictor.source.class_names)}
    names = [prediction.image for prediction in predictions]
    images = predictor.see(ImageSource(name, contents[name]) for name in names if name in contents)
    for done, prediction in enumerate(predictions, start=1):
        on_progress(done, len(predictions))
        image = next(images) if prediction.image in contents else None
        placed = {item.class_name for item in (*prediction.points, *prediction.boxes)}
        classes = sorted(known[name] for name in placed if name in known)
        yield _coarse_heat(image, classes, predictor, None) if isinstance(image, SeenImage) else {}
