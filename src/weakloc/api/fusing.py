"""Several runs as one predictor, such as networks trained at several input sizes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from weakloc.api.runs import TrainedRun
from weakloc.api.tag_precision import mean_average_precision
from weakloc.config import PredictSettings
from weakloc.errors import DataError, RunError, SettingError
from weakloc.files import write_whole
from weakloc.geometry import FloatArray
from weakloc.predictor.fusion import Member, joint_settings, mean_scores, see_with_all
from weakloc.predictor.late_classifier import LateClassifier, fit_late_classifier
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.sources import ImageSource
from weakloc.predictor.streaming import SeenImage
from weakloc.structures import BrokenImage, DataSet, Sample
from weakloc.training.splits import divide

FILE_NAME = "fusion.npz"
OnProgress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class FusedRuns:
    """Runs whose maps and scores become one; what was fitted for them lies in the first."""

    runs: tuple[TrainedRun, ...]

    def __post_init__(self) -> None:
        first = self.runs[0]
        for run in self.runs[1:]:
            if run.class_names != first.class_names:
                raise RunError(
                    f"it has other classes than {first.path}",
                    where=str(run.path),
                    remedy="Fuse runs that were trained on the same classes, in the same order",
                )

    def predictor(self, settings: PredictSettings | None = None) -> Predictor:
        """Scores by the fitted late classifier where there is one, else their mean."""
        predictors = self._predictors(settings)
        members = _members(predictors)
        thresholds = np.mean([own.locating.thresholds for own in predictors], axis=0)
        late = self.late_classifier()
        fuse_scores = late or mean_scores(members[0].source.activation)
        return Predictor(
            members[0].source,
            joint_settings(members),
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
        settings: PredictSettings | None = None,
        on_progress: OnProgress = lambda _done, _total: None,
    ) -> dict[str, float]:
        """Fits and keeps the late classifier; the classification mAP of every way to score.

        By tags alone, of the images kept back in training or, where those are a split of their
        own, of the training images. The late classifier is judged on one half of the images after
        it was fitted on the other.
        """
        samples = self._fitted_on(data_set, split)
        members = _members(self._predictors(settings))
        logits, labels = _scores(members, samples, on_progress)
        if len(logits) < 2:
            raise DataError("there are too few images to fit a classifier of scores on")
        self._save(fit_late_classifier(logits, labels))
        found = {
            str(run.path): mean_average_precision(logits[:, index], labels)
            for index, run in enumerate(self.runs)
        }
        late = np.zeros((len(logits), labels.shape[1]))
        halves = slice(0, None, 2), slice(1, None, 2)
        for fitted, judged in (halves, halves[::-1]):
            classifier = fit_late_classifier(logits[fitted], labels[fitted])
            late[judged] = [classifier(row) for row in logits[judged]]
        return {
            **found,
            "mean of scores": mean_average_precision(logits.mean(axis=1), labels),
            "late classifier": mean_average_precision(late, labels),
        }

    def _predictors(self, settings: PredictSettings | None) -> list[Predictor]:
        predictors = [run.predictor(settings) for run in self.runs]
        for own, run in zip(predictors, self.runs, strict=True):
            if own.settings.localiser == "beam_search":
                raise SettingError(
                    "runs that search for places have no maps to fuse",
                    where=str(run.path),
                    remedy="Fuse runs of other methods, or give --localiser score_map",
                )
        return predictors

    def _fitted_on(self, data_set: DataSet, split: str | None) -> Sequence[Sample]:
        own = self.runs[0].run.settings
        if split is not None:
            found: Sequence[Sample] = data_set.splits.get(split, ())
        elif data_set.splits.get(own.val_split):
            found = data_set.splits.get(own.train_split, ())
        else:
            found = divide(data_set, own).watched
        if not found:
            raise DataError("there are no images to fit on", where=str(data_set.root))
        return found

    def _digests(self) -> list[str]:
        return [
            hashlib.sha256((run.path / "model.safetensors").read_bytes()).hexdigest()
            for run in self.runs
        ]

    def _save(self, classifier: LateClassifier) -> None:
        with write_whole(self.runs[0].path / FILE_NAME) as temporary:
            np.savez_compressed(temporary, networks=self._digests(), **asdict(classifier))


def _members(predictors: Iterable[Predictor]) -> list[Member]:
    return [Member(own.source, own.settings) for own in predictors]


def _scores(
    members: Sequence[Member], samples: Sequence[Sample], on_progress: OnProgress
) -> tuple[FloatArray, NDArray[np.int8]]:
    """(N, S, C) raw scores and (N, C) tags of the images that can be read."""
    rows: list[FloatArray] = []
    labels = []
    kept: list[FloatArray] = []

    def keep(logits: FloatArray) -> FloatArray:
        kept.append(logits)
        return mean_scores("sigmoid")(logits)

    seen: Iterator[SeenImage | BrokenImage] = see_with_all(
        (ImageSource(sample.name, sample.path) for sample in samples), members, keep
    )
    for done, (answer, sample) in enumerate(zip(seen, samples, strict=True), start=1):
        on_progress(done, len(samples))
        if not isinstance(answer, BrokenImage):
            rows.append(kept.pop())
            labels.append(sample.labels)
    num_classes = len(members[0].source.class_names)
    stacked = np.array(rows).reshape(-1, len(members), num_classes)
    return stacked, np.array(labels, dtype=np.int8).reshape(-1, num_classes)
