"""Runs and prediction files against the truth of a data set, with baselines beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from weakloc.api.data_sets import read
from weakloc.api.predictions import predictions_file, summary_beside
from weakloc.api.runs import SUFFIX, ExportedNetwork, TrainedRun, load
from weakloc.config import PredictSettings
from weakloc.data.readers.coco import read_coco_results
from weakloc.data.sources import ImageSource
from weakloc.errors import DataError, PredictionsError, did_you_mean
from weakloc.files import by_last_part, open_whole
from weakloc.geometry import GridTransform, Size
from weakloc.localize.maps import resample
from weakloc.metrics.arrays import ClassIndex, pair_predictions
from weakloc.metrics.average_precision import RankingConvention
from weakloc.metrics.evaluation import (
    METRICS,
    Evaluation,
    Report,
    SaidKind,
    Setup,
    TruthKind,
    compare_reports,
    said_kinds,
    truth_kinds,
)
from weakloc.metrics.map_evaluation import ClassMap, MapEvaluation, MapSetup
from weakloc.metrics.max_box import (
    MAX_BOX_ACC,
    MAX_BOX_ACC_V2,
    MapConvention,
    Resolution,
)
from weakloc.metrics.uncertainty import Difference, Resampling
from weakloc.output.exporters.jsonl import read_predictions
from weakloc.predictor.places import wanted_classes
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import SeenImage
from weakloc.structures import PRESENT, BrokenImage, DataSet, Prediction, Sample

SIDE = 224.0  # of the maps in the published definition


class MapMetrics:
    """Asks for the maps of the classes that are present, as the definitions say ("GT-known").

    An image with several classes is one case for each. `compatible` adds the public evaluator's
    reading of each number, `original` the same at the size of the images.
    """

    def __init__(self, setup: Setup, *, compatible: bool = False, original: bool = False) -> None:
        self._resolutions: tuple[Resolution, ...] = ("224", "original") if original else ("224",)
        conventions = [
            replace(base, resolution=resolution, reading=reading)
            for base in (MAX_BOX_ACC, MAX_BOX_ACC_V2)
            for resolution in self._resolutions
            for reading in (("clean", "compatible") if compatible else ("clean",))
        ]
        self.evaluation = MapEvaluation(_map_setup(setup, conventions))

    @classmethod
    def fitting(
        cls, truth: Iterable[TruthKind], setup: Setup, *, compatible: bool, original: bool
    ) -> MapMetrics | None:
        """None where the truth supports none of them."""
        if not {"boxes", "masks"} & set(truth):
            return None
        return cls(setup, compatible=compatible, original=original)

    def update(self, sample: Sample, seen: SeenImage, predictor: Predictor) -> None:
        classes = [int(index) for index in np.flatnonzero(sample.labels == PRESENT)]
        if not classes:
            return
        heat = predictor.heat(seen, classes, predictor.settings)
        sizes: dict[Resolution, Size] = {"224": (SIDE, SIDE), "original": seen.size}
        maps = {
            resolution: resample(
                heat, GridTransform.identity(seen.size).resize(sizes[resolution])
            ).values
            for resolution in self._resolutions
        }
        for row, class_index in enumerate(classes):
            case = replace(sample, name=f"{sample.name} ({class_index})")
            own = {resolution: values[row] for resolution, values in maps.items()}
            self.evaluation.update(case, ClassMap(class_index, seen.picture.size, own))

    def added_to(self, report: Report, *, hidden_supervision: int) -> Report:
        found = self.evaluation.results(hidden_supervision=hidden_supervision)
        usable = [result for result in found if result.value is not None]
        reasons = {each.name: each.unavailable or "" for each in found if each.value is None}
        return Report(
            (*report.results, *usable),
            {**report.baselines, **self.evaluation.baselines()},
            {**report.unavailable, **reasons},
        )


def _map_setup(setup: Setup, conventions: list[MapConvention]) -> MapSetup:
    return MapSetup(
        conventions,
        segmentation_values=setup.segmentation_values,
        resampling=setup.resampling,
    )


OnProgress = Callable[[int, int | None], None]
# Metrics that read the places of the true classes and of the likeliest alone.
OF_FEW_CLASSES = frozenset(("classification", "accuracy", "single_object"))
EVERYTHING: frozenset[SaidKind] = frozenset(("scores", "points", "boxes", "masks"))


@dataclass(frozen=True)
class Evaluated:
    """The numbers of one run or file; `tuned_by` says what chose its thresholds."""

    name: str
    split: str
    report: Report
    tuned_by: str
    num_images: int
    num_broken: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            **self.report.to_json(),
            "evaluated": self.name,
            "split": self.split,
            "thresholds_from": self.tuned_by,
            "num_images": self.num_images,
            "num_broken": self.num_broken,
        }


@dataclass(frozen=True)
class Judging:
    """What all runs under comparison are judged by.

    `compatible` also reads score maps as the public evaluator of Choe et al. 2020 does, to the
    bit; `original_size` also at the size of the images. `numbers` are those that are wanted, to
    save the time of the others; None are all that the truth supports.
    """

    data_set: DataSet
    split: str
    num_resamples: int = 1000
    compatible: bool = False
    original_size: bool = False
    numbers: frozenset[str] | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of the catalogue that yield a wanted number."""
        wanted = self.numbers
        return tuple(
            name
            for name, metric in METRICS.items()
            if wanted is None or wanted & set(metric.headlines)
        )

    @property
    def wants_maps(self) -> bool:
        known = {name for metric in METRICS.values() for name in metric.headlines}
        return self.numbers is None or not self.numbers <= known

    @property
    def samples(self) -> Sequence[Sample]:
        if self.split not in self.data_set.splits:
            raise DataError(
                f"there is no split {self.split!r}",
                where=str(self.data_set.root),
                remedy=did_you_mean(self.split, self.data_set.splits),
            )
        return self.data_set.splits[self.split]

    @property
    def setup(self) -> Setup:
        return Setup(
            ClassIndex(self.data_set.class_names),
            RankingConvention(resampling=Resampling(self.num_resamples)),
            dict(self.data_set.segmentation_values),
        )


