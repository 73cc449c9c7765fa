"""REF-01 to REF-04: numbers that others have measured, on the papers' own data.

Each trains and measures by the commands that users type, at the literal preset, and reads what is
printed. That takes a GPU and hours to days, and data that this project does not have: name the
folders in WEAKLOC_VOC2007 and WEAKLOC_TINY_IMAGENET. The bands are those of the specification,
section 10. That the commands work is tested on small folders of the same layout.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import SHARED
from tests.papers.literal_runs import (
    SMALL,
    numbers_of,
    train_literally,
    write_tiny_imagenet,
    write_voc,
)


def on_the_papers_data(test):
    return pytest.mark.shared(pytest.mark.timeout(0)(test))


def folder_of(variable: str, name: str) -> Path:
    """The data set of this name; the test is skipped, with the reason, where there is none."""
    path = Path(os.environ.get(variable, SHARED / "data" / name))
    if not path.is_dir():
        pytest.skip(f"{name} is not on this machine: {path} is no folder; name it in {variable}")
    return path


@pytest.fixture
def voc_2007() -> Path:
    return folder_of("WEAKLOC_VOC2007", "VOC2007")


@pytest.fixture
def tiny_imagenet() -> Path:
    return folder_of("WEAKLOC_TINY_IMAGENET", "tiny-imagenet-200")


def wildcat_classification(data: Path, out: Path, *smaller: str) -> float:
    """WILDCAT learns from trainval; mAP of the tags of test, not interpolated."""
    run = train_literally(data, out, "wildcat", "--train-split", "trainval", *smaller)
    return numbers_of(run, data, "--split", "test")["classification_map_nonint"]


def max_mil_gain(data: Path, out: Path, *smaller: str) -> float:
    """Max-MIL less one look at the whole image in one window, in classification mAP."""
    whole = ("--set=side=224", "--set=resize=warp", "--set=scale_jitter=null")
    learn = ("--train-split", "trainval", *smaller)
    search = train_literally(data, out / "search", "max_mil", *learn)
    window = train_literally(data, out / "window", "max_mil", *whole, *learn)
    searched = numbers_of(search, data, "--split", "test")["classification_map"]
    seen_once = numbers_of(window, data, "--split", "test", "--scales", "1")["classification_map"]
    return searched - seen_once


def cam_localisation(
    data: Path, out: Path, augment: str, *flags: str, epochs: int = 60
) -> tuple[float, float]:
    """Top-1 and GT-known localisation in the budget of 60 epochs with mirrored images."""
    budget = (f"--epochs={epochs}", "--set=flip=true", f"--set=augment={augment}")
    run = train_literally(data, out / augment, "cam", *budget, *flags)
    numbers = numbers_of(run, data)
    return numbers["top_1_loc"], numbers["gt_known_loc"]


def beam_boxes(data: Path, out: Path, *smaller: str) -> float:
    """BEAM learns from train and val and places the boxes of test."""
    run = train_literally(data, out, "beam", "--train-split", "trainval", *smaller)
    return numbers_of(run, data, "--split", "test", "--ap", "voc07")["box_map_50_voc07"]


@on_the_papers_data
def test_ref_01_wildcat_classifies_voc_2007(voc_2007: Path, tmp_path: Path) -> None:
    assert 0.905 <= wildcat_classification(voc_2007, tmp_path) <= 0.935


@on_the_papers_data
def test_ref_02_the_search_gains_five_points(voc_2007: Path, tmp_path: Path) -> None:
    assert max_mil_gain(voc_2007, tmp_path) >= 0.05


@on_the_papers_data
@pytest.mark.parametrize(
    ("backbone", "gt_known"),
    [
        ("preact18", {"none": 0.5342, "hns": 0.5289, "gr": 0.5700}),
        ("preact34", {"none": 0.5346, "hns": 0.5430, "gr": 0.5782}),
    ],
)
def test_ref_03_crops_localise_better_than_hiding_and_that_no_worse_than_nothing(
    backbone: str, gt_known: dict[str, float], tiny_imagenet: Path, tmp_path: Path
) -> None:
    reached = {
        augment: cam_localisation(tiny_imagenet, tmp_path, augment, f"--backbone={backbone}")
        for augment in gt_known
    }
    assert reached["gr"][0] > reached["hns"][0] >= reached["none"][0]
    for augment, published in gt_known.items():
        assert reached[augment][1] == pytest.approx(published, abs=0.03)


@on_the_papers_data
def test_ref_04_beam_places_boxes_on_voc_2007(voc_2007: Path, tmp_path: Path) -> None:
    assert 0.20 <= beam_boxes(voc_2007, tmp_path) <= 0.28


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("voc") / "VOC2007"
    write_voc(root, images={"trainval": 8, "test": 5})
    return root


@pytest.mark.parametrize("measure", [wildcat_classification, beam_boxes])
def test_one_number_is_printed(measure, voc: Path, tmp_path: Path) -> None:
    assert 0 <= measure(voc, tmp_path / "run", *SMALL, "--epochs=1", "--image-size=64") <= 1


def test_both_numbers_of_max_mil_are_printed(voc: Path, tmp_path: Path) -> None:
    assert -1 <= max_mil_gain(voc, tmp_path, *SMALL, "--epochs=1", "--image-size=64") <= 1


def test_both_numbers_of_cam_are_printed(tmp_path: Path) -> None:
    data = tmp_path / "tiny-imagenet-200"
    write_tiny_imagenet(data, num_train=4, num_val=2)
    top_1, gt_known = cam_localisation(data, tmp_path / "runs", "hns", *SMALL, epochs=1)
    assert 0 <= top_1 <= gt_known <= 1


def test_what_is_missing_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = tmp_path / "nowhere"
    monkeypatch.setenv("WEAKLOC_VOC2007", str(missing))
    with pytest.raises(pytest.skip.Exception, match=r"nowhere is no folder.*WEAKLOC_VOC2007"):
        folder_of("WEAKLOC_VOC2007", "VOC2007")
    missing.mkdir()
    assert folder_of("WEAKLOC_VOC2007", "VOC2007") == missing
