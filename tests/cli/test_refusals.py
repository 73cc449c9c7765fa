"""What is wrong with the arguments is said before torch is imported, which takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

REFUSED = {
    "train photos --epochs x --out new": "--epochs",
    "train photos --method nosuch --out new": "method 'nosuch' is not known",
    "train photos --backbone resnet5O --out new": "Did you mean 'resnet50'?",
    "train nosuch --out new": "nosuch: there is no such file or folder",
    "train photos --layout nosuch --out new": "there is no layout 'nosuch'",
    "train bare --out new": "bare: no known layout was found",
    "train photos --wrong --out new": "Unknown option",
    "label nosuch": "nosuch: there is no such file or folder",
    "label photos --format nosuch": "--format is 'nosuch'",
    "label photos --backbone nosuch": "backbone 'nosuch' is not known",
    "refine nosuch photos": "nosuch: there is no such file or folder",
    "calibrate run photos": "none may be looked at",
    "calibrate run nosuch --boxes 5": "nosuch: there is no such file or folder",
    "predict nosuch photos --out new": "nosuch: there is no such file or folder",
    "predict timm:nosuch photos --out new": "backbone 'nosuch' is not known",
    "predict run nosuch --out new": "nosuch: no such folder or file",
    "predict run photos --tags nosuch.csv --out new": "nosuch.csv: there is no such file",
    "predict run photos --format nosuch --out new": "--format is 'nosuch'",
    "evaluate nosuch photos": "nosuch: there is no such file or folder",
    "evaluate run photos --split nosuch": "there is no split 'nosuch'",
    "report run nosuch": "nosuch: no such folder or file",
    "export run --format coco --out new": "predictions.jsonl: cannot be read",
    "serve nosuch": "nosuch: there is no such file or folder",
    "reproduce nosuch": "there is no recipe 'nosuch'",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said on each, by one process that must not have imported torch in the end."""
    folder = tmp_path_factory.mktemp("refused")
    for name in ("photos/cat", "photos/dog", "bare", "run"):
        Path(folder, name).mkdir(parents=True)
    for name in ("photos/cat/1.jpg", "photos/dog/2.jpg"):
        Image.new("RGB", (30, 20)).save(folder / name)
    code = (
        "import contextlib, io, json, shlex, sys; from weakloc.cli import run\n"
        "answers = {}\n"
        "for line in sys.argv[1:]:\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as said:\n"
        "        code = run(shlex.split(line))\n"
        "    answers[line] = f'{code} {\"torch\" in sys.modules} {said.getvalue()}'\n"
        "print(json.dumps(answers))"
    )
    command = [sys.executable, "-c", code, *REFUSED]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    answers: dict[str, str] = json.loads(shown.stdout)
    return answers


@pytest.mark.parametrize("line", REFUSED)
def test_a_wrong_argument_is_refused_before_torch_is_imported(
    line: str, answers: dict[str, str]
) -> None:
    assert answers[line].startswith("2 False weakloc: ")
    assert REFUSED[line] in answers[line]
