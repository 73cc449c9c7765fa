"""What is learned from and what is watched, in the formats that training tools read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from weakloc.data.readers import read_data_set
from weakloc.errors import PredictionsError, SettingError
from weakloc.files import ByName
from weakloc.output.exporters import Content, ExportOptions, export_format
from weakloc.settings import ReaderOptions
from weakloc.structures import Box, Prediction

CLASSES = ("cat", "dog", "ant")


def pictured(
    image: str, *tags: str, split: str | None = None, size: tuple[int, int] = (40, 30)
) -> Prediction:
    boxes = tuple(Box(tag, (4.0, 3.0, 24.0, 18.0), 0.5) for tag in tags)
    extra = {"tags": list(tags), **({"split": split} if split else {})}
    return Prediction(image, *size, dict.fromkeys(CLASSES, 0.5), boxes=boxes, extra=extra)


def export(
    predictions: Iterable[Prediction],
    out: Path,
    name: str = "yolo",
    *,
    image_root: Path | None = None,
    groups: dict[str, str] | None = None,
    **options: object,
) -> Path:
    return export_format(
        name,
        Content(
            iter(predictions),
            class_names=CLASSES,
            image_root=image_root,
            options=ExportOptions(**options),
            groups=None if groups is None else ByName(groups),
        ),
        out,
    )


def labels_of(out: Path) -> dict[str, set[str]]:
    """Split -> images, without their suffix."""
    return {
        folder.name: {str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.txt")}
        for folder in (out / "labels").iterdir()
    }


def instances_of(out: Path) -> dict[str, list[str]]:
    files = out.glob("*/_annotations.coco.json")
    return {
        p.parent.name: [r["file_name"] for r in json.loads(p.read_text())["images"]] for p in files
    }


def photographs(folder: Path, predictions: Iterable[Prediction]) -> Path:
    for prediction in predictions:
        path = folder / prediction.image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (prediction.width, prediction.height), (90, 120, 60)).save(path)
    return folder


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.9])
def test_each_class_has_its_share_to_the_image(tmp_path: Path, share: float) -> None:
    numbers = {"cat": 200, "dog": 41, "ant": 2}
    predictions = [
        pictured(f"{name}/{i}.jpg", name) for name, n in numbers.items() for i in range(n)
    ]
    export(predictions, tmp_path, val_share=share)
    watched = Counter(image.partition("/")[0] for image in labels_of(tmp_path)["val"])
    for name, number in numbers.items():
        assert abs(watched[name] - share * (number - 1)) <= 1
        assert 1 <= watched[name] < number


def test_what_comes_in_turns_is_watched_in_all_turns(tmp_path: Path) -> None:
    export([pictured(f"{i}.jpg", "cat") for i in range(1000)], tmp_path)
    turns = Counter(int(image) % 10 for image in labels_of(tmp_path)["val"])
    assert len(turns) == 10
    assert max(turns.values()) < 25


def test_the_division_is_that_of_the_images_whatever_is_selected(tmp_path: Path) -> None:
    predictions = [pictured(f"{i}.jpg", CLASSES[i % 3]) for i in range(60)]
    export(predictions, tmp_path / "a")
    export(predictions, tmp_path / "b", score_threshold=0.9)
    assert labels_of(tmp_path / "a") == labels_of(tmp_path / "b")


def test_the_rarest_class_of_an_image_decides(tmp_path: Path) -> None:
    predictions = [
        pictured(f"{i}.jpg", "cat", *(["ant"] if i % 50 == 7 else [])) for i in range(400)
    ]
    export(predictions, tmp_path, val_share=0.25)
    watched = labels_of(tmp_path)["val"]
    assert sum(int(image) % 50 == 7 for image in watched) in (1, 2)
    assert abs(len(watched) - 100) <= 2


def test_a_folder_is_not_parted(tmp_path: Path) -> None:
    predictions = [pictured(f"burst {i // 5}/{i}.jpg", CLASSES[i % 3]) for i in range(100)]
    export(predictions, tmp_path, group_by="folder", val_share=0.2)
    folders = {
        split: {image.partition("/")[0] for image in images}
        for split, images in labels_of(tmp_path).items()
    }
    assert not folders["train"] & folders["val"]
    assert len(folders["val"]) in (3, 4, 5)


def test_a_group_of_a_column_is_not_parted_and_images_without_one_stand_alone(
    tmp_path: Path,
) -> None:
    predictions = [pictured(f"{i}.jpg", "cat") for i in range(60)]
    groups = {f"{i}.jpg": f"patient {i % 6}" for i in range(30)}
    export(predictions, tmp_path, groups=groups, group_by="patient", val_share=0.3)
    splits = {
        split: {groups.get(f"{image}.jpg") for image in images} - {None}
        for split, images in labels_of(tmp_path).items()
    }
    assert not splits["train"] & splits["val"]
    assert splits["val"]


def test_the_splits_of_the_data_set_are_kept(tmp_path: Path) -> None:
    splits = ["train", "val", "test", "train"]
    predictions = [pictured(f"{i}.jpg", "cat", split=splits[i % 4]) for i in range(40)]
    description = yaml.safe_load(export(predictions, tmp_path).read_text())
    labels = labels_of(tmp_path)
    assert labels["val"] == {str(i) for i in range(40) if i % 4 == 1}
    assert labels["test"] == {str(i) for i in range(40) if i % 4 == 2}
    assert [description[key] for key in ("train", "val", "test")] == [
        "images/train",
        "images/val",
        "images/test",
    ]


def test_without_validation_images_they_are_drawn_and_those_for_tests_kept(tmp_path: Path) -> None:
    predictions = [pictured(f"{i}.jpg", "cat", split=None if i % 2 else "test") for i in range(40)]
    export(predictions, tmp_path)
    labels = labels_of(tmp_path)
    assert labels["test"] == {str(i) for i in range(0, 40, 2)}
    assert len(labels["val"]) == 2
    assert len(labels["train"]) == 18


@pytest.mark.parametrize(("count", "share"), [(1, 0.1), (12, 0.0)])
def test_with_nothing_to_keep_back_what_is_learned_from_is_watched(
    tmp_path: Path, count: int, share: float
) -> None:
    predictions = [pictured(f"{i}.jpg", "cat") for i in range(count)]
    root = photographs(tmp_path / "photos", predictions)
    path = export(predictions, tmp_path / "yolo", val_share=share)
    assert yaml.safe_load(path.read_text())["val"] == "images/train"
    for _ in range(2):  # again over what is there
        export(predictions, tmp_path / "c", "coco-splits", image_root=root, val_share=share)
    assert len(instances_of(tmp_path / "c")["train"]) == count
    assert instances_of(tmp_path / "c")["valid"] == instances_of(tmp_path / "c")["train"]
    assert (tmp_path / "c/valid/0.jpg").is_file()


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_a_share_that_leaves_nothing_to_learn_from_is_an_error(share: float) -> None:
    with pytest.raises(SettingError, match="--val-share is"):
        ExportOptions(val_share=share)


def test_another_division_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    predictions = [pictured(f"{i}.jpg", "cat") for i in range(30)]
    root = photographs(tmp_path / "photos", predictions)
    export(predictions, tmp_path / "y", image_root=root, val_share=0.5)
    export(predictions, tmp_path / "y", image_root=root, val_share=0.1)
    labels = labels_of(tmp_path / "y")
    assert not labels["train"] & labels["val"]
    images = {p.parent.name: 0 for p in (tmp_path / "y/images").rglob("*.jpg")}
    assert images.keys() == {"train", "val"}
    assert len(list((tmp_path / "y/images").rglob("*.jpg"))) == 30


def test_no_link_to_the_photographs_of_an_earlier_version_is_written_through(
    tmp_path: Path,
) -> None:
    predictions = [pictured("a.jpg", "cat"), pictured("b.jpg", "cat")]
    root = photographs(tmp_path / "photos", predictions)
    (tmp_path / "y").mkdir()
    (tmp_path / "y/images").symlink_to(root, target_is_directory=True)
    export(predictions, tmp_path / "y", image_root=root)
    assert sorted(path.name for path in root.iterdir()) == ["a.jpg", "b.jpg"]
    assert (tmp_path / "y/images/val/b.jpg").resolve() == root / "b.jpg"


def test_a_folder_called_images_does_not_hide_the_labels(tmp_path: Path) -> None:
    predictions = [pictured("images/a/1.jpg", "cat"), pictured("b/images/2.jpg", "dog")]
    root = photographs(tmp_path / "photos", predictions)
    path = export(predictions, tmp_path / "y", image_root=root, val_share=0)
    data_set = read_data_set(path.parent, options=ReaderOptions())
    drawn = {s.name: s.drawn.boxes for s in data_set.splits["train"]}
    assert drawn.keys() == {"images/train/b/images_/2.jpg", "images/train/images_/a/1.jpg"}
    for (box,) in drawn.values():
        assert box.box == pytest.approx((4.0, 3.0, 24.0, 18.0))


def test_what_was_exported_is_read_again_split_by_split(tmp_path: Path) -> None:
    predictions = [pictured(f"ä ö/{i} [1].jpg", CLASSES[i % 3]) for i in range(30)]
    root = photographs(tmp_path / "my phötos [2]", predictions)
    for name in ("yolo", "coco-splits"):
        out = tmp_path / "sö & so [x]" / name
        export(predictions, out, name, image_root=root, val_share=0.2)
        data_set = read_data_set(out, options=ReaderOptions())
        assert not data_set.problems
        assert {split: len(samples) for split, samples in data_set.splits.items()} == {
            "train": 24,
            "val": 6,
        }
        for sample in data_set.samples():
            (box,) = sample.drawn.boxes
            assert box.box == pytest.approx((4.0, 3.0, 24.0, 18.0), abs=1e-6)
            number = int(Path(sample.name).name.partition(" ")[0])
            assert data_set.class_names[box.class_index] == CLASSES[number % 3]


def test_images_are_copied_where_links_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("links are not known")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    predictions = [pictured("a.jpg", "cat"), pictured("gone.jpg", "cat")]
    root = photographs(tmp_path / "photos", predictions[:1])
    export(predictions, tmp_path / "y", image_root=root)
    assert (tmp_path / "y/images/train/a.jpg").read_bytes() == (root / "a.jpg").read_bytes()
    assert not (tmp_path / "y/images/val/gone.jpg").exists()


def test_no_image_is_put_outside_of_the_folder(tmp_path: Path) -> None:
    for image in ("../up.jpg", "/etc/passwd.jpg", "a/../../b.jpg"):
        with pytest.raises(PredictionsError, match="leads out"):
            export([pictured(image, "cat")], tmp_path / "out", "coco-splits")
