"""Masks refined along the picture's edges, and doubt, through the whole predictor."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.predictor.dot_source import DotSource, chosen
from weakloc.data.sources import ImageSource
from weakloc.data.transforms import Preprocessing
from weakloc.files import ByName
from weakloc.predictor.predictor import Predictor
from weakloc.rle import decode_mask
from weakloc.structures import ABSENT, PRESENT, Prediction


def predict(
    pixels: np.ndarray,
    tags: ByName[np.ndarray] | None = None,
    *,
    thresholds: tuple[float, ...] = (0.5,) * 3,
    **settings: object,
) -> Prediction:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    preprocessing = Preprocessing(size=(60, 45), mean=(0.45,) * 3, std=(0.05,) * 3)
    look, places = chosen(**{"min_score": 0.6, "map_side": 60, **settings})
    own = Predictor(DotSource(preprocessing, stride=15), look, places, thresholds=thresholds)
    (found,) = own.predict([ImageSource("a.png", buffer.getvalue())], tags)
    assert isinstance(found, Prediction)
    return found


def overlap(prediction: Prediction, drawn: np.ndarray) -> float:
    (mask,) = prediction.masks
    decoded = decode_mask(mask.rle)
    assert decoded.shape == drawn.shape
    return float((decoded & drawn).sum() / (decoded | drawn).sum())


def test_refined_masks_follow_the_edges_that_coarse_maps_miss() -> None:
    rows, columns = np.mgrid[:90, :120]
    drawn = ((rows - 44) / 22) ** 2 + ((columns - 57) / 30) ** 2 < 1
    pixels = np.full((90, 120, 3), (60, 60, 60), dtype=np.uint8)
    pixels[drawn] = (60, 250, 60)
    coarse = overlap(predict(pixels, masks="threshold"), drawn)
    refined = overlap(predict(pixels, masks="crf"), drawn)
    assert refined > coarse + 0.05
    assert refined > 0.85


@pytest.mark.parametrize("masks", ["threshold", "crf"])
def test_of_classes_at_their_highest_the_one_furthest_above_its_threshold_wins(masks: str) -> None:
    """The unary energy is -log of what a class has of all classes: none is cut off at 1."""
    pixels = np.full((90, 120, 3), 128, dtype=np.uint8)  # 1.04 in each map
    thresholds = (0.45, 0.35, 0.7)  # the first two are more than 0.5 below it
    won = predict(pixels, masks=masks, threshold_mode="none", thresholds=thresholds).masks
    assert [mask.class_name for mask in won] == ["green"]


def test_doubt_is_a_share_and_greater_where_there_is_more_to_doubt(
    random: np.random.Generator,
) -> None:
    plain = np.full((90, 120, 3), 20, dtype=np.uint8)
    plain[30:60, 45:75, 1] = 250
    noisy = random.integers(0, 255, (9, 12, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    known = ByName({"a.png": np.array([ABSENT, PRESENT, ABSENT], dtype=np.int8)})
    wrong = ByName({"a.png": np.array([PRESENT, ABSENT, ABSENT], dtype=np.int8)})
    doubts = [
        predict(pixels, tags, flip=flip, top=1).doubt
        for pixels in (plain, noisy, np.zeros_like(plain))
        for tags in (None, known, wrong)
        for flip in (False, True)
    ]
    assert all(0 <= doubt <= 1 for doubt in doubts)
    assert predict(plain, wrong).doubt > predict(plain, known).doubt
    assert predict(noisy, known).doubt > predict(plain, known).doubt


def test_tags_travel_with_the_prediction() -> None:
    pixels = np.full((90, 120, 3), 20, dtype=np.uint8)
    tags = ByName({"a.png": np.array([PRESENT, ABSENT, PRESENT], dtype=np.int8)})
    assert predict(pixels, tags).extra == {"tags": ["red", "blue"]}
    assert predict(pixels).extra == {}
