"""Beam search (Bency et al. 2016): image regions with high class scores, and their heat map.

A scorer of windows goes in; per class the kept regions of every level, and heat maps, come out.
All classes of an image are searched together: one pass for the crops of a level and one head call
for all their windows. Windows are (x, y, width, height) in cells of a grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from typing import Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from weakloc.errors import SettingError, require_setting
from weakloc.geometry import BoxLTRB, FloatArray, GridTransform, IntArray, Size, map_box_to_grid
from weakloc.localize.maps import image_grid
from weakloc.structures import ScoreMaps

Window: TypeAlias = tuple[int, int, int, int]  # (x, y, width, height) in cells
GridSize: TypeAlias = tuple[int, int]  # (columns, rows)
ChildRule: TypeAlias = Literal["one_side", "eq6"]
Interpolation: TypeAlias = Literal["half_pixel", "align_corners"]
Grid = TypeVar("Grid")


class Region(NamedTuple):
    """A rectangle as exact shares of the image's width and height."""

    x: Fraction
    y: Fraction
    width: Fraction
    height: Fraction


class RegionKey(NamedTuple):
    """A region in floats, ordered as ties are broken: top, left, height, width."""

    y: float
    x: float
    height: float
    width: float


WHOLE_IMAGE = Region(Fraction(0), Fraction(0), Fraction(1), Fraction(1))


def one_side_children(window: Window) -> list[Window]:
    """Bency et al., Section 3.3: Eq. 6 restricted to one row or one column less."""
    return [child for child in eq6_children(window) if sum(child[2:]) == sum(window[2:]) - 1]


def eq6_children(window: Window) -> list[Window]:
    """All of Eq. 6: each side as it is or one shorter, the window itself included."""
    x, y, width, height = window
    spans_x = [(x, width)] + ([(x, width - 1), (x + 1, width - 1)] if width > 1 else [])
    spans_y = [(y, height)] + ([(y, height - 1), (y + 1, height - 1)] if height > 1 else [])
    return [(x, y, width, height) for y, height in spans_y for x, width in spans_x]


CHILDREN: dict[ChildRule, Callable[[Window], list[Window]]] = {
    "one_side": one_side_children,
    "eq6": eq6_children,
}


@lru_cache(maxsize=8)
def all_windows(grid_size: GridSize) -> tuple[Window, ...]:
    """Every window of the grid, largest first: 441 on 6 x 6 cells, 784 on 7 x 7."""
    columns, rows = grid_size
    windows = [
        (x, y, width, height)
        for width in range(1, columns + 1)
        for height in range(1, rows + 1)
        for x in range(columns - width + 1)
        for y in range(rows - height + 1)
    ]
    return tuple(sorted(windows, key=lambda window: (window_level(window, grid_size), window)))


def window_level(window: Window, grid_size: GridSize) -> int:
    """Rows and columns cut away so far; the full grid is level 0."""
    return grid_size[0] + grid_size[1] - window[2] - window[3]


def window_region(frame: Region, window: Window, grid_size: GridSize) -> Region:
    """The part of the frame that a window of its grid stands for (Eq. 5)."""
    x, y, width, height = window
    cell_width, cell_height = frame.width / grid_size[0], frame.height / grid_size[1]
    return Region(
        frame.x + x * cell_width,
        frame.y + y * cell_height,
        width * cell_width,
        height * cell_height,
    )


def region_key(region: Region) -> RegionKey:
    return RegionKey(float(region.y), float(region.x), float(region.height), float(region.width))


def window_key(frame: Region, window: Window, grid_size: GridSize) -> RegionKey:
    """The key of a window's region; division rounds as the exact fraction does, but is quick."""
    if frame is not WHOLE_IMAGE:
        return region_key(window_region(frame, window, grid_size))
    (x, y, width, height), (columns, rows) = window, grid_size
    return RegionKey(y / rows, x / columns, height / rows, width / columns)


def region_box(region: Region, image_size: Size) -> BoxLTRB:
    """The region in the image frame, free of accumulated rounding."""
    width, height = image_size
    return (
        float(region.x) * width,
        float(region.y) * height,
        float(region.x + region.width) * width,
        float(region.y + region.height) * height,
    )


def key_iou(first: RegionKey, second: RegionKey) -> float:
    overlap_width = min(first.x + first.width, second.x + second.width) - max(first.x, second.x)
    overlap_height = min(first.y + first.height, second.y + second.height) - max(first.y, second.y)
    overlap = max(overlap_width, 0.0) * max(overlap_height, 0.0)
    union = first.width * first.height + second.width * second.height - overlap
    return overlap / union


