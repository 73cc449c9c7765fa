"""Points of trained runs with default settings, against slow readings of the papers.

Check names (WC-13, ...) are those of the project's specification. The trunk's cells tile the
input, so that the centre of cell j lies at `stride * (j + 0.5)` of its pixels.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from tests.training.small_data import make_data_set, settings
from weakloc.api.evaluation import evaluate
from weakloc.api.runs import TrainedRun, load_folder
from weakloc.data.sources import ImageSource
from weakloc.localize.beam_search import Window, all_windows
from weakloc.localize.places import PointMap, locate_point, pixel_centers
from weakloc.methods.beam import Beam
from weakloc.methods.max_mil import FAST_SCALES, MaxMil
from weakloc.methods.method import Method, Optimisation
from weakloc.methods.wildcat import Wildcat
from weakloc.predictor.predictor import Located
from weakloc.settings import EvaluateSettings, Look, Places
from weakloc.structures import DataSet, Prediction
from weakloc.training.fit import fit

SIDE = 64
QUICKLY = Optimisation(kind="adamw", learning_rate=0.01, epochs=8, batch_size=8)
EVERY_CLASS = Places(top=2)
METHODS: dict[str, Method] = {
    "wildcat": Wildcat(optimisation=QUICKLY),
    "padded": Wildcat(optimisation=QUICKLY, resize="pad"),
    "max_mil": MaxMil(optimisation=QUICKLY),
    "literal": replace(
        MaxMil.literal(), hidden=16, trains_backbone=True, score_scales=(0.5, 1.0, 1.5, 2.5),
        map_scales=(1.0, 1.5), optimisation=QUICKLY,
    ),
    "beam": Beam(optimisation=QUICKLY),
}  # fmt: skip


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return make_data_set(tmp_path_factory.mktemp("scenes"), num_train=40, num_val=16)


@pytest.fixture(scope="module")
def runs(data_set: DataSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainedRun]:
    """One of each method, trained for seconds: points need not be good, only where they belong."""
    folder = tmp_path_factory.mktemp("runs")
    for name, method in METHODS.items():
        epochs = 8 if name == "max_mil" else 3
        how = settings(epochs=epochs, image_size=SIDE, batch_size=8)
        fit(data_set, method, how, folder / name)
    return {name: load_folder(folder / name) for name in METHODS}


def paths_of(data_set: DataSet) -> list[str]:
    return [sample.path for sample in data_set.splits["val"]]


def predicted(run: TrainedRun, paths: list[str], **look: object) -> list[Prediction]:
    answers = list(run.predict(paths, look=Look(**look), places=EVERY_CLASS))  # type: ignore[arg-type]
    assert all(isinstance(answer, Prediction) for answer in answers)
    return answers  # type: ignore[return-value]


@torch.inference_mode()
def maps_of(run: TrainedRun, images: Tensor) -> NDArray[np.float64]:
    """(C, rows, columns)"""
    return run.run.network.eval()(images[None]).maps[0].double().numpy()


def input_of(picture: Image.Image, width: int, height: int) -> Tensor:
    """The picture at a size, as whole levels of brightness, from -1 to 1."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return resized(pixels, width, height).float() / 127.5 - 1.0


def resized(images: Tensor, width: int, height: int) -> Tensor:
    stretched = interpolate(images[None], (height, width), mode="bilinear", antialias=True)
    return stretched[0]


