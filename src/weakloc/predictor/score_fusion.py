"""Several networks' answers to the same images in, one answer an image out.

Durand et al. 2017 train one network for each input size and combine them late: the maps are
averaged after each is brought to mean 0 and deviation 1, the scores by a `ScoreFusion`.

Last, scores that know which classes occur together (Bency et al. 2016, Eq. 2 to 4): p(i|j) =
N_ij / N_j and s'(i) = s(i) + alpha * sum_j p(i|j) s(j). Expect about +1 point of classification
mAP on Pascal VOC.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from weakloc.data.sources import ImageSource
from weakloc.geometry import FloatArray, IntArray
from weakloc.localize.maps import probabilities
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import SeenImage, map_scales
from weakloc.settings import Look
from weakloc.structures import ABSENT, PRESENT, Activation, BrokenImage, LabelMatrix

Logits: TypeAlias = NDArray[np.float64]  # (S, C), a row for each network
ScoreFusion: TypeAlias = Callable[[Logits], NDArray[np.float64]]  # probabilities (C,)


def joint_look(members: Sequence[Predictor]) -> Look:
    """That of the first, made to take the maps of all."""
    scales = sorted({scale for member in members for scale in map_scales(member.look)})
    return replace(members[0].look, map_scales=tuple(scales), fuse="mean", normalise="zscore")


def mean_scores(activation: Activation) -> ScoreFusion:
    """The mean of the raw scores, squashed last."""
    return lambda logits: probabilities(logits.mean(axis=0), activation)


def see_with_all(
    images: Iterable[ImageSource], members: Sequence[Predictor], fuse_scores: ScoreFusion
) -> Iterator[SeenImage | BrokenImage]:
    """Every image in input order as all the networks see it; each decodes it for itself."""
    streams = itertools.tee(images, len(members))
    answers = [member.see(stream) for stream, member in zip(streams, members, strict=True)]
    for of_one_image in zip(*answers, strict=True):
        seen_by = [answer for answer in of_one_image if not isinstance(answer, BrokenImage)]
        if len(seen_by) < len(members):
            yield next(answer for answer in of_one_image if isinstance(answer, BrokenImage))
            continue
        logits = np.stack([image.logits for image in seen_by])
        yield replace(
            seen_by[0],
            views=tuple(view for image in seen_by for view in image.views),
            logits=logits.mean(axis=0),
            probabilities=fuse_scores(logits),
        )


@dataclass(frozen=True)
class LateClassifier:
    """P(c) = sigmoid(weights_c . (scores - means) / spreads + bias_c)."""

    means: FloatArray  # (S * C,)
    spreads: FloatArray  # (S * C,)
    weights: FloatArray  # (C, S * C)
    biases: FloatArray  # (C,)

    def __call__(self, logits: FloatArray) -> FloatArray:
        """(S, C) raw scores of an image -> (C,) probabilities."""
        standard = (logits.ravel() - self.means) / self.spreads
        return probabilities(self.weights @ standard + self.biases, "sigmoid")


def fit_late_classifier(logits: FloatArray, labels: NDArray[np.int8]) -> LateClassifier:
    """From (N, S, C) raw scores and (N, C) tags; unknown tags are left out.

    Logistic regressions of standardised scores, with half the squared weights added to the sum
    of the log losses. A class that is not seen both present and absent keeps the mean of its own
    raw scores.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import

    num_images, num_networks, num_classes = logits.shape
    flat = logits.reshape(num_images, num_networks * num_classes)
    means, spreads = flat.mean(axis=0), flat.std(axis=0)
    spreads = np.where(spreads > 0, spreads, 1.0)
    standard = (flat - means) / spreads
    weights = np.zeros((num_classes, flat.shape[1]))
    biases = np.zeros(num_classes)
    for index in range(num_classes):
        present, absent = labels[:, index] == PRESENT, labels[:, index] == ABSENT
        if present.any() and absent.any():
            known = present | absent
            regression = LogisticRegression(solver="newton-cholesky", tol=1e-9)
            regression.fit(standard[known], present[known])
            weights[index], biases[index] = regression.coef_[0], regression.intercept_[0]
        else:
            columns = np.arange(num_networks) * num_classes + index
            weights[index, columns] = spreads[columns] / num_networks
            biases[index] = means[columns].mean()
    return LateClassifier(means, spreads, weights, biases)


ALPHAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True, slots=True)
class AlphaChoice:
    """The weight of co-occurrence, and the mean average precision it reached on which images."""

    alpha: float
    mean_average_precision: float
    chosen_on: str = ""


def shares_from_counts(together: IntArray) -> FloatArray:
    """p(i|j) = N_ij / N_j from counts of images with both classes, N_j on the diagonal.

    Exact where no tag is unknown; an image of class j where i is unknown counts as one without.
    """
    counts = together.astype(np.float64)
    shares: FloatArray = counts / np.maximum(np.diag(counts), 1.0)  # a class of no image has none
    np.fill_diagonal(shares, 0.0)
    return shares


def rescore(scores: NDArray[np.floating], shares: FloatArray, *, alpha: float) -> FloatArray:
    """Scores (..., C), as probabilities, with what the other classes' scores suggest added.

    Only the ranking of the result is used; it may exceed 1.
    """
    return np.asarray(scores + alpha * (scores @ shares.T), dtype=np.float64)


@dataclass(frozen=True)
class Rescoring:
    """s'(i) / (1 + alpha * sum_j p(i|j)): the sum, divided by the greatest value it can have.

    Every class ranks the images as the sum does, and the result still lies between 0 and 1.
    """

    shares: FloatArray  # (C, C) p(i|j), zero diagonal
    alpha: float

    def __call__(self, probabilities: NDArray[np.float64]) -> FloatArray:
        greatest = 1.0 + self.alpha * self.shares.sum(axis=1)
        return np.asarray(rescore(probabilities, self.shares, alpha=self.alpha) / greatest)


def choose_alpha(
    scores: NDArray[np.floating],
    labels: LabelMatrix,
    shares: FloatArray,
    mean_average_precision: Callable[[FloatArray, LabelMatrix], float],
) -> AlphaChoice:
    """The one of ALPHAS with the best mean average precision on held-out images; the first on ties.

    `mean_average_precision(scores (N, C), labels (N, C))` is told image-level labels only.
    """
    reached = [
        mean_average_precision(rescore(scores, shares, alpha=alpha), labels) for alpha in ALPHAS
    ]
    best = int(np.argmax(np.nan_to_num(reached, nan=-np.inf)))
    return AlphaChoice(alpha=ALPHAS[best], mean_average_precision=float(reached[best]))
