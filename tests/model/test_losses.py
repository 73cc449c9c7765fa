"""Losses against their equations, one image and class at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from weakloc.methods.beam import Beam
from weakloc.model.losses import BeamLoss, LogisticLoss, SoftmaxLoss

LABELS = torch.tensor([[1, -1, -1, 0], [-1, 1, 0, 1], [-1, -1, -1, -1]], dtype=torch.int8)
LOSSES = [LogisticLoss("sum"), LogisticLoss("mean"), SoftmaxLoss(), BeamLoss()]


def random_scores(*, scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return scale * torch.randn(LABELS.shape, generator=generator, dtype=torch.float64)


def by_hand(loss: object, scores: list[float], labels: list[int]) -> float:
    """The loss of one image in plain arithmetic."""
    known = [index for index, label in enumerate(labels) if label != 0]
    present = [index for index in known if labels[index] == 1]
    if isinstance(loss, LogisticLoss):
        total = sum(math.log(1 + math.exp(-labels[i] * scores[i])) for i in known)
        return total if loss.over_classes == "sum" else total / len(labels)
    if isinstance(loss, SoftmaxLoss):
        normaliser = math.log(sum(math.exp(scores[i]) for i in known))
        return sum(normaliser - scores[i] for i in present) / max(len(present), 1)
    q = [math.exp(s) / sum(math.exp(other) for other in scores) for s in scores]
    p = [float(label == 1) / max(len(present), 1) for label in labels]
    return _equation_1(p, q, known)


def _equation_1(p: list[float], q: list[float], known: list[int]) -> float:
    """Of BEAM."""
    terms = [p[i] * math.log(q[i]) + (1 - p[i]) * math.log(1 - q[i]) for i in known]
    return -sum(terms) / len(p)


def test_the_sigmoid_form_of_beam_is_the_mean_logistic_loss() -> None:
    loss = Beam.literal().build_loss(num_classes=4, single_label=False)
    for scores, labels in zip(random_scores(), LABELS, strict=True):
        q = [1 / (1 + math.exp(-score)) for score in scores.tolist()]
        p = [float(label == 1) for label in labels.tolist()]
        known = [index for index, label in enumerate(labels.tolist()) if label != 0]
        assert loss(scores[None], labels[None]).item() == pytest.approx(_equation_1(p, q, known))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_the_loss_is_the_mean_over_images_of_its_equation(loss) -> None:
    scores = random_scores()
    wanted = [by_hand(loss, *pair) for pair in zip(scores.tolist(), LABELS.tolist(), strict=True)]
    torch.testing.assert_close(loss.per_image(scores, LABELS).tolist(), wanted)
    assert loss(scores, LABELS).item() == pytest.approx(sum(wanted) / 3)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_gradients_agree_with_finite_differences_where_labels_are_known(loss) -> None:
    labels = LABELS.where(LABELS != 0, torch.tensor(-1, dtype=torch.int8))
    assert gradcheck(lambda leaf: loss(leaf, labels), random_scores().requires_grad_())


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_unknown_labels_give_neither_loss_nor_gradient(loss) -> None:
    scores = random_scores().requires_grad_()
    loss(scores, LABELS).backward()
    assert (scores.grad[LABELS == 0] == 0).all()
    all_unknown = torch.zeros_like(LABELS)
    fresh = random_scores().requires_grad_()
    nothing = loss(fresh, all_unknown)
    nothing.backward()
    assert nothing.item() == 0
    assert (fresh.grad == 0).all()


@pytest.mark.parametrize(
    "loss", [LogisticLoss("sum"), LogisticLoss("mean"), SoftmaxLoss()], ids=str
)
def test_the_score_of_an_unknown_class_does_not_matter(loss) -> None:
    scores = random_scores()
    other = torch.where(LABELS == 0, 1e4, scores)
    torch.testing.assert_close(loss(scores, LABELS), loss(other, LABELS))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_very_sure_scores_stay_finite_and_still_teach(loss) -> None:
    scores = (1e4 * random_scores().sign()).float().requires_grad_()
    value = loss(scores, LABELS)
    value.backward()
    assert value.isfinite()
    assert scores.grad.isfinite().all()
    assert (scores.grad != 0).any()


def test_softmax_form_of_beam_pushes_a_wrong_certainty_down() -> None:
    scores = torch.tensor([[0.0, 40.0, 0.0]], requires_grad=True)
    labels = torch.tensor([[1, -1, -1]], dtype=torch.int8)
    BeamLoss()(scores, labels).backward()
    assert scores.grad[0, 1] > 0.3
    assert scores.grad[0, 0] < 0


def test_probabilities_are_those_that_the_loss_trains() -> None:
    scores = random_scores()
    for loss in (SoftmaxLoss(), BeamLoss()):
        torch.testing.assert_close(loss.probabilities(scores).sum(dim=1), torch.ones(3).double())
    for loss in (LogisticLoss("sum"), LogisticLoss("mean")):
        torch.testing.assert_close(loss.probabilities(scores), 1 / (1 + (-scores).exp()))
