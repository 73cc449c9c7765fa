"""A run on a Ray cluster: batches of Ray Data in and out, and the actors of `--engine ray`.

    dataset.map_batches(BatchPredictor, fn_constructor_kwargs={"run": RUN}, batch_size=32)

What is said of an image is what its line of predictions.jsonl says. The types of the columns are
Arrow's own, so that Parquet keeps them, and the same in every batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from weakloc.api.fused_runs import predictor_with
from weakloc.data.readers.assembly import LabelClaim, LabelVectors
from weakloc.data.sources import ImageSource
from weakloc.errors import DataError, FailureError, did_you_mean
from weakloc.files import ByName
from weakloc.output.exporters.parquet import parquet_columns, parquet_row
from weakloc.structures import BrokenImage, LabelVector
from weakloc.work import Result, Task

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
        return [
            {"error": answer.reason} if isinstance(answer, BrokenImage) else parquet_row(answer)
            for answer in answers
        ]


def _source(name: str, content: Any) -> ImageSource:
    """The image of a path, of a file's bytes or of pixels (rows, columns[, channels])."""
    if content is None:
        return ImageSource(name, b"", flaw="there is none: the column is null here")
    if isinstance(content, str | bytes):
        return ImageSource(name, content if isinstance(content, bytes) else str(Path(content)))
    try:
        return ImageSource.of_picture(name, Image.fromarray(content))
    except Exception as error:  # pixels of another program may be anything
        return ImageSource(name, b"", flaw=f"its pixels make no picture ({error})")


class _Actor:
    """A process of the cluster; one that took its place is prepared anew."""

    def __init__(self, folder: str, prepare: Callable[[], object]) -> None:
        with suppress(OSError):  # what is missing here, and is needed, is named later
            os.chdir(folder)
        self._preparations = [prepare]

    def call(self, function: Callable[[Task], Result], item: Task) -> Result:
        while self._preparations:
            self._preparations.pop()()
        return function(item)


MOST_DEATHS = 5  # of actors over the same item


def map_in_actors(
    function: Callable[[Task], Result],
    items: Iterable[Task],
    *,
    actors: int | None,
    address: str | None,
    if_killed: Callable[[Task], Result],
    prepare: Callable[[], object],
) -> Iterator[tuple[Task, Result]]:
    """As `map_in_processes` does it, by the actors of a cluster.

    Where their number is not given there is one for each GPU or, where there is none, each core.
    Ray replaces one that dies, alone or with its machine, and gives it the item again.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told of the user
    try:
        ray.init(address, ignore_reinit_error=True, log_to_driver=False, logging_level="WARNING")
    except (ConnectionError, ValueError) as error:
        remedy = "Give what `ray status` knows, such as auto or HOST:6379"
        raise FailureError(f"cannot join the cluster ({error})", remedy=remedy) from error
    gpus, cores = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    kept = {"max_restarts": -1, "max_task_retries": MOST_DEATHS}
    begin = ray.remote(num_cpus=1, num_gpus=int(gpus > 0), **kept)(_Actor).remote
    remaining, running = iter(items), dict[Any, tuple[Any, Task]]()
    idle = [begin(str(Path.cwd()), prepare) for _ in range(actors or gpus or cores)]
    try:
        while True:
            for actor, item in zip([*idle], remaining, strict=False):
                running[actor.call.remote(function, item)] = actor, item
                idle.remove(actor)
            while idle:  # others may wait for the room that it takes
                ray.kill(idle.pop())
            if not running:
                return
            (answer,), _ = ray.wait([*running])
            actor, item = running.pop(answer)
            idle.append(actor)
            try:
                result = ray.get(answer)
            except RayTaskError as error:
                raise error.cause from error
            except RayError:
                result = if_killed(item)
            yield item, result
    finally:
        for actor in (*idle, *(actor for actor, _ in running.values())):
            ray.kill(actor)
