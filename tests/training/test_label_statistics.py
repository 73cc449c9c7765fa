"""What the tags of the training images say, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from weakloc.structures import LabelStatistics, Sample
from weakloc.training.plan import count_labels


def statistics(rows: list[list[int]]) -> LabelStatistics:
    samples = [
        Sample(f"{number}.jpg", "", np.array(row, dtype=np.int8)) for number, row in enumerate(rows)
    ]
    return count_labels(samples, len(rows[0]))


def test_labels_are_counted_by_class_and_by_pair() -> None:
    found = statistics([[1, 1, -1], [1, 0, -1], [-1, 1, 0]])
    assert found.num_images == 3
    assert (found.present, found.absent) == ([2, 2, 0], [1, 0, 2])
    assert found.unknown == [0, 1, 1]
    assert found.co_occurrence == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("rows", "is_single"),
    [
        ([[1, -1, -1], [-1, -1, 1]], True),
        ([[1, 1, -1], [-1, -1, 1]], False),
        ([[1, 0, -1], [-1, -1, 1]], False),
        ([[-1, -1, -1], [-1, -1, 1]], False),
        ([[1, 1, -1], [-1, -1, -1]], False),  # one each in the mean only
    ],
)
def test_single_label_data_are_told_from_all_others(rows: list[list[int]], is_single: bool) -> None:
    assert statistics(rows).is_single_label == is_single