def test_wc_13_the_point_of_a_warped_image_is_the_centre_of_the_hottest_cell(
    data_set: DataSet, runs: dict[str, TrainedRun]
) -> None:
    """((j + .5) W / w, (i + .5) H / h), for the first row and column as for any other cell."""
    on_border = 0
    for path, prediction in zip(
        paths_of(data_set), predicted(runs["wildcat"], paths_of(data_set)), strict=True
    ):
        picture = Image.open(path)
        maps = maps_of(runs["wildcat"], input_of(picture, SIDE, SIDE))
        for point, class_map in zip(prediction.points, maps, strict=True):
            row, column = np.unravel_index(class_map.argmax(), class_map.shape)
            rows, columns = class_map.shape
            expected = (
                (column + 0.5) * picture.width / columns,
                (row + 0.5) * picture.height / rows,
            )
            assert (point.x, point.y) == pytest.approx(expected)
            assert point.heat == pytest.approx(class_map.max(), abs=1e-3)
            on_border += row in (0, rows - 1) or column in (0, columns - 1)
    assert on_border > 3


@pytest.mark.parametrize("name", ["max_mil", "literal"])
def test_the_point_of_max_mil_is_the_best_window_of_all_its_scales(
    data_set: DataSet, runs: dict[str, TrainedRun], name: str
) -> None:
    """To the long side, padded to a square, that to every scale; ((8j + 4) / s - pad) / r."""
    scales = FAST_SCALES if name == "max_mil" else (0.5, 1.0, 1.5, 2.5)
    paths = paths_of(data_set)
    chosen_scales = set()
    for path, prediction in zip(paths, predicted(runs[name], paths), strict=True):
        picture = Image.open(path)
        ratio = SIDE / max(picture.size)
        width, height = (round(side * ratio) for side in picture.size)
        left, top = (SIDE - width) // 2, (SIDE - height) // 2
        content = input_of(picture, width, height)
        square = pad(content, (left, SIDE - width - left, top, SIDE - height - top))
        best: dict[int, tuple[float, float, float, float]] = {}
        for scale in scales:
            side = round(SIDE * scale)
            for index, class_map in enumerate(maps_of(runs[name], resized(square, side, side))):
                row, column = np.unravel_index(class_map.argmax(), class_map.shape)
                x = ((8 * column + 4) * SIDE / side - left) * picture.width / width
                y = ((8 * row + 4) * SIDE / side - top) * picture.height / height
                found = (float(class_map.max()), scale, x, y)
                best[index] = max(best.get(index, found), found)
        for index, point in enumerate(prediction.points):
            _, scale, x, y = best[index]
            chosen_scales.add(scale)
            assert point.x == pytest.approx(np.clip(x, 0.5, picture.width - 0.5), abs=1e-6)
            assert point.y == pytest.approx(np.clip(y, 0.5, picture.height - 0.5), abs=1e-6)
    assert len(chosen_scales) > 1


def test_mil_13_more_picture_around_an_object_moves_its_point_by_a_cell_at_most(
    data_set: DataSet, runs: dict[str, TrainedRun], tmp_path: Path
) -> None:
    """The object stays where it was; below or to the right of it the picture goes on."""
    pixels = np.full((56, 84, 3), 40, dtype=np.uint8)
    pixels[16:32, 32:48, 0] = 240
    for name, (width, height) in {"a": (84, 56), "b": (84, 84), "c": (84, 120)}.items():
        larger = np.full((height, width, 3), 40, dtype=np.uint8)
        larger[:56, :84] = pixels
        Image.fromarray(larger).save(tmp_path / f"{name}.png")
    paths = [str(tmp_path / f"{name}.png") for name in "abc"]
    answers = predicted(runs["max_mil"], paths)
    points = np.array([(each.points[0].x, each.points[0].y) for each in answers])
    assert (np.abs(points - (40, 24)) < 20).all()
    cell = 8 * 120 / SIDE / 0.5  # the coarsest: of the longest picture at the smallest scale
    assert np.ptp(points, axis=0).max() <= cell


def kept_by_reading_every_window(
    scores: dict[Window, float], cells: int
) -> list[tuple[Window, float]]:
    """The best eight of every level, the whole grid left out; ties by (y, x, height, width)."""
    kept = []
    for level in range(1, 2 * cells - 1):
        of_level = [window for window in scores if window[2] + window[3] == 2 * cells - level]
        of_level.sort(key=lambda window: (-scores[window], window[1], window[0], window[3]))
        kept += [(window, scores[window]) for window in of_level[:8]]
    return kept


