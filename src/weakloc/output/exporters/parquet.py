"""Parquet: one row an image, in nested lists of types that never change.

`weakloc.ray` gives batches the same columns. The metadata of the file name their schema.
"""

from __future__ import annotations

from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weakloc.errors import PredictionsError, needing
from weakloc.files import write_whole
from weakloc.output.exporters.jsonl import SCHEMA, record_of
from weakloc.output.exporters.selection import Content
from weakloc.structures import Prediction

if TYPE_CHECKING:
    import pyarrow

ROWS_AT_ONCE = 1024


@cache
def parquet_columns() -> pyarrow.Schema:
    """Of all that is said of an image; `error` is for one of which nothing can be said."""
    with needing("weakloc[parquet]"):
        import pyarrow as pa

    def listed(**types: pa.DataType) -> pa.DataType:
        """Of any number of things said of a class."""
        return pa.list_(pa.struct({"class": pa.string(), **types}))

    number, run_lengths = pa.float64(), {"size": pa.list_(pa.int64()), "counts": pa.string()}
    types = {
        "image": pa.string(),
        "width": pa.int64(),
        "height": pa.int64(),
        "scores": listed(score=number),
        "points": listed(x=number, y=number, score=number, heat=number),
        "boxes": listed(box=pa.list_(number), score=number),
        "masks": listed(rle=pa.struct(run_lengths), score=number),
        "doubt": number,
        "disagreements": listed(kind=pa.string(), score=number),
        "error": pa.string(),
    }
    return pa.schema(types, metadata={"schema": SCHEMA})


def parquet_row(prediction: Prediction) -> dict[str, Any]:
    """By column; with `tags` and `split` where it has them."""
    scores = [{"class": name, "score": score} for name, score in prediction.scores.items()]
    return {**prediction.extra, **record_of(prediction), "scores": scores}


def export_parquet(content: Content, out: Path) -> Path:
    schema = parquet_columns()
    import pyarrow as pa
    from pyarrow import parquet

    for name, kind in {"tags": pa.list_(pa.string()), "split": pa.string()}.items():
        schema = schema.append(pa.field(name, kind))
    path, rows = out / "predictions.parquet", map(parquet_row, content.predictions)
    with write_whole(path) as temporary, parquet.ParquetWriter(temporary, schema) as file:
        while chunk := list(islice(rows, ROWS_AT_ONCE)):
            try:
                file.write_table(pa.Table.from_pylist(chunk, schema=schema))
            except pa.ArrowException as error:
                raise PredictionsError(f"does not fit the columns of Parquet ({error})") from error
    return path
