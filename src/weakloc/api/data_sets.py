"""Reading, checking and making data sets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from weakloc.data.images import image_size
from weakloc.data.readers import raise_if_strict, read_data_set, table
from weakloc.data.readers.assembly import ALL, SPLIT_NAMES, Assembly, Problems, split_name
from weakloc.data.readers.review import Decision, Review, ReviewedImage, write_review
from weakloc.data.summary import ImageCheck, check_images
from weakloc.errors import DataError, SettingError, did_you_mean
from weakloc.files import file_name_of, write_whole
from weakloc.settings import DataSettings, require
from weakloc.structures import DataSet
from weakloc.synthetic.scenery import Kind, artist_from, artist_of, write_scenes
from weakloc.work import Progress, num_cores, silent

if TYPE_CHECKING:
    from supervision import Detections

Data: TypeAlias = str | Path | DataSet | Iterable[Any]  # any: a `datasets.Dataset`, or a dict


def read(data: str | Path | Iterable[Any], settings: DataSettings = DataSettings()) -> DataSet:
    """The data set that lies at a path, in whatever layout, or a Dataset (or DatasetDict)."""
    layout, labels = settings.layout, settings.labels
    if isinstance(data, str | Path):
        data_set = read_data_set(data, layout=layout, labels=labels, options=settings)
    elif layout or labels:
        raise SettingError("a Dataset brings its own labels", remedy="Leave out labels and layout")
    else:
        data_set = _read_records(data, settings)
    if settings.strict:
        raise_if_strict(data_set)
    return data_set


def opened(data: Data, reading: DataSettings = DataSettings()) -> DataSet:
    """What a verb is given as its data, which may have been read already."""
    return data if isinstance(data, DataSet) else read(data, reading)


def _read_records(data: Iterable[Any], settings: DataSettings) -> DataSet:
    """Images that are no files are written once, below the user's folder of caches."""
    split = SPLIT_NAMES.get(str(getattr(data, "split", None)), ALL)
    splits: Mapping[str, Any] = data if isinstance(data, Mapping) else {split: data}
    marks = [getattr(records, "_fingerprint", None) for records in splits.values()]
    if None in marks or not splits:
        reason = f"data of the type {type(data).__name__} is neither a path nor a datasets.Dataset"
        raise DataError(reason, remedy="Load it without streaming, or give the folder it lies in")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = caches / "weakloc" / "images" / "-".join(map(str, marks))
    rows: list[table.TableRow] = []
    names: list[str] = []
    problems = Problems()
    for split, records in splits.items():
        features = records.features.to_dict()
        images = [n for n, kind in records.features.items() if type(kind).__name__ == "Image"]
        usual = (n for n in (*table.PATH_HEADERS, *images) if n in (images or features))
        column = settings.path_column or next(usual, table.PATH_HEADERS[0])
        plain = _plain_records(records, column, cache / file_name_of(split))
        options = replace(settings, path_column=column)
        added = table.record_rows(enumerate(plain, start=1), options, problems.at(split))
        rows += [replace(row, split=split_name(split)) for row in added]
        columns = (settings.labels_column, *table.LABELS_HEADERS, "objects")
        labels = next((features[name] for name in columns if name in features), None)
        while isinstance(labels, Mapping) and "names" not in labels:
            labels = next(
                (labels[n] for n in ("feature", *table.OBJECT_HEADERS) if n in labels), None
            )
        names += labels["names"] if isinstance(labels, Mapping) else ()
    root = Path(os.path.commonpath([Path(row.image).parent for row in rows])) if rows else cache
    assembly = Assembly(root, "datasets", settings)
    assembly.problems.listed.extend(problems.listed)
    assembly.set_classes(names or sorted({name for row in rows for name in row.claim.names}))
    table.add_rows(assembly, rows, [root.as_posix()])
    return assembly.finish()


