"""Runs on the Hugging Face Hub, by its own client against a stand-in of it."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import close_session

import weakloc
from tests.hub import Hub, Repository, running_hub
from weakloc.cli import run as command
from weakloc.errors import RunError
from weakloc.settings import Look

# The client's own, on the road without xet that the stand-in knows.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
RUN_FILES = {"model.safetensors", "run.json", "epochs.csv"}
NAME = "ann/shapes"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub() as hub:
        # What HF_ENDPOINT, HF_HOME, HF_HUB_DISABLE_XET and HF_HUB_DISABLE_PROGRESS_BARS set.
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield hub
        close_session()


@pytest.fixture
def shared(hub: Hub, trained: Path) -> Repository:
    """A run that a stranger shared, beside files that are no part of one."""
    files = {name: (trained / name).read_bytes() for name in RUN_FILES}
    others = dict.fromkeys(["setup.py", "last.ckpt", "pytorch_model.bin", "metrics.json"], b"evil")
    hub.repositories[NAME] = Repository(is_private=False)
    hub.repositories[NAME].commit({**files, **others})
    return hub.repositories[NAME]


def test_a_pushed_run_is_the_run_that_is_loaded(
    hub: Hub, trained: Path, scenes: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    for name in ("last.ckpt", ".weakloc.lock", "notes.txt", "features/1.npy"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(b"mine")
    assert command(["push", str(run), NAME, "--license", "apache-2.0", "--private", "--quiet"]) == 0
    repository = hub.repositories[NAME]
    assert repository.files.keys() == RUN_FILES | {"README.md", ".gitattributes"}
    assert repository.is_private
    there = weakloc.load(f"hf:{NAME}")
    assert there.name == f"hf:{NAME}@{repository.named('main')}"
    photo = min((scenes / "JPEGImages").iterdir())
    look = Look(workers=0)
    assert [*there.predict(photo, look=look)] == [*weakloc.load(run).predict(photo, look=look)]
    _, front_matter, card = repository.files["README.md"].decode().split("---\n", 2)
    described = yaml.safe_load(front_matter)
    assert described["library_name"] == "weakloc"
    assert described["pipeline_tag"] == "object-detection"
    assert described["license"] == "apache-2.0"
    assert "wildcat" in described["tags"]
    assert ", ".join(there.class_names) in card
    assert "| tagged images | 32 |" in card
    assert "| made the weights that training began with | nothing (random at first) |" in card
    assert f"weakloc predict hf:{NAME} IMAGES" in card


def test_pushing_again_sends_what_is_new_and_takes_away_what_is_old(
    hub: Hub, trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    hub.refuses_commits = True
    with pytest.raises(RunError, match="500"):
        weakloc.push(run, NAME)
    assert hub.repositories[NAME].files.keys() == {".gitattributes"}
    hub.refuses_commits = False
    url, is_private = weakloc.push(run, NAME)
    assert (url, is_private) == (f"{hub.address}/{NAME}", False)
    weakloc.push(run, f"hf:{NAME}")
    repository = hub.repositories[NAME]
    assert len(hub.sent) == 1  # the weights, before the commit failed
    assert len(repository.commits) == 2
    mine = {**repository.files, "detector.safetensors": b"of another run", "README.md": b"My own."}
    repository.commit({**mine, "photo.jpg": b"kept"})
    weakloc.push(run, NAME)
    kept = RUN_FILES | {"README.md", ".gitattributes", "photo.jpg"}
    assert repository.files.keys() == kept
    assert repository.files["README.md"] == b"My own."


def test_what_is_no_whole_run_is_not_pushed(hub: Hub, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "finished": False}))
    with pytest.raises(RunError, match="its training has not ended"):
        weakloc.push(run, NAME)
    (run / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"model\.safetensors is missing"):
        weakloc.push(run, NAME)
    with pytest.raises(weakloc.WeaklocError, match="Give USER/NAME"):
        weakloc.push(trained, "shapes")
    assert not hub.repositories


def test_whoever_is_not_logged_in_is_told(
    hub: Hub, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    assert command(["push", str(trained), NAME, "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"weakloc: hf:{NAME}: ")
    assert "401 Unauthorized" in line
    assert "hf auth login" in line


def test_every_command_takes_a_run_of_the_hub(
    hub: Hub, shared: Repository, scenes: Path, tmp_path: Path
) -> None:
    run, small = f"hf:{NAME}", ["--workers", "0", "--quiet"]
    images, found = str(scenes / "JPEGImages"), tmp_path / "found"
    assert command(["predict", run, images, "--out", str(found), *small]) == 0
    summary = json.loads((found / "predictions.json").read_text())
    assert summary["run"] == f"hf:{NAME}@{shared.named('main')}"
    numbers = tmp_path / "metrics.json"
    few = ["--resamples", "20", *small]
    assert command(["evaluate", run, str(scenes), "--out", str(numbers), *few]) == 0
    assert json.loads(numbers.read_text())["evaluated"] == summary["run"]
    page = tmp_path / "report.html"
    shown = ["--out", str(page), "--pictures", "1", "--metrics", str(numbers), *small]
    assert command(["report", run, images, *shown]) == 0
    assert f"shapes@{shared.named('main')}" in page.read_text()
    again = ["--run", run, "--out", str(page), "--pictures", "1", *small]
    assert command(["report", str(found), *again]) == 0
    assert command(["push", run, "bob/copy", "--metrics", str(numbers), "--quiet"]) == 0
    copied = hub.repositories["bob/copy"].files
    assert {name: copied[name] for name in RUN_FILES} == {n: shared.files[n] for n in RUN_FILES}
    card = copied["README.md"].decode()
    measured = json.loads(numbers.read_text())["metrics"][0]
    low, high = measured["interval"]
    row = f"| {measured['name']} | {measured['value']:.3f} ({low:.3f} to {high:.3f}) |"
    assert "| metric | bob/copy | best baseline |" in card
    assert row in card
    assert "8 images of val" in card


@pytest.mark.parametrize("line", ["refine {run} {data}", "calibrate {run} {data} --boxes 4"])
def test_nothing_is_learned_into_the_cache(
    shared: Repository, scenes: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    words = line.split()
    arguments = [word.format(run=f"hf:{NAME}", data=scenes) for word in words]
    assert command([*arguments, "--quiet"]) == 2
    assert f"Copy it: hf download {NAME} --local-dir FOLDER" in capsys.readouterr().err


def test_a_stranger_s_run_is_checked_and_only_known_files_are_fetched(
    hub: Hub, shared: Repository, trained: Path
) -> None:
    first = shared.named("main")
    weakloc.load(f"hf:{NAME}")
    assert set(hub.downloads) == RUN_FILES
    changed = shared.files["run.json"].replace(b'"weakloc.run"', b'"else"')
    shared.commit({**shared.files, "run.json": changed})
    with pytest.raises(RunError, match="not the record of a weakloc run"):
        weakloc.load(f"hf:{NAME}")
    old = weakloc.load(f"hf:{NAME}@{first}")
    assert old.class_names == weakloc.load(trained).class_names
    third = shared.commit({"run.json": (trained / "run.json").read_bytes()})
    with pytest.raises(RunError, match=r"model\.safetensors is missing"):
        weakloc.load(f"hf:{NAME}@{third}")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ann/nothing", "the hub has no such run, or does not show it to you"),
        (f"{NAME}@v9", "the hub has no such revision of this run"),
        ("a/b/c", "Repo id must be in the form"),
    ],
)
def test_a_run_that_is_not_there_is_one_line(
    shared: Repository, name: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["export", f"hf:{name}", "--out", "new.onnx"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"weakloc: hf:{name}: {reason}")


def test_without_the_hub_its_cache_answers_and_what_it_has_not_is_told_at_once(
    shared: Repository, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weakloc.load(f"hf:{NAME}")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr("weakloc.model.weights._SECONDS_TO_ANSWER", 0.3)  # not 2.5
        assert weakloc.load(f"hf:{NAME}").name == before.name
        for work in (
            lambda: weakloc.load("hf:ann/other"),
            lambda: weakloc.push(before, "ann/other"),
        ):
            started = time.monotonic()
            with pytest.raises(RunError, match=r"hf:ann/other: the hub is out of reach"):
                work()
            assert time.monotonic() - started < 1.3
