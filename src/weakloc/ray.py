"""A run on batches of Ray Data: columns with images in, columns of predictions out.

    dataset.map_batches(BatchPredictor, fn_constructor_kwargs={"run": RUN}, batch_size=32)

What is said of an image is what its line of predictions.jsonl says. The types of the columns are
Arrow's own, so that Parquet keeps them, and the same in every batch.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from PIL import Image

from weakloc.api.fused_runs import predictor_with
from weakloc.data.readers.assembly import LabelClaim, LabelVectors
from weakloc.data.sources import ImageSource
from weakloc.errors import DataError, did_you_mean
from weakloc.files import ByName
from weakloc.output.exporters.parquet import parquet_columns, parquet_row
from weakloc.structures import BrokenImage, LabelVector, Prediction

CONTENTS = ("image", "bytes", "path")  # pixels, an encoded file, where it lies: the first counts


COLUMNS = parquet_columns()


class BatchPredictor:
    """What each actor of `map_batches` has one of: its run is loaded once, for all batches.

    `run` is whatever `weakloc predict` takes; `settings` are its flags by name, such as
    `min_score`, `threshold` or `masks`.
    """

    def __init__(self, run: str, **settings: Any) -> None:
        self.predictor = predictor_with(run, settings)
        self.class_names = self.predictor.source.class_names
        self._label_vectors = LabelVectors(self.class_names)

    def __call__(self, batch: Any) -> Any:
        """One row an image, in their order: what came in but pixels and bytes, then `COLUMNS`.

        `batch` holds NumPy's columns by name or is an Arrow table, and so is what comes out.
        An image is known by its `path`, if there is one. A column `tags` with lists of the classes
        that are present says what is in the images; nothing is known where it is null.
        """
        is_arrow = isinstance(batch, pa.Table)
        names = batch.column_names if is_arrow else batch
        values = {
            name: batch[name].to_pylist() if is_arrow else list(batch[name])
            for name in (*CONTENTS, "tags")
            if name in names
        }
        contents = next((values[name] for name in CONTENTS if name in values), None)
        if contents is None:
            raise DataError(
                f"the columns are {', '.join(map(repr, names))}, and none of them has images",
                remedy=f"Give the one that has them one of these names: {', '.join(CONTENTS)}",
            )
        records = self._records(contents, values.get("tags"))
        paths = values.get("path", [None] * len(contents))
        rows = [record | {"image": path} for record, path in zip(records, paths, strict=True)]
        table = pa.Table.from_pylist(rows, schema=COLUMNS)
        kept = {name: batch[name] for name in names if name not in {"bytes", *COLUMNS.names}}
        columns = kept | {name: table[name].combine_chunks() for name in COLUMNS.names}
        return pa.table(columns) if is_arrow else columns

    def _records(self, contents: list[Any], tags: list[Any] | None) -> list[dict[str, Any]]:
        """What is said of each image, but its name: many may have none, or the same."""
        sources, known = [], dict[str, LabelVector]()
        for number, content in enumerate(contents):
            source, labels = _source(str(number), content), tags and tags[number]
            if labels is not None:
                for label in sorted({*labels}.difference(self.class_names)):
                    remedy = did_you_mean(label, self.class_names)
                    flaw = f"the run has no class {label!r}. {remedy}"
                    source = ImageSource(source.name, b"", flaw=source.flaw or flaw)
                known[source.name] = self._label_vectors.of(LabelClaim.showing(*labels))
            sources.append(source)
        answers = self.predictor.predict(sources, None if tags is None else ByName(known))
        return [_record(answer) for answer in answers]


def _source(name: str, content: Any) -> ImageSource:
    """The image of a path, of a file's bytes or of pixels (rows, columns[, channels])."""
    if content is None:
        return ImageSource(name, b"", flaw="there is none: the column is null here")
    if isinstance(content, str | bytes):
        return ImageSource(name, content)
    try:
        return ImageSource.of_picture(name, Image.fromarray(content))
    except Exception as error:  # pixels of another program may be anything
        return ImageSource(name, b"", flaw=f"its pixels make no picture ({error})")


def _record(answer: Prediction | BrokenImage) -> dict[str, Any]:
    if isinstance(answer, BrokenImage):
        return {"error": answer.reason}
    return parquet_row(answer)