@torch.inference_mode()
def window_scores(run: TrainedRun, picture: Image.Image) -> list[dict[Window, float]]:
    """The probability of each class in every window: a sub-grid resized to the whole grid."""
    network = run.run.network.eval()
    features = network.backbone(input_of(picture, SIDE, SIDE)[None])
    cells = features.shape[-1]
    windows = all_windows((cells, cells))
    stretched = [
        interpolate(features[:, :, y : y + height, x : x + width], (cells, cells), mode="bilinear")
        for x, y, width, height in windows
    ]
    scores = network.from_features(torch.cat(stretched)).scores.double().sigmoid()
    return [dict(zip(windows, of_class.tolist(), strict=True)) for of_class in scores.T]


def plateau_center(
    kept: list[tuple[Window, float]], cells: int, size: tuple[int, int]
) -> tuple[float, float]:
    """The centroid of the pixels where the exact sum of the rectangles is greatest.

    The map has the image's resolution, as images of up to 224 pixels have.
    """
    width, height = size
    sums = dict.fromkeys(np.ndindex(height, width), Fraction(0))
    for (left, top, across, down), score in kept:
        for row, column in sums:
            # The pixel's centre, in cells: exact in whole numbers.
            x, y = (2 * column + 1) * cells, (2 * row + 1) * cells
            is_in_columns = 2 * width * left <= x < 2 * width * (left + across)
            if is_in_columns and 2 * height * top <= y < 2 * height * (top + down):
                sums[row, column] += Fraction(score)
    greatest = max(sums.values())
    plateaus: list[set[tuple[int, int]]] = []
    for row, column in sorted(place for place, value in sums.items() if value == greatest):
        near = [
            part
            for part in plateaus
            if any((row + i, column + j) in part for i in (-1, 0, 1) for j in (-1, 0, 1))
        ]
        plateaus = [part for part in plateaus if part not in near]
        plateaus.append({(row, column)}.union(*near))
    largest = max(sorted(plateaus, key=min), key=len)
    rows, columns = np.array(sorted(largest)).T
    x, y = columns.mean(), rows.mean()
    if (np.maximum(abs(rows - y), abs(columns - x)) > 0.5).all():
        nearest = np.argmin(np.hypot(rows - y, columns - x))
        x, y = columns[nearest], rows[nearest]
    return float(x) + 0.5, float(y) + 0.5


def test_beam_21_the_point_of_beam_is_the_centre_of_the_exact_plateau(
    data_set: DataSet, runs: dict[str, TrainedRun]
) -> None:
    paths, centers = paths_of(data_set)[:4], set()
    for path, prediction in zip(paths, predicted(runs["beam"], paths), strict=True):
        picture = Image.open(path)
        for point, scores in zip(
            prediction.points, window_scores(runs["beam"], picture), strict=True
        ):
            kept = kept_by_reading_every_window(scores, 8)
            expected = plateau_center(kept, 8, picture.size)
            assert (point.x, point.y) == pytest.approx(expected)
            centers.add(expected)
    assert len(centers) > 2


@pytest.mark.parametrize("name", ["wildcat", "padded"])
def test_the_point_ap_of_the_log_is_that_of_evaluate(
    data_set: DataSet, runs: dict[str, TrainedRun], name: str
) -> None:
    logged = runs[name].run.history[-1].point_map
    evaluated = evaluate(runs[name], data_set, EvaluateSettings(split="val"), numbers=["point_map"])
    (value,) = (r.value for r in evaluated.metrics if r.name == "point_map")
    assert logged == value
    assert value > 0


