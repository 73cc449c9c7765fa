"""Bad predictions are refused by name; good ones meet their samples."""

from __future__ import annotations

import pytest

from weakloc.errors import PredictionsError
from weakloc.metrics.case import ClassIndex, pair_predictions

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
        ([prediction(f"{name}.jpg") for name in ("a", "b", "xyzuvw")], r"one of: a\.jpg, b\.jpg"),
        ([prediction("a.jpg"), prediction("a.jpg")], r"a\.jpg: this image is predicted twice"),
        ([prediction("a.jpg")], r"1 of 2 images have no prediction, the first is 'b\.jpg'"),
        ([prediction("a.jpg", {"dgo": 0.1})], r"'dgo' is not a class .* Did you mean 'dog'\?"),
        ([prediction("a.jpg", boxes=[("cta", (5, 5, 6, 9), 0.5)])], "Did you mean 'cat'"),
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
