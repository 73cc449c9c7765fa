"""`--preset literal` of each method, from a VOC folder to the printed number, against slow oracles.

The commands are those that users type. The networks are small, all after their maps is literal:
an oracle takes the score maps (of BEAM the heat) and what is drawn, and follows the text of the
specification with loops: points 2.5 and 4.4, average precision 6.3, 6.4 and 6.6, boxes of a heat
map 3.7, CAM 5.2 and 5.5. Another takes the predictions and works out what is printed of tags,
points and boxes. Nothing of `localize` or `metrics` is used here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import weakloc
from tests.papers.literal_runs import SIZE, SMALL, Drawn, numbers_of, train_literally, write_voc
from weakloc.data.sources import ImageSource
from weakloc.methods import METHODS
from weakloc.predictor.views import SeenImage
from weakloc.settings import Look, Places
from weakloc.structures import Prediction

CLASSES = ("bird", "boat", "train")
SIDES = {"max_mil": 30, "wildcat": 64, "beam": 32, "cam": 64}  # of the network's input
SCALES = {"max_mil": tuple(round(0.5 + 0.05 * k, 2) for k in range(65)), "wildcat": (1.0,)}
XY = tuple[float, float]
LTRB = tuple[float, float, float, float]


@dataclass(frozen=True)
class Judged:
    """A guess: its score, and 1 for right, -1 for wrong, 0 for not counted."""

    score: float
    verdict: int


def precisions(guesses: Sequence[Judged], num_positives: int) -> list[tuple[float, float, bool]]:
    """Recall, precision and whether the guess was right, from the best guess on."""
    ranked = sorted((guess for guess in guesses if guess.verdict), key=lambda guess: -guess.score)
    curve, right = [], 0
    for rank, guess in enumerate(ranked, start=1):
        right += guess.verdict == 1
        curve.append((right / num_positives, right / rank, guess.verdict == 1))
    return curve


def voc12(guesses: Sequence[Judged], num_positives: int) -> float:
    """VOC 2010 and later: the area under the precision that no later one exceeds (6.4)."""
    curve = precisions(guesses, num_positives)
    area, reached = 0.0, 0.0
    for index, (recall, _, _) in enumerate(curve):
        area += (recall - reached) * max(precision for _, precision, _ in curve[index:])
        reached = recall
    return area


def nonint(guesses: Sequence[Judged], num_positives: int) -> float:
    """WILDCAT's released code: the mean over positives of the precision at their rank (6.4)."""
    curve = precisions(guesses, num_positives)
    return sum(precision for _, precision, is_right in curve if is_right) / num_positives


AveragePrecision = Callable[[Sequence[Judged], int], float]


def classification_map(
    drawn: Mapping[str, list[Drawn]],
    scores: Mapping[str, Mapping[str, float]],
    average_precision: AveragePrecision,
) -> float:
    """Images ranked by class score; one with difficult objects alone is not counted (6.3)."""
    of_classes = []
    for class_name in CLASSES:
        guesses = []
        for image_id, objects in drawn.items():
            are_difficult = [difficult for name, _, difficult in objects if name == class_name]
            verdict = -1 if not are_difficult else 0 if all(are_difficult) else 1
            guesses.append(Judged(scores[image_id][class_name], verdict))
        positives = sum(guess.verdict == 1 for guess in guesses)
        if positives:
            of_classes.append(average_precision(guesses, positives))
    return sum(of_classes) / len(of_classes)


def point_map(
    drawn: Mapping[str, list[Drawn]],
    said: Mapping[str, Mapping[str, tuple[float, XY]]],
    average_precision: AveragePrecision,
) -> float:
    """One point a class and image, ranked by the image's class score (6.3)."""
    of_classes = []
    for class_name in CLASSES:
        guesses, positives = [], 0
        for image_id, objects in drawn.items():
            score, point = said[image_id][class_name]
            of_class = [each for each in objects if each[0] == class_name]
            sure = [each for each in of_class if not each[2]]
            positives += bool(sure)
            verdict = -1
            if any(holds(box, point) for _, box, _ in sure):
                verdict = 1
            elif of_class and (not sure or any(holds(box, point) for _, box, _ in of_class)):
                verdict = 0  # only difficult objects, or a hit of a difficult one alone
            guesses.append(Judged(score, verdict))
        if positives:
            of_classes.append(average_precision(guesses, positives))
    return sum(of_classes) / len(of_classes)


