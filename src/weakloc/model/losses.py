"""Class scores and labels (1 present, 0 unknown, -1 absent) -> loss.

Unknown labels give neither loss nor gradient. Every loss is a value per image, averaged over the
batch; a loss also says how its scores become probabilities.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, pad, softplus

from weakloc.structures import PRESENT, UNKNOWN, Activation

Reduction: TypeAlias = Literal["sum", "mean"]


class Loss(ABC):
    """(B, C) scores, (B, C) int8 labels -> scalar."""

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        return self.per_image(scores, labels).mean()

    @abstractmethod
    def per_image(self, scores: Tensor, labels: Tensor) -> Tensor: ...

    @property
    @abstractmethod
    def activation(self) -> Activation:
        """What makes probabilities of scores that were trained with this loss."""

    def probabilities(self, scores: Tensor) -> Tensor:
        return scores.sigmoid() if self.activation == "sigmoid" else scores.softmax(dim=1)


@dataclass(frozen=True)
class LogisticLoss(Loss):
    """log(1 + exp(-y f)) of every known class: max-MIL sums over classes, WILDCAT averages.

    "mean" divides by the number of classes, known or not, so that an unknown label removes exactly
    its own term.
    """

    activation: ClassVar[Activation] = "sigmoid"

    over_classes: Reduction = "sum"

    def per_image(self, scores: Tensor, labels: Tensor) -> Tensor:
        terms = softplus(-labels.to(scores.dtype) * scores)
        terms = torch.where(labels == UNKNOWN, 0.0, terms)  # softplus(0) is log 2, not 0
        return terms.sum(dim=1) if self.over_classes == "sum" else terms.mean(dim=1)


@dataclass(frozen=True)
class SoftmaxLoss(Loss):
    """Cross-entropy for one class per image; several present classes share the target equally.

    Unknown classes leave the normaliser; an image without a present class gives no loss.
    """

    activation: ClassVar[Activation] = "softmax"

    def per_image(self, scores: Tensor, labels: Tensor) -> Tensor:
        present = labels == PRESENT
        known = torch.where(labels == UNKNOWN, -torch.inf, scores)
        known = torch.where(present.any(dim=1, keepdim=True), known, 0.0)
        terms = torch.where(present, -log_softmax(known, dim=1), 0.0)
        return terms.sum(dim=1) / present.sum(dim=1).clamp(min=1)


@dataclass(frozen=True)
class BeamLoss(Loss):
    """BEAM, Eq. 1: -(1/K) sum_k p_k log q_k + (1 - p_k) log(1 - q_k).

    q is the softmax of the scores, with targets p normalised to sum 1: the text's form, which
    cannot fit several labels. With the sigmoid as q it is the mean `LogisticLoss`. Unknown classes
    keep their place in the normaliser only as constants.
    """

    activation: ClassVar[Activation] = "softmax"

    def per_image(self, scores: Tensor, labels: Tensor) -> Tensor:
        scores = torch.where(labels == UNKNOWN, scores.detach(), scores)
        targets = (labels == PRESENT).to(scores.dtype)
        targets = targets / targets.sum(dim=1, keepdim=True).clamp(min=1)
        log_q, log_rest = _log_softmax_and_rest(scores)
        terms = -(targets * log_q + (1 - targets) * log_rest)
        return torch.where(labels == UNKNOWN, 0.0, terms).mean(dim=1)


@dataclass(frozen=True)
class BackgroundLoss(Loss):
    """A loss over one class more, the last of the scores, which every image shows."""

    of_classes: Loss

    @property
    def activation(self) -> Activation:
        return self.of_classes.activation

    def per_image(self, scores: Tensor, labels: Tensor) -> Tensor:
        return self.of_classes.per_image(scores, pad(labels, (0, 1), value=PRESENT))


def _log_softmax_and_rest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """log q and log(1 - q) of a softmax; for the largest q, 1 - q is summed from the others."""
    log_q = log_softmax(scores, dim=1)
    largest = torch.zeros_like(scores, dtype=torch.bool)
    largest.scatter_(1, scores.argmax(dim=1, keepdim=True), True)
    others = torch.where(largest, -torch.inf, log_q).logsumexp(dim=1, keepdim=True)
    log_rest = torch.log1p(-torch.where(largest, -torch.inf, log_q).exp())
    return log_q, torch.where(largest, others, log_rest)
