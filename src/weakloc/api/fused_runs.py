"""Several runs in, one predictor out, whose maps and scores are those of all of them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weakloc.api.classifiers import TIMM, timm_predictor
from weakloc.api.data_sets import require_same_classes
from weakloc.api.runs import TrainedRun, load, load_folder
from weakloc.data.sources import ImageSource
from weakloc.errors import DataError, SettingError
from weakloc.files import write_whole
from weakloc.geometry import FloatArray
from weakloc.metrics.average_precision import tag_mean_average_precision
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.score_fusion import (
    LateClassifier,
    Member,
    fit_late_classifier,
    joint_look,
    mean_scores,
    see_with_all,
)
from weakloc.predictor.views import SeenImage
from weakloc.settings import Look, Places
from weakloc.structures import BrokenImage, DataSet, LabelVector, Sample
from weakloc.training.plan import divide
from weakloc.work import Progress, silent

FILE_NAME = "fusion.npz"


@dataclass(frozen=True)
class FusedRuns:
    """Runs whose maps and scores become one; what was fitted for them lies in the first."""

    runs: tuple[TrainedRun, ...]

    def __post_init__(self) -> None:
        first = self.runs[0]
        for run in self.runs[1:]:
            require_same_classes(
                run.class_names,
                first.class_names,
                of=str(first.path),
                location=str(run.path),
                remedy="Fuse runs that were trained on the same classes, in the same order",
            )

    def predictor(self, look: Look = Look(), places: Places = Places()) -> Predictor:
        """Scores by the fitted late classifier where there is one, else their mean."""
        predictors = self._predictors(look, places)
        members = [Member(predictor.source, predictor.look) for predictor in predictors]
        thresholds = np.mean([predictor.locating.thresholds for predictor in predictors], axis=0)
        fuse_scores = self.late_classifier() or mean_scores(members[0].source.activation)
        return Predictor(
            members[0].source,
            joint_look(members),
            predictors[0].places,
            rules=predictors[0].rules,
            thresholds=thresholds.tolist(),
            rescore=predictors[0].rescore,
            seer=partial(see_with_all, members=members, fuse_scores=fuse_scores),
        )

    def late_classifier(self) -> LateClassifier | None:
        """What was fitted for exactly these networks in this order, if anything was."""
        path = self.runs[0].path / FILE_NAME
        if not path.is_file():
            return None
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            if stored["networks"].tolist() != self._digests():
                return None
            return LateClassifier(
                **{name: stored[name] for name in ("means", "spreads", "weights", "biases")}
            )

    def fit(
        self,
        data_set: DataSet,
        *,
        split: str | None = None,
        look: Look = Look(),
        on_progress: Progress = silent,
    ) -> dict[str, float]:
        """Fits and keeps the late classifier; the classification mAP of every way to score.

        By tags alone, of the images kept back in training or, where those are a split of their
        own, of the training images. The late classifier is judged on one half of the images after
        it was fitted on the other.
        """
        samples = self._fitted_on(data_set, split)
        predictors = self._predictors(look, Places())
        members = [Member(predictor.source, predictor.look) for predictor in predictors]
        logits, labels = _scores(members, samples, on_progress)
        if len(logits) < 2:
            raise DataError("there are too few images to fit a classifier of scores on")
        self._save(fit_late_classifier(logits, labels))
        reached = {
            str(run.path): tag_mean_average_precision(logits[:, index], labels)
            for index, run in enumerate(self.runs)
        }
        late = np.zeros((len(logits), labels.shape[1]))
        halves = slice(0, None, 2), slice(1, None, 2)
        for fitted, judged in (halves, halves[::-1]):
            classifier = fit_late_classifier(logits[fitted], labels[fitted])
            late[judged] = [classifier(row) for row in logits[judged]]
        return {
            **reached,
            "mean of scores": tag_mean_average_precision(logits.mean(axis=1), labels),
            "late classifier": tag_mean_average_precision(late, labels),
        }

    def _predictors(self, look: Look, places: Places) -> list[Predictor]:
        predictors = [run.predictor(look, places) for run in self.runs]
        for predictor, run in zip(predictors, self.runs, strict=True):
            if predictor.look.localiser == "beam_search":
                raise SettingError(
                    "runs that search for places have no maps to fuse",
                    location=str(run.path),
                    remedy="Fuse runs of other methods, or give --localiser score_map",
                )
        return predictors

    def _fitted_on(self, data_set: DataSet, split: str | None) -> Sequence[Sample]:
        settings = self.runs[0].run.settings
        if split is None and data_set.splits.get(settings.val_split):
            split = settings.train_split
        if split is None:
            samples = divide(data_set, settings).watched
        else:
            samples = data_set.splits.get(split, ())
        if not samples:
            raise DataError("there are no images to fit on", location=str(data_set.root))
        return samples

    def _digests(self) -> list[str]:
        return [
            hashlib.sha256((run.path / "model.safetensors").read_bytes()).hexdigest()
            for run in self.runs
        ]

    def _save(self, classifier: LateClassifier) -> None:
        with write_whole(self.runs[0].path / FILE_NAME) as temporary:
            np.savez_compressed(temporary, networks=self._digests(), **asdict(classifier))


def readable(
    answers: Iterable[SeenImage | BrokenImage], samples: Sequence[Sample], on_progress: Progress
) -> Iterator[tuple[SeenImage, Sample]]:
    """The images that can be read, as they are seen, each with what is known of it."""
    for done, (image, sample) in enumerate(zip(answers, samples, strict=True), start=1):
        on_progress(done, len(samples))
        if not isinstance(image, BrokenImage):
            yield image, sample


def _scores(
    members: Sequence[Member], samples: Sequence[Sample], on_progress: Progress
) -> tuple[FloatArray, NDArray[np.int8]]:
    """(N, S, C) raw scores and (N, C) tags of the images that can be read."""
    rows: list[FloatArray] = []
    labels: list[LabelVector] = []
    kept: list[FloatArray] = []

    def keep(logits: FloatArray) -> FloatArray:
        kept.append(logits)
        return mean_scores("sigmoid")(logits)

    sources = (ImageSource(sample.name, sample.path) for sample in samples)
    answers = see_with_all(sources, members, keep)
    for _, sample in readable(answers, samples, on_progress):
        rows.append(kept.pop())
        labels.append(sample.labels)
    num_classes = len(members[0].source.class_names)
    stacked = np.array(rows).reshape(-1, len(members), num_classes)
    return stacked, np.array(labels, dtype=np.int8).reshape(-1, num_classes)


def predictor_of(
    run: str, also: Sequence[str], look: Look, places: Places
) -> tuple[Predictor, dict[str, Any]]:
    """The predictor of a run folder, an exported file or `timm:NAME`, and a record of its origin.

    `also` are further runs on the same classes; all their maps and scores become one.
    """
    if also:
        return _fused(run, also, look, places)
    if run.startswith(TIMM):
        return timm_predictor(run, look, places), {"run": run, "thresholds_from": "fixed 0.2"}
    loaded = load(run)
    return loaded.predictor(look, places), {"run": run, **loaded.origin_of_thresholds}


def _fused(
    run: str, also: Sequence[str], look: Look, places: Places
) -> tuple[Predictor, dict[str, Any]]:
    runs = tuple(load_folder(path) for path in (run, *also))
    fused = FusedRuns(runs)
    scores_from = "mean of scores" if fused.late_classifier() is None else "late classifier"
    described = {
        "run": run,
        "also": list(also),
        "scores_from": scores_from,
        "thresholds_from": "mean of the runs'",
        "num_boxes_used": sum(member.num_boxes_used for member in runs),
    }
    return fused.predictor(look, places), described
