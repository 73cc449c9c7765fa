"""Parquet there and back, by the tools that read it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from tests.output.exporters.conftest import CLASS_NAMES
from weakloc.cli import run as weakloc
from weakloc.output.exporters import Content, export_format
from weakloc.output.exporters.jsonl import SCHEMA, write_predictions
from weakloc.output.exporters.parquet import parquet_columns
from weakloc.structures import Prediction


def with_pyarrow(path: str) -> list[dict[str, Any]]:
    from pyarrow import parquet

    table = parquet.read_table(path)
    names = parquet_columns().names
    assert table.select(names).schema.equals(parquet_columns())
    assert table.schema.metadata[b"schema"].decode() == SCHEMA
    return table.to_pylist()


def with_pandas(path: str) -> list[dict[str, Any]]:
    import pandas

    return pandas.read_parquet(path).to_dict("records")


def with_duckdb(path: str) -> list[dict[str, Any]]:
    import duckdb

    relation = duckdb.sql(f"select * from '{path}'")
    names = relation.columns
    return [dict(zip(names, row, strict=True)) for row in relation.fetchall()]


def with_datasets(path: str) -> list[dict[str, Any]]:
    import datasets

    return list(datasets.Dataset.from_parquet(path, cache_dir=str(Path(path).parent)))


READERS = {"pyarrow": with_pyarrow, "pandas": with_pandas, "duckdb": with_duckdb,
           "datasets": with_datasets}  # fmt: skip


def plain(value: Any) -> Any:
    """NumPy's and pandas' own as Python's, and no number where there is none."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return None if isinstance(value, float) and isnan(value) else value


def expected(prediction: Prediction) -> dict[str, Any]:
    def listed(items: Any, *names: str) -> list[dict[str, Any]]:
        return [
            {"class": item.class_name, **{name: getattr(item, name) for name in names}}
            for item in items
        ]

    rows = {
        "image": prediction.image,
        "width": prediction.width,
        "height": prediction.height,
        "scores": [{"class": name, "score": score} for name, score in prediction.scores.items()],
        "points": listed(prediction.points, "x", "y", "score", "heat"),
        "boxes": listed(prediction.boxes, "box", "score"),
        "masks": listed(prediction.masks, "rle", "score"),
        "doubt": prediction.doubt,
        "disagreements": listed(prediction.disagreements, "kind", "score"),
        "error": None,
        "tags": prediction.extra.get("tags"),
        "split": prediction.extra.get("split"),
    }
    return json.loads(json.dumps(rows, default=bytes.decode))


@pytest.mark.filterwarnings("ignore")  # of the readers themselves
@pytest.mark.parametrize("reader", READERS)
def test_rows_come_back_as_the_predictions(
    tmp_path: Path, predictions: list[Prediction], reader: str
) -> None:
    for package in ("pyarrow", reader):
        pytest.importorskip(package, reason=f"{package} is not installed")
    given = [replace(predictions[0], extra={"tags": ["cat"], "split": "val"}), *predictions[1:]]
    content = Content(iter(given), class_names=CLASS_NAMES)
    path = export_format("parquet", content, tmp_path)
    assert plain(READERS[reader](str(path))) == [*map(expected, given)]
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".parquet"] == [path.name]


@pytest.fixture
def pyarrow() -> Any:
    return pytest.importorskip("pyarrow", reason="pyarrow is not installed")


def test_no_predictions_make_a_table_without_rows(pyarrow: Any, tmp_path: Path) -> None:
    path = export_format("parquet", Content((), class_names=CLASS_NAMES), tmp_path)
    assert with_pyarrow(str(path)) == []


def test_what_fits_no_column_is_an_error(
    pyarrow: Any, tmp_path: Path, predictions: list[Prediction], capsys: pytest.CaptureFixture[str]
) -> None:
    odd = replace(predictions[0], extra={"tags": {"cat": 1}})
    write_predictions(tmp_path / "predictions.jsonl", [odd])
    flags = ["export", str(tmp_path), "--format", "parquet", "--out", str(tmp_path / "out")]
    assert weakloc(flags) == 2
    assert "does not fit the columns of Parquet" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_without_pyarrow_it_is_refused_before_anything_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    parquet_columns.cache_clear()
    (tmp_path / "image.png").touch()
    flags = ["predict", str(tmp_path), str(tmp_path), "--out", str(tmp_path / "out")]
    assert weakloc([*flags, "--format", "parquet"]) == 2
    assert 'Install it: pip install "weakloc[parquet]"' in capsys.readouterr().err
