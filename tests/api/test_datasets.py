"""Data sets of Hugging Face's `datasets` in place of a path; it is no dependency, so a stand-in
that behaves like one is asked first, the package itself where it is installed."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import weakloc
from weakloc.errors import DataError, SettingError
from weakloc.settings import DataSettings

NAMES = {"_type": "ClassLabel", "names": ["dog", "cat"]}
IMAGE = {"_type": "Image"}


class Features(dict[str, Any]):
    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(feature, "described", feature) for name, feature in self.items()}


@dataclass(frozen=True)
class ImageFeature:
    decode: bool = True
    described = IMAGE


@dataclass(frozen=True)
class StandIn:
    """Rows with bytes or paths of images, which decode to pictures unless they are cast."""

    rows: tuple[dict[str, Any], ...]
    features: Features
    split: str | None = None
    _fingerprint: str = "f00d"

    def with_format(self, _kind: None) -> StandIn:
        return self

    def cast_column(self, name: str, feature: Any) -> StandIn:
        return replace(self, features=Features({**self.features, name: feature}))

    def __iter__(self) -> Any:
        for row in self.rows:
            for name in self.features:
                assert not getattr(self.features[name], "decode", False), f"{name} is decoded"
            yield {name: row[name] for name in self.features}


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (value, 90, 10)).save(stream, "png")
    return stream.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weakloc" / "images"


def test_images_that_are_bytes_are_written_once_and_classes_keep_their_order(cache: Path) -> None:
    rows = tuple(
        {"image": {"bytes": png(i), "path": "x y.png" if i else None}, "label": (0, 1, -1)[i]}
        for i in range(3)
    )
    features = Features(image=ImageFeature(), label=NAMES)
    data = {"train": StandIn(rows, features), "validation": StandIn(rows[:1], features)}
    data_set = weakloc.read(data)
    assert data_set.class_names == ("dog", "cat")
    assert {
        split: [s.labels.tolist() for s in samples] for split, samples in data_set.splits.items()
    } == {"train": [[1, -1], [-1, 1], [0, 0]], "val": [[1, -1]]}
    names = [sample.name for sample in data_set.samples()]
    assert names == ["train/000000.png", "train/000001.png", "train/000002.png",
                     "validation/000000.png"]  # fmt: skip
    assert data_set.root == cache / "f00d-f00d"
    for number, sample in enumerate(data_set.splits["train"]):
        assert Path(sample.path).read_bytes() == png(number)
    times = [Path(sample.path).stat().st_mtime_ns for sample in data_set.samples()]
    again = weakloc.read(data)
    assert [Path(sample.path).stat().st_mtime_ns for sample in again.samples()] == times


def test_images_that_are_files_stay_where_they_are(tmp_path: Path, cache: Path) -> None:
    rows = []
    for name, tags in (("a/1.png", ["dog", "cat"]), ("b/ü 2.png", []), ("gone.png", None)):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name != "gone.png":
            path.write_bytes(png(1))
        rows.append({"img": str(path), "tags": tags, "mask": None})
    features = Features(
        img={"_type": "Value"}, tags={"_type": "List", "feature": NAMES}, mask=IMAGE
    )
    for row in rows[:2]:
        row["tags"] = [("dog", "cat").index(tag) for tag in row["tags"]]
    data_set = weakloc.read(
        StandIn(tuple(rows), features, split="test"), DataSettings(path_column="img")
    )
    assert data_set.root == tmp_path / "photos"
    assert {s.name: s.labels.tolist() for s in data_set.splits["test"]} == {
        "a/1.png": [1, 1],
        "b/ü 2.png": [-1, -1],
    }
    assert [(p.kind, p.location) for p in data_set.problems] == [("missing image", "test, line 3")]
    assert not cache.exists()


def test_text_as_labels_and_objects_as_truth() -> None:
    objects = {"bbox": [[4, 3, 10, 20]], "category": [1]}
    described = {"bbox": {"_type": "List"}, "category": {"_type": "List", "feature": NAMES}}
    rows = ({"image": {"bytes": png(1), "path": None}, "objects": objects},)
    data_set = weakloc.read(StandIn(rows, Features(image=ImageFeature(), objects=described)))
    assert data_set.class_names == ("dog", "cat")
    (sample,) = data_set.splits["all"]
    assert sample.labels.tolist() == [-1, 1]
    assert sample.drawn.boxes[0].box == (4, 3, 14, 23)
    rows = ({"image": {"bytes": png(1), "path": None}, "label": "zebra;ant"},)
    text = StandIn(rows, Features(image=ImageFeature(), label={"_type": "Value"}))
    assert weakloc.read(text).class_names == ("ant", "zebra")


def test_rows_without_an_image_are_problems() -> None:
    rows = ({"image": None, "label": 0}, {"image": {"bytes": png(1), "path": None}, "label": 0})
    data_set = weakloc.read(StandIn(rows, Features(image=ImageFeature(), label=NAMES)))
    assert [p.location for p in data_set.problems if p.kind == "unreadable label"] == [
        "all, line 1"
    ]
    with pytest.raises(DataError, match="unreadable label"):
        weakloc.read(StandIn(rows, Features(image=ImageFeature(), label=NAMES)),
                     DataSettings(strict=True))  # fmt: skip


def test_what_is_no_data_set_says_what_would_do(tmp_path: Path) -> None:
    for strange in (5, {}, {"train": [1, 2]}):
        with pytest.raises(DataError, match=r"neither a path nor a datasets\.Dataset"):
            weakloc.train(strange, out=tmp_path / "run")  # type: ignore[arg-type]
    rows = ({"text": "a"},)
    with pytest.raises(DataError, match="there is no image path among text"):
        weakloc.read(StandIn(rows, Features(text={"_type": "Value"})))
    with pytest.raises(DataError, match="holds no image with labels"):
        weakloc.read(StandIn((), Features(image=ImageFeature(), label=NAMES)))
    data = StandIn((), Features(image=ImageFeature(), label=NAMES))
    with pytest.raises(SettingError, match="brings its own labels"):
        weakloc.read(data, DataSettings(labels=tmp_path / "tags.csv"))


@pytest.fixture
def theirs() -> Any:
    """A DatasetDict with pictures in memory, lists of tags and further columns."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    random = np.random.default_rng(3)

    def rows(count: int) -> Any:
        pictures = [Image.fromarray(random.integers(0, 255, (48, 64, 3), np.uint8))
                    for _ in range(count)]  # fmt: skip
        tags = [[i % 2] if i % 5 else [0, 1] for i in range(count)]
        columns = {"image": pictures, "mask": pictures, "labels": tags, "text": ["x"] * count}
        features = datasets.Features(
            image=datasets.Image(), mask=datasets.Image(), text=datasets.Value("string"),
            labels=datasets.Sequence(datasets.ClassLabel(names=["round", "a square"])),
        )  # fmt: skip
        return datasets.Dataset.from_dict(columns, features=features)

    return datasets.DatasetDict(train=rows(12), validation=rows(4))


