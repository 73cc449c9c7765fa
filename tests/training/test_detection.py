"""Boxes -> a detector: its geometry against formulas, and what it learns of drawn squares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from weakloc.data.transforms import Preprocessing
from weakloc.errors import DataError, RunError, SettingError
from weakloc.geometry import box_iou
from weakloc.methods.wildcat import Wildcat
from weakloc.model.backbones import build_backbone
from weakloc.model.fine_layers import Detector, fine_features
from weakloc.model.network import LocalizationNetwork
from weakloc.model.trunk import BackboneSpec
from weakloc.settings import DistilSettings
from weakloc.structures import ABSENT, PRESENT, Sample
from weakloc.training.fine_layers import Lesson, answering, learn_detector
from weakloc.training.run_folder import DETECTOR_NAME, load_learned, save_learned

SIDE = 64
PREPROCESSING = Preprocessing(size=(SIDE, SIDE), resize="warp")


@pytest.fixture(scope="module")
def network() -> LocalizationNetwork:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSpec.parse("tiny[width=8]", weights="none"))
    return Wildcat().build_network(backbone, 2).eval()


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> list[Lesson]:
    """Red squares are of class 0, blue ones of class 1, on grey noise; every image has one."""
    folder, random, lessons = tmp_path_factory.mktemp("squares"), np.random.default_rng(0), []
    for number in range(28):
        pixels = random.integers(90, 130, (128, 128, 3), dtype=np.uint8)
        side, index = int(random.integers(40, 64)), number % 2
        left, top = (int(edge) for edge in random.integers(0, 128 - side, 2))
        pixels[top : top + side, left : left + side] = (
            (250, 20, 20) if index == 0 else (20, 20, 250)
        )
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        labels = np.full(2, ABSENT, np.int8)
        labels[index] = PRESENT
        box = (float(left), float(top), float(left + side), float(top + side))
        lessons.append(Lesson(Sample(path.name, str(path), labels), ((index, box),)))
    return lessons


def learn(network: LocalizationNetwork, lessons: Sequence[Lesson], **changes: int) -> Detector:
    settings = replace(DistilSettings(epochs=4), **changes)
    return learn_detector(network, lessons, PREPROCESSING, settings, lambda _done, _total: None)[0]


def best_box(
    network: LocalizationNetwork, detector: Detector, lesson: Lesson
) -> tuple[float, float, float, float]:
    """Of the lesson's class, in pixels of the image, which is twice as large as the input."""
    ((index, _),) = lesson.boxes
    pixels, _ = PREPROCESSING.apply(Image.open(lesson.sample.path))
    with torch.no_grad():
        features = fine_features(network.backbone, pixels[None], detector.levels)
        logits, boxes = detector(features)
    best = int(logits[0, index].argmax())
    left, top, right, bottom = (2 * boxes[0].flatten(1)[:, best]).tolist()
    return left, top, right, bottom


def test_a_box_reaches_from_the_middle_of_its_cell() -> None:
    detector = Detector({4: 3, 8: 2}, 1)
    detector.reach.fill_(64)
    for layer in (detector.edges, detector.middle):
        torch.nn.init.zeros_(layer.weight)
    with torch.no_grad():
        detector.edges.bias.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))

    boxes = detector({4: torch.rand(2, 3, 8, 12), 8: torch.rand(2, 2, 4, 6)}).boxes

    left, top, right, bottom = (0.25 * 64 * math.log1p(math.exp(bias)) for bias in range(4))
    x, y = 8 * (5 + 0.5), 8 * (2 + 0.5)  # row 2, column 5
    expected = torch.tensor([x - left, y - top, x + right, y + bottom])
    assert boxes.shape == (2, 4, 4, 6)
    assert torch.allclose(boxes[1, :, 2, 5], expected)


def test_the_cells_in_the_inner_part_of_a_box_answer_for_it() -> None:
    middle = answering(torch.tensor([0.0, 16.0, 80.0, 48.0]), (6, 8), 8)

    # Centres are at 4, 12, 20 ...; the inner 0.6 reaches from 16 to 64 and from 22.4 to 41.6.
    assert middle.nonzero().tolist() == [[r, c] for r in (3, 4) for c in range(2, 8)]


def test_a_box_between_cells_is_answered_by_the_nearest() -> None:
    middle = answering(torch.tensor([9.0, 9.0, 10.0, 10.0]), (4, 4), 8)

    assert middle.nonzero().tolist() == [[1, 1]]


def test_a_few_drawn_boxes_are_enough_for_squares(
    network: LocalizationNetwork, squares: Sequence[Lesson]
) -> None:
    detector = learn(network, squares[:16])

    overlaps = [
        box_iou(best_box(network, detector, lesson), lesson.boxes[0][1]) for lesson in squares[16:]
    ]

    assert np.median(overlaps) > 0.6
    assert min(overlaps) > 0.3


def test_the_same_seed_learns_the_same(
    network: LocalizationNetwork, squares: Sequence[Lesson]
) -> None:
    first, again, other = (learn(network, squares[:4], epochs=1, seed=seed) for seed in (0, 0, 1))

    assert torch.equal(first.edges.weight, again.edges.weight)
    assert not torch.equal(first.edges.weight, other.edges.weight)


def test_what_nobody_looked_at_teaches_nothing(
    network: LocalizationNetwork, squares: Sequence[Lesson]
) -> None:
    """Class 1 is never said to be absent: its answers stay as they were at the start."""
    unseen = [replace(lesson, unknown=frozenset({1})) for lesson in squares[:8:2]]

    detector = learn(network, unseen, epochs=1)

    torch.manual_seed(0)
    start = Detector(detector.channels, 2)
    decay = torch.allclose(detector.middle.bias[1], start.middle.bias[1], rtol=1e-2)
    assert decay
    assert not torch.allclose(detector.middle.bias[0], start.middle.bias[0], rtol=1e-2)


def test_images_without_any_box_are_refused(
    network: LocalizationNetwork, squares: Sequence[Lesson]
) -> None:
    with pytest.raises(DataError, match="none of 2 images has a box"):
        learn(network, [replace(lesson, boxes=()) for lesson in squares[:2]])


def test_images_of_changing_size_are_refused(
    network: LocalizationNetwork, squares: Sequence[Lesson]
) -> None:
    changing = Preprocessing(size=(SIDE, SIDE), resize="none")

    with pytest.raises(SettingError, match="images of one size"):
        learn_detector(network, squares, changing, DistilSettings(), lambda _done, _total: None)


def test_a_kept_detector_comes_back_and_belongs_to_its_weights(
    network: LocalizationNetwork, tmp_path: Path
) -> None:
    detector = Detector({4: 16, 8: 32}, 2)
    save_learned(tmp_path, detector, network.backbone, DistilSettings())

    loaded = load_learned(Detector, tmp_path, network.backbone.weights_digest, 2)

    assert loaded is not None
    assert all(
        torch.equal(value, loaded.state_dict()[name])
        for name, value in detector.state_dict().items()
    )
    torch.manual_seed(1)
    other = build_backbone(BackboneSpec.parse("tiny[width=8]", weights="none"))
    with pytest.raises(RunError, match="other weights"):
        load_learned(Detector, tmp_path, other.weights_digest, 2)
    (tmp_path / DETECTOR_NAME).write_bytes(b"")
    with pytest.raises(RunError, match="weakloc distil"):
        load_learned(Detector, tmp_path, network.backbone.weights_digest, 2)
