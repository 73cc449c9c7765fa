"""Batches depend on the seed and the epoch alone, and every image finds its way back."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from weakloc.data.augmentation import (
    Augmentation,
    GoogLeNetResize,
    HideAndSeek,
    HorizontalFlip,
    Rotation,
    ScaleJitter,
    WhiteNoise,
)
from weakloc.data.loaders import (
    Batch,
    EpochBatches,
    EveryImageOnce,
    SampleLoader,
    augment_batch,
    repetition_weights,
)
from weakloc.data.transforms import Preprocessing
from weakloc.errors import DataError, SettingError
from weakloc.geometry import map_point_to_image
from weakloc.structures import BrokenImage, Sample

SMALL = Preprocessing(size=(40, 28))
EVERYTHING = Augmentation(
    crop=GoogLeNetResize(),
    steps=(HideAndSeek(), HorizontalFlip()),
    duplicate_steps=(WhiteNoise(), Rotation()),
)


def training_loader(
    samples: list[Sample],
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    balance: bool = False,
    rank: int = 0,
    world_size: int = 1,
    **options: Any,
) -> SampleLoader:
    order = EpochBatches(
        len(samples),
        batch_size=batch_size,
        seed=seed,
        weights=repetition_weights(samples) if balance else None,
        rank=rank,
        world_size=world_size,
    )
    return SampleLoader(samples, preprocessing, order, augmentation=augmentation, **options)


def evaluation_loader(
    samples: list[Sample], preprocessing: Preprocessing, *, batch_size: int, **options: Any
) -> SampleLoader:
    order = EveryImageOnce(len(samples), batch_size=batch_size)
    return SampleLoader(samples, preprocessing, order, **options)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Eleven pictures of different sizes; class 0 on most of them, class 2 on one."""
    random = np.random.default_rng(3)
    found = []
    for number in range(11):
        width, height = (int(side) for side in random.integers(30, 70, size=2))
        pixels = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        labels = np.full(3, -1, np.int8)
        labels[2 if number == 4 else int(number % 4 == 0)] = 1
        found.append(Sample(path.name, str(path), labels))
    return found


def break_images(samples: list[Sample], *numbers: int) -> None:
    for number in numbers:
        Path(samples[number].path).write_bytes(b"")


def epochs(loader: SampleLoader, *numbers: int) -> list[Batch]:
    batches = []
    for number in numbers:
        loader.order.set_epoch(number)
        batches += list(loader)
    return batches


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.indices, other.indices)
        assert (one.names, one.transforms, one.seed) == (other.names, other.transforms, other.seed)


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_any_number_of_workers_gives_the_same_epochs(samples: list[Sample], cache: str) -> None:
    break_images(samples, 7)

    def loaded(workers: int) -> tuple[list[Batch], list[BrokenImage]]:
        loader = training_loader(
            samples, SMALL, EVERYTHING,
            batch_size=4, seed=5, balance=True, workers=workers, cache=cache,
        )  # fmt: skip
        return epochs(loader, 0, 1, 2), loader.broken

    alone, broken = loaded(0)
    assert broken == [BrokenImage("7.png", "is empty (0 bytes)")]
    for workers in (1, 2):
        batches, broken_too = loaded(workers)
        assert_equal(batches, alone)
        assert broken_too == broken


