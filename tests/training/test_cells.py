"""Learning which cells are the object: oracles for each step, and the whole on plain squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.training.small_data import make_data_set, make_sample
from weakloc.data.transforms import Preprocessing
from weakloc.errors import DataError, RunError
from weakloc.geometry import GridTransform
from weakloc.localize.maps import cells_inside, otsu_threshold
from weakloc.methods.wildcat import Wildcat
from weakloc.model.backbones import Backbone, build_backbone
from weakloc.model.fine_layers import CellClassifier, fine_features, fine_levels, without_border
from weakloc.model.trunk import BackboneSpec, CellGeometry
from weakloc.settings import RefineSettings
from weakloc.structures import PRESENT, UNKNOWN, Sample
from weakloc.training.fine_layers import learn_cells, principal_axis, standing_out
from weakloc.training.run_folder import CELLS_NAME, load_learned, save_learned

PREPROCESSING = Preprocessing(size=(64, 64), resize="warp")
SETTINGS = RefineSettings(epochs=20, learning_rate=5e-3)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneSpec.parse("tiny[width=8]", weights="none")).eval()


def learn(backbone: Backbone, samples: Sequence[Sample], **changes: int) -> CellClassifier:
    """With class maps that say nothing: those of a head of zeros."""
    settings = replace(SETTINGS, **changes)
    network = Wildcat().build_network(backbone, 2)
    for parameter in network.head.parameters():
        torch.nn.init.zeros_(parameter)
    return learn_cells(network, samples, PREPROCESSING, settings, lambda _done, _total: None)[0]


def test_otsu_threshold_is_the_best_of_all_divisions() -> None:
    random = np.random.default_rng(3)
    values = np.concatenate([random.normal(0, 1, 60), random.normal(4, 0.5, 25)])
    spread = {
        cut: (values <= cut).mean()
        * (values > cut).mean()
        * (values[values <= cut].mean() - values[values > cut].mean()) ** 2
        for cut in sorted(values)[:-1]
    }

    assert otsu_threshold(values) == max(spread, key=lambda cut: spread[cut])


def test_standing_out_is_the_distance_from_the_median() -> None:
    cells = torch.zeros(9, 2)
    cells[5] = torch.tensor([3.0, 4.0])

    distances = standing_out([cells, torch.zeros(9, 1)])

    expected = torch.zeros(9)
    expected[5] = (25 / 2) ** 0.5 / 2  # over two levels
    assert torch.allclose(distances, expected)


def test_fine_levels_are_averaged_onto_the_coarsest_grid() -> None:
    fine, coarse = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 2, 2)
    fine[0, 0, 0, 3] = 8.0

    cells = CellClassifier({4: 1, 8: 1}, 2).cells({8: coarse, 4: fine})

    assert torch.equal(cells[0], torch.tensor([[[0.0, 2.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]]))


def test_what_lies_at_the_border_of_an_odd_grid_is_averaged_where_it_lies() -> None:
    fine, coarse = torch.arange(3.0).expand(1, 1, 3, 3), torch.zeros(1, 1, 2, 2)

    cells = CellClassifier({4: 1, 8: 1}, 2).cells({8: coarse, 4: fine})

    assert cells[0, 0].tolist() == [[0.5, 2.0], [0.5, 2.0]]


@pytest.mark.parametrize(
    ("geometry", "finer"),
    [
        (CellGeometry(16, "uniform", 16.0), [0, 0.25, 0.75, 1]),
        (CellGeometry(16, 12.0, 16.0), [0, 0, 0.5, 1]),  # the first cell's centre is the second's
    ],
)
def test_shares_of_range_by_hand(geometry: CellGeometry, finer: list[float]) -> None:
    """One map from -1 to 3, one even, one broken, of 32 pixels; each cell becomes four."""
    nan = float("nan")
    maps = torch.tensor([[[-1.0, 3], [1, 0]], [[5, 5], [5, 5]], [[1, 2], [3, nan]]])

    shares = CellClassifier({8: 1}, 3).shares_of_range(maps, geometry, (32, 32), (4, 4))

    assert (shares[1:] == 1).all()
    assert shares[0, 0].tolist() == finer
    assert shares.shape == (3, 4, 4)


def test_an_even_image_leaves_no_trace_of_its_border(backbone: Backbone) -> None:
    images = torch.full((1, 3, 50, 70), 0.3)

    features = fine_features(backbone, images, fine_levels(backbone.level_strides))

    assert {stride: values.shape[2:] for stride, values in features.items()} == {
        4: (13, 18),
        8: (7, 9),
    }
    for values in features.values():
        assert values.flatten(2).std(dim=2).max() < 1e-5
    assert backbone.early_levels(images, [4])[4].flatten(2).std(dim=2).max() > 1e-3


def test_fine_cells_lie_where_the_plain_ones_do(backbone: Backbone) -> None:
    images = torch.zeros(1, 3, 96, 96)
    images[:, :, 40:56, 64:80] = 1.0

    plain = backbone(images)
    found = fine_features(backbone, images, [8])[8]

    assert torch.allclose(found[:, :, 5:7, 6:10], plain[:, :, 5:7, 6:10], atol=1e-4)


def test_squares_are_found_from_tags_alone(backbone: Backbone, tmp_path: Path) -> None:
    data_set = make_data_set(tmp_path, num_train=48, num_val=24)
    blind = [replace(sample, truth=None) for sample in data_set.splits["train"]]

    classifier = learn(backbone, blind)

    on_the_object = [
        _hottest_lies_in_a_box(backbone, classifier, sample, class_index)
        for sample in data_set.splits["val"]
        for class_index in np.flatnonzero(sample.labels == PRESENT).tolist()
    ]
    assert np.mean(on_the_object) > 0.9


def _hottest_lies_in_a_box(
    backbone: Backbone, classifier: CellClassifier, sample: Sample, class_index: int
) -> bool:
    with Image.open(sample.path) as picture:
        images, transform = PREPROCESSING.apply(picture.convert("RGB"))
    with torch.no_grad():
        features = fine_features(backbone, images[None], classifier.levels)
        heat = classifier(features, backbone(images[None]), images.shape[1:])[0, class_index]
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    cells = backbone.geometry.cell_transform(transform, *heat.shape)
    x, y = (column + 0.5) / cells.grid_size[0] * 36, (row + 0.5) / cells.grid_size[1] * 28
    assert sample.truth is not None
    boxes = [box.box for box in sample.truth.boxes if box.class_index == class_index]
    return any(left <= x < right and top <= y < bottom for left, top, right, bottom in boxes)


def test_the_principal_axis_is_the_first_singular_vector_of_centred_cells() -> None:
    random = np.random.default_rng(5)
    spread = np.array([1.0, 0.2, 3.0, 0.5])[:, None]
    parts = [random.normal(size=(4, count)) * spread + 7.0 for count in (40, 9, 75)]

    axis = principal_axis([torch.from_numpy(part) for part in parts], 4).numpy()

    cells = np.concatenate(parts, axis=1)
    vectors = np.linalg.svd(cells - cells.mean(axis=1, keepdims=True))[0]
    assert np.allclose(np.abs(axis @ vectors), [1, 0, 0, 0], atol=1e-9)


def test_the_common_axis_points_to_the_objects(backbone: Backbone, tmp_path: Path) -> None:
    samples = make_data_set(tmp_path, num_train=48).splits["train"]

    classifier = learn(backbone, samples, epochs=5)

    assert torch.allclose(classifier.axes.norm(dim=1), torch.ones(2), atol=1e-5)
    towards = {0: 0.0, 1: 0.0}
    for sample in samples:
        assert sample.truth is not None
        features, cells = _features_of(backbone, sample)
        for box in sample.truth.boxes:
            along = torch.einsum("drc,d->rc", features, classifier.axes[box.class_index])
            inside = torch.from_numpy(cells_inside(box.box, cells))
            towards[box.class_index] += float(along[inside].mean() - along[~inside].mean())
    assert min(towards.values()) > 0


def test_a_class_that_no_image_shows_has_nothing_in_common(
    backbone: Backbone, tmp_path: Path
) -> None:
    samples = make_data_set(tmp_path).splits["train"]
    without = [sample for sample in samples if sample.labels[1] != PRESENT]

    classifier = learn(backbone, without, epochs=1)

    assert classifier.axes[0].any()
    assert not classifier.axes[1].any()


def _features_of(backbone: Backbone, sample: Sample) -> tuple[Tensor, GridTransform]:
    with Image.open(sample.path) as picture:
        images, transform = PREPROCESSING.apply(picture.convert("RGB"))
    with torch.no_grad():
        features = without_border(backbone(images[None]))[0]
    tiles = CellGeometry(8, "uniform", 8.0)
    return features, tiles.cell_transform(transform, *features.shape[1:])


def test_what_a_cell_would_say_by_chance_is_no_evidence(backbone: Backbone, tmp_path: Path) -> None:
    samples = make_data_set(tmp_path).splits["train"]
    labels = np.stack([sample.labels for sample in samples])

    classifier = learn(backbone, samples, epochs=1)

    expected = (labels == PRESENT).sum(0) / (labels != UNKNOWN).sum(0)
    assert torch.allclose(classifier.base_rates, torch.from_numpy(expected).float())
    last = classifier.tags[-1]
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.logit(classifier.base_rates))
        found = classifier.evidence(torch.randn(1, 48, 3, 3))
    assert torch.allclose(found, torch.full_like(found, 0.5**0.25))


def test_drawn_boxes_are_never_looked_at(backbone: Backbone, tmp_path: Path) -> None:
    samples = make_data_set(tmp_path).splits["train"]

    seen = learn(backbone, samples, epochs=2)
    blind = learn(backbone, [replace(sample, truth=None) for sample in samples], epochs=2)

    for name, value in seen.state_dict().items():
        assert torch.equal(value, blind.state_dict()[name])


def test_an_image_without_known_tags_teaches_no_place(backbone: Backbone, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    sample = make_sample(tmp_path, "a.png", random)
    unknown = replace(sample, labels=np.full(2, UNKNOWN, np.int8))

    with pytest.raises(DataError, match="has a tag"):
        learn(backbone, [unknown])


def test_an_even_image_is_left_out(backbone: Backbone, tmp_path: Path) -> None:
    Image.new("RGB", (36, 28), (90, 90, 90)).save(tmp_path / "even.png")
    labels = np.array([PRESENT, -PRESENT], np.int8)
    even = Sample("even.png", str(tmp_path / "even.png"), labels)

    classifier = learn(backbone, [even], epochs=1)

    assert all(bool(value.isfinite().all()) for value in classifier.state_dict().values())


def test_kept_cells_come_back_and_belong_to_their_weights(
    backbone: Backbone, tmp_path: Path
) -> None:
    classifier = CellClassifier({4: 16, 8: 32}, 3)
    save_learned(tmp_path, classifier, backbone, SETTINGS)

    found = load_learned(CellClassifier, tmp_path, backbone.weights_digest, 3)

    assert found is not None
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, found.state_dict()[name])
    torch.manual_seed(1)
    other = build_backbone(BackboneSpec.parse("tiny[width=8]", weights="none"))
    with pytest.raises(RunError, match="other weights"):
        load_learned(CellClassifier, tmp_path, other.weights_digest, 3)


@pytest.mark.parametrize("content", [b"", b"no tensors"])
def test_a_broken_file_of_cells_is_said(backbone: Backbone, tmp_path: Path, content: bytes) -> None:
    (tmp_path / CELLS_NAME).write_bytes(content)

    with pytest.raises(RunError, match="cannot be read"):
        load_learned(CellClassifier, tmp_path, backbone.weights_digest, 3)


def test_cells_of_other_classes_are_said(backbone: Backbone, tmp_path: Path) -> None:
    save_learned(tmp_path, CellClassifier({4: 16, 8: 32}, 2), backbone, SETTINGS)

    with pytest.raises(RunError, match="cannot be read"):
        load_learned(CellClassifier, tmp_path, backbone.weights_digest, 3)