@pytest.mark.filterwarnings("ignore")
def test_datasets_themselves_are_trained_on_labelled_and_predicted(
    theirs: Any, tmp_path: Path
) -> None:
    small = weakloc.LabelSettings(
        backbone="tiny[width=8]", weights="none", image_size=64, epochs=1, localiser="score_map"
    )
    labelled = weakloc.label(theirs, tmp_path / "labelled", settings=small)
    assert labelled.findings.num_images == 16
    assert set(labelled.findings.boxes) == {"round", "a square"}
    yolo = tmp_path / "labelled/yolo"
    assert len(list((yolo / "labels/val").rglob("*.txt"))) == 4
    assert len([path for path in (yolo / "images/train").rglob("*.png") if path.is_file()]) == 12
    settings = weakloc.TrainSettings(
        backbone="tiny[width=8]", weights="none", image_size=64, epochs=1, workers=0
    )
    run = weakloc.train(theirs, out=tmp_path / "run", settings=settings)
    written = weakloc.predict_to_folder(tmp_path / "run", theirs["validation"], tmp_path / "found")
    assert written.num_done == 4
    result = weakloc.evaluate(run, theirs)
    assert result is not None


@pytest.mark.filterwarnings("ignore")
def test_datasets_that_were_filtered_shuffled_and_streamed(theirs: Any) -> None:
    shuffled = theirs["train"].shuffle(seed=1).select(range(5)).with_format("torch")
    data_set = weakloc.read(shuffled)
    assert len(data_set.splits["all"]) == 5
    first = np.asarray(Image.open(data_set.splits["all"][0].path))
    assert (first == np.asarray(theirs["train"].shuffle(seed=1)[0]["image"])).all()
    with pytest.raises(DataError, match="Load it without streaming"):
        weakloc.read(theirs["train"].to_iterable_dataset())
