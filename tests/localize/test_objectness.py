"""Object maps against linear algebra done another way, and on features with a planted object."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from weakloc.geometry import GridTransform
from weakloc.localize.objectness import (
    axis_projection,
    bipartition,
    center_prior,
    feature_distance,
    fuse_product,
    principal_axis,
)


def planted(random: np.random.Generator, rows=9, columns=12, channels=24):
    """Features with a background direction and, on a patch, another one; and that patch."""
    background, thing = random.normal(size=(2, channels)) * 2
    inside = np.zeros((rows, columns), bool)
    inside[3:6, 4:9] = True
    means = np.where(inside[..., None], thing, background)
    noise = random.normal(size=(rows, columns, channels)) * 0.3
    return (means + noise).transpose(2, 0, 1), inside


def axis_map(features: np.ndarray) -> np.ndarray:
    return axis_projection(features, principal_axis([features]))


MAPS = {"distance": feature_distance, "axis": axis_map, "bipartition": bipartition}
every_map = pytest.mark.parametrize("make_map", MAPS.values(), ids=MAPS.keys())


@every_map
def test_a_planted_object_is_found_exactly(random, make_map) -> None:
    features, inside = planted(random)
    found = make_map(features)
    assert np.array_equal(found > 0.5, inside)
    assert 0 <= found.min() <= found.max() <= 1
    assert found.max() == pytest.approx(1)


@every_map
def test_channels_may_be_permuted_and_the_image_mirrored(random, make_map) -> None:
    features, _ = planted(random)
    found = make_map(features)
    order = random.permutation(len(features))
    assert make_map(features[order]) == pytest.approx(found, abs=1e-5)
    assert make_map(features[:, :, ::-1])[:, ::-1] == pytest.approx(found, abs=1e-5)


@every_map
@pytest.mark.parametrize("value", [0.0, 3.3, -1e6])
def test_constant_features_say_nothing(make_map, value) -> None:
    assert not make_map(np.full((7, 5, 8), value)).any()
    assert not make_map(np.full((7, 5, 8), value, np.float32)).any()


@every_map
def test_a_single_cell_and_unknown_features_say_nothing(make_map) -> None:
    assert make_map(np.ones((6, 1, 1))).tolist() == [[0]]
    assert not make_map(np.full((6, 3, 4), np.nan)).any()


@every_map
def test_cells_without_numbers_do_not_disturb_the_others(random, make_map) -> None:
    features, inside = planted(random)
    features[3, 0, 2] = np.nan
    features[1, 4, 6] = np.inf
    found = make_map(features)
    assert found[0, 2] == found[4, 6] == 0
    inside[4, 6] = False
    assert np.array_equal(found > 0.5, inside)


def test_distance_is_that_from_the_mean_stretched(random) -> None:
    features = random.normal(size=(5, 4, 7))
    mean = features.mean(axis=(1, 2))
    plain = np.array(
        [[np.sqrt(((features[:, i, j] - mean) ** 2).sum()) for j in range(7)] for i in range(4)]
    )
    expected = (plain - plain.min()) / (plain.max() - plain.min())
    assert feature_distance(features) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("channels", [6, 200])
def test_the_principal_axis_is_that_of_a_singular_value_decomposition(random, channels) -> None:
    scale = np.linspace(1, 3, channels)[:, None, None]
    images = [
        random.normal(size=(channels, 4, 7)) * scale,
        random.normal(size=(channels, 5, 3)) + 1,
    ]
    cells = np.concatenate([image.reshape(channels, -1).T for image in images])
    axis = principal_axis(images)
    assert axis.mean == pytest.approx(cells.mean(axis=0))
    direction = np.linalg.svd(cells - cells.mean(axis=0))[2][0]
    assert abs(axis.direction @ direction) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(axis.direction) == pytest.approx(1)


def test_the_axis_points_away_from_the_border(random) -> None:
    features, inside = planted(random)
    for flipped in (features, -features):
        axis = principal_axis([flipped])
        projections = np.einsum("dij,d->ij", flipped - axis.mean[:, None, None], axis.direction)
        assert projections[inside].min() > 0 > projections[~inside].max()


def test_an_axis_of_many_images_finds_what_they_share(random) -> None:
    thing = random.normal(size=24) * 3
    images, places = [], []
    for top, left in ((2, 2), (4, 5), (1, 6), (3, 3)):
        features = random.normal(size=(24, 8, 11))
        features[:, top : top + 3, left : left + 3] += thing[:, None, None]
        images.append(features)
        places.append((top, left))
    axis = principal_axis(images)
    for features, (top, left) in zip(images, places, strict=True):
        strong = axis_projection(features, axis) > 0.5
        expected = np.zeros((8, 11), bool)
        expected[top : top + 3, left : left + 3] = True
        assert np.array_equal(strong, expected)


def test_bipartition_solves_the_generalised_eigenproblem(random) -> None:
    features = random.normal(size=(4, 6, 9))
    cells = features.reshape(4, -1).T - features.mean(axis=(1, 2))
    unit = cells / np.linalg.norm(cells, axis=1, keepdims=True)
    edges = np.where(unit @ unit.T > 0.4, 1.0, 1e-5)
    degrees = np.diag(edges.sum(axis=1))
    vector = scipy.linalg.eigh(degrees - edges, degrees)[1][:, 1]
    cut = vector - vector.mean()
    cut *= np.sign(cut[np.abs(cut).argmax()])
    expected = np.maximum(cut, 0) / cut.max()
    found = bipartition(features, similarity=0.4)
    assert found.ravel() == pytest.approx(expected, abs=1e-5)


def test_large_grids_are_cut_in_blocks(random) -> None:
    small, inside = planted(random, 31, 30)
    large = small.repeat(2, axis=1).repeat(2, axis=2)[:, :61, :59]  # the last blocks are cut
    found = bipartition(large)
    assert np.array_equal(found > 0.5, inside.repeat(2, axis=0).repeat(2, axis=1)[:61, :59])


def test_graphs_without_a_cut_say_nothing(random) -> None:
    features = random.normal(size=(3, 4, 5))
    assert not bipartition(features, similarity=-1.5).any()


def test_the_centre_prior_follows_the_image_not_the_grid() -> None:
    transform = GridTransform.identity((60, 40)).resize((12, 8))
    prior = center_prior(transform)
    x = (np.arange(12) + 0.5) / 12 - 0.5
    y = (np.arange(8) + 0.5) / 8 - 0.5
    expected = np.exp(-0.5 * ((y[:, None] / 0.3) ** 2 + (x[None] / 0.3) ** 2))
    assert prior == pytest.approx(expected)
    padded = center_prior(transform.pad(3, 0, 1, 2))
    assert padded[:8, 3:15] == pytest.approx(prior)
    cropped = center_prior(transform.crop((2, 1, 9, 8)))
    assert cropped == pytest.approx(prior[1:8, 2:9])


def test_fusion_by_hand() -> None:
    class_maps = np.array([[[-1.0, 2.0, 4.0]], [[1.0, 0.0, 3.0]]], np.float32)
    objects = np.array([[1.0, 0.5, 0.25]], np.float32)
    assert fuse_product(class_maps, objects).tolist() == [[[0, 1, 1]], [[1, 0, 0.75]]]


def test_an_object_map_that_says_nothing_changes_nothing() -> None:
    class_maps = np.array([[[-1.0, 2.0, 4.0]]], np.float32)
    assert fuse_product(class_maps, np.zeros((1, 3), np.float32)).tolist() == [[[0, 2, 4]]]
    with pytest.raises(ValueError, match="differ"):
        fuse_product(class_maps, np.zeros((3, 1), np.float32))
