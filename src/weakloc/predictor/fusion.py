"""Several networks' answers to the same images in, one answer an image out.

Durand et al. 2017 train one network for each input size and combine them late: the maps are
averaged after each is brought to mean 0 and deviation 1, the scores by a `ScoreFusion`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.config import PredictSettings
from weakloc.predictor.map_source import Activation, MapSource, probabilities
from weakloc.predictor.sources import ImageSource
from weakloc.predictor.streaming import SeenImage, map_scales, see_images
from weakloc.structures import BrokenImage

Logits: TypeAlias = NDArray[np.float64]  # (S, C), a row for each network
ScoreFusion: TypeAlias = Callable[[Logits], NDArray[np.float64]]  # probabilities (C,)


@dataclass(frozen=True)
class Member:
    """One network, and how it looks at images."""

    source: MapSource
    settings: PredictSettings


def joint_settings(members: Sequence[Member]) -> PredictSettings:
    """Those of the first, made to take the maps of all."""
    scales = sorted({scale for member in members for scale in map_scales(member.settings)})
    return replace(members[0].settings, map_scales=tuple(scales), fuse="mean", normalise="zscore")


def mean_scores(activation: Activation) -> ScoreFusion:
    """The mean of the raw scores, squashed last."""
    return lambda logits: probabilities(logits.mean(axis=0), activation)


def see_with_all(
    images: Iterable[ImageSource], members: Sequence[Member], fuse_scores: ScoreFusion
) -> Iterator[SeenImage | BrokenImage]:
    """Every image in input order as all the networks see it; each decodes it for itself."""
    streams = itertools.tee(images, len(members))
    answers = [
        see_images(stream, member.source, member.settings)
        for stream, member in zip(streams, members, strict=True)
    ]
    for seen in zip(*answers, strict=True):
        yield _joined(seen, members, fuse_scores)


def _joined(
    answers: Sequence[SeenImage | BrokenImage],
    members: Sequence[Member],
    fuse_scores: ScoreFusion,
) -> SeenImage | BrokenImage:
    seen: list[SeenImage] = []
    for answer in answers:
        if isinstance(answer, BrokenImage):
            return answer
        seen.append(answer)
    views = tuple(
        view
        for answer, member in zip(seen, members, strict=True)
        for view in answer.views
        if view.view.scale in map_scales(member.settings)
    )
    logits = np.stack([answer.logits for answer in seen])
    return replace(
        seen[0],
        views=views,
        logits=logits.mean(axis=0),
        probabilities=fuse_scores(logits),
    )
