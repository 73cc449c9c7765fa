"""Several runs in, one predictor out, whose maps and scores are those of all of them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from weakloc.api.classifiers import TIMM, timm_predictor
from weakloc.api.data_sets import require_same_classes
from weakloc.api.runs import LoadedRun, RunFacts, TrainedRun, load, load_folder, version_of
from weakloc.data.sources import ImageSource
from weakloc.errors import DataError, SettingError, did_you_mean
from weakloc.files import digest_of_file, write_whole
from weakloc.geometry import FloatArray
from weakloc.metrics.average_precision import tag_mean_average_precision
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.score_fusion import (
    LateClassifier,
    fit_late_classifier,
    joint_look,
    mean_scores,
    see_with_all,
)
from weakloc.settings import Look, Places, look_and_places
from weakloc.structures import BrokenImage, DataSet, LabelMatrix, LabelVector, Sample
from weakloc.training.hub import require_local
from weakloc.training.plan import divide
from weakloc.training.run_folder import MODEL_NAME
from weakloc.work import Progress, silent

FILE_NAME = "fusion.npz"


@dataclass(frozen=True)
class LateFusion:
    """A fitted classifier of scores, in words the images whose tags it was fitted on, and the
    classification mAP there of every way to score, where it was just fitted."""

    classifier: LateClassifier
    fitted_on: str
    classification_map: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FusedRuns(LoadedRun):
    """Runs whose maps and scores become one: scores by their mean where no `late` fusion is."""

    runs: tuple[TrainedRun, ...]
    late: LateFusion | None = None

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

    @property
    def facts(self) -> RunFacts:
        num_boxes = sum(run.facts.num_boxes_used for run in self.runs)
        first = self.runs[0].facts
        return replace(first, num_boxes_used=num_boxes, thresholds_from="mean of the runs'")

    def predictor(self, look: Look = Look(), places: Places = Places()) -> Predictor:
        members = self._members(look, places)
        first = members[0]
        thresholds = np.mean([member.thresholds for member in members], axis=0)
        mean = mean_scores(first.source.activation)
        fuse_scores = mean if self.late is None else self.late.classifier
        return Predictor(
            first.source,
            joint_look(members),
            first.places,
            rules=first.rules,
            thresholds=thresholds.tolist(),
            rescore=first.rescore,
            seer=partial(see_with_all, members=members, fuse_scores=fuse_scores),
        )

    def fitted(
        self, data_set: DataSet, *, look: Look = Look(), on_progress: Progress = silent
    ) -> FusedRuns:
        """With a late fusion, by tags alone, on images that none of the runs learned from.

        The classifier is judged on one half of the images after it was fitted on the other.
        """
        require_local(self.runs[0].path)
        samples = held_out_of(self.runs, data_set)
        of_members = [
            scores_and_tags(member, samples, on_progress, scores="logits")
            for member in self._members(look, Places())
        ]
        logits = np.stack([scores for scores, _ in of_members], axis=1)  # (N, S, C)
        labels = of_members[0][1]
        if len(logits) < 2:
            raise DataError("there are too few images to fit a classifier of scores on")
        reached = {
            str(run.path): tag_mean_average_precision(logits[:, index], labels)
            for index, run in enumerate(self.runs)
        }
        late = np.zeros((len(logits), labels.shape[1]))
        halves = slice(0, None, 2), slice(1, None, 2)
        for learned, judged in (halves, halves[::-1]):
            classifier = fit_late_classifier(logits[learned], labels[learned])
            late[judged] = [classifier(row) for row in logits[judged]]
        reached["mean of scores"] = tag_mean_average_precision(logits.mean(axis=1), labels)
        reached["late classifier"] = tag_mean_average_precision(late, labels)
        classifier = fit_late_classifier(logits, labels)
        return replace(self, late=LateFusion(classifier, in_words(samples), reached))

    def save(self) -> None:
        """Keeps the late fusion in the folder of the first run, for these very networks."""
        assert self.late is not None
        with write_whole(self.runs[0].path / FILE_NAME) as temporary:
            np.savez_compressed(
                temporary,
                networks=_digests(self.runs),
                fitted_on=self.late.fitted_on,
                **asdict(self.late.classifier),
            )

    def _members(self, look: Look, places: Places) -> list[Predictor]:
        members = [run.predictor(look, places) for run in self.runs]
        for member, run in zip(members, self.runs, strict=True):
            if member.look.localiser == "beam_search":
                raise SettingError(
                    "runs that search for places have no maps to fuse",
                    location=str(run.path),
                    remedy="Fuse runs of other methods, or give --localiser score_map",
                )
        return members


def load_fused(paths: Sequence[str]) -> FusedRuns:
    """The runs of some folders, with what was fitted for these very networks in this order."""
    fused = FusedRuns(tuple(load_folder(path) for path in paths))
    path = fused.runs[0].path / FILE_NAME
    if not path.is_file():
        return fused
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
        if stored["networks"].tolist() != _digests(fused.runs):
            return fused
        classifier = LateClassifier(
            **{part.name: stored[part.name] for part in fields(LateClassifier)}
        )
        fitted_on = stored.get("fitted_on", "images that were not recorded")
        return replace(fused, late=LateFusion(classifier, str(fitted_on)))


def _digests(runs: Sequence[TrainedRun]) -> list[str]:
    return [digest_of_file(run.path / MODEL_NAME) for run in runs]


def held_out_of(runs: Sequence[TrainedRun], data_set: DataSet) -> list[Sample]:
    """The training images that none of the runs learned from: what may choose by tags.

    A network is too sure of images that it learned from, and of the watched split results are told.
    """
    by_run = []
    for run in runs:
        division, learned = divide(data_set, run.run.settings), run.run.labels.num_images
        if division.held_out and len(division.learned) != learned:
            raise DataError(
                f"it learned from {learned} images, and all but the held out ones of this data are "
                f"{len(division.learned)}",
                location=str(run.path),
                remedy="Give the data that it was trained on, or train anew with --hold-out 0.1",
            )
        by_run.append(division.held_out)
    names = set.intersection(*({sample.name for sample in samples} for samples in by_run))
    if not names:
        raise DataError(
            "every training image was learned from, so that no tag is left to choose by",
            location=", ".join(str(run.path) for run in runs),
            remedy="Train with --hold-out 0.1, several runs with the same --seed",
        )
    return [sample for sample in by_run[0] if sample.name in names]


def in_words(held_out: Sequence[Sample]) -> str:
    return f"{len(held_out)} training images that were not learned from"


def scores_and_tags(
    predictor: Predictor,
    samples: Sequence[Sample],
    on_progress: Progress,
    *,
    scores: Literal["logits", "probabilities"],
) -> tuple[FloatArray, LabelMatrix]:
    """(N, C) of each, of the images that can be read; no picture is kept."""
    rows: list[FloatArray] = []
    labels: list[LabelVector] = []
    images = predictor.see(map(ImageSource.of, samples))
    for done, (image, sample) in enumerate(zip(images, samples, strict=True), start=1):
        on_progress(done, len(samples))
        if not isinstance(image, BrokenImage):
            rows.append(getattr(image, scores))
            labels.append(sample.labels)
    shape = len(rows), len(predictor.source.class_names)
    return np.array(rows).reshape(shape), np.array(labels, dtype=np.int8).reshape(shape)


def predictor_of(
    run: str, also: Sequence[str], look: Look, places: Places
) -> tuple[Predictor, dict[str, Any]]:
    """The predictor of a run, an exported file or `timm:NAME`, and a record of its origin.

    `also` are further runs on the same classes; all their maps and scores become one.
    """
    if also:
        fused, scores_from = load_fused((run, *also)), "mean of scores"
        if fused.late is not None:
            scores_from = f"late classifier, fitted on the tags of {fused.late.fitted_on}"
        described = {
            "run": fused.runs[0].name,
            "also": [other.name for other in fused.runs[1:]],
            "scores_from": scores_from,
            **fused.facts.supervision,
        }
        return fused.predictor(look, places), described
    if run.startswith(TIMM):
        return timm_predictor(run, look, places)
    loaded = load(run)
    return loaded.predictor(look, places), {"run": loaded.name, **loaded.facts.supervision}


def served(run: str, also: Sequence[str], look: Look, places: Places) -> tuple[Predictor, str]:
    """The predictor of the same, and a version that changes when its predictions may."""
    predictor, origin = predictor_of(run, also, look, places)
    return predictor, version_of(predictor, origin)


def predictor_with(run: str, settings: Mapping[str, Any]) -> Predictor:
    """The same of one run, for programs that say by name what they want of `Look` and `Places`."""
    flags = [part.name for part in (*fields(Look), *fields(Places))]
    for name in settings.keys() - flags:
        raise SettingError(f"there is no setting {name!r}", remedy=did_you_mean(name, flags))
    look, places = look_and_places(settings)
    return predictor_of(run, (), Look(**look), Places(**places))[0]