def test_an_epoch_can_be_resumed_to_the_bit_with_a_new_loader(samples: list[Sample]) -> None:
    def loader() -> SampleLoader:
        return training_loader(samples, SMALL, EVERYTHING, batch_size=4, seed=5, balance=True)

    whole = [epochs(loader(), 0, 1, 2, 3)]
    assert_equal(epochs(loader(), 2, 3), whole[0][len(whole[0]) // 2 :])
    other = training_loader(samples, SMALL, EVERYTHING, batch_size=4, seed=6, balance=True)
    assert not torch.equal(next(iter(other)).images, whole[0][0].images)


def test_an_epoch_goes_on_from_the_batch_at_which_it_stopped(samples: list[Sample]) -> None:
    loader = training_loader(samples, SMALL, EVERYTHING, batch_size=2, seed=5, balance=True)
    whole = epochs(loader, 3)
    for workers in (0, 1):
        resumed = training_loader(
            samples, SMALL, EVERYTHING, batch_size=2, seed=5, balance=True, workers=workers
        )
        resumed.order.set_epoch(3, first_step=4)
        assert_equal(list(resumed), whole[4:])
        assert_equal(epochs(resumed, 4), epochs(loader, 4))


def test_workers_that_are_started_afresh_give_the_same_epoch(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakloc.data.loaders.start_method", lambda: "forkserver")
    settings = {"batch_size": 4, "seed": 5, "cache": "memory"}
    alone = training_loader(samples, SMALL, EVERYTHING, **settings)
    fresh = training_loader(samples, SMALL, EVERYTHING, workers=1, **settings)
    assert_equal(epochs(fresh, 0, 1), epochs(alone, 0, 1))


def test_the_global_random_state_has_no_influence_and_is_left_alone(samples: list[Sample]) -> None:
    loader = training_loader(samples, SMALL, EVERYTHING, batch_size=4, seed=5)
    first = list(loader)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert_equal(list(loader), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_equals_preprocessing_each_image_by_itself(samples: list[Sample]) -> None:
    loader = evaluation_loader(samples, SMALL, batch_size=4)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert [name for batch in batches for name in batch.names] == [s.name for s in samples]
    rows = [row for batch in batches for row in zip(
        batch.images, batch.labels, batch.transforms, batch.indices, strict=True
    )]  # fmt: skip
    for number, (sample, (image, labels, transform, index)) in enumerate(
        zip(samples, rows, strict=True)
    ):
        expected, place = SMALL.apply(Image.open(sample.path))
        assert torch.equal(image, expected)
        assert transform == place
        assert labels.tolist() == sample.labels.tolist()
        assert index == number
        assert labels.dtype == torch.int8


def test_a_broken_image_leaves_a_gap_in_evaluation(samples: list[Sample]) -> None:
    break_images(samples, 0, 5, 10)
    loader = evaluation_loader(samples, SMALL, batch_size=2)
    batches = list(loader)
    expected = ["1.png", "2.png", "3.png", "4.png", "6.png", "7.png", "8.png", "9.png"]
    assert [name for batch in batches for name in batch.names] == expected
    assert [broken.name for broken in loader.broken] == ["0.png", "5.png", "10.png"]
    assert all(len(batch) for batch in batches)
    list(loader)
    assert len(loader.broken) == 3


def test_the_next_readable_image_stands_in_for_a_broken_one_in_training(
    samples: list[Sample],
) -> None:
    whole = training_loader(samples, SMALL, EVERYTHING, batch_size=4, seed=5)
    expected = [name for batch in whole for name in batch.names]
    break_images(samples, 9, 10)
    loader = training_loader(samples, SMALL, EVERYTHING, batch_size=4, seed=5)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 4, 3]
    stand_in = {"9.png": "0.png", "10.png": "0.png"}
    names = [name for batch in batches for name in batch.names]
    assert names == [stand_in.get(name, name) for name in expected]
    for batch in batches:
        for index, name, labels in zip(batch.indices, batch.names, batch.labels, strict=True):
            assert samples[index].name == name
            assert samples[index].labels.tolist() == labels.tolist()
    # The stand-in is drawn anew, not a copy of the image's own use.
    copies = [image for batch in batches for image, name in zip(
        batch.images, batch.names, strict=True) if name == "0.png"]  # fmt: skip
    assert len(copies) == 3
    assert not torch.equal(copies[0], copies[1])


def test_images_that_are_all_broken_end_the_training_with_the_reason(samples: list[Sample]) -> None:
    gone = [replace(sample, path=sample.path + ".gone") for sample in samples]
    loader = training_loader(gone, SMALL, EVERYTHING, batch_size=4, seed=5)
    with pytest.raises(DataError, match=r"images in a row cannot be read.*there is no such file"):
        list(loader)
    assert list(evaluation_loader(gone, SMALL, batch_size=4)) == []


def test_pictures_of_different_sizes_share_a_canvas(samples: list[Sample]) -> None:
    how = Preprocessing(resize="none", multiple_of=8)
    batch = next(iter(evaluation_loader(samples, how, batch_size=11)))
    height, width = batch.images.shape[-2:]
    assert height % 8 == width % 8 == 0
    for image, transform, sample in zip(batch.images, batch.transforms, samples, strict=True):
        alone, place = how.apply(Image.open(sample.path))
        rows, columns = alone.shape[1:]
        assert torch.equal(image[:, :rows, :columns], alone)
        assert torch.count_nonzero(image[:, rows:]) == 0
        assert torch.count_nonzero(image[:, :, columns:]) == 0
        assert transform is not None
        assert transform.grid_size == (width, height)
        assert (transform.offset_x, transform.offset_y) == (place.offset_x, place.offset_y)


@pytest.mark.parametrize("mode", ["warp", "pad", "crop"])
def test_the_memory_cache_changes_nothing_but_time(samples: list[Sample], mode: str) -> None:
    how = Preprocessing(size=(40, 28), resize=mode)
    augmentation = Augmentation(steps=(HideAndSeek(), HorizontalFlip(), GoogLeNetResize()))
    plain, kept = (
        training_loader(samples, how, augmentation, batch_size=4, seed=5, cache=cache)
        for cache in ("none", "memory")
    )
    expected = epochs(plain, 0, 1)
    first = epochs(kept, 0)
    for sample in samples:
        Path(sample.path).unlink()
    remembered = first + epochs(kept, 1)
    for one, other in zip(expected, remembered, strict=True):
        assert torch.equal(one.images, other.images)
        for place, same in zip(one.transforms, other.transforms, strict=True):
            assert place is not None
            assert same is not None
            for point in [(0.0, 0.0), (40.0, 28.0)]:
                there = map_point_to_image(point, place)
                assert map_point_to_image(point, same) == pytest.approx(there, abs=1e-6)


def test_changing_sizes_can_neither_be_kept_nor_cropped_at_random(samples: list[Sample]) -> None:
    how = Preprocessing(resize="none")
    with pytest.raises(SettingError, match="kept in memory"):
        evaluation_loader(samples, how, batch_size=4, cache="memory")
    with pytest.raises(SettingError, match="fixed size"):
        training_loader(samples, how, EVERYTHING, batch_size=4, seed=0)


def test_the_whole_batch_is_scaled_by_one_factor_that_all_ranks_share(
    samples: list[Sample],
) -> None:
    jitter = Augmentation(scale_jitter=ScaleJitter())
    sizes = []
    for rank in range(2):
        loader = training_loader(
            samples, SMALL, jitter, batch_size=2, seed=5, rank=rank, world_size=2
        )
        sizes.append([])
        for batch in epochs(loader, 0, 1):
            before = batch.images.clone()
            scaled = augment_batch(batch, jitter)
            height, width = scaled.images.shape[-2:]
            assert torch.equal(batch.images, before)
            sizes[rank].append((width, height))
            for transform, old in zip(scaled.transforms, batch.transforms, strict=True):
                assert transform is not None
                assert old is not None
                assert transform.grid_size == (width, height)
                assert map_point_to_image((width, height), transform) == pytest.approx(
                    map_point_to_image((40, 28), old)
                )
    assert sizes[0] == sizes[1]
    assert len(set(sizes[0])) > 3
    assert augment_batch(batch, Augmentation()) is batch


def test_a_rotated_duplicate_has_no_transform(samples: list[Sample]) -> None:
    augmentation = Augmentation(duplicate_steps=(Rotation(probability=1.0),))
    loader = training_loader(samples, SMALL, augmentation, batch_size=50, seed=5, balance=True)
    batch = augment_batch(next(iter(loader)), Augmentation(scale_jitter=ScaleJitter()))
    missing = sum(transform is None for transform in batch.transforms)
    assert missing == len(batch) - len(samples) > 0


def test_a_batch_survives_moving_and_pickling(samples: list[Sample]) -> None:
    batch = next(iter(evaluation_loader(samples, SMALL, batch_size=4)))
    for copied in (pickle.loads(pickle.dumps(batch)), batch.to("cpu", non_blocking=True)):
        assert_equal([copied], [batch])
    moved = batch.to("meta")
    assert {moved.images.device.type, moved.labels.device.type} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_batches_reach_the_device_unchanged(samples: list[Sample]) -> None:
    jitter = Augmentation(scale_jitter=ScaleJitter())
    settings = {"batch_size": 4, "seed": 5}
    plain = training_loader(samples, SMALL, jitter, **settings)
    pinned = training_loader(samples, SMALL, jitter, pin_memory=True, workers=1, **settings)
    for one, other in zip(plain, pinned, strict=True):
        assert other.images.is_pinned()
        moved = other.to("cuda", non_blocking=True)
        assert torch.equal(moved.images.cpu(), one.images)
        there, here = augment_batch(moved, jitter), augment_batch(one, jitter)
        torch.testing.assert_close(there.images.cpu(), here.images, atol=1e-4, rtol=0)


def test_leaving_an_epoch_in_the_middle_does_not_disturb_the_next(samples: list[Sample]) -> None:
    def first_two(batches: Iterator[Batch]) -> list[Batch]:
        return [next(batches), next(batches)]

    loader = training_loader(samples, SMALL, EVERYTHING, batch_size=2, seed=5, workers=2)
    left = iter(loader)
    kept = first_two(left)
    again = epochs(loader, 0)
    assert_equal(again[:2], kept)
    alone = training_loader(samples, SMALL, EVERYTHING, batch_size=2, seed=5)
    assert_equal(epochs(loader, 1), epochs(alone, 1))