def test_the_mean_of_many_sizes_is_hottest_where_no_map_was_continued(
    data_set: DataSet, runs: dict[str, TrainedRun]
) -> None:
    """The mean of the upsampled, standardised maps, greatest on the grid of the image's pixels."""
    paths = paths_of(data_set)
    answers = predicted(runs["wildcat"], paths, map_scales=(0.75, 1.0, 1.25), normalise="zscore")
    first, last, moved = 0.05, 0.95, 0  # the outermost centres of 6, 8 and 10 cells
    for path, prediction in zip(paths, answers, strict=True):
        picture = Image.open(path)
        x, y = ((np.arange(side) + 0.5) / side for side in picture.size)
        maps = [maps_of(runs["wildcat"], input_of(picture, side, side)) for side in (48, 64, 80)]
        for index, point in enumerate(prediction.points):
            mean = np.zeros((len(y), len(x)))
            for class_map in (of_size[index] for of_size in maps):
                standard = (class_map - class_map.mean()) / class_map.std()
                centers = (np.arange(len(standard)) + 0.5) / len(standard)
                across = np.array([np.interp(x, centers, row) for row in standard])
                mean += np.array([np.interp(y, centers, column) for column in across.T]).T
            row, column = np.unravel_index(mean.argmax(), mean.shape)
            inside = np.clip((x[column], y[row]), first, last)
            assert (point.x, point.y) == pytest.approx(tuple(inside * picture.size))
            moved += tuple(inside) != (x[column], y[row])
    assert moved > 3


@pytest.mark.parametrize("name", list(METHODS))
def test_the_first_of_several_points_is_the_only_one_of_one(
    data_set: DataSet, runs: dict[str, TrainedRun], name: str
) -> None:
    paths = paths_of(data_set)[:2]
    for method in ("auto", "arg_max", "plateau", "sub_cell", "densest"):
        alone, many = (
            list(runs[name].predict(paths, places=Places(top=2, points=n, point_method=method)))  # type: ignore[arg-type]
            for n in (1, 3)
        )
        for one, several in zip(alone, many, strict=True):
            assert isinstance(one, Prediction)
            assert isinstance(several, Prediction)
            for point in one.points:
                of_class = [p for p in several.points if p.class_name == point.class_name]
                assert of_class[0] == point
                places = [(p.x, p.y) for p in of_class]
                assert len(set(places)) == len(places) <= 3


@pytest.mark.parametrize("look", [{}, {"fuse": "max", "map_scales": (1.0, 1.5)}])
def test_where_most_heat_is_is_told_by_all_views_on_their_common_grid(
    data_set: DataSet, runs: dict[str, TrainedRun], look: dict[str, object]
) -> None:
    """A cell's centre would move the point by up to half a cell."""
    paths = paths_of(data_set)[:4]
    how = Look(**look)  # type: ignore[arg-type]
    predictor = runs["wildcat"].predictor(how, Places(top=2, point_method="densest"))
    for located in predictor.predict_with_heat(ImageSource(path, path) for path in paths):
        assert isinstance(located, Located)
        heat = located.heat
        for values, point in zip(heat.values, located.prediction.points, strict=True):
            everywhere = pixel_centers(heat.transform.image_size)
            expected = locate_point(PointMap(values, heat.transform, everywhere), "densest")
            assert (point.x, point.y) == (expected.x, expected.y)


@pytest.mark.parametrize("look", [{"flip": True}, {"tile": 24}])
@pytest.mark.parametrize("fuse", ["mean", "max"])
def test_no_point_is_nearer_to_the_border_than_what_was_seen(
    data_set: DataSet, runs: dict[str, TrainedRun], look: dict[str, object], fuse: str
) -> None:
    for prediction in predicted(runs["wildcat"], paths_of(data_set), fuse=fuse, **look):
        x, y = (1.5, 1.5) if "tile" in look else (36 / 16, 28 / 16)  # half a cell
        for point in prediction.points:
            assert x - 1e-9 <= point.x <= prediction.width - x + 1e-9
            assert y - 1e-9 <= point.y <= prediction.height - y + 1e-9
