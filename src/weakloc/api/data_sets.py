"""Reading, checking and making data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weakloc.data.images import open_image
from weakloc.data.readers import raise_if_strict, read_data_set
from weakloc.data.summary import ImageCheck, check_images
from weakloc.errors import DataError
from weakloc.settings import DataSettings
from weakloc.structures import DataSet
from weakloc.synthetic.folder import Kind, artist_from, artist_of, write_scenes
from weakloc.synthetic.scenery import Difficulty
from weakloc.work import Progress, num_cores, silent


def read(data: str | Path, settings: DataSettings = DataSettings()) -> DataSet:
    """The data set that lies at a path, in whatever layout."""
    layout, labels = settings.layout, settings.labels
    data_set = read_data_set(data, layout=layout, labels=labels, options=settings)
    if settings.strict:
        raise_if_strict(data_set)
    return data_set


def opened(data: str | Path | DataSet, reading: DataSettings = DataSettings()) -> DataSet:
    """What a verb is given as its data, which may have been read already."""
    return data if isinstance(data, DataSet) else read(data, reading)


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
    return check_images(
        list(data_set.samples()),
        open_image=open_image,
        processes=num_cores(),
        on_progress=on_progress,
    )


def scenes(
    folder: Path,
    *,
    kind: Kind = "clutter",
    difficulty: Difficulty = "normal",
    source: Path | None = None,
    num_train: int = 1500,
    num_val: int = 300,
    seed: int = 0,
    on_progress: Progress = silent,
) -> None:
    """A stand-in data set with exact boxes, masks and tags, drawn or pasted from real crops."""
    if num_train < 0 or num_val < 0:
        raise DataError(
            f"{num_train} training and {num_val} validation scenes are asked for",
            remedy="Give 0 or more of each",
        )
    artist = artist_of(kind, difficulty) if source is None else artist_from(read(source))
    write_scenes(
        folder,
        num_train=num_train,
        num_val=num_val,
        seed=seed,
        artist=artist,
        on_progress=on_progress,
    )