def evaluate(
    what: str | Path | TrainedRun | ExportedNetwork,
    data: str | Path | DataSet,
    *,
    split: str = "val",
    settings: PredictSettings | None = None,
) -> Evaluated:
    """A run, exported file, predictions.jsonl or COCO results file against a split of the data."""
    data_set = data if isinstance(data, DataSet) else read(data)
    return judge(what, Judging(data_set, split), settings=settings)


def judge(
    what: str | Path | TrainedRun | ExportedNetwork,
    judging: Judging,
    *,
    settings: PredictSettings | None = None,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Evaluated:
    """`evaluate` with all that can be chosen, for several runs that are judged alike."""
    if isinstance(what, TrainedRun | ExportedNetwork):
        return _evaluate_run(what, judging, settings or PredictSettings(), on_progress)
    path = Path(what)
    file = predictions_file(path)
    if path.suffix == SUFFIX or (path.is_dir() and not file.is_file()):
        return _evaluate_run(load(path), judging, settings or PredictSettings(), on_progress)
    if file.suffix == ".json":
        found = read_coco_results(file, judging.data_set)
        return _evaluate_file(found, file, judging, is_complete=False)
    return _evaluate_file(list(read_predictions(file)), file, judging, is_complete=True)


def compare(first: Evaluated, second: Evaluated) -> tuple[Difference, ...]:
    """First minus second, resampled in pairs over the same images."""
    return compare_reports(first.report, second.report)


def write_metrics(path: Path, evaluated: Sequence[Evaluated]) -> None:
    """One JSON document; with several runs a list under "runs"."""
    documents = [each.to_json() for each in evaluated]
    content = documents[0] if len(documents) == 1 else {"runs": documents}
    with open_whole(path) as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def write_markdown(path: Path, evaluated: Sequence[Evaluated]) -> None:
    """One row a number, one column a run, with the interval and the best baseline."""
    names = [result.name for result in evaluated[0].report.results]
    with open_whole(path) as file:
        file.write("| metric | " + " | ".join(each.name for each in evaluated))
        file.write(" | best baseline |\n|---|" + "---|" * (len(evaluated) + 1) + "\n")
        for name in names:
            cells = [_markdown_cell(each.report, name) for each in evaluated]
            baselines = evaluated[0].report.baselines.get(name, {})
            best = max(baselines.items(), key=lambda item: item[1], default=("-", float("nan")))
            shown = f"{best[1]:.3f} ({best[0]})" if baselines else "-"
            file.write(f"| {name} | {' | '.join(cells)} | {shown} |\n")
        for each in evaluated:
            file.write(f"\n{each.name}: thresholds tuned by {each.tuned_by}; ")
            file.write(f"{each.num_images} images of {each.split}.\n")


def _markdown_cell(report: Report, name: str) -> str:
    for result in report.results:
        if result.name == name and result.value is not None:
            interval = result.interval
            spread = "" if interval is None else f" ({interval.low:.3f} to {interval.high:.3f})"
            return f"{result.value:.3f}{spread}"
    return "-"


def _evaluate_run(
    run: TrainedRun | ExportedNetwork,
    judging: Judging,
    settings: PredictSettings,
    on_progress: OnProgress,
) -> Evaluated:
    _check_classes(run.class_names, judging.data_set.class_names, str(run.path))
    samples = judging.samples
    truth, metrics = truth_kinds(samples), judging.metrics
    masks = settings.masks if settings.masks != "none" else "threshold"
    paints = "masks" in truth and any("masks" in METRICS[name].said for name in metrics)
    wanted = replace(settings, masks=masks if paints else "none")
    said = EVERYTHING if paints else EVERYTHING - {"masks"}
    evaluation = Evaluation(judging.setup, truth=truth, said=said, metrics=metrics)
    maps = None
    if judging.wants_maps:
        maps = MapMetrics.fitting(
            truth, judging.setup, compatible=judging.compatible, original=judging.original_size
        )
    asks_all = not OF_FEW_CLASSES.issuperset(metrics)
    seeing = _Seeing(run.predictor(wanted), evaluation, maps, asks_all)
    num_broken = seeing.through(samples, on_progress)
    report = evaluation.report(hidden_supervision=run.num_boxes_used)
    if maps is not None:
        report = maps.added_to(report, hidden_supervision=run.hidden_supervision)
    tuned_by = str(run.origin_of_thresholds["thresholds_from"])
    if settings.threshold is not None:
        tuned_by = f"--threshold {settings.threshold:g}"
    num_images = len(samples) - num_broken
    return Evaluated(str(run.path), judging.split, report, tuned_by, num_images, num_broken)


@dataclass(frozen=True)
class _Seeing:
    """Every class is asked for its places, whatever its score, as the rankings need it, or the
    true and the likeliest alone; masks are painted for the classes that count as present, as users
    get them."""

    predictor: Predictor
    evaluation: Evaluation
    maps: MapMetrics | None
    asks_all: bool

    def through(self, samples: Sequence[Sample], on_progress: OnProgress) -> int:
        """The number of broken images, which no metric counts."""
        by_name = {sample.name: sample for sample in samples}
        images = [ImageSource(sample.name, sample.path) for sample in samples]
        plain = self._with(replace(self.predictor.settings, masks="none"))
        num_broken = 0
        for done, seen in enumerate(self.predictor.see(images), start=1):
            on_progress(done, len(samples))
            if isinstance(seen, BrokenImage):
                num_broken += 1
                continue
            sample = by_name[seen.name]
            prediction = plain.measurable(seen, self._asked(sample, seen))
            if self.predictor.settings.masks != "none":
                present = wanted_classes(seen.probabilities, None, self.predictor.settings)
                masks = self.predictor.measurable(seen, present).masks
                prediction = replace(prediction, masks=masks)
            self.evaluation.update(sample, prediction)
            if self.maps is not None:
                self.maps.update(sample, seen, self.predictor)
        return num_broken

    def _asked(self, sample: Sample, seen: SeenImage) -> list[int]:
        if self.asks_all:
            return list(range(len(seen.probabilities)))
        true = np.flatnonzero(sample.labels == PRESENT).tolist()
        return sorted({*true, int(seen.probabilities.argmax())})

    def _with(self, settings: PredictSettings) -> Predictor:
        own = self.predictor
        thresholds = own.locating.thresholds
        return Predictor(own.source, settings, thresholds=thresholds, heat=own.heat)


def _evaluate_file(
    predictions: list[Prediction], path: Path, judging: Judging, *, is_complete: bool
) -> Evaluated:
    samples = judging.samples
    evaluation = Evaluation(judging.setup, truth=truth_kinds(samples), said=said_kinds(predictions))
    skipped = _skipped_beside(path)
    left = [sample for sample in samples if sample.name not in skipped]
    pairs: Iterable[tuple[Sample, Prediction]] = pair_predictions(
        _of_split(predictions, samples, judging.data_set),
        left,
        judging.setup.classes,
        when_missing="error" if is_complete else "empty",
    )
    for sample, prediction in pairs:
        evaluation.update(sample, prediction)
    tuned_by, supervision = _origin_of(path)
    report = evaluation.report(hidden_supervision=supervision)
    num_broken = len(samples) - len(left)
    return Evaluated(str(path), judging.split, report, tuned_by, len(left), num_broken)


def _of_split(
    predictions: Sequence[Prediction], samples: Sequence[Sample], data_set: DataSet
) -> Iterator[Prediction]:
    """The predictions of the split's images; those of its other splits are passed over.

    Predictions of a folder inside the data set are named from there, samples from its root.
    """
    names = {sample.name for sample in samples}
    others = {sample.name for sample in data_set.samples()} - names
    ends = by_last_part(names | others)
    for prediction in predictions:
        named = prediction.image
        if named not in names and named not in others:
            named = ends.get(named.rpartition("/")[2], named)
        if named not in others:
            yield replace(prediction, image=named)


def _skipped_beside(path: Path) -> set[str]:
    listed = path.with_name("skipped.jsonl")
    if not listed.is_file():
        return set()
    return {json.loads(line)["image"] for line in listed.read_text("utf-8").splitlines() if line}


def _origin_of(path: Path) -> tuple[str, int]:
    """What the summary beside a predictions.jsonl says of its thresholds, and their boxes."""
    record = summary_beside(path) if path.suffix == ".jsonl" else {}
    return str(record.get("thresholds_from", "unknown")), int(record.get("num_boxes_used", 0))


def _check_classes(of_run: Sequence[str], of_data: Sequence[str], where: str) -> None:
    if tuple(of_run) == tuple(of_data):
        return
    strange = [name for name in of_run if name not in of_data]
    missing = [name for name in of_data if name not in of_run]
    raise PredictionsError(
        f"the run's classes differ from the data set's: {strange[:5] or 'none'} only in the run, "
        f"{missing[:5] or 'none'} only in the data",
        where=where,
        remedy="Give --class-names in the order of the run, or evaluate a predictions.jsonl",
    )
