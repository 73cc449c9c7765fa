"""`weakloc label` as a user meets it: tags in, boxes out, again and again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import weakloc
from weakloc.cli import run as command
from weakloc.errors import DataError, SettingError
from weakloc.training import fine_layers
from weakloc.work import Display

SMALL = weakloc.LabelSettings(
    backbone="tiny[width=8]", weights="none", image_size=64, epochs=1, images=40
)
SMALL_FLAGS = ["--backbone", "tiny[width=8]", "--weights", "none", "--image-size", "64"]


def draw(path: Path, shape: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    picture = Image.fromarray(random.integers(60, 90, (72, 96, 3), dtype=np.uint8))
    left, top = random.integers(4, 50), random.integers(4, 30)
    getattr(ImageDraw.Draw(picture), shape)((left, top, left + 36, top + 30), fill=(230, 40, 30))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "meine Fötos"
    for number in range(8):
        draw(folder / "ründ" / f"{number}.png", "ellipse", number)
        draw(folder / "square box" / f"{number}.png", "rectangle", 100 + number)
    return folder


def predictions(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "predictions" / "predictions.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_every_tagged_image_gets_a_box_of_its_tags_and_no_other(
    photos: Path, tmp_path: Path
) -> None:
    labelled = weakloc.label(photos, tmp_path / "ö ut", formats=["csv"], settings=SMALL)

    lines = predictions(labelled.folder)
    assert len(lines) == labelled.findings.num_images == 16
    for line in lines:
        assert {box["class"] for box in line["boxes"]} == {line["image"].split("/")[0]}
    assert sum(labelled.findings.boxes.values()) == sum(len(line["boxes"]) for line in lines)
    coco = json.loads(labelled.exports["coco"].read_text("utf-8"))
    assert len(coco["images"]) == 16
    assert len(coco["annotations"]) == sum(labelled.findings.boxes.values())
    assert len(list((labelled.folder / "yolo" / "labels").rglob("*.txt"))) == 16
    assert (labelled.folder / "csv").is_dir()
    assert "Content-Security-Policy" in labelled.report.read_text("utf-8")
    record = json.loads((labelled.folder / "label.json").read_text("utf-8"))
    assert record["stages"]["plan"]["result"]["because"] == "as asked with --image-size"
    assert labelled.findings.in_the_middle == np.mean([is_in_the_middle(line) for line in lines])


def is_in_the_middle(line: dict[str, Any]) -> bool:
    """Intersection over union with a box of 0.7 of each side, written out."""
    width, height = line["width"], line["height"]
    left, top, right, bottom = line["boxes"][0]["box"]
    across = min(right, 0.85 * width) - max(left, 0.15 * width)
    down = min(bottom, 0.85 * height) - max(top, 0.15 * height)
    both = max(across, 0.0) * max(down, 0.0)
    either = (right - left) * (bottom - top) + 0.7 * width * 0.7 * height - both
    return bool(both >= 0.5 * either)


def test_the_same_command_does_nothing_twice_and_a_further_format_only_itself(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = weakloc.label(photos, out, settings=SMALL)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}

    again = weakloc.label(photos, out, settings=SMALL)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == times
    assert again.findings == first.findings

    weakloc.label(photos, out, formats=["labelme"], settings=SMALL)
    changed = {p for p in times if p.stat().st_mtime_ns != times[p]}
    assert changed == {out / "label.json"}
    assert (out / "labelme").is_dir()


class KilledError(Exception):
    """As if the process had been killed."""


class KillsIn(Display):
    """Ends the work when this stage has come so far."""

    def __init__(self, words: str) -> None:
        self.words = words

    def share(self, work: str, share: float, seconds_left: float | None) -> None:
        del share, seconds_left
        if work == self.words:
            raise KilledError


@pytest.fixture
def whole(photos: Path, tmp_path: Path) -> bytes:
    labelled = weakloc.label(photos, tmp_path / "whole", settings=SMALL)
    return (labelled.folder / "predictions" / "predictions.jsonl").read_bytes()


def test_work_that_was_stopped_anywhere_goes_on_to_the_same_answers(
    photos: Path, tmp_path: Path, whole: bytes
) -> None:
    out = tmp_path / "stopped"
    at = ("tags", "computing features", "learning the tags", "cells", "predictions")
    for words in (*at, "finding places", "coco", "yolo", "report"):
        with pytest.raises(KilledError):
            weakloc.label(photos, out, settings=SMALL, display=KillsIn(words))
    labelled = weakloc.label(photos, out, settings=SMALL)

    assert (labelled.folder / "predictions" / "predictions.jsonl").read_bytes() == whole
    assert not (out / "features").exists()


def test_images_that_came_and_went_are_in_all_that_follows(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    weakloc.label(photos, out, settings=SMALL)
    (photos / "ründ" / "0.png").unlink()
    draw(photos / "square box" / "new one.png", "rectangle", 7)

    weakloc.label(photos, out, settings=SMALL)

    names = {line["image"] for line in predictions(out)}
    assert "square box/new one.png" in names
    assert "ründ/0.png" not in names
    assert not (out / "yolo" / "labels" / "ründ" / "0.txt").exists()


def test_broken_images_are_said_and_images_without_tags_are_labelled_by_probability(
    photos: Path, tmp_path: Path
) -> None:
    (photos / "ründ" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    new = tmp_path / "new"
    shutil.copytree(photos / "ründ", new)
    labelled = weakloc.label(photos, tmp_path / "out", new=new, settings=SMALL)

    assert [json.loads(line)["image"] for line in labelled.findings.unreadable] == [
        "ründ/broken.jpg"
    ]
    lines = (labelled.folder / "new" / "predictions.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 8
    assert "tags" not in json.loads(lines[0])
    assert (labelled.folder / "new" / "coco").is_dir()


def test_a_table_of_tags_is_honoured(photos: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    rows = ["image,labels"]
    for number in range(8):
        draw(flat / f"{number}.png", "ellipse", number)
        rows.append(f"{number}.png,{'b' if number % 2 else 'a;b'}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    labelled = weakloc.label(flat, tmp_path / "out", tags=tmp_path / "table.csv", settings=SMALL)

    for line in predictions(labelled.folder):
        tags = {"b"} if int(Path(line["image"]).stem) % 2 else {"a", "b"}
        assert {box["class"] for box in line["boxes"]} == tags


def test_what_others_made_is_left_alone(photos: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "precious.txt").write_text("precious")
    with pytest.raises(DataError, match="another --out"):
        weakloc.label(photos, foreign, settings=SMALL)
    with pytest.raises(SettingError, match="lies in"):
        weakloc.label(photos, photos / "labelled", settings=SMALL)
    assert not (photos / "labelled").exists()
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    out = tmp_path / "out"
    weakloc.label(photos, out, settings=SMALL)
    with pytest.raises(DataError, match="another labelling"):
        weakloc.label(other, out, settings=SMALL)
    (out / "label.json").write_text("{")
    with pytest.raises(DataError, match=r"label\.json"):
        weakloc.label(photos, out, settings=SMALL)


def test_images_without_any_tag_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "photos" / "1.png", "ellipse", 1)
    (tmp_path / "photos" / "table.csv").write_text("image,cat\n1.png,0\n")
    out = str(tmp_path / "out")
    assert command(["label", str(tmp_path / "photos"), "--out", out, *SMALL_FLAGS]) == 2
    assert "no image has a tag" in capsys.readouterr().err
    assert not Path(out).exists()


@pytest.mark.parametrize("counts", [{"cat": 1}, {"cat": 3, "dog": 1}, {"cat": 4}])
def test_few_images_and_one_class_are_enough_to_begin_with(
    counts: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name, count in counts.items():
        for number in range(count):
            draw(photos / name / f"{number}.png", "ellipse", number)
    few = ["--out", str(out), "--epochs", "1"]
    assert command(["label", str(photos), *few, *SMALL_FLAGS]) == 0
    assert all(line["boxes"] for line in predictions(out))
    printed = capsys.readouterr().out
    assert "doubtful" in printed
    assert "weakloc evaluate" in printed
    assert str(out / "report.html") in printed


def test_an_interruption_says_that_the_same_command_goes_on(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("weakloc.api.label.refine", interrupted)
    with pytest.raises(SystemExit) as ended:  # the parser of arguments ends the process so
        command(["label", str(photos), "--out", str(tmp_path / "out"), *SMALL_FLAGS])
    assert ended.value.code == 130
    assert "The same command goes on" in capsys.readouterr().out


def test_the_splits_of_tagged_photographs_become_those_of_yolo(
    photos: Path, tmp_path: Path
) -> None:
    lines = ["path,labels,patient,split"]
    for number in range(8):
        split = ("train", "val", "test", "train")[number % 4]
        lines += [f"ründ/{number}.png,round,{number // 2},{split}"]
        lines += [f"square box/{number}.png,square,{number // 2},{split}"]
    table = tmp_path / "my tags.csv"
    table.write_text("\n".join(lines), "utf-8")
    given = ["label", str(photos), "--out", str(tmp_path / "out"), "--tags", str(table), "--quiet"]
    given += [*SMALL_FLAGS, "--epochs", "1", "--images", "16"]
    assert command([*given, "--format", "coco-splits"]) == 0
    yolo = tmp_path / "out/yolo"
    names = {path.parent.parent.name: set[str]() for path in yolo.glob("labels/*/*/*.txt")}
    for path in yolo.glob("labels/*/*/*.txt"):
        names[path.parent.parent.name].add(path.name)
    assert names == {
        "train": {f"{n}.txt" for n in (0, 3, 4, 7)},
        "val": {"1.txt", "5.txt"},
        "test": {"2.txt", "6.txt"},
    }
    images = {folder: len(list((tmp_path / "out/coco-splits" / folder).rglob("*.png")))
              for folder in ("train", "valid", "test")}  # fmt: skip
    assert images == {"train": 8, "valid": 4, "test": 4}

    table.write_text("\n".join(line.replace(",val", ",train") for line in lines), "utf-8")
    assert command(given) == 0  # images are drawn of those to learn from, not of those for tests
    stems = {split: {int(path.stem) for path in yolo.glob(f"labels/{split}/*/*.txt")}
             for split in ("train", "val", "test")}  # fmt: skip
    assert stems["test"] == {2, 6}
    assert stems["val"]
    assert stems["train"] | stems["val"] == {0, 1, 3, 4, 5, 7}

    without_splits = [line.rpartition(",")[0] for line in lines]
    table.write_text("\n".join(without_splits), "utf-8")
    assert command([*given, "--group-by", "patient", "--val-share", "0.3"]) == 0
    patients = [
        {int(path.stem) // 2 for path in yolo.glob(f"labels/{split}/*/*.txt")}
        for split in ("train", "val")
    ]
    assert not patients[0] & patients[1]
    assert patients[1]
    assert not list(yolo.glob("labels/test"))
    assert command([*given, "--group-by", "patinet"]) == 2


def test_boxes_that_people_drew_teach_how_far_objects_reach(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fine_layers, "_IMAGES_AN_EPOCH", 32)
    out = tmp_path / "out"
    arguments = ["label", str(photos), "--out", str(out), *SMALL_FLAGS, "--epochs", "1", "--quiet"]
    assert command(arguments) == 0
    from_tags, weights = predictions(out), (out / "run" / "model.safetensors").read_bytes()
    names = ["ründ", "square box"]
    drawn: list[dict[str, Any]] = [
        {
            "image": f"{name}/{number}.png",
            "width": 96,
            "height": 72,
            "decisions": [{"class": name, "verdict": "accepted", "boxes": [[20, 20, 56, 50]]}],
        }
        for name, number in zip(names, (0, 1), strict=True)
    ]
    review = tmp_path / "review.json"
    review.write_text(
        json.dumps({"schema": "weakloc.review/1", "class_names": names[::-1], "images": drawn})
    )

    assert command([*arguments, "--drawn", str(review)]) == 0

    assert (out / "run" / "model.safetensors").read_bytes() == weights
    record = json.loads((out / "detector" / "run.json").read_text("utf-8"))
    assert (record["hidden_supervision"], record["class_names"]) == (2, names)
    assert [line["scores"] for line in predictions(out)] == [line["scores"] for line in from_tags]
    assert [line["boxes"] for line in predictions(out)] != [line["boxes"] for line in from_tags]
    assert command(arguments) == 0
    assert predictions(out) == from_tags
    for image in drawn:
        image["decisions"][0]["boxes"] = []
    review.write_text(
        json.dumps({"schema": "weakloc.review/1", "class_names": names, "images": drawn})
    )
    assert command([*arguments, "--drawn", str(review)]) == 2
    assert "holds no drawn box" in capsys.readouterr().err
