"""Counts of a data set, beside counts made one by one; and the check of every image."""

from __future__ import annotations

import json
import os
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakloc.data import summary
from weakloc.data.summary import Pair, SizeCount, SizedImage, advice, check_images, summarise
from weakloc.errors import FailureError
from weakloc.structures import DataSet, Problem, Sample, Truth, TruthBox, TruthMask
from weakloc.work import silent

CLASSES = ("cat", "ü dog", "a/b")


def sample(name: str, *states: int, truth: Truth | None = None, folder: Path = Path()) -> Sample:
    return Sample(name, str(folder / name), np.array(states, dtype=np.int8), truth)


def data_set(splits: dict[str, list[Sample]]) -> DataSet:
    problems = (
        Problem("missing image", "gone", "a.csv, line 3", "error"),
        Problem("class in one split only", "cat", "a.csv"),
        Problem("missing image", "gone too", "a.csv, line 4", "error"),
    )
    return DataSet(Path("/data"), "table", CLASSES, splits, problems)


def test_every_count_is_that_of_a_slow_count(random):
    boxes = Truth((TruthBox(2, (0, 0, 1, 1)), TruthBox(2, (0, 0, 2, 1)), TruthBox(0, (0, 0, 1, 1))))
    others = Truth(masks=(TruthMask(1, {"size": [1, 1], "counts": "01"}),), segmentation_path="x")
    samples = [
        sample(f"{n}.jpg", *random.integers(-1, 2, 3), truth=[None, boxes, others][n % 3])
        for n in range(200)
    ]
    split = summarise(data_set({"train": samples})).splits["train"]
    assert split.images == 200
    assert split.unlabelled == sum((s.labels == 0).all() for s in samples)
    without = [s for s in samples if (s.labels != 0).any() and not (s.labels == 1).any()]
    assert split.without_class == len(without) > 0
    assert split.with_segmentation == 66
    assert tuple(split.classes) == CLASSES
    for index, counts in enumerate(split.classes.values()):
        states = Counter(int(s.labels[index]) for s in samples)
        assert (counts.present, counts.unknown, counts.absent) == (states[1], states[0], states[-1])
    assert [c.boxes for c in split.classes.values()] == [67, 0, 134]
    assert [c.masks for c in split.classes.values()] == [0, 66, 0]
    assert split.labels_per_image == Counter(int((s.labels == 1).sum()) for s in samples)
    both = {
        (CLASSES[i], CLASSES[j]): sum(s.labels[i] == 1 == s.labels[j] for s in samples)
        for i, j in combinations(range(3), 2)
    }
    assert {pair.classes: pair.images for pair in split.co_occurrence} == both


def test_pairs_come_the_most_frequent_first():
    together = [(1, 1, -1)] * 2 + [(-1, 1, 1)] * 5 + [(1, -1, 1)] * 2
    samples = [sample(f"{n}.jpg", *states) for n, states in enumerate(together)]
    split = summarise(data_set({"train": samples})).splits["train"]
    assert split.co_occurrence == [
        Pair(("ü dog", "a/b"), 5), Pair(("cat", "ü dog"), 2), Pair(("cat", "a/b"), 2)
    ]  # fmt: skip


def test_the_summary_is_plain_json():
    summary = summarise(
        data_set({"train": [sample("1.jpg", 1, 1, -1), sample("2.jpg", 1, 1, 0)], "val": []})
    )
    record = json.loads(json.dumps(summary.to_json()))
    assert record["problem_counts"] == {"missing image": 2, "class in one split only": 1}
    assert record["problems"][0]["where"] == "a.csv, line 3"
    assert record["splits"]["train"]["co_occurrence"] == [
        {"classes": ["cat", "ü dog"], "images": 2}
    ]
    assert record["splits"]["train"]["labels_per_image"] == {"2": 2}
    assert record["splits"]["train"]["classes"]["a/b"] == {
        "present": 0, "unknown": 1, "absent": 1, "boxes": 0, "masks": 0,
    }  # fmt: skip
    assert record["splits"]["val"]["images"] == 0


