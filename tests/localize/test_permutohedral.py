"""The lattice filter against its definition in plain Python and against exact Gaussian sums."""

from __future__ import annotations

import numpy as np
import pytest

from weakloc.errors import SettingError
from weakloc.localize.crf import build_lattice, filter_values


def elevation_matrix(d: int) -> np.ndarray:
    """(d + 1, d): orthogonal columns that sum to 0, scaled to a blur of standard deviation 1."""
    matrix = np.zeros((d + 1, d))
    for column in range(d):
        matrix[: column + 1, column] = 1
        matrix[column + 1, column] = -(column + 1)
    return matrix / np.linalg.norm(matrix, axis=0) * np.sqrt(2 / 3) * (d + 1)


def enclosing_simplex(position: np.ndarray) -> np.ndarray:
    """The d + 1 lattice points around a position of d + 1 coordinates, one per row.

    Of equal rests the first coordinate's counts as the largest: positions on a face have several
    simplices, and the choice decides which points there are to blur over.
    """
    size = len(position)
    nearest = size * np.round(position / size)
    order = lowest_rest_first(position - nearest)
    excess = int(nearest.sum() / size)
    if excess > 0:
        nearest[order[:excess]] -= size
    elif excess < 0:
        nearest[order[excess:]] += size
    order = lowest_rest_first(position - nearest)
    corners = [nearest]
    for step in range(1, size):
        corner = nearest + step
        corner[order[:step]] -= size
        corners.append(corner)
    return np.array(corners)


def lowest_rest_first(rest: np.ndarray) -> np.ndarray:
    return np.lexsort((-np.arange(len(rest)), np.round(rest, 3)))


def lattice_matrix(features: np.ndarray) -> np.ndarray:
    """The whole filter as an (N, N) matrix: slice, blur along each axis, splat."""
    count, d = features.shape
    points: dict[tuple[int, ...], int] = {}
    entries = []
    for position in features @ elevation_matrix(d).T:
        corners = enclosing_simplex(position)
        weights = np.linalg.lstsq(
            np.vstack([corners.T, np.ones(d + 1)]), np.append(position, 1.0), rcond=None
        )[0]
        assert weights.min() > -1e-9  # the position is inside
        keys = [tuple(np.rint(corner).astype(int)) for corner in corners]
        entries.append(
            [(points.setdefault(k, len(points)), w) for k, w in zip(keys, weights, strict=True)]
        )
    splat = np.zeros((len(points), count))
    for i, own in enumerate(entries):
        for point, weight in own:
            splat[point, i] = weight
    table = splat
    for axis in range(d + 1):
        step = np.full(d + 1, -1)
        step[axis] = d
        blurred = table.copy()
        for key, point in points.items():
            for neighbor in (tuple(key + step), tuple(key - step)):
                if neighbor in points:
                    blurred[point] += 0.5 * table[points[neighbor]]
        table = blurred
    return splat.T @ table / (1 + 2.0**-d)


def gaussian_matrix(features: np.ndarray) -> np.ndarray:
    distances = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    return np.exp(-0.5 * distances)


@pytest.mark.parametrize(("dimensions", "spread"), [(1, 3.0), (2, 1.5), (3, 8.0), (5, 1.0)])
def test_the_filter_equals_the_definition_of_the_lattice(random, dimensions, spread) -> None:
    features = random.normal(size=(70, dimensions)) * spread + 11
    values = random.normal(size=(70, 3)).astype(np.float32)
    features = features.astype(np.float32)
    filtered = filter_values(values, build_lattice(features))
    expected = lattice_matrix(features.astype(np.float64)) @ values
    assert filtered == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("dimensions", "tolerance"), [(2, 0.1), (5, 0.12)])
def test_normalised_filtering_is_close_to_exact_gaussian_sums(
    random, dimensions, tolerance
) -> None:
    features = (random.random((900, dimensions)) * 3).astype(np.float32)
    values = np.sin(features[:, :1] * 2).astype(np.float32)
    lattice = build_lattice(features)
    ones = np.ones_like(values)
    filtered = filter_values(values, lattice) / filter_values(ones, lattice)
    kernel = gaussian_matrix(features.astype(np.float64))
    expected = kernel @ values / kernel.sum(axis=1, keepdims=True)
    assert np.abs(filtered - expected).mean() < tolerance * np.abs(expected).mean()


def test_corner_weights_are_shares_and_sum_to_one(random) -> None:
    features = (random.normal(size=(500, 5)) * 20).astype(np.float32)
    lattice = build_lattice(features)
    assert lattice.weights.min() > -1e-4
    assert lattice.weights.sum(axis=1) == pytest.approx(1, abs=1e-4)
    assert all(len(set(row)) == 6 for row in lattice.corners)


def test_neighbours_along_an_axis_are_mutual(random) -> None:
    lattice = build_lattice((random.normal(size=(300, 3)) * 2).astype(np.float32))
    for axis in range(4):
        before, after = lattice.neighbors[axis].T
        points = np.arange(lattice.num_points)
        present = before < lattice.num_points
        assert present.any()
        assert np.array_equal(after[before[present]], points[present])


def test_equal_vectors_share_one_simplex() -> None:
    lattice = build_lattice(np.full((40, 5), 3.7, np.float32))
    assert lattice.num_points == 6
    filtered = filter_values(np.ones((40, 1), np.float32), lattice)
    assert filtered == pytest.approx(filtered[0, 0])


def test_features_too_spread_to_be_numbered_are_refused(random) -> None:
    features = (random.random((10, 5)) * 1e6).astype(np.float32)
    with pytest.raises(SettingError, match="larger standard deviations"):
        build_lattice(features)
