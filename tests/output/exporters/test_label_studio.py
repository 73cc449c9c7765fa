"""Label Studio tasks: percent coordinates, brush run lengths, and the labelling interface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.output.exporters.conftest import CLASS_NAMES
from tests.output.exporters.oracles import fill_outline, unpack_brush
from weakloc.errors import PredictionsError
from weakloc.output.exporters import Content, ExportOptions, export_format
from weakloc.output.exporters.label_studio import pack_brush
from weakloc.rle import decode_mask
from weakloc.structures import Prediction

IMAGE_ROOT = Path("photos", "ours & 100% ü")


def export(
    predictions: list[Prediction],
    out: Path,
    options: ExportOptions,
    image_root: Path | None = IMAGE_ROOT,
) -> tuple[list[dict[str, Any]], ElementTree.Element]:
    path = export_format(
        "label-studio",
        Content(iter(predictions), class_names=CLASS_NAMES, image_root=image_root, options=options),
        out,
    )
    tasks = json.loads(path.read_text("utf-8"))
    return tasks, ElementTree.parse(out / "config.xml").getroot()


def regions(task: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [item for item in task["predictions"][0]["result"] if item["type"] == kind]


@pytest.mark.parametrize("masks", ["rle", "polygon"])
def test_tasks_come_back_as_the_predictions(
    tmp_path: Path, predictions: list[Prediction], masks: str
) -> None:
    options = ExportOptions(mask_form=masks, model_version="run 7", image_prefix="s3://it/")  # type: ignore[arg-type]
    tasks, _ = export(predictions, tmp_path, options)
    for task, prediction in zip(tasks, predictions, strict=True):
        url = task["data"]["image"]
        assert url.startswith("s3://it/")
        assert " " not in url
        assert unquote(url.removeprefix("s3://it/")) == prediction.image
        assert task["predictions"][0]["model_version"] == "run 7"
        assert task["predictions"][0]["score"] == 1 - prediction.doubt
        width, height = prediction.width, prediction.height
        found = regions(task, "rectanglelabels")
        assert len(found) == len(prediction.boxes)
        for item, box in zip(found, prediction.boxes, strict=True):
            value = item["value"]
            assert value["rectanglelabels"] == [box.class_name]
            left, top = value["x"] / 100 * width, value["y"] / 100 * height
            right = left + value["width"] / 100 * width
            bottom = top + value["height"] / 100 * height
            assert (left, top, right, bottom) == pytest.approx(box.box)
            assert item["score"] == box.score
        for item, point in zip(regions(task, "keypointlabels"), prediction.points, strict=True):
            assert item["value"]["x"] / 100 * width == pytest.approx(point.x)
            assert item["value"]["y"] / 100 * height == pytest.approx(point.y)
            assert item["value"]["keypointlabels"] == [point.class_name]
        drawn = {mask.score: np.zeros((height, width), dtype=bool) for mask in prediction.masks}
        for item in regions(task, "brushlabels"):
            assert item["value"]["format"] == "rle"
            drawn[item["score"]] |= unpack_brush(item["value"]["rle"], size=(width, height))
        for item in regions(task, "polygonlabels"):
            corners = np.array(item["value"]["points"]) / 100 * (width, height)
            drawn[item["score"]] |= fill_outline(np.rint(corners), size=(width, height))
        for mask in prediction.masks:
            assert (drawn[mask.score] == decode_mask(mask.rle)).all()
        said = [name for item in regions(task, "choices") for name in item["value"]["choices"]]
        assert said == [name for name, score in prediction.scores.items() if score >= 0.5]


def served_path(url: str) -> str:
    """The path below the document root that Label Studio reads from a URL, as Django parses it."""
    address = urlsplit(url)
    assert (address.scheme, address.netloc, address.fragment) == ("", "", "")
    assert address.path == "/data/local-files/"
    (path,) = parse_qs(address.query, strict_parsing=True)["d"]
    return path


def test_images_count_from_the_folder_above_theirs(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    tasks, _ = export(predictions, tmp_path, ExportOptions())
    served = [served_path(task["data"]["image"]) for task in tasks]
    assert served == [f"ours & 100% ü/{prediction.image}" for prediction in predictions]


@pytest.mark.parametrize("root", [".", "../own folder", "../own folder/sub/..", "linked"])
def test_the_folder_of_the_images_is_named_as_label_studio_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predictions: list[Prediction], root: str
) -> None:
    own = tmp_path / "own folder"
    (own / "sub").mkdir(parents=True)
    (own / "linked").symlink_to("sub")
    monkeypatch.chdir(own)
    tasks, _ = export(predictions, tmp_path / "out", ExportOptions(), Path(root))
    folder = "linked" if root == "linked" else "own folder"
    assert served_path(tasks[0]["data"]["image"]) == f"{folder}/{predictions[0].image}"


def test_a_folder_that_is_not_known_must_be_said(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    with pytest.raises(PredictionsError, match="--image-prefix"):
        export(predictions, tmp_path / "out", ExportOptions(), image_root=None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("masks", ["rle", "polygon"])
def test_every_region_has_a_control_in_the_interface_that_knows_its_label(
    tmp_path: Path, predictions: list[Prediction], masks: str
) -> None:
    tasks, view = export(predictions, tmp_path, ExportOptions(mask_form=masks))  # type: ignore[arg-type]
    assert view.tag == "View"
    image = view.find("Image")
    assert image is not None
    assert image.get("value") == "$image"
    controls = {element.get("name"): element for element in view if element is not image}
    assert {element.get("toName") for element in controls.values()} == {image.get("name")}
    num_regions = 0
    for task in tasks:
        result = task["predictions"][0]["result"]
        assert len({item["id"] for item in result}) == len(result)
        for item in result:
            control = controls[item["from_name"]]
            assert control.tag.lower() == item["type"]
            assert item["to_name"] == image.get("name")
            labels = item["value"][item["type"]]
            known = [label.get("value") for label in control]
            assert set(labels) <= set(known)
            assert tuple(known) == CLASS_NAMES
            assert 0 <= item["score"] <= 1
            if item["type"] != "choices":
                assert item["image_rotation"] == 0
                assert item["original_width"] > 0
            num_regions += 1
    assert num_regions > 40


def reference_unpack(packed: list[int]) -> np.ndarray:
    """The format read as its author describes it, bit for bit."""
    bits = "".join(f"{byte:08b}" for byte in packed)
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    num_values, value_bits = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < num_values:
        repeated = read(1)
        count = read(sizes[read(2)]) + 1
        values += (
            [read(value_bits)] * count if repeated else [read(value_bits) for _ in range(count)]
        )
    return np.array(values)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_brush_strokes_come_back(width: int, height: int, share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    packed = pack_brush(mask)
    assert all(0 <= byte <= 255 for byte in packed)
    assert (unpack_brush(packed, size=(width, height)) == mask).all()
    assert (reference_unpack(packed) == np.repeat(mask.ravel() * 255, 4)).all()


def test_long_runs_of_a_large_picture_come_back() -> None:
    mask = np.zeros((900, 1203), dtype=bool)
    mask[100:700, 50:51] = True
    mask[710:] = True
    packed = pack_brush(mask)
    assert len(packed) < 10_000
    assert (unpack_brush(packed, size=(1203, 900)) == mask).all()


def test_literal_runs_of_other_writers_are_read() -> None:
    # 8 values, 8 bits each, counters of 3, 4, 8 and 16 bits; one literal run of 8 values
    bits = f"{8:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}" + "0" + "00" + f"{7:03b}"
    bits += "".join(f"{value:08b}" for value in (9, 9, 9, 0, 1, 1, 1, 200))
    bits += "0" * (-len(bits) % 8)
    packed = list(int(bits, 2).to_bytes(len(bits) // 8, "big"))
    assert unpack_brush(packed, size=(2, 1)).tolist() == [[False, True]]


@pytest.mark.parametrize("masks", ["rle", "polygon"])
def test_label_studios_own_kit_accepts_the_tasks(
    tmp_path: Path, predictions: list[Prediction], masks: str
) -> None:
    kit = pytest.importorskip(
        "label_studio_sdk.label_interface", reason="label-studio-sdk is not installed"
    )
    tasks, _ = export(predictions, tmp_path, ExportOptions(mask_form=masks))  # type: ignore[arg-type]
    interface = kit.LabelInterface((tmp_path / "config.xml").read_text("utf-8"))
    for task in tasks:
        assert interface.validate_task({"data": task["data"]})
        for prediction in task["predictions"]:
            assert interface.validate_prediction(prediction)


def test_label_studios_own_kit_reads_the_brush(predictions: list[Prediction]) -> None:
    brush = pytest.importorskip(
        "label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed"
    )
    for prediction in predictions:
        for mask in prediction.masks:
            pixels = decode_mask(mask.rle)
            values = brush.decode_rle(pack_brush(pixels)).reshape(*pixels.shape, 4)
            assert ((values[..., 3] > 0) == pixels).all()