def images_in(folder: Path, count: int) -> list[Sample]:
    """Images of 40 x 30, but one that is tall and two that are broken."""
    samples = []
    for n in range(count):
        name = f"ü {n}.jpg"
        Image.new("RGB", (40, 30) if n != 2 else (40, 300), (n, 9, 9)).save(folder / name)
        samples.append(sample(name, 1, 0, 0, folder=folder))
    (folder / "ü 1.jpg").write_bytes(b"nothing")
    content = (folder / "ü 4.jpg").read_bytes()
    (folder / "ü 4.jpg").write_bytes(content[: len(content) // 2])
    return samples


@pytest.mark.parametrize("processes", [1, 2])
def test_every_image_is_decoded_and_the_broken_are_listed_in_order(tmp_path, processes):
    samples = images_in(tmp_path, 140)
    progress: list[tuple[int, int | None]] = []
    check = check_images(
        samples, processes=processes, on_progress=lambda done, total: progress.append((done, total))
    )
    assert sorted(progress)[-1] == (140, 140)
    assert check.images == 140
    assert [item.name for item in check.broken] == ["ü 1.jpg", "ü 4.jpg"]
    assert "not an image of a known format" in check.broken[0].reason
    assert check.frequent_sizes == [SizeCount(40, 30, 137), SizeCount(40, 300, 1)]
    assert check.different_sizes == 2
    assert check.odd == [SizedImage("ü 2.jpg", (40, 300))]
    assert (check.width.smallest, check.width.median, check.width.largest) == (40, 40.0, 40)
    assert (check.height.smallest, check.height.median, check.height.largest) == (30, 30.0, 300)
    record = json.loads(json.dumps(check.to_json()))
    assert record["height"] == {"min": 30, "median": 30.0, "max": 300}
    assert record["odd"] == [{"image": "ü 2.jpg", "size": [40, 300]}]
    assert record["broken"][1]["image"] == "ü 4.jpg"
    assert record["frequent_sizes"][0] == {"width": 40, "height": 30, "images": 137}


def test_a_data_set_of_broken_images_has_no_sizes(tmp_path):
    (tmp_path / "1.jpg").touch()
    check = check_images(
        [sample("1.jpg", 1, 1, 1, folder=tmp_path)], processes=1, on_progress=silent
    )
    assert (check.width, check.height, check.different_sizes) == (None, None, 0)
    assert len(check.broken) == 1
    assert check.to_json()["width"] is None


def kill_the_process(chunk: object) -> None:
    """Stands for a decoder that takes its process down."""
    os.kill(os.getpid(), 9)


def test_a_worker_that_dies_is_a_failure_and_not_a_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "_check_chunk", kill_the_process)
    samples = [sample(f"{n}.jpg", 1, 1, 1, folder=tmp_path) for n in range(9)]
    with pytest.raises(FailureError, match="was killed"):
        check_images(samples, processes=2, on_progress=silent)


def test_at_least_one_process_is_needed():
    with pytest.raises(ValueError, match="processes is 0"):
        check_images([], processes=0, on_progress=silent)


BOX = Truth(boxes=(TruthBox(0, (1.0, 2.0, 5.0, 6.0)),) * 3)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        # the cat is never without the dog, which is also alone
        (
            [(1, 1, -1), (1, 1, 1), (-1, 1, -1), (-1, -1, 1)],
            ["'cat' is never without 'ü dog'", "0 boxes"],
        ),
        # one image tells nothing of pairs; a/b is everywhere
        (
            [(1, -1, 1), (-1, 1, 1), (-1, 1, 1)],
            ["'a/b' is absent from no", "'ü dog' is never", "0 boxes"],
        ),
        ([(1, -1, -1), (-1, 1, -1), (0, 0, 0)], ["'a/b' is on no image", "0 boxes"]),
        ([(0, 0, 0)], ["'cat' is unknown", "'ü dog' is unknown", "'a/b' is unknown"]),
    ],
)
def test_what_to_expect_is_said(samples: list[tuple[int, ...]], said: list[str]) -> None:
    known = [sample(str(number), *states) for number, states in enumerate(samples)]
    lines = advice(summarise(data_set({"train": known})).splits["train"])
    assert len(lines) == len(said)
    for line, part in zip(lines, said, strict=True):
        assert part in line


def test_drawn_boxes_are_worth_a_detector_from_six_on() -> None:
    known = [sample(str(number), 1, -1, -1, truth=BOX) for number in range(2)]
    (*_, last) = advice(summarise(data_set({"train": known})).splits["train"])
    assert last.startswith("6 boxes are drawn: 'weakloc distil")
