"""Drawn scenes: exact truth, the same bytes for the same seed, and the traps that are promised."""

from __future__ import annotations

import csv
import hashlib
import math
import resource
from collections import Counter
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from weakloc.data.readers import read_data_set
from weakloc.data.readers.voc import voc_palette
from weakloc.errors import DataError, OutputError, SettingError
from weakloc.settings import ReaderOptions
from weakloc.structures import PRESENT, DataSet, Sample, Truth, TruthBox, TruthMask
from weakloc.synthetic.canvas import (
    CLUTTER_SHAPES,
    EMBLEM_SHAPES,
    Canvas,
    Layer,
    Pose,
    Scene,
    cover,
)
from weakloc.synthetic.scenery import (
    CLUTTER_CLASSES,
    HUES,
    PLANTED_PAIR,
    SINGLE_CLASSES,
    TEXTURES,
    Kind,
    artist_from,
    artist_of,
    draw_scene,
    object_extent,
    plan_classes,
    write_scenes,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "clutter é"
    artist = artist_of("clutter")
    write_scenes(folder, artist, (24, 8), seed=3)
    return folder


def scenes(kind: Kind, count: int) -> list[Scene]:
    artist = artist_of(kind)
    return [draw_scene(artist, split="train", index=index, seed=11) for index in range(count)]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_picture_that_a_full_disk_cuts_short_is_an_error(tmp_path: Path) -> None:
    """Pillow takes what libjpeg could not write for written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot be written .*Free space"):
            write_scenes(tmp_path / "scenes", artist_of("clutter"), (1, 0), seed=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.rglob("*.jpg"))


def test_the_xml_boxes_are_the_tight_boxes_of_the_object_masks(written: Path) -> None:
    num_objects = 0
    for path in sorted((written / "Annotations").glob("*.xml")):
        instances = np.asarray(Image.open(written / f"SegmentationObject/{path.stem}.png"))
        classes = np.asarray(Image.open(written / f"SegmentationClass/{path.stem}.png"))
        root = ElementTree.parse(path).getroot()
        things = root.findall("object")
        assert instances.max() == len(things)
        assert (int(root.findtext("size/width")), int(root.findtext("size/height"))) == (
            instances.shape[1],
            instances.shape[0],
        )
        assert not classes[instances == 0].any()
        for number, thing in enumerate(things, start=1):
            corners = ("xmin", "ymin", "xmax", "ymax")
            box = [int(thing.findtext(f"bndbox/{corner}")) for corner in corners]
            rows, columns = np.nonzero(instances == number)
            # 1-based, and the last pixel counts in
            assert box == [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]
            value = CLUTTER_CLASSES.index(thing.findtext("name")) + 1
            assert set(classes[instances == number]) == {value}
            num_objects += 1
    assert num_objects > 30


def test_the_lists_and_the_tags_agree_with_the_annotations(written: Path) -> None:
    with (written / "tags.csv").open(encoding="utf-8", newline="") as stream:
        rows = {Path(row["path"]).stem: row for row in csv.DictReader(stream)}
    main = written / "ImageSets/Main"
    for split, count in (("train", 24), ("val", 8)):
        names = (main / f"{split}.txt").read_text().split()
        assert len(names) == count
        assert {name for name, row in rows.items() if row["split"] == split} == set(names)
        for class_name in CLUTTER_CLASSES:
            lines = (main / f"{class_name}_{split}.txt").read_text().splitlines()
            states = {line.split()[0]: int(line.split()[1]) for line in lines}
            for name in names:
                tree = ElementTree.parse(written / f"Annotations/{name}.xml")
                present = class_name in {item.text for item in tree.iterfind("object/name")}
                assert states[name] == (1 if present else -1)
                assert (class_name in rows[name]["labels"].split(";")) == present


def test_the_reader_of_voc_finds_what_was_drawn(written: Path) -> None:
    data_set = read_data_set(written, options=ReaderOptions())
    assert data_set.class_names == CLUTTER_CLASSES
    assert not [problem for problem in data_set.problems if problem.severity != "note"]
    assert {name: len(samples) for name, samples in data_set.splits.items()} == {
        "train": 24,
        "val": 8,
    }
    artist = artist_of("clutter")
    for split, samples in data_set.splits.items():
        for index, sample in enumerate(samples):
            scene = draw_scene(artist, split=split, index=index, seed=3)
            assert sample.truth is not None
            found = [(box.class_index, box.box) for box in sample.truth.boxes]
            assert found == [(thing.class_index, thing.box) for thing in scene.objects]
            present = {thing.class_index for thing in scene.objects}
            assert set(np.flatnonzero(sample.labels == PRESENT)) == present


def test_masks_carry_the_colours_of_voc(written: Path) -> None:
    palette = voc_palette()
    # The development kit's colours of background, aeroplane, bicycle, bird, boat; then void.
    assert palette[:15] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]
    assert palette[-3:] == [224, 224, 192]
    mask = Image.open(next((written / "SegmentationClass").glob("*.png")))
    assert mask.mode == "P"
    labels = (written / "labelmap.txt").read_text().splitlines()
    assert labels[2] == "arrow:128,0,0::"
    found = mask.getpalette()
    assert found is not None
    assert found == palette[: len(found)]


def test_the_same_seed_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    artist = artist_of("clutter")
    write_scenes(tmp_path / "b", artist, (27, 8), seed=3)
    first, second = digests(written), digests(tmp_path / "b")
    pictures = [name for name in first if not name.startswith(("ImageSets", "tags"))]
    assert len(pictures) == 32 * 4 + 1
    assert all(first[name] == second[name] for name in pictures)
    write_scenes(tmp_path / "c", artist, (2, 0), seed=4)
    other = digests(tmp_path / "c")
    name = "JPEGImages/train_00000.jpg"
    assert other[name] != first[name] != first["JPEGImages/train_00001.jpg"]


def test_scenes_are_those_of_every_other_machine_and_release() -> None:
    digest = hashlib.sha256()
    for kind in get_args(Kind):
        for scene in scenes(kind, 4):
            digest.update(scene.pixels.tobytes() + scene.instances.tobytes())
    assert digest.hexdigest()[:16] == "57ced807376aae2c"


def test_every_object_shows_at_least_two_fifths_of_itself_and_many_are_hidden_in_part() -> None:
    occluded = truncated = 0
    for scene in scenes("clutter", 60):
        for number, thing in enumerate(scene.objects, start=1):
            assert (scene.instances == number).any()
            occluded += thing.occluded
            truncated += thing.truncated
    assert occluded >= 15
    assert truncated >= 5


def flat_layer(width: int, height: int, color: int) -> Layer:
    pixels = np.full((height, width, 3), color, dtype=np.uint8)
    return Layer(pixels, np.full((height, width), 255, dtype=np.uint8))


def test_a_layer_that_would_hide_too_much_is_refused_and_changes_nothing() -> None:
    canvas = Canvas(np.zeros((20, 30, 3), dtype=np.uint8))
    assert canvas.lay(flat_layer(10, 10, 50), left=5, top=5, class_index=4)
    before = canvas.scene()
    # 10 x 7 of 100 pixels would go: 30 % would stay.
    assert not canvas.lay(flat_layer(10, 7, 90), left=5, top=5)
    assert not canvas.lay(flat_layer(10, 10, 90), left=5, top=3, class_index=1)
    assert not canvas.lay(flat_layer(10, 10, 90), left=27, top=0, class_index=1)  # 3 of 10
    after = canvas.scene()
    assert (after.pixels == before.pixels).all()
    assert after.objects == before.objects
    # 10 x 6 go: exactly 40 % stay.
    assert canvas.lay(flat_layer(10, 8, 90), left=5, top=3, class_index=1)
    lower, upper = canvas.scene().objects
    assert lower.box == (5.0, 11.0, 15.0, 15.0)
    assert (lower.class_index, lower.occluded, lower.truncated) == (4, True, False)
    assert upper.box == (5.0, 3.0, 15.0, 11.0)


def test_what_hangs_over_the_border_counts_as_lost_and_the_box_ends_at_the_border() -> None:
    canvas = Canvas(np.zeros((20, 30, 3), dtype=np.uint8))
    assert canvas.lay(flat_layer(10, 10, 50), left=-5, top=14, class_index=0) is False
    assert canvas.lay(flat_layer(10, 10, 50), left=-4, top=12, class_index=0)
    (thing,) = canvas.scene().objects
    assert thing.box == (0.0, 12.0, 6.0, 20.0)  # 48 of 100 pixels
    assert thing.truncated
    assert canvas.lay(flat_layer(4, 4, 50), left=40, top=-9)  # wholly outside


def test_half_covered_pixels_are_the_objects_own() -> None:
    canvas = Canvas(np.zeros((4, 6, 3), dtype=np.uint8))
    coverage = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    layer = Layer(np.full((1, 4, 3), 200, dtype=np.uint8), coverage)
    assert canvas.lay(layer, left=1, top=2, class_index=0)
    scene = canvas.scene()
    assert scene.instances[2].tolist() == [0, 0, 0, 1, 1, 0]
    assert scene.pixels[2, :, 0].tolist() == [0, 0, 100, 100, 200, 0]


AREAS = {
    "disc": math.pi,
    "ring": math.pi * (1 - 0.55**2),
    "cross": 4 * 0.66 - 0.66**2,
    "arrow": 1.1 * 0.6 + 0.9 * 0.8,
    "star": 5 * 0.42 * math.sin(math.pi / 5),
}


@pytest.mark.parametrize("name", sorted(AREAS))
@pytest.mark.parametrize("angle", [0.0, 0.7, 2.9])
def test_shapes_cover_their_area_at_any_turn(name: str, angle: float) -> None:
    half_width, half_height = 41.0, 29.0
    coverage, _ = cover(CLUTTER_SHAPES[name], Pose(half_width, half_height, angle))
    area = coverage.astype(float).sum() / 255
    assert area == pytest.approx(AREAS[name] * half_width * half_height, rel=0.03)


def test_a_turned_shape_lies_around_its_origin() -> None:
    coverage, (x, y) = cover(CLUTTER_SHAPES["arrow"], Pose(30.0, 20.0, math.pi / 2))
    rows, columns = np.nonzero(coverage >= 128)
    # Clockwise on the screen: the arrow's tip, right before, points down.
    assert rows.max() + 1 - y == pytest.approx(30, abs=1)
    assert y - rows.min() == pytest.approx(30, abs=1)
    assert columns.max() + 1 - x == pytest.approx(16, abs=1)
    widest_row = np.bincount(rows).argmax()
    assert widest_row - y == pytest.approx(3, abs=1.5)


def test_each_hue_and_each_texture_is_shared_by_two_classes_and_no_two_share_both() -> None:
    assert set(HUES) == set(TEXTURES) == set(CLUTTER_CLASSES) == set(CLUTTER_SHAPES)
    assert sorted(Counter(HUES.values()).values()) == [2, 2, 2, 2]
    assert sorted(Counter(TEXTURES.values()).values()) == [2, 2, 2, 2]
    assert len({(HUES[name], TEXTURES[name]) for name in HUES}) == 8


def test_plans_hold_the_promised_shares(random: np.random.Generator) -> None:
    pair = (PLANTED_PAIR[0], PLANTED_PAIR[1])
    plans = [plan_classes(random, num_classes=8, pair=pair) for _ in range(4000)]
    assert np.mean([not plan for plan in plans]) == pytest.approx(0.06, abs=0.012)
    assert {len(plan) for plan in plans} == {0, 1, 2, 3, 4}
    assert {len(set(plan)) for plan in plans} == {0, 1, 2, 3}
    with_first = [plan for plan in plans if pair[0] in plan]
    together = np.mean([pair[1] in plan for plan in with_first])
    apart = np.mean([pair[1] in plan for plan in plans if pair[0] not in plan])
    assert together > 0.72
    assert apart < 0.3
    shares = [np.mean([index in plan for plan in plans]) for index in range(8) if index not in pair]
    assert max(shares) - min(shares) < 0.05


def test_objects_have_a_threefold_range_of_sizes(random: np.random.Generator) -> None:
    extents = [object_extent(random) for _ in range(2000)]
    assert min(extents) == pytest.approx(28, rel=0.02)
    assert max(extents) == pytest.approx(84, rel=0.02)
    assert np.median(extents) == pytest.approx(math.sqrt(28 * 84), rel=0.04)


def test_canvases_are_not_square_and_within_their_limits() -> None:
    sizes = [scene.pixels.shape[:2] for scene in scenes("clutter", 20)]
    assert all(160 <= side <= 320 for size in sizes for side in size)
    assert len({height == width for height, width in sizes}) == 1


def test_single_scenes_show_one_object_of_twenty_classes_with_a_sign_of_its_own() -> None:
    assert len(SINGLE_CLASSES) == len(set(SINGLE_CLASSES)) == 20
    drawn = scenes("single", 200)
    assert all(len(scene.objects) == 1 and scene.pixels.shape == (64, 64, 3) for scene in drawn)
    assert len({scene.objects[0].class_index for scene in drawn}) == 20
    signs = [cover(shape, Pose(12.0, 12.0, 0.3))[0].tobytes() for shape in EMBLEM_SHAPES]
    assert len(set(signs)) == 10
    lefts = [scene.objects[0].box[0] for scene in drawn]
    assert max(lefts) - min(lefts) > 25


def photographs(folder: Path) -> DataSet:
    """Two classes, each one flat colour: red is 0, green is 1; the splits differ in brightness."""
    splits: dict[str, list[Sample]] = {"train": [], "val": []}
    for split, bright in (("train", 250), ("val", 120)):
        for class_index in (0, 1):
            pixels = np.zeros((40, 60, 3), dtype=np.uint8)
            pixels[5:25, 10:50, class_index] = bright
            path = folder / f"{split} {class_index}.png"
            Image.fromarray(pixels).save(path)
            truth = Truth((TruthBox(class_index, (10.0, 5.0, 50.0, 25.0)),))
            labels = np.array([1, -1] if class_index == 0 else [-1, 1], dtype=np.int8)
            splits[split].append(Sample(path.name, str(path), labels, truth))
    return DataSet(folder, "voc", ("a/b", "<c>"), splits)


def test_scenes_from_a_data_set_show_its_own_objects_and_keep_the_splits_apart(
    tmp_path: Path,
) -> None:
    artist = artist_from(photographs(tmp_path))
    num_objects = 0
    for split, bright in (("train", 250), ("val", 120)):
        for index in range(12):
            scene = draw_scene(artist, split=split, index=index, seed=0)
            for number, thing in enumerate(scene.objects, start=1):
                inside = scene.pixels[scene.instances == number].astype(int)
                wanted = np.zeros(3)
                wanted[thing.class_index] = bright
                assert np.median(inside, axis=0) == pytest.approx(wanted, abs=6)
                num_objects += 1
    assert num_objects > 20
    write_scenes(tmp_path / "out", artist, (2, 1), seed=0)
    names = {path.name for path in (tmp_path / "out/ImageSets/Main").iterdir()}
    assert "a%2Fb_train.txt" in names


def test_objects_are_cut_along_their_masks_where_there_are_masks(tmp_path: Path) -> None:
    from pycocotools import mask as coco_mask

    pixels = np.full((30, 50, 3), 255, dtype=np.uint8)
    mask = np.zeros((30, 50), dtype=np.uint8)
    mask[5:25, 10:40] = np.triu(np.ones((20, 30)))
    pixels[mask == 1] = (0, 0, 200)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    rle = coco_mask.encode(np.asfortranarray(mask))
    labels = np.array([1], dtype=np.int8)
    sample = Sample("a.png", str(tmp_path / "a.png"), labels, Truth((), (TruthMask(0, rle),)))
    artist = artist_from(DataSet(tmp_path, "coco", ("blue",), {"train": [sample], "val": [sample]}))
    for index in range(6):
        scene = draw_scene(artist, split="train", index=index, seed=1)
        for number in range(1, len(scene.objects) + 1):
            inside = scene.pixels[scene.instances == number].astype(int)
            assert np.median(inside, axis=0) == pytest.approx([0, 0, 200], abs=8)
            left, top, right, bottom = scene.objects[number - 1].box
            assert (scene.instances == number).sum() < 0.9 * (right - left) * (bottom - top)


def test_a_scene_on_demand_is_that_of_the_folder(written: Path) -> None:
    scene = draw_scene(artist_of("clutter"), split="train", index=2, seed=3)
    stored = np.asarray(Image.open(written / "JPEGImages/train_00002.jpg").convert("RGB"), int)
    assert stored.shape == scene.pixels.shape
    assert np.abs(stored - scene.pixels).mean() < 6  # JPEG
    tree = ElementTree.parse(written / "Annotations/train_00002.xml")
    names = {item.text for item in tree.iterfind("object/name")}
    assert {CLUTTER_CLASSES[drawn.class_index] for drawn in scene.objects} == names


def test_progress_is_told_after_every_scene(tmp_path: Path) -> None:
    heard: list[tuple[int, int | None]] = []
    write_scenes(
        tmp_path / "new",
        artist_of("single"),
        (2, 1),
        seed=0,
        on_progress=lambda done, total: heard.append((done, total)),
    )
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"no scenes 'singel'.*single"):
        artist_of("singel")  # type: ignore[arg-type]
    artist = artist_of("single")
    (tmp_path / "old.txt").write_text("here")
    with pytest.raises(DataError, match="is there already"):
        write_scenes(tmp_path, artist, (1, 1), seed=0)
    with pytest.raises(SettingError, match="seed is -1"):
        draw_scene(artist, split="train", index=0, seed=-1)
    with pytest.raises(DataError, match="0 objects"):
        artist_from(DataSet(tmp_path, "folders", ("a",), {}))


def test_scenes_that_were_stopped_are_no_data_set_and_the_same_command_finishes_them(
    tmp_path: Path,
) -> None:
    artist, folder, whole = artist_of("single"), tmp_path / "stopped", tmp_path / "whole"

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(folder, artist, (2, 2), seed=0, on_progress=stop)
    with pytest.raises(DataError, match="stopped: is not finished"):
        read_data_set(folder, options=ReaderOptions())
    with pytest.raises(DataError, match=r"was begun with other scenes .*2 \+ 2 of"):
        write_scenes(folder, artist, (3, 2), seed=0)
    for to in (folder, whole):
        write_scenes(to, artist, (2, 2), seed=0)
    contents = [
        {path.relative_to(to): path.read_bytes() for path in to.rglob("*") if path.is_file()}
        for to in (folder, whole)
    ]
    assert contents[0] == contents[1]
    with pytest.raises(DataError, match="is there already"):
        write_scenes(folder, artist, (2, 2), seed=0)
