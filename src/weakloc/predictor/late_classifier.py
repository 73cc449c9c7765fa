"""Scores of several networks in, class probabilities out, by a classifier fitted on tags.

The S * C scores of an image, each brought to mean 0 and deviation 1 over the fitted images, go
through one logistic regression a class (Object-Bank: Li et al. 2010, as WILDCAT combines sizes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weakloc.geometry import FloatArray
from weakloc.structures import ABSENT, PRESENT

MOST_STEPS = 100
SETTLED = 1e-9


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
        return _sigmoid(self.weights @ standard + self.biases)


def fit_late_classifier(
    logits: FloatArray, labels: NDArray[np.int8], *, strength: float = 1.0
) -> LateClassifier:
    """From (N, S, C) raw scores and (N, C) tags; unknown tags are left out.

    `strength` weighs the likelihood against half the squared weights. A class that is not seen
    both present and absent keeps the mean of its own raw scores.
    """
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
            weights[index], biases[index] = fit_logistic(
                standard[known], present[known].astype(np.float64), strength=strength
            )
        else:
            own = np.arange(num_networks) * num_classes + index
            weights[index, own] = spreads[own] / num_networks
            biases[index] = means[own].mean()
    return LateClassifier(means, spreads, weights, biases)


def fit_logistic(
    features: FloatArray, targets: FloatArray, *, strength: float
) -> tuple[FloatArray, float]:
    """Weights and bias that minimise strength * sum of log losses + half the squared weights.

    Newton's method with halved steps where a whole one does not improve; the bias is free.
    """
    inputs = np.column_stack([features, np.ones(len(features))])
    pull = np.append(np.ones(features.shape[1]), 1e-9)
    signs = 2.0 * targets - 1.0

    def objective(found: FloatArray) -> float:
        losses = np.logaddexp(0.0, -signs * (inputs @ found))
        return float(strength * losses.sum() + 0.5 * (pull * found**2).sum())

    found = np.zeros(inputs.shape[1])
    for _ in range(MOST_STEPS):
        chances = _sigmoid(inputs @ found)
        slope = strength * inputs.T @ (chances - targets) + pull * found
        bend = strength * (inputs.T * (chances * (1.0 - chances))) @ inputs + np.diag(pull)
        step = np.linalg.solve(bend, slope)
        before = objective(found)
        while objective(found - step) > before and np.abs(step).max() > SETTLED:
            step = step / 2.0
        found = found - step
        if np.abs(step).max() <= SETTLED:
            break
    return found[:-1], float(found[-1])


def _sigmoid(values: FloatArray) -> FloatArray:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * values))
