"""Cached features are those of the backbone, are never computed twice, and train the same head."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.small_data import SIDE, make_data_set, make_sample, method, settings
from weakloc.data.images import open_image
from weakloc.data.transforms import Preprocessing, resize_images
from weakloc.errors import SettingError
from weakloc.model.backbones import Backbone, build_backbone
from weakloc.model.trunk import BackboneSpec
from weakloc.structures import DataSet, Sample
from weakloc.training.fit import fit
from weakloc.training.inputs import Extraction, FeatureCache, FeatureStore, FeatureView
from weakloc.training.module import LocalizationModule
from weakloc.training.run_folder import load_run

SPEC = BackboneSpec.parse("tiny[width=4]", weights="none")
PREPROCESSING = Preprocessing(size=SIDE)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build_backbone(SPEC).eval()


def extraction(folder: Path, **changes: object) -> Extraction:
    plain = Extraction(folder, PREPROCESSING, 4, 0, torch.device("cpu"), in_bf16=False)
    return replace(plain, **changes)  # type: ignore[arg-type]


def silent(_done: int, _total: int) -> None: ...


def filled(cache: FeatureCache, samples: list[Sample]) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    assert cache.fill(samples, lambda done, total: told.append((done, total))) == []
    return told


@pytest.mark.parametrize("view", [FeatureView(), FeatureView(1.5, True), FeatureView(1.0, True)])
def test_cached_maps_are_those_of_the_backbone(
    data_set: DataSet, backbone: Backbone, tmp_path: Path, view: FeatureView
) -> None:
    samples = list(data_set.splits["val"])
    cache = FeatureCache(backbone, extraction(tmp_path), [FeatureView(), view])
    filled(cache, samples)
    side = round(SIDE * view.scale)
    pixels, place = Preprocessing(size=side).apply(open_image(samples[2].path))
    with torch.inference_mode():
        shown = pixels.flip(-1) if view.mirrored else pixels
        expected = backbone(shown[None])
    maps, transforms = cache.read([samples[2]], [view])
    assert torch.allclose(maps.float(), expected, rtol=2e-3, atol=2e-3)
    assert transforms[0] == (place.flip_horizontal() if view.mirrored else place)


def test_cached_maps_of_another_size_see_the_padded_canvas_at_that_size(
    data_set: DataSet, backbone: Backbone, tmp_path: Path
) -> None:
    """As in training on pixels: padded first, then scaled."""
    sample, view = data_set.splits["val"][2], FeatureView(1.5)
    padded = Preprocessing(size=SIDE, resize="pad")
    cache = FeatureCache(backbone, extraction(tmp_path, preprocessing=padded), [view])
    filled(cache, [sample])
    pixels, place = padded.apply(open_image(sample.path))
    with torch.inference_mode():
        expected = backbone(resize_images(pixels[None], (48, 48)))
    maps, transforms = cache.read([sample], [view])
    assert torch.allclose(maps.float(), expected, rtol=2e-3, atol=2e-3)
    assert transforms[0] == place.resize((48, 48))


def test_nothing_is_computed_twice(data_set: DataSet, backbone: Backbone, tmp_path: Path) -> None:
    samples = list(data_set.splits["val"])
    filled(FeatureCache(backbone, extraction(tmp_path), [FeatureView()]), samples[:5])
    again = FeatureCache(backbone, extraction(tmp_path), [FeatureView()])
    assert filled(again, samples)[:2] == [(5, 9), (9, 9)]
    complete = FeatureCache(backbone, extraction(tmp_path), [FeatureView()])
    assert filled(complete, samples) == [(9, 9)]


def test_a_changed_image_and_a_changed_backbone_are_computed_anew(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sample = make_sample(tmp_path, "a.png", random)
    first, second = (build_backbone(SPEC).eval() for _ in range(2))
    cache = FeatureCache(first, extraction(tmp_path / "cache"), [FeatureView()])
    filled(cache, [sample])
    before, _ = cache.read([sample], [FeatureView()])
    make_sample(tmp_path, "a.png", random)
    os.utime(tmp_path / "a.png", ns=(1, 1))
    fresh = FeatureCache(first, extraction(tmp_path / "cache"), [FeatureView()])
    assert not fresh.holds(sample)
    filled(fresh, [sample])
    assert not torch.equal(fresh.read([sample], [FeatureView()])[0], before)
    other = FeatureCache(second, extraction(tmp_path / "cache"), [FeatureView()])
    assert filled(other, [sample])[0] == (0, 1)


# A map is 60 bytes, a row 48: (bytes written of c and d, of their rows, maps kept)
@pytest.mark.parametrize(
    ("data_bytes", "index_bytes", "kept"),
    [
        (0, 0, 2),
        (7, 0, 2),
        (60, 0, 2),
        (120, 0, 2),
        (120, 24, 2),
        (120, 48, 3),
        (120, 95, 3),
        (90, 96, 3),
    ],
)
def test_what_a_killed_process_left_half_written_is_cut_off(
    tmp_path: Path, data_bytes: int, index_bytes: int, kept: int
) -> None:
    maps = np.arange(4 * 30, dtype=np.float16).reshape(4, 2, 3, 5)
    store = FeatureStore(tmp_path, (2, 3, 5))
    store.append(["a", "b"], [(8.0, 6.0)] * 2, maps[:2])
    store.append(["c", "d"], [(8.0, 6.0)] * 2, maps[2:])
    os.truncate(tmp_path / "features.f16", 120 + data_bytes)
    os.truncate(tmp_path / "images.rows", 96 + index_bytes)
    taken_up = FeatureStore(tmp_path, (2, 3, 5))
    assert [key for key in "abcd" if key in taken_up.rows] == list("abcd"[:kept])
    missing = list("abcd"[kept:])
    taken_up.append(missing, [(8.0, 6.0)] * len(missing), maps[kept:])
    again = FeatureStore(tmp_path, (2, 3, 5))
    assert np.array_equal([again.map_of(number) for number in range(len(maps))], maps)
    assert [again.rows[key] for key in "abcd"] == [(number, (8.0, 6.0)) for number in range(4)]


def test_an_unreadable_image_is_recorded_and_left_out(
    data_set: DataSet, backbone: Backbone, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    labels = data_set.splits["val"][0].labels
    broken = Sample("broken.png", str(tmp_path / "broken.png"), labels)
    gone = Sample("gone.png", str(tmp_path / "gone.png"), labels)
    cache = FeatureCache(backbone, extraction(tmp_path / "cache"), [FeatureView()])
    samples = [broken, *data_set.splits["val"], gone]
    assert {each.name for each in cache.fill(samples, silent)} == {"broken.png", "gone.png"}
    assert [cache.holds(sample) for sample in samples] == [False, *[True] * 9, False]


def test_a_head_trained_on_the_cache_equals_one_trained_on_images(
    data_set: DataSet, tmp_path: Path
) -> None:
    """Half precision is the only difference: same batches, same order, frozen backbone."""
    plain = method(flip=False, trains_backbone=False)
    slow = fit(data_set, plain, settings(), tmp_path / "images")
    chosen = settings(frozen=True, feature_flip=False)
    fast = fit(data_set, plain, chosen, tmp_path / "cached")
    weights, expected = (run.network.state_dict() for run in (fast, slow))
    for name, value in expected.items():
        if name.startswith("backbone"):
            assert torch.equal(weights[name], value)
        else:
            assert torch.allclose(weights[name], value, atol=2e-3)
    assert not torch.allclose(weights["head.transfer.weight"], torch.zeros(()), atol=1e-2)
    for record, other in zip(fast.history, slow.history, strict=True):
        assert record.loss == pytest.approx(other.loss, abs=2e-3)


def test_a_frozen_run_predicts_like_any_other(data_set: DataSet, tmp_path: Path) -> None:
    run = fit(data_set, method(), settings(frozen=True, feature_scales=(1.0, 1.5)), tmp_path)
    loaded = load_run(run.path)
    assert any("frozen" in note for note in loaded.notes)
    picture = Image.fromarray(np.zeros((57, 41, 3), dtype=np.uint8))
    pixels, _ = loaded.preprocessing.apply(picture)
    with torch.inference_mode():
        output = loaded.network(pixels[None])
        rebuilt = loaded.network.from_features(loaded.network.backbone(pixels[None]))
    assert torch.equal(output.scores, rebuilt.scores)
    assert all(not parameter.requires_grad for parameter in loaded.network.backbone.parameters())


def test_a_frozen_training_resumes_to_the_bit(data_set: DataSet, tmp_path: Path) -> None:
    chosen = settings(frozen=True, feature_scales=(1.0, 1.5), checkpoint_minutes=1e-9)
    fit(data_set, method(), chosen, tmp_path / "whole")
    original = LocalizationModule.training_step

    def dying(module: LocalizationModule, carried: object, batch_idx: int) -> object:
        if (module.current_epoch, batch_idx) == (1, 3):
            raise ZeroDivisionError
        return original(module, carried, batch_idx)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LocalizationModule, "training_step", dying)
        with pytest.raises(ZeroDivisionError):
            fit(data_set, method(), chosen, tmp_path / "parts")
    fit(data_set, method(), chosen, tmp_path / "parts", resume=True)
    contents = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert contents[0] == contents[1]


def test_a_cache_elsewhere_serves_several_runs(data_set: DataSet, tmp_path: Path) -> None:
    chosen = settings(frozen=True, feature_cache=str(tmp_path / "cache"))
    fit(data_set, method(), chosen, tmp_path / "first")
    stores = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.f16")}
    assert len(stores) == 2  # plain and mirrored
    fit(data_set, method(alpha=0.3), chosen, tmp_path / "second")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.f16")} == stores
    assert not (tmp_path / "first" / "features").exists()


def test_inputs_of_changing_size_cannot_be_cached(tmp_path: Path) -> None:
    small = make_data_set(tmp_path / "data", num_train=4, num_val=1)
    with pytest.raises(SettingError, match=r"--frozen.*fixed size"):
        fit(small, method(resize="none"), settings(frozen=True), tmp_path / "run")
