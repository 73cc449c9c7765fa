"""Masks against numpy.histogram, scikit-learn and confusion matrices counted in the open."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from sklearn.metrics import average_precision_score, confusion_matrix

from weakloc.errors import DataError, PredictionsError
from weakloc.geometry import nearest_cells
from weakloc.metrics.case import VOID, ClassIndex, ImageTruth, MetricSetup, read_labels
from weakloc.metrics.max_box import normalize_map
from weakloc.metrics.pixels import (
    EDGES,
    MeanIoU,
    PixelPrecision,
    confusion_of,
    count_pixels,
    drawn_pixels,
    paint_masks,
)
from weakloc.metrics.uncertainty import draw_image
from weakloc.structures import Mask, Truth, TruthMask

from .maps import random_maps
from .oracles import case, prediction, sample

NAMES = ("cat", "dog")
CLASSES = ClassIndex(NAMES)
SETUP = MetricSetup(CLASSES)
SHAPE = (24, 31)


def draw(name, resamples=0):
    return draw_image(name, resamples)


def _rle(pixels):
    return coco_masks.encode(np.asfortranarray(pixels.astype(np.uint8)))


def _rectangle(left, top, right, bottom):
    pixels = np.zeros(SHAPE, dtype=bool)
    pixels[top:bottom, left:right] = True
    return pixels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_pass_counts_what_two_histograms_count_on_1000_maps(dtype):
    random = np.random.default_rng(0)
    on_edges = random.choice(EDGES[:-2], SHAPE)
    for score_map in [on_edges, np.nextafter(on_edges, -1), *random_maps(1000)]:
        scores = normalize_map(score_map, image="a").astype(dtype)
        truth = random.choice(np.array([0, 1, VOID], dtype=np.uint8), SHAPE)
        ours = count_pixels(scores, truth)
        for value in (0, 1):
            expected, _ = np.histogram(scores[truth == value], bins=EDGES)
            assert np.array_equal(ours[value], expected)


def test_pixel_precision_is_the_average_precision_of_the_binned_pixels(random):
    accumulator = PixelPrecision()
    scores, labels = [], []
    for number, score_map in enumerate(random_maps(30)):
        truth = random.choice(np.array([0, 1, VOID], dtype=np.uint8), SHAPE)
        accumulator.add(draw(str(number)), score_map, truth)
        binned = np.searchsorted(EDGES, normalize_map(score_map, image="a"), "right")
        scores.append(binned[truth != VOID])
        labels.append(truth[truth != VOID])
    (result,) = accumulator.compute()
    expected = average_precision_score(np.concatenate(labels), np.concatenate(scores))
    assert result.value == pytest.approx(expected, abs=1e-12)


def test_a_constant_map_has_the_base_rate_and_no_object_has_no_number():
    truth = _rectangle(0, 0, 31, 6).astype(np.uint8)
    accumulator = PixelPrecision()
    accumulator.add(draw("a"), np.full(SHAPE, 0.3), truth)
    assert accumulator.compute()[0].value == pytest.approx(0.25)
    accumulator = PixelPrecision()
    accumulator.add(draw("a"), np.full(SHAPE, 0.3), np.zeros(SHAPE, np.uint8))
    assert accumulator.compute()[0].unavailable == "no pixel belongs to an object"


def test_maps_that_are_not_finite_are_errors():
    broken = np.full(SHAPE, np.inf)
    with pytest.raises(PredictionsError, match=r"a\.jpg: the score map holds values"):
        PixelPrecision().add(draw("a.jpg"), broken, np.zeros(SHAPE, np.uint8))


def test_the_memory_of_the_sums_does_not_grow_with_the_images(random):
    truth = random.integers(0, 2, (16, 17)).astype(np.uint8)
    maps, ious = PixelPrecision(), MeanIoU(SETUP)

    def feed(start, end):
        for number in range(start, end):
            maps.add(draw(str(number), 1000), random.random((16, 17)), truth)
            ious.add(draw(str(number), 1000), truth, truth)

    feed(0, 200)
    tracemalloc.start()
    feed(200, 1480)  # whole chunks
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 2**20


def _mean_iou(pairs, **options):
    accumulator = MeanIoU(SETUP, **options)
    for number, (predicted, truth) in enumerate(pairs):
        accumulator.add(draw(str(number)), predicted.astype(np.uint8), truth.astype(np.uint8))
    return accumulator


def test_identical_label_images_have_a_mean_iou_of_one(random):
    """MET-08."""
    labels = random.integers(0, 3, SHAPE)
    assert _mean_iou([(labels, labels)]).compute()[0].value == 1.0


def test_void_pixels_are_never_counted(random):
    """MET-08."""
    truth, predicted = random.integers(0, 3, SHAPE), random.integers(0, 3, SHAPE)
    truth[:5] = VOID
    changed = predicted.copy()
    changed[:5] = 2
    before, after = (_mean_iou([(each, truth)]) for each in (predicted, changed))
    assert before.compute() == after.compute()
    counted = confusion_of(predicted.astype(np.uint8), truth.astype(np.uint8), 3)
    assert counted.sum() == (truth != VOID).sum()


def test_the_mean_is_over_the_pixels_of_the_set_and_not_over_images():
    """MET-08."""
    cat = _rectangle(0, 0, 31, 12).astype(int)
    half, nothing = _rectangle(0, 0, 31, 6).astype(int), np.zeros(SHAPE, dtype=int)
    dot = _rectangle(0, 0, 1, 1).astype(int)
    pairs = [(half, cat), (nothing, dot)]
    cat_iou = (6 * 31) / (12 * 31 + 1)
    background = (12 * 31 + 24 * 31 - 1) / (18 * 31 + 24 * 31)
    (result,) = _mean_iou(pairs).compute()
    assert result.per_class == pytest.approx({"background": background, "cat": cat_iou})
    assert result.left_out == ("dog",)
    by_image = np.mean([_mean_iou([pair]).compute()[0].value for pair in pairs])
    assert result.value != pytest.approx(by_image, abs=0.01)


def test_the_confusion_matrix_equals_scikit_learn(random):
    truth = random.choice([0, 1, 2, VOID], SHAPE).astype(np.uint8)
    predicted = random.integers(0, 3, SHAPE).astype(np.uint8)
    kept = truth != VOID
    expected = confusion_matrix(truth[kept], predicted[kept], labels=[0, 1, 2])
    assert np.array_equal(confusion_of(predicted, truth, 3), expected)


def test_the_order_of_the_images_does_not_change_the_mean_iou(random):
    pairs = [(random.integers(0, 3, SHAPE), random.integers(0, 3, SHAPE)) for _ in range(20)]

    def part(numbers):
        accumulator = MeanIoU(SETUP)
        for number in numbers:
            labels = (each.astype(np.uint8) for each in pairs[number])
            accumulator.add(draw(str(number), 50), *labels)
        return accumulator.compute()[0]

    whole, again = part(range(20)), part(reversed(range(20)))
    assert again == whole
    assert np.array_equal(again.replicates, whole.replicates)
    assert whole.interval is not None


def test_knowing_the_tags_turns_masks_of_other_classes_into_background():
    drawn = (TruthMask(0, _rle(_rectangle(0, 0, 10, 24))),)
    said = prediction(
        "a",
        size=(31, 24),
        masks=(
            Mask("cat", _rle(_rectangle(0, 0, 10, 24)), 0.5),
            Mask("dog", _rle(_rectangle(20, 0, 31, 24)), 0.9),
        ),
    )
    results = {}
    for knowing in ("nothing", "tags"):
        accumulator = MeanIoU(SETUP, knowing=knowing)
        accumulator.update(case(sample("a", [1, -1], [], masks=drawn), said, CLASSES))
        (result,) = accumulator.compute()
        results[result.name] = result.value
    assert results["mean_iou_tags_given"] == 1.0
    assert results["mean_iou"] == pytest.approx((10 / 21 + 1 + 0) / 3)


def test_an_image_without_drawn_masks_counts_only_where_nothing_should_be_seen():
    accumulator = MeanIoU(SETUP)
    for labels in ([1, -1], [0, -1], [-1, -1]):
        said = prediction("a", size=(31, 24))
        accumulator.update(case(sample(str(labels), labels), said, CLASSES))
    (result,) = accumulator.compute()
    assert result.num_images == 1
    assert result.per_class == {"background": 1.0}


def test_a_prediction_of_another_size_is_an_error():
    with pytest.raises(PredictionsError, match="the prediction is 4 x 3, the drawn"):
        MeanIoU(SETUP).add(draw("a"), np.zeros((3, 4), np.uint8), np.zeros(SHAPE, np.uint8))


def test_masks_are_painted_best_over_others():
    masks = [
        Mask("cat", _rle(_rectangle(0, 0, 20, 24)), 0.9),
        Mask("dog", _rle(_rectangle(10, 0, 31, 24)), 0.5),
    ]
    labels = paint_masks(prediction("a", size=(31, 24), masks=tuple(masks)), CLASSES)
    assert labels[5].tolist() == [1] * 20 + [2] * 11
    tied = tuple(Mask(mask.class_name, mask.rle, 0.5) for mask in masks)
    again = paint_masks(prediction("a", size=(31, 24), masks=tied), CLASSES)
    assert np.array_equal(again, labels)


def test_drawn_masks_become_labels_with_crowds_void():
    cat, crowd = _rectangle(0, 0, 10, 24), _rectangle(5, 0, 31, 24)
    truth = Truth(masks=(TruthMask(0, _rle(cat)), TruthMask(0, _rle(crowd), crowd=True)))
    each = sample("a", [1, -1], [], masks=truth.masks)
    expected = [1] * 10 + [VOID] * 21
    assert ImageTruth(each).labels[3].tolist() == expected
    assert drawn_pixels(ImageTruth(each), 0)[3].tolist() == expected
    assert drawn_pixels(ImageTruth(each), 1) is None
    assert ImageTruth(sample("b", [1, -1], [])).labels is None


@pytest.mark.parametrize("index", [254, 255, 1000])
def test_of_many_classes_each_has_its_drawn_pixels(index: int) -> None:
    truth = Truth(masks=(TruthMask(index, _rle(_rectangle(0, 0, 10, 24))),))
    drawn = sample("a", [1, -1], [], masks=truth.masks)
    assert drawn_pixels(ImageTruth(drawn), index)[3].tolist() == [1] * 10 + [0] * 21
    with pytest.raises(DataError, match="at most 254 classes"):
        _ = ImageTruth(drawn).labels


def test_label_images_are_read_through_their_table(tmp_path):
    values = np.array([[0, 7, 255], [9, 0, 7]], dtype=np.uint8)
    path = str(tmp_path / "labels.png")
    Image.fromarray(values).save(path)
    assert read_labels(path, {7: 1, 9: 0}).tolist() == [[0, 2, 255], [1, 0, 2]]
    with pytest.raises(DataError, match="index 9 stands for no class"):
        read_labels(path, {7: 1})
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(str(tmp_path / "nothing.png"), {})


def test_resizing_takes_the_nearest_centre():
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert labels[nearest_cells(labels.shape, (3, 2))].tolist() == labels.tolist()
    assert labels[nearest_cells(labels.shape, (6, 2))].tolist() == [
        [0, 0, 1, 1, 2, 2],
        [3, 3, 4, 4, 5, 5],
    ]
    assert labels[nearest_cells(labels.shape, (1, 1))].tolist() == [[4]]
