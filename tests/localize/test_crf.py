"""Dense CRF against plain mean field with full matrices, and against pydensecrf where installed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from test_permutohedral import gaussian_matrix, lattice_matrix

from weakloc.errors import SettingError
from weakloc.localize.crf import CrfSettings, refine_unary


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


def dense_crf(probabilities: np.ndarray, image: np.ndarray, settings: CrfSettings) -> np.ndarray:
    return refine_unary(-np.log(np.clip(probabilities, 1e-5, 1.0)), image, settings)


def plain_mean_field(unary, image, settings: CrfSettings, kernel_matrix) -> np.ndarray:
    """Mean field with (N, N) kernels: D^(-1/2) G D^(-1/2), Potts compatibility."""
    classes, height, width = unary.shape
    y, x = np.mgrid[:height, :width]
    positions = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)
    near = positions / settings.color_position_sigma
    colors = image.reshape(-1, 3) / settings.color_sigma
    total = np.zeros((height * width, height * width))
    for features, weight in (
        (positions / settings.smooth_position_sigma, settings.smooth_weight),
        (np.concatenate([near, colors], axis=1), settings.color_weight),
    ):
        kernel = kernel_matrix(features)
        roots = np.sqrt(kernel.sum(axis=1))
        total += weight * kernel / roots[:, None] / roots[None, :]
    flat = unary.reshape(classes, -1).astype(np.float64)
    marginals = softmax(-flat)
    for _ in range(settings.iterations):
        marginals = softmax(-flat + marginals @ total.T)
    return marginals.reshape(unary.shape)


def scene(random: np.random.Generator, height: int, width: int, classes: int):
    """A picture with texture, shading and two edges, and coarse maps of classes."""
    y, x = np.mgrid[:height, :width]
    shade = 90 + 60 * np.sin(x / width * 3 + y / height)
    shade = np.where(x + 0.4 * y > 0.6 * width, shade + 70, shade)
    colors = np.stack([shade, 0.7 * shade + 20, np.where(y > height / 2, 60, 150)], axis=2)
    noise = random.normal(size=(height, width, 3)) * 6
    image = np.clip(colors + noise, 0, 255).astype(np.uint8)
    coarse = random.normal(size=(classes, 5, 6)) * 1.5
    rows, columns = np.arange(height) * 5 // height, np.arange(width) * 6 // width
    return image, softmax(coarse[:, rows][:, :, columns]).astype(np.float32)


@pytest.mark.parametrize("iterations", [1, 4])
def test_mean_field_equals_full_matrices_on_the_same_lattice(random, iterations) -> None:
    image, probabilities = scene(random, 11, 14, 3)
    settings = CrfSettings(iterations, 2.3, 2.0, 31.7, 13.1, 5.0)
    unary = -np.log(probabilities)
    refined = refine_unary(unary, image, settings)
    assert refined == pytest.approx(
        plain_mean_field(unary, image, settings, lattice_matrix), abs=1e-3
    )


def test_ten_iterations_of_the_stated_kernels_unless_told_otherwise(random) -> None:
    """Specification 4.4; few grey levels, weak maps: one iteration more or less is seen."""
    stated = CrfSettings(
        iterations=10,
        smooth_position_sigma=3.0,
        smooth_weight=3.0,
        color_position_sigma=80.0,
        color_sigma=13.0,
        color_weight=10.0,
    )
    image = (60 + 12 * np.arange(15)[None, :, None] + random.integers(0, 20, (11, 15, 3))).astype(
        np.uint8
    )
    probabilities = softmax(random.normal(size=(3, 11, 15)) * 0.1).astype(np.float32)
    unary = -np.log(probabilities)
    refined = dense_crf(probabilities, image, CrfSettings())
    expected = plain_mean_field(unary, image, stated, lattice_matrix)
    assert refined == pytest.approx(expected, abs=1e-3)
    for changed in (
        {"iterations": 9},
        {"iterations": 11},
        {"smooth_position_sigma": 2.7},
        {"smooth_weight": 2.7},
        {"color_position_sigma": 60.0},
        {"color_sigma": 12.0},
        {"color_weight": 9.0},
    ):
        other = plain_mean_field(unary, image, replace(stated, **changed), lattice_matrix)
        assert np.abs(other - expected).max() > 5e-3, changed


def test_mean_field_is_close_to_exact_gaussian_sums(random) -> None:
    image, probabilities = scene(random, 22, 27, 4)
    settings = CrfSettings(iterations=5, color_weight=4.0)
    unary = -np.log(probabilities)
    refined = refine_unary(unary, image, settings)
    exact = plain_mean_field(unary, image, settings, gaussian_matrix)
    assert np.abs(refined - exact).mean() < 0.02
    assert (refined.argmax(axis=0) == exact.argmax(axis=0)).mean() > 0.96
    changed = refined.argmax(axis=0) != probabilities.argmax(axis=0)
    assert changed.mean() > 0.05  # the comparison is about something


@pytest.fixture
def pydensecrf():
    return pytest.importorskip(
        "pydensecrf.densecrf", reason="pydensecrf2 is not installed (it needs a compiler)"
    )


def pydensecrf_result(pydensecrf, unary: np.ndarray, image: np.ndarray) -> np.ndarray:
    classes, height, width = unary.shape
    peer = pydensecrf.DenseCRF2D(width, height, classes)
    peer.setUnaryEnergy(np.ascontiguousarray(unary.reshape(classes, -1)))
    peer.addPairwiseGaussian(sxy=3, compat=3)
    peer.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
    return np.array(peer.inference(10)).reshape(unary.shape)


@pytest.mark.parametrize(("height", "width", "classes"), [(90, 121, 5), (64, 41, 21)])
def test_synthetic_pictures_have_the_probabilities_of_pydensecrf(
    pydensecrf, random, height, width, classes
) -> None:
    image, probabilities = scene(random, height, width, classes)
    unary = -np.log(probabilities)
    expected = pydensecrf_result(pydensecrf, unary, image)
    refined = refine_unary(unary, image, CrfSettings())
    assert np.abs(refined - expected).max() <= 0.01
    assert (refined.argmax(axis=0) == expected.argmax(axis=0)).mean() >= 0.999


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_photographs_have_the_probabilities_of_pydensecrf(pydensecrf, random, name) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    image = np.ascontiguousarray(datasets.load_sample_image(name)[40:415, 60:560])
    _, probabilities = scene(random, 375, 500, 21)
    unary = -np.log(probabilities)
    expected = pydensecrf_result(pydensecrf, unary, image)
    refined = refine_unary(unary, image, CrfSettings())
    assert np.abs(refined - expected).max() <= 0.01
    assert (refined.argmax(axis=0) == expected.argmax(axis=0)).mean() >= 0.999


def test_labels_follow_the_edges_of_the_image() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[12:30, 21:47] = 200
    blurred = np.full((2, 40, 60), 0.4, np.float32)
    blurred[1, 15:27, 26:42] = 0.8  # inside of the object only
    blurred[0] = 1 - blurred[1]
    found = dense_crf(blurred, image, CrfSettings()).argmax(axis=0) == 1
    expected = np.zeros((40, 60), bool)
    expected[12:30, 21:47] = True
    assert (found & expected).sum() / (found | expected).sum() > 0.97
    assert ((blurred[1] > 0.5) & expected).sum() / expected.sum() < 0.5


def test_class_order_does_not_matter(random) -> None:
    image, probabilities = scene(random, 20, 31, 9)
    order = random.permutation(9)
    refined = dense_crf(probabilities, image, CrfSettings(3))
    assert dense_crf(probabilities[order], image, CrfSettings(3)) == pytest.approx(
        refined[order], abs=1e-5
    )


def test_without_weights_nothing_changes(random) -> None:
    image, probabilities = scene(random, 13, 17, 3)
    untouched = dense_crf(probabilities, image, CrfSettings(smooth_weight=0, color_weight=0))
    assert untouched == pytest.approx(probabilities, abs=1e-6)
    one = dense_crf(probabilities, image, CrfSettings(smooth_weight=0))
    assert np.abs(one - probabilities).max() > 0.01


def test_input_is_left_as_it_was_and_threads_agree(random) -> None:
    image, probabilities = scene(random, 30, 41, 3)
    kept_image, kept_probabilities = image.copy(), probabilities.copy()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: dense_crf(probabilities, image, CrfSettings()), range(4)))
    assert all(np.array_equal(result, results[0]) for result in results)
    assert np.array_equal(image, kept_image)
    assert np.array_equal(probabilities, kept_probabilities)


@pytest.mark.parametrize(
    ("height", "width", "classes"), [(1, 1, 2), (1, 700, 3), (9, 1, 1), (5, 7, 0)]
)
def test_odd_sizes_have_results(random, height, width, classes) -> None:
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    maps = random.random((classes, height, width)).astype(np.float32)
    refined = dense_crf(maps, image, CrfSettings())
    assert refined.shape == maps.shape
    if classes:
        assert refined.sum(axis=0) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, np.inf])
def test_maps_without_an_opinion_stay_uniform(value) -> None:
    image = np.full((12, 19, 3), 77, np.uint8)
    refined = dense_crf(np.full((4, 12, 19), value, np.float32), image, CrfSettings())
    assert refined == pytest.approx(0.25)


def test_a_hole_without_an_opinion_is_filled_from_its_surroundings() -> None:
    image = np.full((20, 30, 3), 90, np.uint8)
    probabilities = np.stack([np.full((20, 30), 0.9), np.full((20, 30), 0.1)]).astype(np.float32)
    probabilities[:, 8:12, 10:15] = 0.5
    assert dense_crf(probabilities, image, CrfSettings())[0, 8:12, 10:15].min() > 0.9


def test_images_that_do_not_fit_are_refused(random) -> None:
    maps = np.full((2, 10, 20), 0.5, np.float32)
    with pytest.raises(ValueError, match="10 rows and 20 columns do not fit"):
        dense_crf(maps, np.zeros((20, 10, 3), np.uint8), CrfSettings())
    with pytest.raises(ValueError, match="uint8 is needed"):
        dense_crf(maps, np.zeros((10, 20, 3), np.float32), CrfSettings())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"color_sigma": 0.0}, "color_sigma is 0.0"),
        ({"smooth_position_sigma": -1.0}, "smooth_position_sigma is -1.0"),
        ({"color_weight": -2.0}, "color_weight is -2.0"),
        ({"smooth_weight": float("nan")}, "smooth_weight is nan"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message) -> None:
    with pytest.raises(SettingError, match=message):
        CrfSettings(**settings)
