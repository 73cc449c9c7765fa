"""The arithmetic of the benchmarks, which measure nothing here."""

from __future__ import annotations

import pytest

from benchmarks.bench_growth import GROWTHS, Cost, fitted_exponent, row_of


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_a_power_has_its_exponent_whatever_its_factor(exponent: float) -> None:
    amounts = [20, 200, 1000]
    costs = [3.7 * amount**exponent for amount in amounts]
    assert fitted_exponent(amounts, costs) == pytest.approx(exponent)


def test_what_grows_faster_than_images_is_a_finding_and_faster_than_boxes_is_none() -> None:
    by_images, by_boxes = "predict by images", "evaluate a file by boxes"
    assert GROWTHS[by_images].grows == "images" != GROWTHS[by_boxes].grows
    slow, fast = [Cost(1.0, 8.0), Cost(10.0, 8.0)], [Cost(1.0, 8.0), Cost(20.0, 17.0)]
    assert row_of(by_images, [100, 1000], slow)["finding"] is None
    row = row_of(by_images, [100, 1000], fast)
    assert (row["finding"], row["exponent, last two"]) == ("yes", 1.3)
    assert row["bytes more for each"] == 10486  # 9 MiB for 900
    assert row_of(by_boxes, [100, 1000], fast)["finding"] is None
