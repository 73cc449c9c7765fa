"""Runs and prediction files against the truth of a data set, with baselines beside them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np

from weakloc.api.data_sets import Data, opened, require_same_classes
from weakloc.api.predictions import summary_beside
from weakloc.api.runs import SUFFIX, LoadedRun, load
from weakloc.data.readers.coco import read_coco_results
from weakloc.data.sources import ImageSource
from weakloc.files import ByName, open_whole, write_json
from weakloc.geometry import GridTransform
from weakloc.localize.maps import resample
from weakloc.methods.method import PlaceRules
from weakloc.metrics.average_precision import Definition, RankingConvention
from weakloc.metrics.case import (
    ClassIndex,
    ClassMap,
    MetricSetup,
    OverlapConvention,
    pair_predictions,
)
from weakloc.metrics.evaluation import (
    METRICS,
    Evaluation,
    PredictedKind,
    predicted_kinds,
    truth_kinds,
)
from weakloc.metrics.max_box import READINGS, SIDE
from weakloc.metrics.result import EvaluationRecord, MetricResult
from weakloc.metrics.uncertainty import Resampling
from weakloc.output.exporters.jsonl import predictions_file, read_predictions
from weakloc.predictor.places import wanted_classes
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import SeenImage
from weakloc.settings import DataSettings, EvaluateSettings, Look, Places
from weakloc.structures import PRESENT, BrokenImage, DataSet, Prediction, Sample
from weakloc.work import Progress, silent

# Metrics that read the places of the true classes and of the likeliest alone.
OF_FEW_CLASSES = {"classification", "accuracy", "single_object", "pixels"}
OF_FEW_CLASSES |= {convention.name for convention in READINGS}
EVERYTHING: frozenset[PredictedKind] = frozenset(("scores", "points", "boxes", "masks", "maps"))


@dataclass(frozen=True)
class Evaluated(EvaluationRecord):
    """The numbers of one run or file, with what others are compared with them by."""

    metrics: tuple[MetricResult, ...]

    def to_json(self) -> dict[str, Any]:
        written = {**vars(self), "metrics": tuple(result.record for result in self.metrics)}
        plain: dict[str, Any] = msgspec.to_builtins(EvaluationRecord(**written))
        return plain


def evaluate(
    source: str | Path | LoadedRun,
    data: Data,
    settings: EvaluateSettings = EvaluateSettings(),
    *,
    numbers: Collection[str] | None = None,
    look: Look = Look(),
    places: Places = Places(),
    reading: DataSettings = DataSettings(),
    on_progress: Progress = silent,
) -> Evaluated:
    """A run, exported file, predictions.jsonl or COCO results file against a split of the data.

    `numbers` names those that are wanted, to save the time of the others; None are all that the
    truth supports.
    """
    data_set = opened(data, reading)
    metrics = chosen_metrics(settings, numbers)
    if isinstance(source, str | Path):
        path, file = Path(source), predictions_file(source)
        if path.suffix != SUFFIX and (file.is_file() or not path.is_dir()):
            return _evaluate_file(file, data_set, settings, metrics)
        source = load(path)
    require_same_classes(
        source.class_names,
        data_set.class_names,
        of="the data set",
        location=str(source.path),
        remedy="Give --class-names in the order of the run, or evaluate a predictions.jsonl",
    )
    return _evaluate_run(
        source, data_set, settings, metrics, look=look, places=places, on_progress=on_progress
    )


def chosen_metrics(settings: EvaluateSettings, numbers: Collection[str] | None) -> tuple[str, ...]:
    """Those of the catalogue that yield a wanted number, by a reading that is asked for."""
    return tuple(
        name
        for name, metric in METRICS.items()
        if (numbers is None or not set(metric.headlines).isdisjoint(numbers))
        and (settings.compatible or not name.endswith("_compatible"))
    )


def write_metrics(path: Path, evaluated: Sequence[Evaluated]) -> None:
    """One JSON document; with several runs a list under "runs"."""
    write_json(path, document_of(evaluated))


def document_of(evaluated: Sequence[Evaluated]) -> dict[str, Any]:
    """What metrics.json holds: one record, or a list of them under "runs"."""
    records = [numbers.to_json() for numbers in evaluated]
    return records[0] if len(records) == 1 else {"runs": records}


def write_markdown(path: Path, evaluated: Sequence[Evaluated]) -> None:
    """One row a number, one column a run, with the interval and the best baseline."""
    with open_whole(path) as file:
        file.write("| metric | " + " | ".join(numbers.evaluated for numbers in evaluated))
        file.write(" | best baseline |\n|---|" + "---|" * (len(evaluated) + 1) + "\n")
        for result in evaluated[0].metrics:
            cells = [_markdown_cell(numbers, result.name) for numbers in evaluated]
            file.write(f"| {' | '.join([result.name, *cells, best_baseline(result)])} |\n")
        for numbers in evaluated:
            file.write(f"\n{numbers.evaluated}: thresholds tuned by {numbers.thresholds_from}; ")
            file.write(f"{numbers.num_images} images of {numbers.split}.\n")


def best_baseline(result: MetricResult) -> str:
    best = result.best_baseline
    return "-" if best is None else f"{best[1]:.3f} ({best[0]})"


def _markdown_cell(evaluated: Evaluated, name: str) -> str:
    for result in evaluated.metrics:
        if result.name == name and result.value is not None:
            spread = "" if result.interval is None else f" ({result.interval})"
            return f"{result.value:.3f}{spread}"
    return "-"


def _evaluate_run(
    run: LoadedRun,
    data_set: DataSet,
    settings: EvaluateSettings,
    metrics: Sequence[str],
    *,
    look: Look,
    places: Places,
    on_progress: Progress,
) -> Evaluated:
    samples = data_set.split(settings.split)
    truth = truth_kinds(samples)
    read_of_predictions = {kind for name in metrics for kind in METRICS[name].predicted}
    paints = "masks" in truth and "masks" in read_of_predictions
    masks = places.masks if places.masks != "none" else "threshold"
    evaluation = Evaluation(
        _setup(data_set, settings, run.facts.looking.rules),
        truth=truth,
        predicted=EVERYTHING if paints else EVERYTHING - {"masks"},
        metrics=metrics,
    )
    num_images = 0
    for sample, prediction, maps in _seen(
        samples,
        run.predictor(look, replace(places, masks=masks if paints else "none")),
        asks_all=not OF_FEW_CLASSES.issuperset(metrics),
        asks_maps=bool(truth & {"boxes", "masks"}) and "maps" in read_of_predictions,
        on_progress=on_progress,
    ):
        evaluation.update(evaluation.setup.case(sample, prediction, maps))
        num_images += 1
    tuned_by = run.facts.thresholds_from
    if places.threshold is not None:
        tuned_by = f"--threshold {places.threshold:g}"
    return Evaluated(
        evaluation.results(
            hidden_supervision=run.facts.num_boxes_used, in_training=run.facts.hidden_supervision
        ),
        evaluation.unavailable,
        str(run.path),
        settings.split,
        tuned_by,
        num_images,
        num_broken=len(samples) - num_images,
    )


def _setup(data_set: DataSet, settings: EvaluateSettings, rules: PlaceRules) -> MetricSetup:
    """By the definitions of the rules, unless the settings name others."""
    definition = settings.ap or rules.average_precision
    definitions = get_args(Definition) if definition == "all" else (definition,)
    return MetricSetup(
        ClassIndex(data_set.class_names),
        ranking=RankingConvention(definitions),
        overlap=OverlapConvention(edges=settings.box_edges or rules.box_edges),
        segmentation_values=data_set.segmentation_values,
        resampling=Resampling(settings.resamples),
    )


def _seen(
    samples: Sequence[Sample],
    predictor: Predictor,
    *,
    asks_all: bool,
    asks_maps: bool,
    on_progress: Progress,
) -> Iterator[tuple[Sample, Prediction, list[ClassMap]]]:
    """What the predictor says of every image that is not broken, and its maps.

    Every class is asked for its places, whatever its score, as the rankings need it, or the true
    and the likeliest alone; masks are painted for the classes that count as present, as users get
    them.
    """
    by_name = {sample.name: sample for sample in samples}
    sources = [*map(ImageSource.of, samples)]
    for done, image in enumerate(predictor.see(sources), start=1):
        on_progress(done, len(samples))
        if isinstance(image, BrokenImage):
            continue
        sample = by_name[image.name]
        true = np.flatnonzero(sample.labels == PRESENT).tolist()
        classes = sorted({*true, int(image.probabilities.argmax())})
        if asks_all:
            classes = list(range(len(image.probabilities)))
        paints = predictor.places.masks != "none"
        painted = wanted_classes(image.probabilities, None, predictor.places) if paints else []
        prediction = predictor.measurable(image, classes, painted)
        maps = _class_maps(image, true, predictor) if true and asks_maps else []
        yield sample, prediction, maps


def _class_maps(image: SeenImage, classes: Sequence[int], predictor: Predictor) -> list[ClassMap]:
    """Of the classes that are present, as the definitions say ("GT-known")."""
    heat = predictor.heat(image, classes, predictor.look)
    grid = GridTransform.identity(image.picture.size).resize((SIDE, SIDE))
    return list(map(ClassMap, classes, resample(heat, grid).values))


def _evaluate_file(
    file: Path, data_set: DataSet, settings: EvaluateSettings, metrics: Sequence[str]
) -> Evaluated:
    is_coco = file.suffix == ".json"
    predictions = read_coco_results(file, data_set) if is_coco else list(read_predictions(file))
    samples = data_set.split(settings.split)
    evaluation = Evaluation(
        _setup(data_set, settings, PlaceRules()),
        truth=truth_kinds(samples),
        predicted=predicted_kinds(predictions),
        metrics=[name for name in metrics if "maps" not in METRICS[name].predicted],
    )
    listed = file.with_name("skipped.jsonl")
    lines = listed.read_text("utf-8").splitlines() if listed.is_file() else []
    skipped = {json.loads(line)["image"] for line in lines if line}
    left = [sample for sample in samples if sample.name not in skipped]
    for sample, prediction in pair_predictions(
        _of_split(predictions, samples, data_set),
        left,
        evaluation.setup.classes,
        when_missing="empty" if is_coco else "error",
    ):
        evaluation.update(evaluation.setup.case(sample, prediction))
    summary = summary_beside(file) if file.suffix == ".jsonl" else {}
    return Evaluated(
        evaluation.results(hidden_supervision=int(summary.get("num_boxes_used", 0))),
        evaluation.unavailable,
        str(file),
        settings.split,
        str(summary.get("thresholds_from", "unknown")),
        len(left),
        num_broken=len(samples) - len(left),
    )


def _of_split(
    predictions: Sequence[Prediction], samples: Sequence[Sample], data_set: DataSet
) -> Iterator[Prediction]:
    """The predictions of the split's images; those of its other splits are passed over.

    Predictions of a folder inside the data set are named from there, samples from its root.
    """
    names = {sample.name for sample in samples}
    real_names = ByName({sample.name: sample.name for sample in data_set.samples()})
    for prediction in predictions:
        named = real_names.get(prediction.image)
        if named is None or named in names:
            yield replace(prediction, image=named or prediction.image)