class WindowScorer(Protocol[Grid]):
    """Anything that can score parts of one image for all classes at once.

    `read_crops` takes (N, 4) image boxes, cuts them out, warps them to the network's input and
    returns one feature grid each, batched as it likes; grids may stay on the device.
    `score_windows` takes windows (N, 4) as (x, y, width, height) in cells, window i on
    `grids[owners[i]]`, and returns scores (N, C) in one batched call; higher is better, and
    probabilities make box scores comparable. A window of the full grid must not be resampled, so
    that its score is the plain classification score. `predictor.beam_heat` has two ready ones.
    """

    @property
    def grid_size(self) -> GridSize: ...

    def read_crops(self, boxes_in_image: FloatArray) -> Sequence[Grid]: ...

    def score_windows(
        self, grids: Sequence[Grid], owners: IntArray, windows: IntArray
    ) -> FloatArray: ...


@dataclass(frozen=True, slots=True)
class BeamSettings:
    """How to search; the defaults are the paper's, read as re-cropping at every level.

    `num_levels` None goes down to single cells of the grid. `recrop_every` = r runs the backbone
    anew on the kept regions every r levels; `inf` stays on the first feature map. `exhaustive`
    scores all its windows instead of descending. `diverse_iou` passes over a candidate that
    overlaps a better one of its level by more than that: 0.95 drops near duplicates, 0.7 is a
    diverse beam, 1 keeps all. `interpolation` says where the cells of a window lie that is
    stretched to the whole grid.
    """

    beam_width: int = 8
    num_levels: int | None = 10
    recrop_every: float = 1
    search: Literal["beam", "exhaustive"] = "beam"
    children: ChildRule = "one_side"
    diverse_iou: float = 1.0
    interpolation: Interpolation = "half_pixel"

    def __post_init__(self) -> None:
        require = partial(require_setting, self, "beam")
        require("beam_width", self.beam_width >= 1, "Use 1 or more")
        levels = self.num_levels
        require("num_levels", levels is None or levels >= 1, "Use 1 or more, or none")
        whole = self.recrop_every == math.inf or float(self.recrop_every).is_integer()
        remedy = "Use 1, 2, 3, ... levels, or inf for one feature map throughout"
        require("recrop_every", whole and self.recrop_every >= 1, remedy)
        if self.search == "exhaustive" and self.recrop_every != math.inf:
            raise SettingError(
                f"exhaustive search cannot re-crop every {self.recrop_every:g} levels",
                location="beam",
                remedy="Set recrop_every to inf",
            )
        require("diverse_iou", 0 < self.diverse_iou <= 1, "Use 0 < value <= 1")

    def levels_on(self, grid_size: GridSize) -> int:
        return sum(grid_size) - 2 if self.num_levels is None else self.num_levels


@dataclass(frozen=True)
class KeptRegions:
    """What was kept for one class: (N, 4) boxes in the image, level by level, best first."""

    class_index: int
    boxes: FloatArray
    scores: FloatArray
    levels: IntArray


@dataclass(frozen=True)
class SearchResult:
    """One entry of `kept` per class asked for.

    The whole image is level 0: scored, but neither kept nor counted in `num_windows`.
    """

    image_size: Size
    kept: tuple[KeptRegions, ...]
    num_crops: int
    num_windows: int


class _Node(NamedTuple):
    frame: int
    window: Window


class _Scored(NamedTuple):
    node: _Node
    key: RegionKey
    scores: FloatArray  # (C,)


def beam_search(
    scorer: WindowScorer[Grid],
    image_size: Size,
    *,
    class_indices: Sequence[int],
    settings: BeamSettings,
) -> SearchResult:
    """The best regions of one image for each class; ties go to the upper, then the left one.

    Candidates whose score is not a finite number are never kept.
    """
    if not class_indices:
        return SearchResult(image_size, (), 0, 0)
    memory = _Memory(scorer, image_size)
    if settings.search == "exhaustive":
        # Only a beam's width is kept: all would put the maximum into the image's centre.
        by_level: dict[int, list[_Node]] = {}
        for window in all_windows(scorer.grid_size):
            by_level.setdefault(window_level(window, scorer.grid_size), []).append(_Node(0, window))
        num_levels = settings.levels_on(scorer.grid_size)
        candidates = [by_level[level] for level in sorted(by_level) if 1 <= level <= num_levels]
        levels = [
            [_best(of_level, index, settings) for index in class_indices]
            for of_level in memory.score(candidates)
        ]
    else:
        levels = _beam_levels(memory, class_indices, settings)
    kept = tuple(
        _kept_regions(memory, class_index, [level[row] for level in levels])
        for row, class_index in enumerate(class_indices)
    )
    return SearchResult(image_size, kept, memory.num_crops, memory.num_windows)


