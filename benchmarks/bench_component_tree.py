"""Boxes of all thresholds of a map: one component tree against one contour search a threshold.

    python -m benchmarks.bench_component_tree [--maps 20] [--rounds 7] [--side 224]

The peer cuts the byte map at every threshold of the list, follows the contours with OpenCV
(RETR_TREE, so holes count) and takes each contour's box; "distinct" is the same loop over the at
most 255 cuts that differ. Ours finds all boxes once, with the levels that show them. The last
columns do what an evaluator does with them: the greatest IoU with a drawn box at every threshold.
All boxes of all thresholds and all those IoUs must be equal.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Timing, paired_ratio, time_interleaved, write_results
from weakloc.component_tree import LevelBoxes, component_tree, hole_level_boxes, level_boxes
from weakloc.geometry import box_ious

ByteMap = NDArray[np.uint8]


def smooth_map(random: np.random.Generator, cells: int, side: int) -> ByteMap:
    """A score map of cells x cells, upsampled and min-max normalised."""
    coarse = random.random((cells, cells)).astype(np.float32)
    return to_bytes(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))


def noisy_map(random: np.random.Generator, side: int) -> ByteMap:
    """A 28 x 28 map upsampled, with noise of a tenth of its range on the pixels."""
    coarse = random.random((28, 28)).astype(np.float32)
    fine = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return to_bytes(fine + random.normal(0.0, 0.1, fine.shape))


def to_bytes(heat: NDArray[np.floating]) -> ByteMap:
    return ((heat - heat.min()) / (heat.max() - heat.min()) * 255).astype(np.uint8)


KINDS: dict[str, Callable[[np.random.Generator, int], ByteMap]] = {
    "smooth 7x7": lambda random, side: smooth_map(random, 7, side),
    "smooth 14x14": lambda random, side: smooth_map(random, 14, side),
    "noisy 28x28": noisy_map,
}


def cuts(num_thresholds: int) -> list[int]:
    """The byte levels of evenly spaced thresholds in [0, 1): repeated where steps are finer."""
    return [int(255 * share) for share in np.arange(num_thresholds) / num_thresholds]


def contour_boxes(levels: ByteMap, cut: int) -> list[tuple[int, int, int, int]]:
    _, binary = cv2.threshold(levels, cut, 255, cv2.THRESH_BINARY)
    contours, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    return [cv2.boundingRect(contour) for contour in contours]


def all_boxes(levels: ByteMap) -> LevelBoxes:
    outer, holes = level_boxes(component_tree(levels)), hole_level_boxes(levels)
    return LevelBoxes(
        np.concatenate([outer.first_level, holes.first_level]),
        np.concatenate([outer.last_level, holes.last_level]),
        np.concatenate([outer.boxes, holes.boxes]),
    )


def greatest_ious(levels: ByteMap, truth: list[float], num_thresholds: int) -> NDArray[np.float64]:
    """At every threshold the greatest IoU of any box with the truth; from one tree."""
    found = all_boxes(levels)
    ious = box_ious(found.boxes, truth)[:, 0]
    order = np.argsort(ious)
    greatest = np.zeros(256)
    ranges = zip(found.first_level[order], found.last_level[order], ious[order], strict=True)
    for first, last, iou in ranges:
        greatest[first : last + 1] = iou
    return greatest[cuts(num_thresholds)]


def contour_ious(levels: ByteMap, truth: list[float], num_thresholds: int) -> NDArray[np.float64]:
    """The same, one threshold at a time."""
    greatest = []
    for cut in cuts(num_thresholds):
        boxes = np.array(contour_boxes(levels, cut)).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        greatest.append(box_ious(boxes, truth).max(initial=0.0))
    return np.array(greatest)


def check_equal(levels: ByteMap, truth: list[float]) -> int:
    """How many boxes were compared; any difference in boxes or IoUs is an error."""
    found, total = all_boxes(levels), 0
    for cut in range(255):
        shown = found.boxes[(found.first_level <= cut) & (cut <= found.last_level)]
        peer = [(x, y, x + width, y + height) for x, y, width, height in contour_boxes(levels, cut)]
        if sorted(peer) != sorted(map(tuple, shown.tolist())):
            raise AssertionError(f"boxes differ at cut {cut}")
        total += len(peer)
    np.testing.assert_array_equal(
        greatest_ious(levels, truth, 1000), contour_ious(levels, truth, 1000)
    )
    return total


def variants(
    maps: list[ByteMap], truth: list[float], num_thresholds: int
) -> dict[str, Callable[[], object]]:
    every = cuts(num_thresholds)
    return {
        "contours": lambda: [contour_boxes(levels, cut) for levels in maps for cut in every],
        "distinct": lambda: [
            contour_boxes(levels, cut) for levels in maps for cut in sorted(set(every))
        ],
        "tree": lambda: [all_boxes(levels) for levels in maps],
        "contours+IoU": lambda: [contour_ious(levels, truth, num_thresholds) for levels in maps],
        "tree+IoU": lambda: [greatest_ious(levels, truth, num_thresholds) for levels in maps],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", type=int, default=224)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    random = np.random.default_rng(0)
    truth = [share * options.side for share in (0.2, 0.3, 0.7, 0.9)]
    rows: list[dict[str, object]] = []
    timings: dict[str, Timing] = {}
    for kind, make in KINDS.items():
        maps = [make(random, options.side) for _ in range(options.maps)]
        compared = sum(check_equal(levels, truth) for levels in maps)
        for num_thresholds in (100, 1000):
            timed = time_interleaved(variants(maps, truth, num_thresholds), rounds=options.rounds)
            timings |= {f"{kind}, {num_thresholds}, {name}": each for name, each in timed.items()}
            each_map = {f"{name} ms": t.wall / len(maps) * 1e3 for name, t in timed.items()}
            ratios = {
                f"contours{task} / tree{task}": paired_ratio(
                    timed[f"contours{task}"], timed[f"tree{task}"]
                )
                for task in ("", "+IoU")
            }
            rows.append(
                {"map": kind, "thresholds": num_thresholds, **each_map, **ratios}
                | {"equal boxes": compared}
            )
    write_results(
        "component_tree",
        rows,
        title=f"Boxes of all thresholds, {options.side}x{options.side} maps, one thread",
        notes=[
            f"{options.maps} maps of a kind, {options.rounds} interleaved rounds; wall time a map",
            f"peer: OpenCV {cv2.__version__}, threshold + findContours + boundingRect",
            "distinct: the peer's loop without repeated cuts; IoU: the greatest at each threshold",
            "all boxes at all 255 cuts and all IoUs were equal, hole contours included",
        ],
        timings=timings,
    )


if __name__ == "__main__":
    main()
