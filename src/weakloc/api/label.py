"""Tagged photographs in; boxes on these photographs, in the formats of other tools, and a report.

    tags -> plan -> features -> a trained run -> cells -> places by tags -> exports, report
                                   drawn boxes -> a detector -^

Every stage is done once for its inputs (`api.stages`); the same call goes on after any end.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from msgspec import convert, to_builtins

from weakloc import __version__
from weakloc.api import label_plan
from weakloc.api.data_sets import Data, opened
from weakloc.api.label_plan import LabelPlan
from weakloc.api.predictions import SideFiles, export_predictions, predict_to_folder, unopened
from weakloc.api.reports import report
from weakloc.api.stages import StageResult, Stages, open_record
from weakloc.api.training import Comparison, distil, refine, train
from weakloc.data.sources import ImageSource, find_images
from weakloc.errors import DataError, SettingError, StoppedError
from weakloc.files import digest_of_file, only_writer
from weakloc.geometry import box_iou
from weakloc.methods import method_named
from weakloc.metrics.baselines import middle_box
from weakloc.output.exporters import check_formats
from weakloc.output.exporters.jsonl import read_predictions
from weakloc.output.report_gallery import Totals
from weakloc.output.settings import ExportOptions
from weakloc.settings import DataSettings, DistilSettings, LabelSettings, Places, RefineSettings
from weakloc.structures import PRESENT, DataSet
from weakloc.training import run_folder
from weakloc.training.inputs import content_key
from weakloc.training.plan import make_plan
from weakloc.work import NO_DISPLAY, Display, Progress

METHOD = "wildcat"
FORMATS = ("coco", "yolo")
USUAL_PASS = 0.02  # seconds of the backbone over an image: for the shares of the stages alone
DOUBTFUL = 0.5  # doubt from which an image should be looked at
MIDDLE = 0.7  # of each side: the best box that knows nothing, where objects are large and centred
GOES_ON = "The same command goes on where this one ended"


@dataclass(frozen=True)
class Findings:
    """What was found in the images with tags; `tag_map` is the classification mAP of images that
    were not learned from, None where none were kept back. `in_the_middle` is the share of images
    whose first box overlaps with a plain one in the middle, by an IoU of 0.5."""

    num_images: int
    boxes: Mapping[str, int]  # class -> how many
    num_doubtful: int
    num_disagreements: int  # tags that the network contradicts
    unreadable: Sequence[str]
    tag_map: float | None
    in_the_middle: float


@dataclass(frozen=True)
class Labelled:
    """Where everything lies, and how it was made."""

    folder: Path  # with the folders run, predictions and, of images without tags, new
    exports: Mapping[str, Path]
    report: Path
    plan: LabelPlan
    findings: Findings
    data_set: DataSet
    comparison: Comparison | None  # of what drawn boxes taught with the run from tags


def label(
    photos: Data,
    out: str | Path = "labelled",
    *,
    tags: str | Path | None = None,
    new: str | Path | None = None,
    formats: Sequence[str] = (),
    settings: LabelSettings = LabelSettings(),
    exporting: ExportOptions = ExportOptions(),
    reading: DataSettings = DataSettings(),
    display: Display = NO_DISPLAY,
) -> Labelled:
    """Places for every tagged image, learned from these images' tags, and from what was drawn.

    `tags` is a table, where the folders do not say it; `new` further images without tags. The
    predictions are exported to COCO, YOLO and `formats`. What an earlier call finished in `out` is
    not done again while its inputs stay.
    """
    check_formats(formats)
    if tags is not None:
        if reading.labels is not None:
            raise SettingError("--tags and --labels are both given", remedy="Give one of them")
        reading = replace(reading, labels=Path(tags))
    data_set = opened(photos, reading)
    if not any((sample.labels == PRESENT).any() for sample in data_set.samples()):
        remedy = "Sort the images into a folder for each class, or give a table with --tags"
        raise DataError("no image has a tag", location=str(data_set.root), remedy=remedy)
    folder = Path(out)
    for images in [data_set.root] if new is None else [data_set.root, new]:
        # What is made in there would be met as a photograph.
        if folder.resolve().is_relative_to(Path(images).resolve()):
            reason = f"--out is {str(folder)!r}, which lies in {images}"
            raise SettingError(reason, remedy="Give a folder outside of the photographs")
    open_record(folder, str(data_set.root))  # refuses what is not ours, and makes nothing
    chosen = tuple(dict.fromkeys((*FORMATS, *formats)))
    listing = [unopened(ImageSource.of(s), s.labels) for s in data_set.samples()]
    try:
        with only_writer(folder):
            stages = Stages(folder, open_record(folder, str(data_set.root)), display)
            tags, exports = reading.labels, SideFiles(formats=chosen, options=exporting)
            return _Labelling(data_set, tags, settings, folder, exports, stages, listing).all(new)
    except StoppedError as error:
        raise StoppedError(error.message, remedy=GOES_ON) from error


class _TrainDisplay(Display):
    """A training as the first two stages of all."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    def count(self, work: str, done: int, total: int | None) -> None:
        self._stages.show("features", work, done / (total or done or 1))

    def step(self, state: str, done: int, total: int) -> None:
        del state
        self._stages.show("features", "learning the tags", 1.0)
        self._stages.show("tags", "learning the tags", done / total)