def heat_maps(result: SearchResult, *, long_side: int = 256) -> ScoreMaps:
    """Per class the scores of the kept regions, summed over each cell (Bency et al., Section 3.4).

    Divided by the number of kept regions, which the paper does not do: it keeps values and box
    scores in [0, 1] and changes nothing in a threshold relative to the maximum. Scores below 0 add
    nothing. Cells are equal to the greatest exactly where their sums are. The map has the image's
    resolution up to `long_side`. What follows in the paper: `places.find_boxes` with thresholds per
    class on `relu_max` and the score `raw_mean`, `places.locate_point` by `plateau`.
    """
    transform = image_grid(result.image_size, long_side=long_side)
    columns, rows = int(transform.grid_size[0]), int(transform.grid_size[1])
    heat = np.zeros((len(result.kept), rows, columns), dtype=np.float32)
    for index, kept in enumerate(result.kept):
        sums = _sum_of_boxes(kept, transform)
        mean = (sums / max(len(kept.scores), 1)).astype(np.float32)
        # Single precision would let a sum that is all but the greatest join the plateau.
        is_raised = (mean == mean.max()) & (sums < sums.max())
        heat[index] = np.where(is_raised, np.nextafter(mean, np.float32(0)), mean)
    return ScoreMaps(heat, transform, kind="cam")


def _sum_of_boxes(kept: KeptRegions, transform: GridTransform) -> FloatArray:
    """Sum on the coarse grid that the boxes' own edges make, then spread to the cells."""
    positive = np.maximum(kept.scores, 0.0)
    # In whole multiples of this all sums are exact, so that their order makes no difference.
    unit = 2.0 * np.spacing(positive.sum())
    scores = np.rint(positive / unit) * unit
    columns, rows = int(transform.grid_size[0]), int(transform.grid_size[1])
    spans = []
    for box in kept.boxes:
        left, top, right, bottom = map_box_to_grid((box[0], box[1], box[2], box[3]), transform)
        spans.append((*_covered_span(left, right, columns), *_covered_span(top, bottom, rows)))
    edges_x = sorted({0, columns, *(edge for span in spans for edge in span[:2])})
    edges_y = sorted({0, rows, *(edge for span in spans for edge in span[2:])})
    index_x = {edge: index for index, edge in enumerate(edges_x)}
    index_y = {edge: index for index, edge in enumerate(edges_y)}
    coarse = np.zeros((len(edges_y) - 1, len(edges_x) - 1))
    for (left, right, top, bottom), score in zip(spans, scores, strict=True):
        patch = slice(index_y[top], index_y[bottom]), slice(index_x[left], index_x[right])
        coarse[patch] += score
    return np.repeat(np.repeat(coarse, np.diff(edges_y), axis=0), np.diff(edges_x), axis=1)


def _covered_span(start: float, end: float, cells: int) -> tuple[int, int]:
    """The cells whose centre is in a span; one between all centres gets the cell it is in."""
    # 1e-9: an edge that rounding has moved off a cell's centre must not win or lose that cell.
    first, last = math.ceil(start - 0.5 - 1e-9), math.ceil(end - 0.5 - 1e-9)
    if first >= last:
        first = min(math.floor((start + end) / 2), cells - 1)
        last = first + 1
    return max(first, 0), min(last, cells)


def _beam_levels(
    memory: _Memory[Grid], class_indices: Sequence[int], settings: BeamSettings
) -> list[list[list[_Scored]]]:
    """Per level, per class, what the beam keeps; all classes share crops and head calls."""
    children = CHILDREN[settings.children]
    num_levels = settings.levels_on(memory.grid_size)
    nodes = [[memory.root] for _ in class_indices]
    levels: list[list[list[_Scored]]] = []
    while len(levels) < num_levels:
        candidates = [
            [_Node(node.frame, window) for node in beam for window in children(node.window)]
            for beam in nodes
        ]
        beams = [
            _best(of_class, class_index, settings)
            for of_class, class_index in zip(memory.score(candidates), class_indices, strict=True)
        ]
        if not any(beams):
            break
        levels.append(beams)
        if len(levels) < num_levels and len(levels) % settings.recrop_every == 0:
            nodes = memory.recrop(beams)
        else:
            nodes = [[scored.node for scored in beam] for beam in beams]
    return levels


