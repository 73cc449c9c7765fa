"""The whole catalogue on a small data set: what is measured, what is not and why."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from weakloc.metrics import case
from weakloc.metrics.baselines import rectangle_rle
from weakloc.metrics.case import ClassIndex, pair_predictions
from weakloc.metrics.evaluation import (
    METRICS,
    Evaluation,
    MetricSetup,
    compare_results,
    predicted_kinds,
    truth_kinds,
)
from weakloc.structures import Mask, TruthBox, TruthMask

from .oracles import prediction, sample

NAMES = tuple("abcdefg")
SETUP = MetricSetup(ClassIndex(NAMES), resamples=200)
OF_PREDICTIONS = tuple(name for name, metric in METRICS.items() if "maps" not in metric.predicted)


def _images(random, number=24, noise=4.0):
    """One object an image, with box and mask; predictions near it, worse with more noise."""
    images = []
    for i in range(number):
        c = i % (len(NAMES) - 1)  # the last class has no image
        left, top = random.uniform(0, 25, 2)
        box = (left, top, left + random.uniform(8, 30), top + random.uniform(8, 15))
        rle = rectangle_rle(box, (60, 40))
        labels = [1 if k == c else -1 for k in range(len(NAMES))]
        each = sample(f"{i:02}.jpg", labels, [TruthBox(c, box)], masks=(TruthMask(c, rle),))
        scores = {name: float(random.normal(2 * (k == c))) for k, name in enumerate(NAMES)}
        moved = tuple(sorted_box(np.array(box) + random.normal(0, noise, 4)))
        said = prediction(
            each.name,
            scores,
            points=[(name, moved[0] + 4, moved[1] + 4, scores[name]) for name in NAMES],
            boxes=[(name, moved, scores[name]) for name in NAMES],
            masks=(Mask(NAMES[c], rectangle_rle(moved, (60, 40)), 0.5),),
        )
        images.append((each, said))
    return images


def sorted_box(box):
    return min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])


def _evaluated(images, order=None, metrics=OF_PREDICTIONS):
    samples, predictions = zip(*images, strict=True)
    kinds = {"truth": truth_kinds(samples), "predicted": predicted_kinds(predictions)}
    evaluation = Evaluation(SETUP, **kinds, metrics=metrics)
    chosen = range(len(images)) if order is None else order
    pairs = pair_predictions(
        [predictions[i] for i in chosen], [samples[i] for i in chosen], SETUP.classes
    )
    for each, said in pairs:
        evaluation.update(SETUP.case(each, said))
    return evaluation


def _plain(results):
    return msgspec.to_builtins([result.record for result in results])


def test_every_headline_of_the_catalogue_is_measured_where_the_truth_allows_it(random):
    evaluation = _evaluated(_images(random))
    results = evaluation.results(hidden_supervision=3)
    expected = {headline for name in OF_PREDICTIONS for headline in METRICS[name].headlines}
    values = {result.name: result.value for result in results}
    assert set(values) == expected
    assert not evaluation.unavailable
    # no image holds two objects, so that one number has nothing to count
    assert [name for name, value in values.items() if value is None] == ["multi_instance_recall"]
    assert {result.hidden_supervision for result in results} == {3}
    for result in results:
        if result.value is not None:
            assert 0.0 <= result.interval.low <= result.value <= result.interval.high <= 1.0
    assert all("g" in r.left_out for r in results if r.name in ("corloc", "box_map_50"))


def test_the_report_is_plain_json_with_the_baselines_beside_each_number(random):
    results = _evaluated(_images(random)).results()
    written = json.loads(json.dumps(_plain(results), allow_nan=False))
    metrics = {metric["name"]: metric for metric in written}
    assert {metric["schema"] for metric in written} == {"weakloc.metric/1"}
    assert set(metrics["box_map_50"]["baselines"]) == {"center", "full_image", "random"}
    # each of the six classes that have images has a sixth of them
    chance = metrics["classification_map"]["baselines"]
    assert chance == pytest.approx({"chance": 1 / 6})
    assert metrics["box_map_50"]["value"] > metrics["box_map_50"]["baselines"]["random"]


def test_what_the_truth_or_the_predictions_lack_is_said(random):
    images = [
        (replace(each, truth=None), replace(said, masks=())) for each, said in _images(random)
    ]
    evaluation = _evaluated(images)
    assert {result.name for result in evaluation.results()} == {
        "classification_map",
        "top_1_accuracy",
        "top_5_accuracy",
        "mean_class_accuracy",
    }
    assert evaluation.unavailable["corloc"] == "no boxes are drawn in this data set"
    assert evaluation.unavailable["mean_iou"] == (
        "no masks are drawn in this data set; the predictions hold no masks"
    )
    two_tags = [(sample("a", [1] * 7, []), images[0][1])]
    assert "one tag" not in truth_kinds([each for each, _ in two_tags])
    assert truth_kinds([]) == frozenset()


def test_the_order_of_the_images_changes_no_bit_of_the_report(random):
    images = _images(random)
    whole = _evaluated(images).results()
    again = _evaluated(images, random.permutation(len(images))).results()
    assert again == whole
    assert all(
        np.array_equal(ours.replicates, expected.replicates, equal_nan=True)
        for ours, expected in zip(again, whole, strict=True)
    )


def _counted(monkeypatch, module, name):
    calls, function = [], getattr(module, name)

    def counting(*arguments):
        calls.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(module, name, counting)
    return calls


def test_an_image_is_read_and_drawn_once_for_the_run_and_all_its_baselines(random, monkeypatch):
    images = _images(random, number=6)
    truths = _counted(monkeypatch, case.ImageTruth.objects, "func")
    labels = _counted(monkeypatch, case.ImageTruth.labels, "func")
    draws = _counted(monkeypatch, case, "draw_image")
    _evaluated(images).results()
    names = [each.name for each, _ in images]
    assert [known.sample.name for (known,) in truths] == names
    assert [known.sample.name for (known,) in labels] == names
    assert [name for name, resamples in draws if resamples] == names


def test_the_better_of_two_runs_is_ahead_in_a_paired_comparison():
    close, far = (_images(np.random.default_rng(0), 60, noise) for noise in (1.0, 8.0))
    far = [(each, said) for (each, _), (_, said) in zip(close, far, strict=True)]
    metrics = ("classification", "corloc")
    measured = [_evaluated(images, metrics=metrics).results() for images in (close, far)]
    differences = {each.name: each for each in compare_results(*measured)}
    assert differences["corloc"].interval.low > 0
    assert differences["corloc"].difference == pytest.approx(
        measured[0][1].value - measured[1][1].value
    )
    itself = compare_results(measured[0], measured[0])
    assert all(each.difference == each.interval.low == each.interval.high == 0 for each in itself)


def test_an_empty_evaluation_has_reasons_instead_of_numbers():
    evaluation = Evaluation(
        SETUP,
        truth={"tags", "one tag", "boxes", "masks"},
        predicted={"scores", "points", "boxes", "masks", "maps"},
        metrics=tuple(METRICS),
    )
    results = evaluation.results()
    assert all(result.value is None and result.unavailable for result in results)
    json.dumps(_plain(results), allow_nan=False)
