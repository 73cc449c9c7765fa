"""Parts of a long output: joined in order, guarded by their settings, shared by ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from weakloc.data.sources import ImageSource
from weakloc.errors import PredictionsError
from weakloc.predictor.parts import PartStore, cut_into_parts

IMAGES = [ImageSource(f"{index}.png", "") for index in range(11)]
SETTINGS = {"run": "a", "scales": (1.0, 2.0)}


def write_all(store: PartStore, indices: set[int]) -> None:
    for part in cut_into_parts(IMAGES, size=4):
        if part.index in indices:
            lines = [f"{image.name}\n" for image in part.images]
            store.write(part, "key", lines[:-1], lines[-1:])


def test_parts_are_joined_in_input_order_whatever_order_they_were_written_in(
    tmp_path: Path,
) -> None:
    store = PartStore(tmp_path / "parts")
    store.open(SETTINGS, resume=False)
    for index in (2, 0, 1):
        write_all(store, {index})
    stems = [part.stem for part in cut_into_parts(IMAGES, size=4)]
    counts = store.join(stems, tmp_path / "done", tmp_path / "skipped")
    assert counts == (8, 3)
    order = ["0", "1", "2", "4", "5", "6", "8", "9"]
    assert (tmp_path / "done").read_text().split() == [f"{number}.png" for number in order]
    assert (tmp_path / "skipped").read_text().split() == ["3.png", "7.png", "10.png"]
    assert not (tmp_path / "parts").exists()


def test_a_part_of_other_images_is_not_taken_for_done(tmp_path: Path) -> None:
    store = PartStore(tmp_path / "parts")
    store.open(SETTINGS, resume=False)
    write_all(store, {0, 1, 2})
    changed = [*IMAGES[:5], ImageSource("new.png", ""), *IMAGES[5:]]
    done = [store.is_done(part, "key") for part in cut_into_parts(changed, size=4)]
    assert done == [True, False, False]


def test_a_part_of_the_same_images_with_another_key_is_not_taken_for_done(tmp_path: Path) -> None:
    store = PartStore(tmp_path / "parts")
    store.open(SETTINGS, resume=False)
    write_all(store, {0})
    part = next(cut_into_parts(IMAGES, size=4))
    assert store.is_done(part, "key")
    assert not store.is_done(part, "other")


def test_parts_of_other_settings_are_an_error_and_stay(tmp_path: Path) -> None:
    store = PartStore(tmp_path / "parts")
    store.open(SETTINGS, resume=False)
    write_all(store, {0})
    with pytest.raises(PredictionsError, match="other settings"):
        store.open({**SETTINGS, "scales": (1.0,)}, resume=True)
    store.open(SETTINGS, resume=True)
    assert store.is_done(next(cut_into_parts(IMAGES, size=4)), "key")


def test_a_fresh_start_and_parts_of_unknown_settings_begin_with_nothing(tmp_path: Path) -> None:
    store = PartStore(tmp_path / "parts")
    for resume in (False, True):
        store.open(SETTINGS, resume=False)
        write_all(store, {0})
        if resume:
            (store.folder / "settings.json").unlink()
        store.open(SETTINGS, resume=resume)
        assert not store.is_done(next(cut_into_parts(IMAGES, size=4)), "key")


def test_a_part_is_done_only_with_all_of_its_files(tmp_path: Path) -> None:
    """Whoever dies between the files has not said that the part is done."""
    store = PartStore(tmp_path / "parts")
    store.open(SETTINGS, resume=False)
    part = next(cut_into_parts(IMAGES, size=4))

    def dying() -> list[str]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write(part, "key", (line for line in dying()), ["x\n"])
    assert not store.is_done(part, "key")