def _best(candidates: list[_Scored], class_index: int, settings: BeamSettings) -> list[_Scored]:
    finite = [scored for scored in candidates if math.isfinite(scored.scores[class_index])]
    ranked = sorted(finite, key=lambda scored: (-scored.scores[class_index], scored.key))
    best: list[_Scored] = []
    for scored in ranked:
        if len(best) == settings.beam_width:
            break
        # Two parents reach one rectangle by cuts on different axes; their features may differ.
        is_repeat = any(scored.key == better.key for better in best) or (
            settings.diverse_iou < 1
            and any(key_iou(scored.key, better.key) > settings.diverse_iou for better in best)
        )
        if not is_repeat:
            best.append(scored)
    return best


def _kept_regions(
    memory: _Memory[Grid], class_index: int, levels: list[list[_Scored]]
) -> KeptRegions:
    kept = [(level, scored) for level, best in enumerate(levels, start=1) for scored in best]
    boxes = [memory.box(scored.node) for _, scored in kept]
    return KeptRegions(
        class_index,
        np.asarray(boxes, dtype=np.float64).reshape(-1, 4),
        np.asarray([scored.scores[class_index] for _, scored in kept], dtype=np.float64),
        np.asarray([level for level, _ in kept], dtype=np.int64),
    )


class _Memory(Generic[Grid]):
    """The crops in use and all that was scored on them: nothing is read or scored twice."""

    def __init__(self, scorer: WindowScorer[Grid], image_size: Size) -> None:
        self.grid_size = scorer.grid_size
        self.root = _Node(0, (0, 0, *self.grid_size))
        self.num_crops = 0
        self.num_windows = 0
        self._scorer = scorer
        self._image_size = image_size
        self._frames: dict[RegionKey, int] = {}
        self._regions: dict[int, Region] = {}
        self._grids: dict[int, Grid] = {}
        self._scored: dict[_Node, _Scored] = {}
        self._read({region_key(WHOLE_IMAGE): WHOLE_IMAGE})

    def recrop(self, beams: list[list[_Scored]]) -> list[list[_Node]]:
        """Reads the kept regions anew; what no beam is in any more is forgotten."""
        regions = {scored.key: self._region(scored.node) for beam in beams for scored in beam}
        self._frames = {key: frame for key, frame in self._frames.items() if key in regions}
        used = set(self._frames.values())
        self._grids = {frame: grid for frame, grid in self._grids.items() if frame in used}
        self._scored = {
            node: scored
            for node, scored in self._scored.items()
            if node.frame in used or node == self.root
        }
        self._read({key: regions[key] for key in regions if key not in self._frames})
        full_window = self.root.window
        return [[_Node(self._frames[scored.key], full_window) for scored in beam] for beam in beams]

    def score(self, groups: Sequence[Sequence[_Node]]) -> list[list[_Scored]]:
        """One call for all that is new in the groups; the whole image goes with the first."""
        nodes = dict.fromkeys([self.root, *itertools.chain.from_iterable(groups)])
        if new := [node for node in nodes if node not in self._scored]:
            rows = {frame: row for row, frame in enumerate(self._grids)}
            owners = np.asarray([rows[node.frame] for node in new])
            windows = np.asarray([node.window for node in new])
            scores = self._scorer.score_windows(list(self._grids.values()), owners, windows)
            if scores.ndim != 2 or len(scores) != len(new):
                raise ValueError(f"{len(new)} windows were given scores of shape {scores.shape}")
            for node, of_node in zip(new, np.asarray(scores, dtype=np.float64), strict=True):
                key = window_key(self._regions[node.frame], node.window, self.grid_size)
                self._scored[node] = _Scored(node, key, of_node)
            self.num_windows += len(new) - (self.root in new)
        return [[self._scored[node] for node in group] for group in groups]

    def box(self, node: _Node) -> BoxLTRB:
        return region_box(self._region(node), self._image_size)

    def _region(self, node: _Node) -> Region:
        return window_region(self._regions[node.frame], node.window, self.grid_size)

    def _read(self, regions: dict[RegionKey, Region]) -> None:
        if not regions:
            return
        boxes = [region_box(region, self._image_size) for region in regions.values()]
        grids = self._scorer.read_crops(np.asarray(boxes))
        for (key, region), grid in zip(regions.items(), grids, strict=True):
            self._frames[key] = self.num_crops
            self._regions[self.num_crops] = region
            self._grids[self.num_crops] = grid
            self.num_crops += 1
