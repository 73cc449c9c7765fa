"""The package of docs/extending.md, as it stands there, installed and used from end to end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.installed_packages import lay_out
from weakloc.cli import run as weakloc
from weakloc.extensions import BUILT_IN

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCK = re.compile(r'^```\w+ title="([\w.]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
COMMANDS = """
import json, sys
from weakloc.cli import run
for command in json.load(sys.stdin):
    code = run(command)
    if code:
        sys.exit(code)
assert "extras_counts" in sys.modules
"""


def run_installed(commands: list[list[str]], site: Path) -> subprocess.CompletedProcess[str]:
    """The commands one after the other in a fresh process that has the folder on its path."""
    path = os.pathsep.join([str(site), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("extras")
    for name, content in BLOCK.findall(PAGE.read_text()):
        (project / name).write_text(content)
    return lay_out(project, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red or blue squares on noise, tagged by a text file beside each."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for index in range(16):
        pixels = random.integers(0, 60, (48, 64, 3), dtype=np.uint8)
        channel = index % 2 * 2
        pixels[8:32, 16:40, channel] = 255
        path = folder / ("val" if index >= 12 else "train") / f"{index:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
        path.with_suffix(".txt").write_text(["red\n", "blue\n"][index % 2])
    return folder


@pytest.fixture(scope="module")
def used(site: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which every command of the page has left its result."""
    folder = tmp_path_factory.mktemp("used")
    run, predictions = str(folder / "run"), str(folder / "predictions")
    chosen = ["--method", "mixed", "--set", "share=0.7", "--backbone", "patches[width=16]"]
    layout = ["--layout", "sidecars"]
    small = ["--image-size", "64", "--epochs", "2", "--workers", "0", "--precision", "fp32"]
    answer = run_installed(
        [
            ["train", str(photos), *layout, *chosen, *small, "--out", run, "--quiet"],
            ["predict", run, str(photos), "--out", predictions, "--format", "counts", "--quiet"],
            [
                "evaluate",
                run,
                str(photos),
                *layout,
                "--out",
                str(folder / "metrics.json"),
                "--quiet",
            ],
            ["export", predictions, "--format", "counts", "--out", str(folder / "exported")],
            ["train", "--help"],
            ["export", "--help"],
        ],
        site,
    )
    assert answer.returncode == 0, answer.stderr
    (folder / "help.txt").write_text(answer.stdout)
    return folder


def test_a_run_of_added_names_keeps_them_and_their_package(used: Path) -> None:
    record = json.loads((used / "run" / "run.json").read_text())
    assert record["method"]["name"] == "mixed"
    assert record["method"]["package"] == "weakloc-extras"
    assert record["method"]["settings"]["share"] == 0.7
    assert record["backbone"]["name"] == "patches[width=16]"
    assert record["backbone"]["package"] == "weakloc-extras"
    assert record["class_names"] == ["blue", "red"]


def test_an_added_format_is_written_by_predict_and_by_export(used: Path) -> None:
    lines = (used / "predictions" / "counts" / "counts.csv").read_text().splitlines()
    assert lines[0] == "image,blue,red"
    assert len(lines) == 17
    assert sum(int(number) for line in lines[1:] for number in line.split(",")[1:]) > 0
    assert (used / "exported" / "counts" / "counts.csv").read_text().splitlines() == lines


def test_an_added_metric_stands_among_the_others(used: Path) -> None:
    document = json.loads((used / "metrics.json").read_text())
    results = {each["name"]: each for each in document["metrics"]}
    assert 0 <= results["tag_recall"]["value"] <= 1
    assert results["tag_recall"]["num_images"] == 4
    assert "classification_map" in results


def test_the_help_lists_an_added_method_and_format(used: Path) -> None:
    shown = " ".join((used / "help.txt").read_text().replace("│", " ").split())
    assert f"{', '.join(BUILT_IN['methods'])}, mixed." in shown
    assert f"{BUILT_IN['exporters'][-1]}, counts: each into a folder" in shown


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            ["predict", "{used}/run", "{photos}", "--out", "{out}"],
            "'mixed' among its methods comes from the package weakloc-extras, which is not inst",
        ),
        (["train", "{photos}", "--layout", "sidecars", "--out", "{out}"], "no layout 'sidecars'"),
        (["train", "{photos}", "--method", "mixed", "--out", "{out}"], "method 'mixed' is not kn"),
        (
            ["export", "{used}/predictions", "--format", "counts", "--out", "{out}"],
            "--format is 'counts'",
        ),
    ],
)
def test_without_the_package_each_name_is_missed_in_one_line(
    used: Path, photos: Path, tmp_path: Path, capsys, command: list[str], told: str
) -> None:
    filled = [part.format(used=used, photos=photos, out=tmp_path / "out") for part in command]
    assert weakloc(filled) == 2
    answer = capsys.readouterr().err
    assert told in answer
    assert answer.count("\n") == 1
