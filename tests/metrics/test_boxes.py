"""Boxes against a slow reading of Pascal VOC, the COCO package, and hand-made images."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from weakloc.geometry import box_ious
from weakloc.metrics.average_precision import Definition, RankingConvention
from weakloc.metrics.boxes import BoxPrecision, CocoPrecision
from weakloc.metrics.case import ClassIndex, MetricSetup, OverlapConvention
from weakloc.metrics.hits import corloc, image_corloc, instance_recall, single_object_localization
from weakloc.structures import Box, TruthBox

from .oracles import case, prediction, sample, slow_average_precision, slow_iou

NAMES = ("cat", "dog", "cow")
CLASSES = ClassIndex(NAMES)
SETUP = MetricSetup(CLASSES)


def _random_images(random, num_images=12):
    """Crowded images full of ties, duplicates, exact overlaps, crowds, difficult and no boxes."""
    images = []
    for number in range(num_images):
        drawn = [_object(random) for _ in range(random.integers(0, 6))]
        found = []
        for _ in range(random.integers(0, 12)):
            box, class_index = _box(random), int(random.integers(0, 3))
            if drawn and random.random() < 0.7:
                near = drawn[random.integers(len(drawn))]
                shift = random.integers(-3, 4, 4) * (random.random() < 0.7)
                box = tuple(float(v) for v in np.array(near.box) + shift)
                class_index = near.class_index
            if box[2] > box[0] and box[3] > box[1]:
                found.append((NAMES[class_index], box, float(random.integers(0, 6)) / 8))
        labels = [1 if any(each.class_index == c for each in drawn) else -1 for c in range(3)]
        name = f"{number:03}.jpg"
        images.append((sample(name, labels, drawn), prediction(name, boxes=found)))
    return images


def _box(random):
    left, top = random.integers(0, 40), random.integers(0, 20)
    width, height = random.integers(1, 20, 2)
    return tuple(float(v) for v in (left, top, left + width, top + height))


def _object(random):
    flag = random.random()
    return TruthBox(
        int(random.integers(0, 3)), _box(random), difficult=flag < 0.15, crowd=flag > 0.9
    )


def _fed(accumulator, images, classes=CLASSES, resamples=0):
    for each, said in images:
        accumulator.update(case(each, said, classes, resamples=resamples))
    return accumulator


def _results(accumulator, images, classes=CLASSES):
    return {result.name: result for result in _fed(accumulator, images, classes).compute()}


def _slow_voc(images, c, overlap, definition):
    """Scores, verdicts and the number of objects of one class, detection by detection."""
    extra = 1.0 if overlap.edges == "inclusive" else 0.0
    detections = sorted(
        (
            (-box.score, number, place, box.box)
            for number, (_, said) in enumerate(images)
            for place, box in enumerate(said.boxes)
            if box.class_name == NAMES[c]
        )
    )
    taken, labels, scores = set(), [], []
    for negative_score, number, _, box in detections:
        objects = [g for g in images[number][0].truth.boxes if g.class_index == c]
        ious = [slow_iou(box, g.box, extra=extra) for g in objects]
        best = max(ious, default=-1.0)
        label = -1
        if best >= overlap.iou:
            g = objects[ious.index(best)]
            key = (number, ious.index(best))
            label = 0 if g.difficult or g.crowd else (-1 if key in taken else 1)
            taken.add(key)
        labels.append(label)
        scores.append(-negative_score)
    total = sum(
        g.class_index == c and not (g.difficult or g.crowd)
        for each, _ in images
        for g in each.truth.boxes
    )
    return slow_average_precision(scores, labels, total, definition) if total else None


@pytest.mark.parametrize("edges", ["half-open", "inclusive"])
@pytest.mark.parametrize("iou", [0.3, 0.5])
def test_voc_precision_by_every_definition_equals_its_slow_reading(edges, iou):
    definitions = get_args(Definition)
    for seed in range(12):
        images = _random_images(np.random.default_rng(seed))
        overlap = OverlapConvention(iou, edges)
        accumulator = BoxPrecision(MetricSetup(CLASSES, RankingConvention(definitions), overlap))
        results = _fed(accumulator, images).compute()
        for result, definition in zip(results, definitions, strict=True):
            expected = {NAMES[c]: _slow_voc(images, c, overlap, definition) for c in range(3)}
            known = {name: value for name, value in expected.items() if value is not None}
            assert result.per_class == pytest.approx(known, abs=1e-9)
            assert set(result.left_out) == set(expected) - set(known)
            assert result.name.startswith(f"box_map_{iou * 100:g}")
            assert ("inclusive" in result.name) == (edges == "inclusive")
            assert result.name.endswith(definition) == (definition != "voc12")


def _coco_numbers(images):
    truth = {"images": [], "annotations": [], "categories": [{"id": c} for c in range(3)]}
    found = []
    for number, (each, said) in enumerate(images):
        truth["images"].append({"id": number})
        for g in each.truth.boxes:
            box = [g.box[0], g.box[1], g.box[2] - g.box[0], g.box[3] - g.box[1]]
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": number,
                    "category_id": g.class_index,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(g.crowd),
                }
            )
        for d in said.boxes:
            box = [d.box[0], d.box[1], d.box[2] - d.box[0], d.box[3] - d.box[1]]
            found.append(
                {
                    "image_id": number,
                    "category_id": NAMES.index(d.class_name),
                    "bbox": box,
                    "score": d.score,
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(found), "bbox")
        evaluation.params.maxDets = [100]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]  # (T, R, K)
    recall = evaluation.eval["recall"][:, :, 0, 0]  # (T, K)

    def mean(values):
        return values[values > -1].mean()

    return {
        "coco_ap": mean(precision),
        "coco_ap_50": mean(precision[0]),
        "coco_ap_75": mean(precision[5]),
        "coco_ar": mean(recall),
    }


@pytest.mark.parametrize("times", [1, 80])  # with more than a hundred boxes some do not count
def test_coco_precision_equals_the_coco_package(times):
    for seed in range(25 if times == 1 else 4):
        random = np.random.default_rng(seed)
        images = [
            (
                sample(each.name, each.labels, [_undifficult(g) for g in each.truth.boxes]),
                replace(said, boxes=tuple(_repeated(said.boxes, times, random))),
            )
            for each, said in _random_images(random)
        ]
        accumulator = CocoPrecision(SETUP)
        ours = {name: result.value for name, result in _results(accumulator, images).items()}
        assert ours == pytest.approx(_coco_numbers(images), abs=1e-9)


def _repeated(boxes, times, random):
    yield from boxes
    for d in boxes * (times - 1):
        left, top, right, bottom = np.add(d.box, random.uniform(-2, 2, 4)).tolist()
        moved = min(left, right), min(top, bottom), max(left, right), max(top, bottom)
        yield Box(d.class_name, moved, float(random.random()))


def _undifficult(g):
    return TruthBox(g.class_index, g.box, crowd=g.crowd)


def test_inclusive_overlaps_have_their_published_values():
    """MET-02."""
    first = (0, 0, 9, 9)
    others = [(0, 0, 4, 9), (5, 5, 14, 14)]
    assert box_ious(first, others, inclusive=True)[0] == pytest.approx([0.5, 1 / 7])
    assert box_ious((3, 3, 3, 3), [(3, 3, 3, 3), first])[0].tolist() == [0.0, 0.0]


SIDES = st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(0, 15)] * 2)


@given(first=SIDES, second=SIDES)
def test_overlap_is_symmetric_and_lies_between_0_and_1(first, second):
    a, b = ((x, y, x + w, y + h) for x, y, w, h in (first, second))
    overlap = box_ious(a, b)[0, 0]
    assert 0.0 <= overlap <= 1.0
    assert overlap == box_ious(b, a)[0, 0] == pytest.approx(slow_iou(a, b))
    assert box_ious(a, a)[0, 0] == float(first[2] * first[3] > 0)


def _one_image(drawn, found):
    return [(sample("a", [1, -1, -1], drawn), prediction("a", boxes=found))]


BOX = (10.0, 5.0, 30.0, 25.0)


def test_the_second_detection_of_an_object_is_a_false_alarm():
    """MET-05."""
    drawn = [TruthBox(0, BOX), TruthBox(0, (40.0, 0.0, 60.0, 40.0))]
    found = [("cat", BOX, 0.9), ("cat", BOX, 0.8), ("cat", (40.0, 0.0, 60.0, 40.0), 0.7)]
    images = _one_image(drawn, found)
    result = _results(BoxPrecision(SETUP), images)["box_map_50"]
    assert result.value == pytest.approx(0.5 + 0.5 * 2 / 3)
    images = _one_image(drawn, found[::2])
    assert _fed(BoxPrecision(SETUP), images).compute()[0].value == 1.0


def test_finding_a_difficult_object_is_ignored_however_often():
    """MET-05."""
    hard = TruthBox(0, (40.0, 0.0, 60.0, 40.0), difficult=True)
    found = [("cat", hard.box, 0.9), ("cat", hard.box, 0.8), ("cat", BOX, 0.7)]
    images = _one_image([TruthBox(0, BOX), hard], found)
    assert _fed(BoxPrecision(SETUP), images).compute()[0].value == 1.0


def test_boxes_of_unknown_or_undrawn_classes_are_not_judged():
    found = [("cat", BOX, 0.5), ("dog", BOX, 0.9)]
    for label, expected in ((0, 1.0), (1, 1.0)):
        images = [(sample("a", [1, label, -1], [TruthBox(0, BOX)]), prediction("a", boxes=found))]
        assert _fed(BoxPrecision(SETUP), images).compute()[0].per_class["cat"] == expected
    wrong = [
        (sample("a", [1, -1, -1], [TruthBox(0, BOX)]), prediction("a", boxes=found)),
        (sample("b", [-1, 1, -1], [TruthBox(1, BOX)]), prediction("b", boxes=[("dog", BOX, 0.1)])),
    ]
    assert _fed(BoxPrecision(SETUP), wrong).compute()[0].per_class["dog"] == 0.5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_a_detection_on_nothing_never_raises_the_precision(seed, data):
    random = np.random.default_rng(seed)
    images = _random_images(random, 4)
    before = _fed(BoxPrecision(SETUP), images).compute()[0]
    each, said = images[0]
    score = data.draw(st.sampled_from([0.0, 0.3, 2.0]))
    nothing = ("cat", (1000.0, 0.0, 1010.0, 10.0), score)
    more = prediction("x", boxes=[*((b.class_name, b.box, b.score) for b in said.boxes), nothing])
    images[0] = (each, more)
    after = _fed(BoxPrecision(SETUP), images).compute()[0]
    assert before.value is None or after.value <= before.value + 1e-12


def test_the_order_of_the_images_changes_no_bit(random):
    images = _random_images(random, 30)
    for make in (
        lambda: BoxPrecision(SETUP),
        lambda: CocoPrecision(SETUP),
        lambda: corloc(SETUP),
        lambda: instance_recall(SETUP),
    ):
        resamples = 50
        whole = _fed(make(), images, resamples=resamples).compute()
        shuffled = [images[i] for i in random.permutation(30)]
        again = _fed(make(), shuffled, resamples=resamples).compute()
        for ours, expected in zip(again, whole, strict=True):
            assert ours == expected
            assert ours.interval is not None
            assert np.array_equal(ours.replicates, expected.replicates, equal_nan=True)


def test_corloc_takes_the_best_box_of_each_class_present_and_counts_difficult_objects():
    images = [
        (
            sample("a", [1, 1, -1], [TruthBox(0, BOX, difficult=True), TruthBox(1, BOX)]),
            prediction("a", boxes=[("cat", BOX, 0.9), ("cat", (0, 0, 1, 1), 0.1)]),
        ),
        (
            sample("b", [1, -1, -1], [TruthBox(0, BOX)]),
            prediction("b", boxes=[("cat", BOX, 0.1), ("cat", (0, 0, 1, 1), 0.9)]),
        ),
    ]
    result = _results(corloc(SETUP), images)["corloc"]
    assert result.per_class == {"cat": 0.5, "dog": 0.0}
    assert result.value == 0.25
    assert result.left_out == ("cow",)


def test_half_an_overlap_is_enough():
    half = (10.0, 5.0, 20.0, 25.0)
    images = _one_image([TruthBox(0, BOX)], [("cat", half, 0.9)])
    assert _results(corloc(SETUP), images)["corloc"].value == 1.0
    inclusive = OverlapConvention(0.5, "inclusive")
    assert (
        _results(corloc(MetricSetup(CLASSES, overlap=inclusive)), images)["corloc_inclusive"].value
        == 1.0
    )
    less = _one_image([TruthBox(0, BOX)], [("cat", (10.0, 5.0, 19.9, 25.0), 0.9)])
    assert _results(corloc(SETUP), less)["corloc"].value == 0.0


def test_image_corloc_disregards_classes_and_averages_over_images():
    images = [
        (sample("a", [1, 0, 0], [TruthBox(0, BOX)]), prediction("a", boxes=[("dog", BOX, 0.5)])),
        (sample("b", [1, 0, 0], [TruthBox(0, BOX)]), prediction("b")),
        (sample("c", [0, 0, 0], []), prediction("c", boxes=[("dog", BOX, 0.5)])),
    ]
    result = _results(image_corloc(SETUP), images)["image_corloc"]
    assert result.value == 0.5
    assert _results(corloc(SETUP), images)["corloc"].value == 0.0


def test_recall_of_several_instances_counts_each_object_once():
    drawn = [TruthBox(0, BOX), TruthBox(0, (40.0, 0.0, 60.0, 40.0)), TruthBox(1, BOX)]
    found = [("cat", BOX, 0.9), ("cat", BOX, 0.8), ("dog", BOX, 0.5)]
    images = [(sample("a", [1, 1, -1], drawn), prediction("a", boxes=found))]
    results = _results(instance_recall(SETUP), images)
    assert results["instance_recall"].value == pytest.approx(2 / 3)
    assert results["multi_instance_recall"].value == pytest.approx(1 / 2)
    assert results["multi_instance_recall"].left_out == ("dog", "cow")


MANY = ClassIndex(tuple("abcdefgh"))


def _localized(cases):
    """Cases are (scores of eight classes, true class, whether each class's box hits)."""
    images = []
    for number, (scores, label, hits) in enumerate(cases):
        boxes = [
            (name, BOX if hit else (0, 0, 1, 1), 0.5)
            for name, hit in zip(MANY.names, hits, strict=True)
        ]
        labels = [1 if c == label else -1 for c in range(8)]
        named = dict(zip(MANY.names, map(float, scores), strict=True))
        images.append(
            (
                sample(str(number), labels, [TruthBox(label, BOX)]),
                prediction(str(number), named, boxes=boxes),
            )
        )
    return {
        name: result.value
        for name, result in _results(
            single_object_localization(MetricSetup(MANY)), images, MANY
        ).items()
    }


def test_localisation_accuracies_are_conjunctions_of_class_and_box(random):
    """AUG-07."""
    cases = [
        (random.permutation(8), int(random.integers(8)), random.random(8) < 0.5) for _ in range(60)
    ]
    values = _localized(cases)
    places = [int((scores > scores[label]).sum()) for scores, label, _ in cases]
    known = np.array([hits[label] for _, label, hits in cases])
    first = np.array([hits[scores.argmax()] for scores, _, hits in cases])
    top_1, top_5 = np.array(places) < 1, np.array(places) < 5
    assert values["gt_known_loc"] == pytest.approx(known.mean())
    assert values["top_1_loc"] == pytest.approx((top_1 & known).mean())
    assert values["top_1_loc"] == pytest.approx((top_1 & first).mean())  # the variants agree
    assert values["top_5_loc"] == pytest.approx((top_5 & known).mean())
    assert values["top_5_loc_first_box"] == pytest.approx((top_5 & first).mean())
    assert values["first_box_loc"] == pytest.approx(first.mean())
    assert values["top_1_loc"] <= min(values["gt_known_loc"], top_1.mean())


def test_all_correct_gives_one_in_every_localisation_accuracy():
    """AUG-07."""
    values = _localized([(np.eye(8)[label], label, np.ones(8, bool)) for label in range(8)])
    assert set(values.values()) == {1.0}
