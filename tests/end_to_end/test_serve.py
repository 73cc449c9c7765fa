"""`weakloc serve` as a process: what it refuses, what it answers, how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.serving.running import Client, basic
from weakloc.api.fused_runs import predictor_of
from weakloc.api.runs import load_folder, version_of
from weakloc.cli import run as weakloc
from weakloc.data.readers.review import read_review
from weakloc.output.exporters.jsonl import parse_line
from weakloc.output.exporters.label_studio import labelling_config
from weakloc.settings import Look, Places


@contextmanager
def started(arguments: list[str], **environment: str) -> Iterator[tuple[Client, subprocess.Popen]]:
    """A server in a process of its own, killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "weakloc.cli", "serve", *arguments, "--port", "0"],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        port = urlsplit(line.split()[2]).port
        assert port is not None
        yield Client(port), process
    finally:
        process.kill()
        process.communicate()


def test_a_run_is_served_until_the_process_is_told_to_end(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    photo, learned = min((scenes / "JPEGImages").iterdir()), tmp_path / "learned"
    flags = ["--root", str(photo.parent), "--top", "2", "--workers", "0", "--learn", str(learned)]
    with started([str(trained), *flags], WEAKLOC_TOKEN="hush") as (stranger, process):
        assert stranger.ask("GET", "/health").status == 401
        client = Client(stranger.port, basic("label studio", "hush"))
        health = client.ask("GET", "/health").json
        assert health["classes"] == list(load_folder(trained).class_names)
        reply = client.post_json("/predict", {"image": photo.name})
        (right,) = load_folder(trained).predict(photo, look=Look(workers=0), places=Places(top=2))
        found = parse_line(reply.body, location="the answer")
        assert found.image == photo.name
        assert found.scores == pytest.approx(right.scores, abs=1e-5)
        assert [box.class_name for box in found.boxes] == [box.class_name for box in right.boxes]
        assert found.extra["model_version"] == health["model_version"]
        name = health["classes"][0]
        config = labelling_config([name], masks="rle")
        value = {"x": 0, "y": 0, "width": 50, "height": 50, "rectanglelabels": [name]}
        region = {"type": "rectanglelabels", "from_name": "boxes", "value": value}
        notice = {"annotation": {"id": 1, "result": [region]}, "project": {"label_config": config}}
        notice |= {"action": "ANNOTATION_CREATED", "task": {"id": 1, "data": {"image": photo.name}}}
        assert client.post_json("/webhook", notice).json["reviewed"] == {"images": 1, "boxes": 1}
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert output == ""
    lines = errors.splitlines()
    assert len(lines) == 4, errors
    assert 'INFO POST "/predict" status=200' in lines[2]
    assert "hush" not in errors
    (image,) = read_review(learned / "review.json").images
    assert (image.name, image.boxes[0][0]) == (photo.name, name)


def test_what_cannot_be_served_is_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, reason in (
        (["--host", "0.0.0.0"], "WEAKLOC_TOKEN"),
        (["--root", str(tmp_path / "nowhere")], "--root"),
        (["--allow-url", "ftp://host/"], "--allow-url"),
        (["--host", "203.0.113.1", "--token", "x"], "cannot listen"),
    ):
        assert weakloc(["serve", str(trained), "--port", "0", *flags]) == 2
        message = capsys.readouterr().err
        assert reason in message
        assert message.count("\n") == 1


def test_a_missing_extra_says_how_to_install_it(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("weakloc.serving.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert weakloc(["serve", str(trained)]) == 2
    assert "weakloc[label-studio]" in capsys.readouterr().err


def test_the_version_changes_with_the_run_and_with_the_settings(
    trained: Path, tmp_path: Path
) -> None:
    def version(run: Path, **settings: object) -> str:
        predictor, _ = predictor_of(str(run), (), Look(), Places(**settings))  # type: ignore[arg-type]
        return version_of(predictor, {"run": str(run)})

    same = version(trained)
    assert same == version(trained)
    assert same.startswith(f"{trained.name}-")
    assert same != version(trained, top=1)
    other = tmp_path / trained.name
    shutil.copytree(trained, other)
    assert same == version(other)
    record = (other / "run.json").read_text()
    (other / "run.json").write_text(record.replace('"seed": 0', '"seed": 1'))
    assert same != version(other)
