"""How tagged photographs are looked at and how much is learned from them, each with its reason.

The reasons are kept in label.json and printed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from msgspec import Struct, structs

from weakloc.data.images import image_size
from weakloc.data.readers.assembly import ALL
from weakloc.errors import ImageError
from weakloc.settings import LabelSettings, TrainSettings
from weakloc.structures import UNKNOWN, DataSet, Sample
from weakloc.training.plan import TrainingPlan

INPUT_SIZES = (224, 320)  # pixels
JUDGED_IMAGES = 64  # drawn evenly, to choose by
REFINED_IMAGES = 1500


class LabelPlan(Struct, frozen=True):
    """How many images are learned from, for so many epochs, seen at which size and why.

    `cut` says what was left out for --minutes, empty where nothing was.
    """

    image_size: int
    because: str
    images: int
    refined: int
    epochs: int
    cut: str = ""


def evenly(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most so many of them, spread over all."""
    count = min(count, len(samples))
    return [samples[number * len(samples) // count] for number in range(count)]


def chosen_size(samples: Sequence[Sample], settings: LabelSettings) -> tuple[int, str]:
    """Side of the network's input in pixels, and why: the largest that enlarges few images."""
    if settings.image_size is not None:
        return settings.image_size, "as asked with --image-size"
    sides = []
    for sample in evenly(samples, JUDGED_IMAGES):
        try:
            sides.append(min(image_size(sample.path)))
        except ImageError:
            continue  # counted and listed when it is to be predicted
    median = float(np.median(sides)) if sides else 0.0
    size = max((side for side in INPUT_SIZES if side <= median), default=min(INPUT_SIZES))
    return size, f"half of the images have {median:.0f} px or more on their shorter side"


def learnable(data_set: DataSet, images: int, seed: int) -> DataSet:
    """What is learned from: at most so many images of the training split, else of all there are.

    Classes take turns, so that the images of a rare one stay. A split to watch is cut likewise.
    """
    if not data_set.splits.get("train"):
        return replace(data_set, splits={ALL: _drawn(list(data_set.samples()), images, seed)})
    splits = {"train": _drawn(data_set.splits["train"], images, seed)}
    if data_set.splits.get("val"):
        splits["val"] = _drawn(data_set.splits["val"], max(images // 5, 1), seed)
    return replace(data_set, splits=splits)


def _drawn(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """In their order; images of which nothing is known teach nothing."""
    known = [sample for sample in samples if (sample.labels != UNKNOWN).any()]
    if len(known) <= count:
        return known
    turns: dict[bytes, int] = {}
    ranks = {}
    for index in np.random.default_rng(seed).permutation(len(known)).tolist():
        tags = known[index].labels.tobytes()
        ranks[index] = turns[tags] = turns.get(tags, -1) + 1
    chosen = sorted(ranks, key=ranks.__getitem__)[:count]
    return [known[index] for index in sorted(chosen)]


# In passes of the backbone over an image, but for the last. Estimates, for the time left and
# --minutes alone.
FEATURES = 2.6  # of an image and its mirror image, decoded and stored
CELLS = 2.2  # the early maps of a padded image; then what is learned from them
PREDICTED = 3.0
AN_EPOCH = 0.0008  # seconds an image


def seconds_of(plan: LabelPlan, a_pass: float, num_predicted: int) -> dict[str, float]:
    """Stage -> seconds, of which a pass takes so many."""
    return {
        "features": plan.images * FEATURES * a_pass,
        "tags": plan.images * plan.epochs * AN_EPOCH,
        "cells": plan.refined * CELLS * a_pass,
        "predictions": num_predicted * PREDICTED * a_pass,
        "report": min(num_predicted, 200) * PREDICTED * a_pass,
    }


def seconds_a_pass(plan: TrainingPlan) -> float:
    """The network of a training, over a batch of its input size."""
    width, height = plan.preprocessing.fixed_size or (INPUT_SIZES[0], INPUT_SIZES[0])
    images = torch.zeros(8, 3, height, width)
    with torch.inference_mode():
        plan.network.backbone(images)  # the first is slower
        began = time.perf_counter()
        plan.network.backbone(images)
    return (time.perf_counter() - began) / len(images)


FIXED_SECONDS = 25.0  # imports, exports, opening networks
FEWEST_IMAGES, FEWEST_EPOCHS = 200, 8


def fitted(plan: LabelPlan, a_pass: float, num_predicted: int, minutes: float) -> LabelPlan:
    """The plan with as much to learn as the time allows; all images are labelled all the same."""
    for share in (1.0, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.0):
        smaller = structs.replace(
            plan,
            images=min(plan.images, max(round(share * plan.images), FEWEST_IMAGES)),
            refined=min(plan.refined, max(round(share * plan.refined), FEWEST_IMAGES)),
            epochs=min(plan.epochs, max(round(2 * share * plan.epochs), FEWEST_EPOCHS)),
        )
        needed = FIXED_SECONDS + sum(seconds_of(smaller, a_pass, num_predicted).values())
        if needed <= 60 * minutes:
            break
    nouns = {"images": "images to learn tags from", "refined": "to refine", "epochs": "epochs"}
    pairs = [(getattr(smaller, name), getattr(plan, name), noun) for name, noun in nouns.items()]
    cut = [f"{now} instead of {before} {noun}" for now, before, noun in pairs if now < before]
    if needed > 60 * minutes:
        cut.append(f"and still about {needed / 60:.1f} min instead of {minutes:g}")
    return structs.replace(smaller, cut=", ".join(cut))


def train_settings(plan: LabelPlan, settings: LabelSettings, feature_cache: str) -> TrainSettings:
    """A frozen backbone, whose features are computed once."""
    return TrainSettings(
        backbone=settings.backbone,
        weights=settings.weights,
        frozen=True,
        refine=False,  # a stage of its own
        image_size=plan.image_size,
        epochs=plan.epochs,
        seed=settings.seed,
        feature_cache=feature_cache,
    )