def holds(box: Sequence[float], point: XY) -> bool:
    return box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]


def iou(first: Sequence[float], second: Sequence[float]) -> float:
    """As VOC's development kit has it: corners are pixels, so every side counts one more (6.6).

    The last pixel of a box lies one before its right and bottom edge.
    """
    first, second = ((box[0], box[1], box[2] - 1, box[3] - 1) for box in (first, second))
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def box_map(
    drawn: Mapping[str, list[Drawn]],
    said: Mapping[str, Mapping[str, list[tuple[float, LTRB]]]],
    average_precision: AveragePrecision,
) -> float:
    """VOC's average precision of boxes at IoU 0.5: each object is found once (6.6)."""
    of_classes = []
    for class_name in CLASSES:
        boxes = [
            (score, image_id, box)
            for image_id in drawn
            for score, box in said[image_id][class_name]
        ]
        found: set[tuple[str, int]] = set()
        guesses = []
        for score, image_id, box in sorted(boxes, key=lambda each: -each[0]):
            overlaps = [
                iou(box, other) if name == class_name else -1.0
                for name, other, _ in drawn[image_id]
            ]
            best = int(np.argmax(overlaps))
            verdict = -1
            if overlaps[best] >= 0.5:
                if drawn[image_id][best][2]:
                    verdict = 0
                elif (image_id, best) not in found:
                    verdict = 1
                    found.add((image_id, best))
            guesses.append(Judged(score, verdict))
        positives = sum(
            name == class_name and not difficult
            for objects in drawn.values()
            for name, _, difficult in objects
        )
        if positives:
            of_classes.append(average_precision(guesses, positives))
    return sum(of_classes) / len(of_classes)


