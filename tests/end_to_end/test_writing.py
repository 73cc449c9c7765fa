"""Where commands write: others' files stay, one writer a folder, what is refused in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from weakloc.cli import run as weakloc
from weakloc.files import LOCK_NAME
from weakloc.synthetic.scenery import CLUTTER_CLASSES

FAST = ["--map-side", "32", "--quiet"]
BACKBONE = ["--backbone", "tiny[width=8]", "--image-size", "96", "--epochs", "1", "--workers", "0"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in CLUTTER_CLASSES:
        (folder / name).mkdir()
        Image.new("RGB", (48, 40), "red").save(folder / name / "1.png")
    return folder


@pytest.fixture(scope="module")
def predicted(trained: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predicted")
    assert weakloc(["predict", str(trained), str(photos), "--out", str(out), *FAST]) == 0
    return out


def commands(trained: Path, photos: Path, predicted: Path, out: Path) -> dict[str, list[str]]:
    """Each command that writes, and to where."""
    run, images, found = str(trained), str(photos), str(predicted)
    return {
        "train": ["train", images, "--out", str(out), *BACKBONE],
        "label": ["label", images, "--out", str(out), *BACKBONE[:-2], "--weights", "none"],
        "predict": ["predict", run, images, "--out", str(out), *FAST],
        "scenes": ["scenes", str(out), "--train", "1", "--val", "0"],
        "export": ["export", found, "--format", "coco", "--out", str(out)],
        "demo": ["demo", "--out", str(out)],
        "reproduce": ["reproduce", "wildcat-points", "--budget", "quick", "--out", str(out)],
        "report": ["report", found, "--out", str(out / "page.html"), "--quiet"],
        "evaluate": [
            *("evaluate", found, images, "--split", "all"),
            *("--out", str(out / "metrics.json"), "--quiet"),
        ],
    }


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        ("predict", "predictions.jsonl"),
        ("predict", "skipped.jsonl"),
        ("predict", "predictions.json"),
        ("predict", "parts/holiday.jpg"),
        ("train", "model.safetensors"),
        ("label", "letter.txt"),
        ("scenes", "letter.txt"),
        ("demo", "letter.txt"),
    ],
)
def test_what_others_made_is_refused_and_stays(
    trained: Path, photos: Path, predicted: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], name: str, foreign: str,
) -> None:  # fmt: skip
    file = tmp_path / foreign
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    assert weakloc(commands(trained, photos, predicted, tmp_path)[name]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "mine"


HOLDING = """
import sys, time
from pathlib import Path
from weakloc.files import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A folder in which another process writes, and that process."""
    folder = tmp_path_factory.mktemp("held") / "coco"
    command = [sys.executable, "-c", HOLDING, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield folder, holder.pid
        holder.kill()


@pytest.mark.parametrize("name", ["train", "label", "predict", "scenes", "export", "reproduce"])
def test_a_folder_in_which_another_process_writes_is_refused(
    trained: Path, photos: Path, predicted: Path, held: tuple[Path, int],
    capsys: pytest.CaptureFixture[str], name: str,
) -> None:  # fmt: skip
    folder, pid = held
    out = folder.parent if name == "export" else folder  # which writes into out / "coco"
    assert weakloc(commands(trained, photos, predicted, out)[name]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"weakloc: {folder}: process {pid} on ")
    assert "is writing here. Wait for its end, or give another --out" in said
    assert [path.name for path in folder.iterdir()] == [LOCK_NAME]


@pytest.mark.parametrize("obstacle", ["file", "folder"])
@pytest.mark.parametrize(
    "name", ["train", "label", "predict", "scenes", "export", "report", "evaluate"]
)
def test_what_is_in_the_way_of_the_output_is_one_line(
    trained: Path, photos: Path, predicted: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], name: str, obstacle: str,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    command = commands(trained, photos, predicted, out)[name]
    written = {"report": "page.html", "evaluate": "metrics.json"}
    written |= {"predict": "predictions.jsonl", "train": "model.safetensors"}
    if obstacle == "file":
        out.write_text("in the way")
    elif name not in written:
        pytest.skip("has no file of its own right in the folder")
    else:
        (out / written[name] / "inner").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    assert weakloc(command) in (1, 2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1, said
    assert said[0].startswith(f"weakloc: {out}")
    assert sorted(tmp_path.rglob("*")) == before
