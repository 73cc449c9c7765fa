"""WC-14 as users get masks: default settings, every background, every refinement's labels."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from tests.predictor.dot_source import DotSource
from weakloc.data.sources import ImageSource
from weakloc.data.transforms import Preprocessing
from weakloc.errors import SettingError
from weakloc.predictor import predictor as masks_module
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import RawMaps
from weakloc.rle import decode_mask
from weakloc.settings import Look, Places
from weakloc.structures import Prediction

WIDTH, HEIGHT = 93, 61
NAMES = ("red", "green", "blue")


@dataclass(frozen=True)
class BackgroundSource(DotSource):
    """Has a fourth map, of the background: 0 everywhere."""

    def read(self, images: Tensor) -> RawMaps:
        plain = super().read(images)
        behind = np.zeros_like(plain.maps[:, :1])
        return RawMaps(plain.scores, np.concatenate([plain.maps, behind], axis=1))


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """A picture with a red and a blue region, green nowhere above the middle; and its labels."""
    truth = np.zeros((HEIGHT, WIDTH), dtype=int)
    truth[7:30, 11:50] = 1
    truth[33:58, 40:90] = 3
    pixels = np.full((HEIGHT, WIDTH, 3), 0, dtype=np.uint8)
    pixels[truth == 1, 0] = 255
    pixels[truth == 3, 2] = 255
    pixels[truth == 3, 1] = 100  # hottest where blue is, and still absent
    return pixels, truth


def predict(pixels: np.ndarray, **chosen: object) -> Prediction:
    preprocessing = Preprocessing(size=64, resize="none", mean=(0.5,) * 3, std=(0.1,) * 3)
    source = BackgroundSource(preprocessing, stride=1)
    own = Predictor(source, Look(workers=0), Places(**chosen), thresholds=(0.3,) * 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    (found,) = own.predict([ImageSource("a.png", buffer.getvalue())])
    assert isinstance(found, Prediction)
    return found


def test_a_network_without_a_background_class_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackgroundSource, "read", DotSource.read)
    with pytest.raises(SettingError, match="--background is 'class'"):
        predict(drawn()[0], masks="threshold", background="class")


def label_image(prediction: Prediction) -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), dtype=int)
    for mask in prediction.masks:
        labels[decode_mask(mask.rle)] = NAMES.index(mask.class_name) + 1
    return labels


def mean_iou(labels: np.ndarray, truth: np.ndarray) -> float:
    classes = np.union1d(labels, truth)
    return float(
        np.mean(
            [
                ((labels == c) & (truth == c)).sum() / ((labels == c) | (truth == c)).sum()
                for c in classes
            ]
        )
    )


@pytest.mark.parametrize("background", ["auto", "threshold", "power", "class"])
def test_wc_14_a_hot_region_becomes_its_mask_and_no_absent_class_appears(background: str) -> None:
    pixels, truth = drawn()
    found = predict(pixels, masks="threshold", background=background)
    assert mean_iou(label_image(found), truth) == 1.0
    assert {mask.class_name for mask in found.masks} == {"red", "blue"}
    assert set(found.scores) == set(NAMES)


def test_a_background_class_wins_where_it_scores_higher_whatever_the_threshold() -> None:
    """At a brightness of 140 red scores (140 / 255 - 0.5) / 0.1 = 0.49, at 115 it scores -0.49."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[:, :30, 0], pixels[:, 30:60, 0], pixels[:, 60:, 0] = 255, 140, 115
    labels = label_image(predict(pixels, masks="threshold", background="class"))
    assert (labels == (np.arange(WIDTH) < 60)).all()
    by_level = label_image(predict(pixels, masks="threshold"))  # 0.3 of 115 to 255 is 157
    assert (by_level == (np.arange(WIDTH) < 30)).all()


def test_power_puts_the_eighth_power_of_what_no_class_says_behind() -> None:
    """(1 - m) ** 8 is above m below m = 0.2 and below it above m = 0.22."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    for column, brightness in ((0, 0), (20, 48), (40, 59), (60, 255)):
        pixels[:, column:, 0] = brightness
    labels = label_image(predict(pixels, masks="threshold", background="power"))
    assert (labels == (np.arange(WIDTH) >= 40)).all()


def test_the_crf_starts_from_minus_log_softmax_of_the_maps_of_background_and_present_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unaries: list[np.ndarray] = []
    refine = masks_module.refine_unary

    def recording(unary, image, settings):
        unaries.append(unary)
        return refine(unary, image, settings)

    monkeypatch.setattr(masks_module, "refine_unary", recording)
    pixels, _ = drawn()
    predict(pixels, masks="crf", background="class")
    red, blue = ((pixels[:, :, channel] / 255.0 - 0.5) / 0.1 for channel in (0, 2))
    stack = np.stack([np.zeros_like(red), red, blue])
    expected = -np.log(np.exp(stack) / np.exp(stack).sum(axis=0))
    (unary,) = unaries
    assert unary.shape == (3, HEIGHT, WIDTH)  # the background and two present classes
    np.testing.assert_allclose(unary, expected, atol=1e-4)
