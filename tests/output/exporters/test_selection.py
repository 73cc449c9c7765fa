"""Thresholds, the best few and tagged classes, beside plain loops."""

from __future__ import annotations

import pytest

from tests.output.exporters.conftest import CLASS_NAMES
from weakloc.errors import PredictionsError, SettingError
from weakloc.output.exporters.selection import selected
from weakloc.output.settings import ExportOptions
from weakloc.structures import Box, Prediction

BOXES = (
    Box("dog", (0, 0, 1, 1), 0.2),
    Box("cat", (0, 0, 2, 1), 0.9),
    Box("dog", (0, 0, 3, 1), 0.8),
    Box("dog", (0, 0, 4, 1), 0.8),
    Box("cat", (0, 0, 5, 1), 0.1),
)
PREDICTION = Prediction("a.jpg", 9, 5, {"dog": 1.0}, boxes=BOXES, extra={"tags": ["dog"]})


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (ExportOptions(), [0, 1, 2, 3, 4]),
        (ExportOptions(score_threshold=0.2), [0, 1, 2, 3]),
        (ExportOptions(best_per_class=1), [1, 2]),
        (ExportOptions(best_per_class=2), [1, 2, 3, 4]),
        (ExportOptions(best_per_image=2), [1, 2]),
        (ExportOptions(best_per_image=9), [0, 1, 2, 3, 4]),
        (ExportOptions(tagged_only=True), [0, 2, 3]),
        (ExportOptions(tagged_only=True, best_per_image=1), [2]),
        (ExportOptions(score_threshold=0.95), []),
    ],
)
def test_the_best_that_pass_are_kept_in_their_order(
    options: ExportOptions, kept: list[int]
) -> None:
    (chosen,) = selected([PREDICTION], class_names=("cat", "dog"), options=options)
    assert chosen.boxes == tuple(BOXES[index] for index in kept)
    assert chosen.scores == PREDICTION.scores


def test_a_selection_is_the_same_as_a_plain_filter(predictions: list[Prediction]) -> None:
    options = ExportOptions(score_threshold=0.4)
    chosen = list(selected(predictions, class_names=CLASS_NAMES, options=options))
    for before, after in zip(predictions, chosen, strict=True):
        for kind in ("points", "boxes", "masks"):
            wanted = tuple(place for place in getattr(before, kind) if place.score >= 0.4)
            assert getattr(after, kind) == wanted


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(SettingError, match="--best-per-class is 0"):
        ExportOptions(best_per_class=0)
    with pytest.raises(SettingError, match=r"--mask-form is .poligon.\. Give rle or polygon"):
        ExportOptions(mask_form="poligon")  # type: ignore[arg-type]
    untagged = Prediction("b.jpg", 9, 5, {})
    with pytest.raises(PredictionsError, match=r"b\.jpg: was predicted without tags"):
        list(selected([untagged], class_names=(), options=ExportOptions(tagged_only=True)))
