"""Bad predictions are refused by name; good ones meet their samples."""

from __future__ import annotations

import numpy as np
import pytest

from weakloc.errors import PredictionsError
from weakloc.metrics.case import ClassIndex, pair_predictions
from weakloc.structures import Mask

from .oracles import prediction, sample

CLASSES = ClassIndex(["cat", "dog"])
SAMPLES = [sample("a.jpg", [1, -1]), sample("b.jpg", [-1, 1])]


def _paired(predictions, samples=SAMPLES, **options):
    return list(pair_predictions(predictions, samples, CLASSES, **options))


def test_predictions_meet_their_samples_in_any_order():
    pairs = _paired([prediction("b.jpg"), prediction("a.jpg")])
    assert [(each.name, said.image) for each, said in pairs] == [("b.jpg",) * 2, ("a.jpg",) * 2]


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([prediction("c.jpg")], r"'c\.jpg' is not in the data set"),
        ([prediction("a.jpg"), prediction("a.jpg")], r"a\.jpg: this image is predicted twice"),
        ([prediction("a.jpg")], r"1 of 2 images have no prediction, the first is 'b\.jpg'"),
        ([prediction("a.jpg", {"cat": np.nan})], r"a\.jpg: the score of class 'cat' is nan"),
        ([prediction("a.jpg", {"dgo": 0.1})], r"'dgo' is not a class .* Did you mean 'dog'\?"),
        ([prediction("a.jpg", boxes=[("cat", (5, 5, 4, 9), 0.5)])], "inside out"),
        ([prediction("a.jpg", boxes=[("cat", (5, 5, np.inf, 9), 0.5)])], "not finite"),
        ([prediction("a.jpg", boxes=[("cat", (5, 5, 6, 9), np.inf)])], "'cat' is inf"),
        ([prediction("a.jpg", points=[("cat", np.nan, 1.0, 0.5)])], "a point lies at"),
        (
            [prediction("a.jpg", masks=(Mask("cat", {"size": [60, 40], "counts": ""}, 0.5),))],
            r"has the size \[60, 40\], the image is \[40, 60\]",
        ),
    ],
)
def test_what_is_wrong_is_said(predictions, message):
    with pytest.raises(PredictionsError, match=message):
        _paired(predictions)


def test_no_images_at_all_is_an_error():
    with pytest.raises(PredictionsError, match="no images to evaluate"):
        _paired([], samples=[])


def test_missing_predictions_may_count_as_images_where_nothing_was_found():
    pairs = _paired([prediction("b.jpg")], when_missing="empty")
    assert pairs[1][0].name == pairs[1][1].image == "a.jpg"
    assert not pairs[1][1].boxes
