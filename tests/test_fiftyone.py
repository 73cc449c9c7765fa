"""FiftyOne itself: it reads what was exported and uses a run as a model of its zoo.

Its dataset needs a database: FIFTYONE_DATABASE_URI names one. Labels and models do without.
"""

from __future__ import annotations

import io
import os
import shutil
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serving.running import png, watched_source
from weakloc.output.exporters import Content, export_format
from weakloc.predictor.predictor import Predictor
from weakloc.rle import encode_mask
from weakloc.settings import Look, Places
from weakloc.structures import Box, Disagreement, Mask, Point, Prediction

FOLDER = Path(__file__).parents[1] / "integrations" / "fiftyone"
needs_database = pytest.mark.skipif(
    "FIFTYONE_DATABASE_URI" not in os.environ, reason="FIFTYONE_DATABASE_URI names no database"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # of what FiftyOne imports


@pytest.fixture(scope="module")
def fo() -> ModuleType:
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "1")
    os.environ.setdefault("FIFTYONE_SHOW_PROGRESS_BARS", "0")
    if "FIFTYONE_DATABASE_URI" not in os.environ:
        os.environ["FIFTYONE_DISABLE_SERVICES"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("fiftyone", reason="fiftyone is not installed")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Two images, of which the second is the more doubtful and contradicts its tag."""
    mask = np.zeros((60, 90), dtype=bool)
    mask[10:30, 20:50] = True
    box, point = Box("cat", (20, 10, 50, 30), 0.75), Point("cat", 45, 15, 0.9, 3.5)
    scores = dict.fromkeys(("cat", "a dog"), 0.5)
    predictions = [
        Prediction("1.png", 90, 60, scores, (point,), (box,), (Mask("cat", encode_mask(mask), 1),)),
        Prediction(
            "b ü/2.png", 90, 60, scores, doubt=0.8,
            disagreements=(Disagreement("a dog", "missing", 0.25),), extra={"split": "val"},
        ),
    ]  # fmt: skip
    (tmp_path / "images" / "b ü").mkdir(parents=True)
    for prediction in predictions:
        Image.new("RGB", (90, 60)).save(tmp_path / "images" / prediction.image)
    content = Content(predictions, list(scores), tmp_path / "images")
    return export_format("fiftyone", content, tmp_path / "fiftyone")


def check(samples: list[Any]) -> None:
    first, second = samples
    (box,), (point,) = first.boxes.detections, first.points.keypoints
    assert (box.label, box.confidence) == ("cat", 0.75)
    assert np.multiply(box.bounding_box, [90, 60, 90, 60]).tolist() == pytest.approx(
        [20, 10, 30, 20]
    )
    assert box.mask.shape == (20, 30)
    assert box.mask.all()
    assert point.points == [[0.5, 0.25]]
    assert (point.confidence, point.heat) == ([0.9], 3.5)
    assert (first.doubt, first.disagreement, second.disagreement) == (0, 0, 0.75)
    assert [tag.kind for tag in second.disagreements.classifications] == ["missing"]
    assert second.tags == ["val"]


def test_fiftyone_takes_each_sample(fo: ModuleType, exported: Path) -> None:
    from fiftyone.utils.data.importers import LegacyFiftyOneDatasetImporter

    importer = LegacyFiftyOneDatasetImporter(str(exported))
    importer.setup()
    samples = list(importer)
    check(samples)
    assert Path(samples[1].filepath).samefile(exported.parent / "images" / "b ü" / "2.png")
    assert importer.get_dataset_info() == {"classes": ["cat", "a dog"]}


@needs_database
def test_a_dataset_is_made_of_the_folder_and_sorted_by_doubt(
    fo: ModuleType, exported: Path
) -> None:
    kind = fo.types.FiftyOneDataset
    dataset = fo.Dataset.from_dir(dataset_dir=str(exported), dataset_type=kind)
    check(list(dataset))
    assert dataset.default_classes == ["cat", "a dog"]
    for field in ("doubt", "disagreement"):
        ordered = dataset.sort_by(field, reverse=True)
        assert [Path(path).name for path in ordered.values("filepath")] == ["2.png", "1.png"]
    dataset.delete()


@pytest.fixture
def model(fo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The zoo's, from an archive of the folder at an address."""
    import fiftyone.zoo as foz

    def predictor_of(
        run: str, also: object, look: Look, places: Places
    ) -> tuple[Predictor, dict[str, object]]:
        assert (run, look.workers, places.masks) == ("my runs/1", 0, "threshold")
        return Predictor(watched_source(), look, places, thresholds=(0.5,) * 3), {}

    monkeypatch.setattr("weakloc.api.fused_runs.predictor_of", predictor_of)
    monkeypatch.setattr(fo.config, "model_zoo_dir", str(tmp_path / "zoo"))
    shutil.make_archive(str(tmp_path / "weakloc"), "zip", FOLDER)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        foz.register_zoo_model_source(f"http://127.0.0.1:{http.server_port}/weakloc.zip")
        assert "weakloc" in foz.list_zoo_models()
        settings = {"masks": "threshold", "workers": 0}
        yield foz.load_zoo_model("weakloc", run="my runs/1", **settings, ensure_requirements=False)
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def pictures() -> list[np.ndarray]:
    contents = png(0), png(2, left=50, size=(120, 60))
    return [np.asarray(Image.open(io.BytesIO(content))) for content in contents]


def check_labels(labels: dict[str, Any], colour: str, box: list[float], width: int) -> None:
    (detection,) = labels["boxes"].detections
    assert detection.label == colour
    sides = [width, 60, width, 60]
    assert np.multiply(detection.bounding_box, sides).tolist() == pytest.approx(box, abs=2)
    assert detection.mask.shape == pytest.approx((box[3], box[2]), abs=2)
    (point,) = labels["points"].keypoints
    x, y = np.multiply(point.points[0], [width, 60])
    assert box[0] < x < box[0] + box[2]
    assert box[1] < y < box[1] + box[3]
    _, columns = np.unravel_index(labels["heat"].map.argmax(), labels["heat"].map.shape)
    assert box[0] - 4 < columns * width / labels["heat"].map.shape[1] < box[0] + box[2] + 4
    assert labels["heat"].map.max() == 255
    assert [label.label for label in labels["classes"].classifications] == [colour]
    assert 0 <= labels["doubt"] <= 1


def test_the_zoo_s_model_gives_labels(fo: ModuleType, model: Any) -> None:
    red, blue = pictures()
    check_labels(model.predict(red), "red", [20, 14, 24, 21], 91)
    both = model.predict_all([red, blue])
    check_labels(both[0], "red", [20, 14, 24, 21], 91)
    check_labels(both[1], "blue", [50, 14, 24, 21], 120)
    sample = fo.Sample(filepath="a.png")
    sample.add_labels(both[1], label_field="weakloc")
    assert sample.weakloc_boxes.detections[0].label == "blue"


@needs_database
@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_zoo_s_model_is_applied_to_a_dataset(
    fo: ModuleType, model: Any, tmp_path: Path, batch_size: int | None
) -> None:
    for name, picture in zip(("1.png", "2.png"), pictures(), strict=True):
        Image.fromarray(picture).save(tmp_path / name)
    dataset = fo.Dataset.from_images([str(tmp_path / name) for name in ("1.png", "2.png")])
    dataset.apply_model(model, label_field="weakloc", batch_size=batch_size, skip_failures=False)
    labels = ("boxes", "points", "classes", "doubt", "heat")
    for sample, *expected in zip(dataset, ("red", "blue"), (20, 50), (91, 120), strict=True):
        colour, left, width = expected
        check_labels({n: sample[f"weakloc_{n}"] for n in labels}, colour, [left, 14, 24, 21], width)
    assert dataset.get_field("weakloc_doubt").__class__.__name__ == "FloatField"
    dataset.delete()
