"""A run on batches of Ray Data, against `weakloc predict`: alone, then in actors of real Ray."""

from __future__ import annotations

import json
import os
import signal
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from weakloc.cli import run as weakloc
from weakloc.errors import DataError, SettingError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
from weakloc.ray import COLUMNS, BatchPredictor, map_in_actors  # noqa: E402  # needs pyarrow

SETTINGS: dict[str, Any] = {"masks": "threshold", "min_score": 0.3, "points": 2, "map_side": 32}
FLAGS = ["--masks", "threshold", "--min-score", "0.3", "--points", "2", "--map-side", "32"]
NUM_PHOTOS = 12
Row = dict[str, Any]
of_ray = pytest.mark.filterwarnings("ignore")  # its own, of what it will change


@pytest.fixture(scope="module")
def photos(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes with names that need care, one of which is no image."""
    folder = tmp_path_factory.mktemp("photos")
    paths = sorted((scenes / "JPEGImages").iterdir())[:NUM_PHOTOS]
    for index, path in enumerate(paths):
        copy = folder / ("ü" if index % 2 else "a b") / f"{index:02}%20 日本.png"
        copy.parent.mkdir(exist_ok=True)
        with Image.open(path) as picture:
            picture.convert("RGB").crop((0, 0, 90 + index, 70)).save(copy)
    broken = sorted(folder.rglob("*.png"))[3]
    broken.write_bytes(broken.read_bytes()[:60])
    return folder


def predicted(run: Path, photos: Path, out: Path, *flags: str) -> dict[str, Row]:
    """What `weakloc predict` says of each image, with its path as name, as rows."""
    names = "\n".join(map(str, sorted(photos.rglob("*.png"))))
    (out / "list.txt").write_text(names)
    arguments = [str(run), str(out / "list.txt"), "--out", str(out / "predicted"), *FLAGS, *flags]
    assert weakloc(["predict", *arguments, "--quiet"]) == 0
    lines = (out / "predicted" / "predictions.jsonl").read_text().splitlines()
    rows = {line["image"]: line for line in map(json.loads, lines)}
    for row in rows.values():
        row["scores"] = [{"class": name, "score": p} for name, p in row["scores"].items()]
    for line in (out / "predicted" / "skipped.jsonl").read_text().splitlines():
        skipped = json.loads(line)
        rows[skipped["image"]] = {"image": skipped["image"], "error": skipped["reason"]}
    nothing = dict.fromkeys(COLUMNS.names)
    return {
        name: {column: (nothing | row)[column] for column in COLUMNS.names}
        for name, row in rows.items()
    }


@pytest.fixture(scope="module")
def right(trained: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """One image at a time, so that no digit depends on which images share a batch."""
    rows = predicted(trained, photos, tmp_path_factory.mktemp("right"), "--batch-size", "1")
    assert len(rows) == NUM_PHOTOS
    assert sum(row["error"] is not None for row in rows.values()) == 1
    assert all(sum(map(len, (row[kind] or () for row in rows.values()))) > NUM_PHOTOS / 2
               for kind in ("points", "boxes", "masks"))  # fmt: skip
    return rows


def rows_of(columns: Any) -> dict[str, Row]:
    """By the name of the image, of which there is one each."""
    rows = pa.table(columns).select(COLUMNS.names).to_pylist()
    by_name = {row["image"]: row for row in rows}
    assert len(by_name) == len(rows)
    return by_name


def objects(values: list[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


@pytest.mark.parametrize(  # pixels are no plain column of Arrow; Ray's are tried below
    ("kind", "is_arrow"),
    [("path", False), ("bytes", False), ("image", False), ("path", True), ("bytes", True)],
)
def test_a_batch_is_answered_to_the_digit_as_in_predictions_jsonl(
    trained: Path, photos: Path, right: dict[str, Row], kind: str, is_arrow: bool
) -> None:
    paths = sorted(photos.rglob("*.png"))
    broken = {name for name, row in right.items() if row["error"]}
    columns = {"path": [*map(str, paths)], "place": [*range(len(paths))]}
    if kind == "bytes":
        columns["bytes"] = [path.read_bytes() for path in paths]
    if kind == "image":
        columns["image"] = [
            np.zeros((4, 5, 7)) if str(path) in broken else np.asarray(Image.open(path))
            for path in paths
        ]
    whole = pa.table(columns) if is_arrow else {k: objects(v) for k, v in columns.items()}
    answer = BatchPredictor(str(trained), batch_size=1, **SETTINGS)(whole)
    assert isinstance(answer, pa.Table) == is_arrow
    assert pa.table(answer).column_names == ["path", "place", *COLUMNS.names]
    assert pa.table(answer)["place"].to_pylist() == [*range(len(paths))]
    rows = rows_of(answer)
    if kind == "image":
        assert "make no picture" in rows[min(broken)]["error"]
        rows = {name: row for name, row in rows.items() if name not in broken}
    assert rows == {name: right[name] for name in rows}


def test_batches_of_the_size_of_both_share_their_digits_too(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    rows = predicted(trained, photos, tmp_path)
    paths = objects(sorted(map(str, photos.rglob("*.png"))))
    assert rows_of(BatchPredictor(str(trained), **SETTINGS)({"path": paths})) == rows


def test_columns_have_one_schema_whatever_is_in_them(trained: Path, photos: Path) -> None:
    predictor = BatchPredictor(str(trained), boxes="none", points=0)
    photo = str(min(photos.rglob("*.png")))
    batches = [[], ["gone.png"], [photo], [None, "", "a\0b"]]
    tables = [predictor(pa.table({"path": pa.array(paths, pa.string())})) for paths in batches]
    assert {len(table) for table in tables} == {0, 1, 3}
    for table in tables:
        assert table.select(COLUMNS.names).schema.equals(COLUMNS)
    (found,) = tables[2].to_pylist()
    assert found["boxes"] == found["points"] == found["masks"] == []
    (gone,) = tables[1].to_pylist()
    assert gone.pop("error") == "there is no such file"
    assert gone.pop("image") == gone.pop("path") == "gone.png"
    assert set(gone.values()) == {None}
    assert all(tables[3]["error"].to_pylist())


def test_tags_say_what_is_in_the_images(trained: Path, photos: Path, tmp_path: Path) -> None:
    predictor = BatchPredictor(str(trained), batch_size=1, sure=0.5, **SETTINGS)
    first, second, *_ = predictor.class_names
    paths = sorted(map(str, photos.rglob("*.png")))
    tags = [[first], [second, first], None, [], [], ["dgo"], *[[second]] * (len(paths) - 6)]
    known = {path: labels for path, labels in zip(paths, tags, strict=True) if labels is not None}
    lines = [{"path": p, "labels": [n for n in t if n != "dgo"]} for p, t in known.items()]
    (tmp_path / "tags.jsonl").write_text("\n".join(map(json.dumps, lines)))
    given = ["--tags", str(tmp_path / "tags.jsonl"), "--batch-size", "1", "--sure", "0.5"]
    right = predicted(trained, photos, tmp_path, *given)
    table = predictor(pa.table({"path": paths, "tags": tags}))
    assert table["tags"].to_pylist() == tags
    rows = rows_of(table)
    columns = {"path": objects(paths), "tags": objects(tags)}
    assert rows_of(predictor(columns)) == rows
    assert "the run has no class 'dgo'. Choose one of" in rows.pop(paths[5])["error"]
    del right[paths[5]]
    assert rows == right
    assert any(row["disagreements"] for row in rows.values())


def test_what_cannot_be_asked_for_is_named(trained: Path) -> None:
    with pytest.raises(DataError, match="columns are 'jpg', 'key', and none of them has images"):
        BatchPredictor(str(trained))({"jpg": objects([b""]), "key": objects(["a"])})
    with pytest.raises(SettingError, match=r"no setting 'mask'. Did you mean 'masks'"):
        BatchPredictor(str(trained), mask="crf")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray on two cores of this machine, whose workers import what this process does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        package = pytest.importorskip("ray.data", reason="ray is not installed")
        import ray

        ray.init(
            num_cpus=2,
            object_store_memory=200 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
        )
        package.DataContext.get_current().enable_progress_bars = False
        yield ray
        ray.shutdown()


def with_bytes(ray: Any, photos: Path, tmp_path: Path) -> Any:
    return ray.data.read_binary_files(str(photos), include_paths=True)


def with_shards(ray: Any, photos: Path, tmp_path: Path) -> Any:
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for path in photos.rglob("*.png"):
            shard.add(path, path.relative_to("/"))
    shards = ray.data.read_webdataset(str(tmp_path / "shard.tar"), decoder=None)
    return shards.rename_columns({"png": "bytes", "__key__": "path"})


@pytest.mark.slow
@of_ray
@pytest.mark.parametrize("source", [with_bytes, with_shards])
def test_map_batches_says_what_predict_says_and_parquet_keeps_it(
    ray: Any,
    trained: Path,
    photos: Path,
    right: dict[str, Row],
    tmp_path: Path,
    source: Callable[..., Any],
) -> None:
    found = source(ray, photos, tmp_path).map_batches(
        BatchPredictor,
        fn_constructor_kwargs={"run": str(trained), **SETTINGS, "batch_size": 1},
        batch_size=5,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    found.write_parquet(str(tmp_path / "predictions"))
    from pyarrow import parquet

    table = parquet.read_table(tmp_path / "predictions")
    assert table.select(COLUMNS.names).schema.equals(COLUMNS)
    rows = rows_of(table)
    if source is with_shards:  # names are keys there
        rows = {f"/{key}.png": row | {"image": f"/{key}.png"} for key, row in rows.items()}
    assert rows == right
    again = ray.data.read_parquet(str(tmp_path / "predictions"))
    assert sum(row["error"] is not None for row in again.take_all()) == 1


@pytest.mark.slow
@of_ray
@pytest.mark.parametrize("batch_format", ["numpy", "pyarrow"])
def test_pixels_of_read_images_are_taken_as_they_are(
    ray: Any, trained: Path, photos: Path, right: dict[str, Row], batch_format: str
) -> None:
    whole = [name for name, row in right.items() if row["error"] is None]
    found = ray.data.read_images(whole, include_paths=True, mode="RGB").map_batches(
        BatchPredictor,
        fn_constructor_kwargs={"run": str(trained), **SETTINGS, "batch_size": 1},
        batch_size=5,
        batch_format=batch_format,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    tables = [*map(ray.get, found.to_arrow_refs())]
    assert rows_of(pa.concat_tables(tables)) == {name: right[name] for name in whole}


@pytest.mark.slow
@of_ray
def test_every_image_is_there_once_where_an_actor_is_killed(
    ray: Any, trained: Path, photos: Path, right: dict[str, Row], tmp_path: Path
) -> None:
    class Mortal(BatchPredictor):
        """Dies once, between two batches of which the first was answered."""

        num_batches = 0

        def __call__(self, batch: Any) -> Any:
            self.num_batches += 1
            if self.num_batches == 2 and not (tmp_path / "killed").exists():
                (tmp_path / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    paths = [{"path": str(path)} for path in photos.rglob("*.png")]
    found = ray.data.from_items(paths, override_num_blocks=6).map_batches(
        Mortal,
        fn_constructor_kwargs={"run": str(trained), **SETTINGS, "batch_size": 1},
        batch_size=2,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    tables = [*map(ray.get, found.to_arrow_refs())]
    assert (tmp_path / "killed").exists()
    assert rows_of(pa.concat_tables(tables)) == right


@pytest.mark.slow
@of_ray
def test_items_are_taken_while_there_is_room_for_them(ray: Any) -> None:
    """So that the first result is there before the last image is listed."""
    items = iter(range(-1, -(10**9), -1))
    results = map_in_actors(abs, items, actors=2, address=None, if_killed=abs, prepare=dict)
    assert sorted(next(results) for _ in range(3)) == [(-3, 3), (-2, 2), (-1, 1)]
    assert next(items) >= -6
    results.close()


RESULTS = ("predictions.jsonl", "skipped.jsonl", "predictions.json")


@pytest.fixture
def ways(
    ray: Any, trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[str]]:
    """The same command by this process and by two actors; the photographs have three parts."""
    monkeypatch.chdir(photos.parent)
    monkeypatch.setattr("weakloc.api.predictions.PART_SIZE", 5)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = ["predict", str(trained), photos.name, *FLAGS, "--quiet", "--heat-maps", "--out"]
    actors = ["--engine", "ray", "--devices", "2"]
    return {"local": [*command, str(tmp_path / "local")],
            "ray": [*command, str(tmp_path / "ray"), *actors]}  # fmt: skip


@pytest.mark.slow
@of_ray
def test_actors_write_the_files_that_this_process_writes(
    ways: dict[str, list[str]], tmp_path: Path
) -> None:
    for command in ways.values():
        assert weakloc(command) == 0
    for name in RESULTS:
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    maps = [sorted(path.relative_to(tmp_path / way) for path in (tmp_path / way).rglob("*.png"))
            for way in ways]  # fmt: skip
    assert maps[0] == maps[1]
    assert len(maps[0]) >= NUM_PHOTOS - 1


@pytest.mark.slow
@of_ray
def test_a_machine_with_another_run_ends_the_command_in_one_line(
    ways: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("weakloc.api.predictions.version_of", lambda *_: "another")
        assert weakloc(ways["ray"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("weakloc: the machine ")
    assert "has another run, or does not see" in line
    assert not (tmp_path / "ray" / "predictions.jsonl").exists()