def _plain_records(records: Any, column: str, cache: Path) -> Iterator[Mapping[str, Any]]:
    """The rows with the paths of their images and the names of their classes."""
    records, features = records.with_format(None), records.features.to_dict()
    for name, feature in records.features.items():
        if hasattr(feature, "decode"):
            records = records.cast_column(name, type(feature)(decode=False))
    for number, record in enumerate(records):
        image = record.get(column)
        if not isinstance(image, Mapping):
            image = {"path": image} if isinstance(image, str) else {"bytes": image}
        path, content = image.get("path"), image.get("bytes")
        if isinstance(content, bytes):
            path = cache / f"{number:06}{Path(path or '').suffix or '.png'}"
            if not path.is_file() or path.stat().st_size != len(content):
                with write_whole(path) as temporary:
                    temporary.write_bytes(content)
        located = path and Path(path).absolute().as_posix()
        yield {**table.with_class_names(record, features), column: located}


def from_supervision(
    drawn: Mapping[str, Detections],
    images: str | Path,
    out: str | Path,
    *,
    class_names: Sequence[str],
) -> DataSet:
    """Drawn boxes from the package supervision: as a data set, and as the review `out`.

    `drawn` has the detections by image, as `DetectionDataset.annotations` does or by the path below
    `images`. They are of the class in `data["class_name"]` or else of the one that `class_id`
    counts in `class_names`, the classes of the run. Their other classes are unknown.
    """
    reviewed = []
    for image, detections in drawn.items():
        path = Path(images, image) if Path(images, image).is_file() else Path(image)
        names = _names_of(detections, image, class_names)
        boxes = list(zip(names, detections.xyxy.tolist(), strict=True))
        decisions = [
            Decision(name, "accepted", boxes=tuple(box for of, box in boxes if of == name))
            for name in dict.fromkeys(names)
        ]
        below = Path(os.path.relpath(path, images)).as_posix()
        reviewed.append(ReviewedImage(below, *image_size(path), tuple(decisions)))
    write_review(Path(out), Review(tuple(class_names), tuple(reviewed)))
    return read(images, DataSettings(labels=Path(out)))


def _names_of(detections: Detections, image: str, class_names: Sequence[str]) -> list[str]:
    """The class of each box; an error where it is none of the run's."""
    numbered, given = dict(enumerate(class_names)), detections.data.get("class_name")
    given = detections.class_id if given is None else given
    given = [None] * len(detections) if given is None else given
    names = [numbered.get(name, str(name)) for name in given]
    for name in {*names}.difference(class_names):
        remedy = did_you_mean(name, class_names)
        raise DataError(f"there is no class {name!r}", location=image, remedy=remedy)
    return names


def require_same_classes(
    names: Sequence[str], others: Sequence[str], *, of: str, location: str, remedy: str
) -> None:
    """DataError where classes, or their order, are not those `of` something else."""
    if tuple(names) != tuple(others):
        strange = [name for name in names if name not in others][:5]
        missing = [name for name in others if name not in names][:5]
        raise DataError(
            f"its classes differ from those of {of}, or their order does: "
            f"{strange or 'none'} only here, {missing or 'none'} only there",
            location=location,
            remedy=remedy,
        )


def check(data_set: DataSet, on_progress: Progress) -> ImageCheck:
    """Decodes every image with all cores; a script that calls it needs `__name__ == "__main__"`."""
    samples = list(data_set.samples())
    return check_images(samples, processes=num_cores(), on_progress=on_progress)


def scenes(
    folder: Path,
    *,
    kind: Kind = "clutter",
    source: Path | None = None,
    num_train: int = 1500,
    num_val: int = 300,
    seed: int = 0,
    on_progress: Progress = silent,
) -> None:
    """A stand-in data set with exact boxes, masks and tags, drawn or pasted from real crops."""
    for flag, count in {"train": num_train, "val": num_val}.items():
        require(count >= 0, flag, count, "Give 0 or more")
    artist = artist_of(kind) if source is None else artist_from(read(source))
    write_scenes(folder, artist, (num_train, num_val), seed=seed, on_progress=on_progress)
