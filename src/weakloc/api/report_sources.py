"""What a report is made from: images, truth, metrics and the run behind a prediction file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from weakloc.api.prediction_files import read_json_object
from weakloc.api.runs import TrainedRun, load
from weakloc.config import PredictSettings
from weakloc.errors import DataError, ImageError, SettingError, did_you_mean
from weakloc.methods.settings import from_settings
from weakloc.predictor.sources import ImageSource, find_images
from weakloc.structures import DataSet, Sample

MOST_PICTURES = 200


@dataclass(frozen=True)
class Reporting:
    """What a report is made from besides its predictions.

    `images` is whatever `weakloc predict` takes; without it a run sees the split of `truth`, and
    a prediction file names its images itself. `run` gives a prediction file the heat maps.
    """

    images: str | None = None
    run: Path | None = None
    metrics: Path | None = None
    truth: DataSet | None = None
    split: str = "val"
    tags: Path | None = None
    most_pictures: int = MOST_PICTURES
    settings: PredictSettings | None = None


def images_to_see(reporting: Reporting) -> Iterator[ImageSource]:
    """The images of the folder, list or shards that was named, else those of the split."""
    if reporting.images is not None:
        return find_images(reporting.images)
    if reporting.truth is None:
        raise DataError(
            "no images are given",
            remedy="Give a folder of images after the run, or a data set with --data",
        )
    samples = samples_of(reporting.truth, reporting.split)
    return (ImageSource(sample.name, sample.path) for sample in samples)


def remembered(
    sources: Iterable[ImageSource], contents: dict[str, str | bytes]
) -> Iterator[ImageSource]:
    """The same images; what is in them is noted until somebody takes it out again."""
    for source in sources:
        contents[source.name] = source.content
        yield source


def contents_of(names: Collection[str], reporting: Reporting) -> dict[str, str | bytes]:
    """Where the images of these names are, as far as they are found."""
    if reporting.images is None and reporting.truth is None:
        return {}
    if reporting.images is not None and Path(reporting.images).is_dir():
        paths = {name: Path(reporting.images, name) for name in names}
        return {name: str(path) for name, path in paths.items() if path.is_file()}
    sources = images_to_see(reporting)
    return {source.name: source.content for source in sources if source.name in names}


def samples_of(data_set: DataSet, split: str) -> Sequence[Sample]:
    if split not in data_set.splits:
        remedy = did_you_mean(split, data_set.splits)
        raise DataError(f"there is no split {split!r}", where=str(data_set.root), remedy=remedy)
    return data_set.splits[split]


class TruthByName:
    """Samples by their name, or by their last part where that names one only."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._by_name: dict[str, Sample] = {}
        self._by_file: dict[str, Sample | None] = {}
        for sample in samples:
            self._by_name[sample.name] = sample
            file = sample.name.rpartition("/")[2]
            self._by_file[file] = None if file in self._by_file else sample

    def of(self, image_name: str) -> Sample | None:
        named = self._by_name.get(image_name)
        return named or self._by_file.get(image_name.rpartition("/")[2])


def truth_by_name(reporting: Reporting) -> TruthByName:
    if reporting.truth is None:
        return TruthByName(())
    return TruthByName(samples_of(reporting.truth, reporting.split))


def read_metrics_file(
    reporting: Reporting, folder: Path, run: Path | None
) -> Mapping[str, Any] | None:
    """The metrics that were named, else metrics.json in the folder; of several, the run's own."""
    file = reporting.metrics or folder / "metrics.json"
    if reporting.metrics is None and not file.is_file():
        return None
    record = read_json_object(file)
    several = record.get("runs")
    if isinstance(several, list) and run is not None:
        own = (each for each in several if Path(str(each.get("evaluated"))).name == run.name)
        return next(own, record)
    return record


def run_behind(described: Mapping[str, Any], reporting: Reporting) -> TrainedRun | None:
    """The run that was named, else the one that made the predictions where it is still there."""
    if reporting.run is not None:
        return load(reporting.run)
    named = described.get("run")
    if isinstance(named, str) and (Path(named) / "run.json").is_file():
        return load(named)
    return None


def settings_of(described: Mapping[str, Any]) -> PredictSettings:
    """How the predictions were made; the defaults where that is not known."""
    stored = described.get("settings")
    if not isinstance(stored, Mapping):
        return PredictSettings()
    try:
        return from_settings(PredictSettings, stored)
    except SettingError:  # of another version
        return PredictSettings()


def no_picture(name: str) -> NoReturn:
    """Opens an image of which nobody knows where it is."""
    raise ImageError("the images of these predictions were not given", where=name)
