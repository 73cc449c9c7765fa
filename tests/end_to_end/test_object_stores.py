"""Data and runs in object stores: fsspec's own in memory, and S3's client where it is installed."""

from __future__ import annotations

import json
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from huggingface_hub import constants

from weakloc.api.predictions import summary_beside
from weakloc.cli import run as weakloc
from weakloc.data.sources import find_images
from weakloc.files import is_url
from weakloc.training.inputs import content_key

STORE = "memory://bucket"
QUICK = ("--workers", "2", "--map-side", "48", "--quiet")


@pytest.fixture(scope="module")
def material(scenes: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and eight images in a folder of folders, in a list, a table and a shard."""
    folder = tmp_path_factory.mktemp("material")
    shutil.copytree(trained, folder / "run")
    paths = sorted((scenes / "JPEGImages").glob("val_*"))
    names = [f"{'ab'[number % 2]}/{path.name}" for number, path in enumerate(paths)]
    for name, path in zip(names, paths, strict=True):
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / "photos" / name)
    (folder / "photos/list.txt").write_text("\n".join(reversed(names)))
    lines = [f"{name},star" for name in names]
    (folder / "photos/tags.csv").write_text("\n".join(["path,labels", *lines]))
    with tarfile.open(folder / "shard-0.tar", "w") as shard:
        shard.add(folder / "photos/a", "a")
    return folder


@pytest.fixture
def store(
    material: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[MemoryFileSystem]:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "caches"))
    memory = fsspec.filesystem("memory")
    memory.put(str(material), "/bucket", recursive=True)
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def predict(images: str, out: Path, *flags: str, run: str) -> list[str]:
    assert weakloc(["predict", run, images, "--out", str(out), *QUICK, *flags]) == 0
    return [(out / name).read_text() for name in ("predictions.jsonl", "skipped.jsonl")]


@pytest.mark.parametrize(
    "source",
    [
        *("photos", "photos/a/*.jpg", "photos/list.txt", "photos/tags.csv", "shard-0.tar"),
        *("shard-{0..0}.tar", "photos/a/val_00000.jpg"),
    ],
)
def test_images_in_a_store_are_named_and_read_as_those_of_a_folder(
    source: str, material: Path, store: MemoryFileSystem
) -> None:
    near, far = list(find_images(f"{material}/{source}")), list(find_images(f"{STORE}/{source}"))
    assert [image.name for image in far] == [image.name for image in near]
    assert near
    for image, copy in zip(far, near, strict=True):
        is_path = isinstance(copy.content, str)
        content = Path(str(copy.content)).read_bytes() if is_path else copy.content
        assert is_url(image.content) == is_path
        assert image.fetched() == replace(copy, content=content)


def test_run_images_and_tags_may_all_lie_in_a_store(
    material: Path, store: MemoryFileSystem, tmp_path: Path
) -> None:
    tags = material / "photos/tags.csv"
    near = predict(
        str(material / "photos"), tmp_path / "near", "--tags", str(tags), run=str(material / "run")
    )
    far = predict(
        f"{STORE}/photos",
        tmp_path / "far",
        "--tags",
        f"{STORE}/photos/tags.csv",
        run=f"{STORE}/run",
    )
    assert far == near
    assert json.loads((tmp_path / "far/predictions.json").read_text())["run"] == f"{STORE}/run"


def test_training_learns_from_a_store_what_it_learns_from_a_folder(
    scenes: Path, trained: Path, store: MemoryFileSystem, tmp_path: Path
) -> None:
    store.put(str(scenes), "/bucket/scenes", recursive=True)
    small = ["--backbone", "tiny[width=8]", "--image-size", "96", "--epochs", "1"]
    machine = ["--workers", "0", "--devices", "1", "--precision", "fp32", "--quiet"]
    out = tmp_path / "run"
    assert weakloc(["train", f"{STORE}/scenes", "--out", str(out), *small, *machine]) == 0
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (trained / weights).read_bytes()


def test_what_a_list_names_outside_or_what_is_gone_is_skipped(
    store: MemoryFileSystem, material: Path, tmp_path: Path
) -> None:
    names = (
        "gone.jpg",
        "../photos/a/val_00000.jpg",
        "/bucket/photos/a/val_00000.jpg",
        f"{STORE}/photos/a/val_00000.jpg",
    )
    store.pipe("/bucket/photos/list.txt", "\n".join(names).encode())
    found, skipped = predict(
        f"{STORE}/photos/list.txt", tmp_path / "out", run=str(material / "run")
    )
    reasons = {
        record["image"]: record["reason"] for record in map(json.loads, skipped.splitlines())
    }
    assert not found
    assert tuple(reasons) == names
    assert reasons["gone.jpg"] == reasons[names[3]] == "there is no such file"
    assert reasons[names[1]] == reasons[names[2]] == "it is named outside of the folder"


def test_no_file_sends_anybody_into_a_store(
    store: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text(f"{STORE}/photos/a/val_00000.jpg")
    (image,) = find_images("list.txt")
    assert not is_url(image.content)
    Path("predictions.json").write_text(json.dumps({"images": f"{STORE}/photos"}))
    assert "images" not in summary_beside(Path("predictions.jsonl"))


def test_what_tells_a_change_is_asked_by_the_folder(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> list[str]:
        return [content_key(str(image.content)) for image in find_images(f"{STORE}/photos")]

    listed: list[str] = []
    ls, before = MemoryFileSystem.ls, keys()

    def counted(self: MemoryFileSystem, path: str, **options: Any) -> Any:
        listed.append(path)
        return ls(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "ls", counted)
    assert keys() == before
    assert sorted(listed) == [f"{STORE}/photos{folder}" for folder in ("", "/a", "/b")]
    store.pipe("/bucket/photos/b/val_00001.jpg", b"another")
    assert [old == new for old, new in zip(before, keys(), strict=True)].count(False) == 1


def test_many_images_are_asked_for_at_once(
    store: MemoryFileSystem, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(8)  # it lets nobody through before eight wait
    cat_file = MemoryFileSystem.cat_file

    def awaited(self: MemoryFileSystem, path: str, **options: Any) -> bytes:
        together.wait(timeout=20)
        content: bytes = cat_file(self, path, **options)
        return content

    monkeypatch.setattr(MemoryFileSystem, "cat_file", awaited)
    found, _ = predict(f"{STORE}/photos", tmp_path / "out", run=str(material / "run"))
    assert len(found.splitlines()) == 8


@pytest.mark.parametrize(
    ("fault", "exit_code", "said"),
    [
        (TimeoutError("took too long"), 1, "cannot be had (took too long)"),
        (RuntimeError("no credentials\nat all"), 1, "cannot be had (no credentials)"),
        (ImportError("Install s3fs"), 2, 'pip install "weakloc[remote]"'),
        (PermissionError(), 0, ""),  # of each image
    ],
    ids=["timeout", "client", "package", "permission"],
)
def test_a_store_that_gives_nothing_is_one_line(
    fault: Exception,
    exit_code: int,
    said: str,
    store: MemoryFileSystem,
    material: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    out = tmp_path / "out"
    command = ["predict", str(material / "run"), f"{STORE}/photos", "--out", str(out), *QUICK]
    assert weakloc(command) == exit_code
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) <= 1
    if not exit_code:
        assert (out / "skipped.jsonl").read_text().count("permission denied") == 8


def test_nothing_is_written_into_a_store(
    store: MemoryFileSystem,
    material: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    images, run = str(material / "photos"), str(material / "run")
    assert weakloc(["predict", run, images, "--out", f"{STORE}/out", *QUICK]) == 1
    assert f"{STORE}/out: is in an object store" in capsys.readouterr().err
    assert (
        weakloc(
            ["calibrate", f"{STORE}/run", f"{STORE}/photos", "--boxes", "9", "--layout", "folders"]
        )
        == 2
    )
    assert "Copy it" in capsys.readouterr().err
    assert not list(tmp_path.glob("memory*"))


@pytest.mark.filterwarnings("ignore")  # of other packages
def test_a_bucket_of_s3_is_read_by_its_own_client(material: Path, tmp_path: Path) -> None:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    from tests.slow_bucket import BUCKET, slow_bucket

    run = str(material / "run")
    near = predict(str(material / "photos"), tmp_path / "near", run=run)
    with slow_bucket() as bucket:
        bucket.put_folder(material / "photos")
        bucket.put("photos/", b"")  # as consoles mark a folder
        bucket.put_folder(material / "run")
        bucket.latency.value = 0.05
        bucket.asked()
        begun = time.monotonic()
        images = list(find_images(f"s3://{BUCKET}/photos"))
        assert [content_key(str(image.content)) for image in images]
        assert bucket.asked()["list"] <= 5  # of three folders, and what a folder is
        far = predict(f"s3://{BUCKET}/photos", tmp_path / "far", run=f"s3://{BUCKET}/run")
        assert far == near
        assert time.monotonic() - begun < 60
        for missing in (f"s3://{BUCKET}/gone", "s3://gone/photos"):
            assert weakloc(["predict", run, missing, "--out", str(tmp_path / "no"), *QUICK]) == 2
