"""Parts of a long output: joined in order, guarded by their settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from weakloc.data.sources import ImageSource
from weakloc.errors import DataError, PredictionsError
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
    store.remove()
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


def test_a_fresh_start_begins_with_nothing(tmp_path: Path) -> None:
    store = PartStore(tmp_path / "parts")
    store.open(SETTINGS, resume=False)
    write_all(store, {0})
    store.open(SETTINGS, resume=False)
    assert not store.is_done(next(cut_into_parts(IMAGES, size=4)), "key")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["photo.jpg", "settings.json", "part-1.jsonl", "deeper"])
def test_a_folder_of_parts_that_is_somebody_elses_is_left_alone(
    tmp_path: Path, name: str, resume: bool
) -> None:
    store = PartStore(tmp_path / "parts")
    store.folder.mkdir()
    strange = store.folder / name
    strange.mkdir() if name == "deeper" else strange.write_text("{}")
    with pytest.raises(DataError, match=rf"parts/{name}: is there already, and weakloc did not"):
        store.open(SETTINGS, resume=resume)
    assert list(store.folder.iterdir()) == [strange]


def test_what_others_put_beside_parts_outlives_them(tmp_path: Path) -> None:
    store = PartStore(tmp_path / "parts")
    store.open(SETTINGS, resume=False)
    write_all(store, {0})
    kept = [store.folder / name for name in ("part-1.jpg", "part-0000001-of-mine.jsonl")]
    for path in kept:
        path.write_text("mine")
    (store.folder / f".{'0a' * 16}.part.jsonl").write_text("left behind by a killed process")
    store.open(SETTINGS, resume=False)
    store.remove()
    assert sorted(store.folder.iterdir()) == sorted(kept)


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