def components(hot: np.ndarray) -> list[list[tuple[int, int]]]:
    """The (row, column) of each 8-connected part."""
    left = {(int(row), int(column)) for row, column in np.argwhere(hot)}
    parts = []
    while left:
        part, waiting = [], [left.pop()]
        while waiting:
            row, column = waiting.pop()
            part.append((row, column))
            for near in [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    waiting.append(near)
        parts.append(part)
    return parts


def box_of(part: Sequence[tuple[int, int]], shape: tuple[int, int]) -> LTRB:
    """The tight rectangle of cells of a map over the image, in the image's pixels."""
    rows, columns = zip(*part, strict=True)
    wide, high = SIZE[0] / shape[1], SIZE[1] / shape[0]
    return (
        min(columns) * wide,
        min(rows) * high,
        (max(columns) + 1) * wide,
        (max(rows) + 1) * high,
    )


@dataclass(frozen=True)
class Literal:
    """A run that was trained and evaluated by command, and what is drawn in its images of val."""

    run: Path
    data: Path
    drawn: dict[str, list[Drawn]]
    printed: dict[str, float]
    predictions: dict[str, Prediction]  # all classes have places

    def see(self, **asked: object) -> dict[str, SeenImage]:
        """The images with their raw maps; `asked` are fields of `Look`, else the method's."""
        paths = {name: str(self.data / f"JPEGImages/{name}.jpg") for name in self.drawn}
        predictor = weakloc.load(self.run).predictor(Look(**asked))  # type: ignore[arg-type]
        answers = predictor.see(ImageSource(name, path) for name, path in paths.items())
        return {answer.name: answer for answer in answers if isinstance(answer, SeenImage)}


@pytest.fixture(scope="module")
def literal(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Literal]:
    """The run of a method, made once; of CAM on images of one object each."""

    @cache
    def made(method: str) -> Literal:
        folder = tmp_path_factory.mktemp(method)
        data, flags = folder / "VOC2012", (*SMALL, f"--image-size={SIDES[method]}")
        if method == "cam":
            flags = (*flags, "--epochs=20")
            drawn = write_voc(data, images={"train": 12, "val": 16}, most_objects=1, difficult=0.0)
        else:
            flags = (*flags, "--epochs=3")
            drawn = write_voc(data, images={"train": 12, "val": 8})
        run = train_literally(data, folder / "run", method, *flags)
        of_val = {name: objects for name, objects in drawn.items() if name.startswith("val")}
        paths = [data / f"JPEGImages/{name}.jpg" for name in of_val]
        answers = weakloc.load(run).predict(paths, places=Places(min_score=0.0))
        said = dict(zip(of_val, answers, strict=True))
        assert all(isinstance(answer, Prediction) for answer in said.values())
        return Literal(run, data, of_val, numbers_of(run, data), said)  # type: ignore[arg-type]

    return made


@pytest.mark.parametrize("method", METHODS)
def test_what_is_predicted_gives_the_number_that_is_printed(
    method: str, literal: Callable[[str], Literal]
) -> None:
    case = literal(method)
    average_precision = nonint if method == "wildcat" else voc12
    scores = {name: answer.scores for name, answer in case.predictions.items()}
    points = {
        name: {p.class_name: (answer.scores[p.class_name], (p.x, p.y)) for p in answer.points}
        for name, answer in case.predictions.items()
    }
    boxes = {
        name: {
            class_name: [(b.score, b.box) for b in answer.boxes if b.class_name == class_name]
            for class_name in CLASSES
        }
        for name, answer in case.predictions.items()
    }
    expected = {
        "classification_map": classification_map(case.drawn, scores, average_precision),
        "point_map": point_map(case.drawn, points, average_precision),
        "box_map_50": box_map(case.drawn, boxes, average_precision),
    }
    suffix = "_nonint" if method == "wildcat" else ""
    for number, value in expected.items():
        assert case.printed[number + suffix] == pytest.approx(value, abs=1e-9), number


def said_by_max_mil(image: SeenImage, class_index: int) -> tuple[float, XY]:
    """The mean over all sizes of the raw maxima; the best cell of all sizes (2.5).

    x = ((8 j + 4) / s - pad_x) / r, as a cell has 8 pixels; a place in the padding is moved to the
    middle of the nearest pixel.
    """
    side = SIDES["max_mil"]
    content = [round(length * side / max(SIZE)) for length in SIZE]
    pads = [(side - length) / 2 for length in content]
    best: tuple[float, XY] = (-math.inf, (0.0, 0.0))
    maxima = []
    for view in image.views:
        scale = round(side * view.view.scale) / side
        values = view.maps.values[class_index]
        maxima.append(float(values.max()))
        row, column = divmod(int(np.argmax(values)), values.shape[1])
        if maxima[-1] > best[0]:
            x, y = (
                ((8 * cell + 4) / scale - pad) * whole / length
                for cell, pad, whole, length in zip((column, row), pads, SIZE, content, strict=True)
            )
            best = maxima[-1], (min(max(x, 0.5), SIZE[0] - 0.5), min(max(y, 0.5), SIZE[1] - 0.5))
    return sum(maxima) / len(maxima), best[1]


def said_by_wildcat(image: SeenImage, class_index: int) -> tuple[float, XY]:
    """Mean of the best fifth of the cells plus 0.7 times that of the worst; the best cell (4.2)."""
    (view,) = image.views  # a warp of the whole image
    values = view.maps.values[class_index]
    ranked = sorted(values.ravel().tolist())
    count = max(1, round(0.2 * len(ranked)))
    score = sum(ranked[-count:]) / count + 0.7 * sum(ranked[:count]) / count
    row, column = divmod(int(np.argmax(values)), values.shape[1])
    x, y = (column + 0.5) * SIZE[0] / values.shape[1], (row + 0.5) * SIZE[1] / values.shape[0]
    return score, (x, y)


@pytest.mark.parametrize(
    ("method", "says", "average_precision", "number"),
    [
        ("max_mil", said_by_max_mil, voc12, "point_map"),
        ("wildcat", said_by_wildcat, nonint, "point_map_nonint"),
    ],
)
def test_points_are_those_of_the_paper_from_file_to_printed_number(
    method: str,
    says: Callable[[SeenImage, int], tuple[float, XY]],
    average_precision: AveragePrecision,
    number: str,
    literal: Callable[[str], Literal],
) -> None:
    case = literal(method)
    said = {
        image_id: {name: says(image, index) for index, name in enumerate(CLASSES)}
        for image_id, image in case.see(map_scales=SCALES[method]).items()
    }
    for image_id, answer in case.predictions.items():
        assert len(answer.points) == len(CLASSES)
        for point in answer.points:
            expected = said[image_id][point.class_name][1]
            assert (point.x, point.y) == pytest.approx(expected, abs=1e-3), image_id
    expected_map = point_map(case.drawn, said, average_precision)
    assert case.printed[number] == pytest.approx(expected_map, abs=1e-9)
    assert 0 < expected_map < 1


def boxes_of_beam(heat: np.ndarray) -> list[tuple[float, LTRB]]:
    """Blobs above half of the greatest heat; a box scores the mean of the raw heat in it (3.7)."""
    greatest = heat.max()
    boxes = []
    for part in components(heat > 0.5 * greatest) if greatest > 0 else []:
        if len(part) >= 0.001 * heat.size:
            rows, columns = zip(*part, strict=True)
            inside = heat[min(rows) : max(rows) + 1, min(columns) : max(columns) + 1]
            boxes.append((float(inside.mean(dtype=np.float64)), box_of(part, heat.shape)))
    return boxes


def test_boxes_are_those_of_beam_from_file_to_printed_number(
    literal: Callable[[str], Literal],
) -> None:
    case = literal("beam")
    predictor = weakloc.load(case.run).predictor()
    said = {}
    for image_id, image in case.see().items():
        heat = predictor.heat(image, range(len(CLASSES)), predictor.look).values
        assert heat.shape == (len(CLASSES), SIZE[1], SIZE[0])
        said[image_id] = {
            name: boxes_of_beam(class_heat) for name, class_heat in zip(CLASSES, heat, strict=True)
        }
    expected = box_map(case.drawn, said, voc12)
    assert case.printed["box_map_50"] == pytest.approx(expected, abs=1e-9)
    assert 0 < expected < 1


def enlarged(values: np.ndarray) -> np.ndarray:
    """A map of cells that tile the image at every pixel's centre, bilinear, ends repeated (5.1)."""
    rows, columns = values.shape
    pixels = np.empty((SIZE[1], SIZE[0]))
    for y in range(SIZE[1]):
        down = min(max((y + 0.5) * rows / SIZE[1] - 0.5, 0), rows - 1)
        top = min(int(down), rows - 2)
        for x in range(SIZE[0]):
            across = min(max((x + 0.5) * columns / SIZE[0] - 0.5, 0), columns - 1)
            left = min(int(across), columns - 2)
            upper, lower = (
                values[row, left] + (values[row, left + 1] - values[row, left]) * (across - left)
                for row in (top, top + 1)
            )
            pixels[y, x] = upper + (lower - upper) * (down - top)
    return pixels


def box_of_cam(values: np.ndarray) -> LTRB:
    """The tight box of the largest part above 20 % of the range (5.2); ties: the higher peak."""
    pixels = enlarged(values.astype(np.float64))
    shares = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    parts = components(shares > 0.2)
    largest = max(parts, key=lambda part: (len(part), max(shares[cell] for cell in part)))
    return box_of(largest, shares.shape)


def test_localisation_is_that_of_cam_from_file_to_printed_number(
    literal: Callable[[str], Literal],
) -> None:
    """GT-known Loc by the true class's map, Top-1 Loc where the class is right too (5.5)."""
    case = literal("cam")
    known = top_1 = 0
    for image_id, image in case.see().items():
        ((class_name, box, _),) = case.drawn[image_id]
        index = CLASSES.index(class_name)
        (view,) = image.views
        hit = iou(box_of_cam(view.maps.values[index]), box) >= 0.5
        known += hit
        top_1 += hit and int(np.argmax(image.logits)) == index
    count = len(case.drawn)
    assert case.printed["gt_known_loc"] == pytest.approx(known / count, abs=1e-9)
    assert case.printed["top_1_loc"] == pytest.approx(top_1 / count, abs=1e-9)
    assert 0 < top_1 < known < count