@dataclass(frozen=True)
class _Labelling:
    """The stages in their order; each gives what the next ones depend on."""

    data_set: DataSet
    tags: Path | None  # the table that the data set was read with
    settings: LabelSettings
    folder: Path
    exports: SideFiles
    stages: Stages
    listing: Sequence[str]  # of the images of the data set

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def detector(self) -> Path:
        """The run with what drawn boxes taught it."""
        return self.folder / "detector"

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions"

    def all(self, new: str | Path | None) -> Labelled:
        plan = self._plan()
        learned = label_plan.learnable(self.data_set, plan.images, self.settings.seed)
        trained = self._train(plan, learned)
        run = {**trained, **self._refine(plan, learned, trained)}
        run = {**run, **self._learn_drawn(run)}
        comparison = convert(run.get("comparison"), Comparison | None)
        placed = self._place("predictions", self.data_set, self.listing, run)
        exports = {name: self._export(name, placed) for name in self.exports.formats}
        page = self._report(placed)
        if new is not None:
            listing = [unopened(image, None) for image in find_images(str(new))]
            self.stages.costs["new"] = label_plan.PREDICTED * USUAL_PASS * len(listing)
            self._place("new", str(new), listing, run)
        findings = self._findings(trained["tag_map"])
        return Labelled(self.folder, exports, page, plan, findings, self.data_set, comparison)

    def _plan(self) -> LabelPlan:
        settings = {**asdict(self.settings), "masks": None, "drawn": None}
        weights = self.settings.weights
        key = content_key(weights) if Path(weights).is_file() else weights
        inputs = [__version__, settings, self.listing, key]
        made = self.stages.do("plan", inputs, lambda _: to_builtins(self._made_plan()))
        plan = convert(dict(made), LabelPlan)
        self.stages.costs = label_plan.seconds_of(plan, USUAL_PASS, len(self.listing))
        return plan

    def _made_plan(self) -> LabelPlan:
        settings = self.settings
        learned = label_plan.learnable(self.data_set, settings.images, settings.seed)
        samples = next(iter(learned.splits.values()))
        size, because = label_plan.chosen_size(samples, settings)
        method = method_named(METHOD, "practical", {})
        epochs = settings.epochs or method.optimisation.epochs
        refined = min(len(samples), label_plan.REFINED_IMAGES)
        plan = LabelPlan(size, because, len(samples), refined, epochs)
        if settings.minutes is None:
            return plan
        training = make_plan(learned, method, label_plan.train_settings(plan, settings, ""))
        a_pass = label_plan.seconds_a_pass(training)
        return label_plan.fitted(plan, a_pass, len(self.listing), settings.minutes)

    def _train(self, plan: LabelPlan, learned: DataSet) -> StageResult:
        """Also keeps the features of a training that was stopped, until it is done."""
        cache = self.folder / "features"
        settings = label_plan.train_settings(plan, self.settings, str(cache))

        def work(goes_on: bool) -> StageResult:
            if not goes_on:
                shutil.rmtree(cache, ignore_errors=True)
            if not (goes_on and (self.run / run_folder.CHECKPOINT_NAME).is_file()):
                shutil.rmtree(self.run, ignore_errors=True)
            shown = _TrainDisplay(self.stages)
            run = train(
                learned, method=METHOD, out=self.run, settings=settings, resume=True, display=shown
            ).run
            shutil.rmtree(cache, ignore_errors=True)
            weights = digest_of_file(self.run / run_folder.MODEL_NAME)
            return {"weights": weights, "tag_map": run.history[-1].classification_map}

        inputs = [self.stages.record.stages["plan"].digest, to_builtins(plan)]
        return self.stages.do("tags", inputs, work, made=[self.run / run_folder.MODEL_NAME])

    def _refine(self, plan: LabelPlan, learned: DataSet, trained: StageResult) -> StageResult:
        cells = self.run / run_folder.CELLS_NAME

        def work(_goes_on: bool) -> StageResult:
            settings = RefineSettings(images=plan.refined, seed=self.settings.seed)
            refine(self.run, learned, settings=settings, on_progress=self._progress("cells"))
            return {"cells": digest_of_file(cells)}

        inputs = [trained["weights"], plan.refined, self.settings.seed]
        return self.stages.do("cells", inputs, work, made=[cells])

    def _learn_drawn(self, run: StageResult) -> StageResult:
        if self.settings.drawn is None:
            return {}
        reading = DataSettings(labels=self.settings.drawn, class_names=self.data_set.class_names)
        drawn = opened(str(self.data_set.root), reading)
        count = sum(len(sample.drawn.boxes) for sample in drawn.samples())

        def work(_goes_on: bool) -> StageResult:
            shutil.rmtree(self.detector, ignore_errors=True)
            # Of none at all it would learn from its own: that there is none is said then.
            settings = DistilSettings(boxes=max(count, 1), seed=self.settings.seed)
            distilled = distil(self.run, drawn, self.detector, settings)
            learned = self.detector / run_folder.DETECTOR_NAME
            digest = digest_of_file(learned) if learned.is_file() else ""
            return {"detector": digest, "comparison": to_builtins(distilled.comparison)}

        inputs = [run, digest_of_file(self.settings.drawn), self.settings.seed]
        record = self.detector / run_folder.RECORD_NAME
        return self.stages.do("detector", inputs, work, made=[record])

    def _place(
        self, stage: str, images: str | DataSet, listing: Sequence[str], run: StageResult
    ) -> StageResult:
        """Of images with tags what these say, of others what is probable."""
        out = self.folder / stage
        options = replace(self.exports.options, tagged_only=False)
        formats = self.exports.formats if isinstance(images, str) else ()

        def work(goes_on: bool) -> StageResult:
            predict_to_folder(
                self.detector if "detector" in run else self.run,
                images,
                out,
                tags=None if isinstance(images, str) else self.tags,
                places=Places(masks=self.settings.masks),
                beside=SideFiles(formats=formats, options=options),
                resume=goes_on,
                on_progress=self._progress(stage, len(listing)),
            )
            return {"digest": digest_of_file(out / "predictions.jsonl")}

        source = images if isinstance(images, str) else ""
        inputs = [run, self.settings.masks, formats, source, listing]
        return self.stages.do(stage, inputs, work, made=[out / "predictions.jsonl"])

    def _export(self, name: str, placed: StageResult) -> Path:
        folder, options = self.folder / name, self.exports.options

        def work(_goes_on: bool) -> StageResult:
            shutil.rmtree(folder, ignore_errors=True)  # images may be gone since
            made = export_predictions(self.predictions, [name], self.folder, options)[name]
            return {"path": made.relative_to(self.folder).as_posix()}

        inputs = [placed, asdict(options)]
        return self.folder / str(self.stages.do(name, inputs, work, made=[folder])["path"])

    def _report(self, placed: StageResult) -> Path:
        page = self.folder / "report.html"

        def work(_goes_on: bool) -> StageResult:
            report(self.predictions, page, on_progress=self._progress("report"))
            return {}

        self.stages.do("report", placed, work, made=[page])
        return page

    def _progress(self, stage: str, num_images: int = 0) -> Progress:
        return lambda done, total: self.stages.show(
            stage, _IN_WORDS[stage], done / (total or num_images or done or 1)
        )

    def _findings(self, tag_map: float | None) -> Findings:
        totals, num_doubtful, num_in_the_middle = Totals(), 0, 0
        for prediction in read_predictions(self.predictions / "predictions.jsonl"):
            totals.add(prediction)
            num_doubtful += prediction.doubt >= DOUBTFUL
            middle = middle_box(prediction.width, prediction.height, side=MIDDLE)
            first = prediction.boxes[:1]
            num_in_the_middle += any(box_iou(box.box, middle) >= 0.5 for box in first)
        skipped = (self.predictions / "skipped.jsonl").read_text("utf-8").splitlines()
        return Findings(
            num_images=totals.num_images,
            boxes={**dict.fromkeys(self.data_set.class_names, 0), **totals.boxes},
            num_doubtful=num_doubtful,
            num_disagreements=totals.disagreements.total(),
            unreadable=skipped,
            tag_map=tag_map,
            in_the_middle=num_in_the_middle / max(totals.num_images, 1),
        )


_IN_WORDS = {
    "cells": "learning what is object and what is background",
    "predictions": "finding places",
    "report": "writing the report",
    "new": "finding places in images without tags",
}
