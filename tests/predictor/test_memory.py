"""Memory does not grow with the number of images."""

from __future__ import annotations

import gc
import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.predictor.dot_source import DotSource
from weakloc.api.predictions import predict_to_folder
from weakloc.data.sources import ImageSource
from weakloc.data.transforms import Preprocessing
from weakloc.predictor.predictor import Predictor
from weakloc.settings import Look, Places


def test_the_peak_for_many_images_is_that_of_a_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    pixels = np.full((240, 320, 3), 90, dtype=np.uint8)
    pixels[50:100, 150:220, 0] = 255
    Image.fromarray(pixels).save(buffer, "PNG")
    content = buffer.getvalue()

    def predict(count: int) -> int:
        def images(_: str) -> Iterator[ImageSource]:
            return (ImageSource(f"{index:06}.png", content) for index in range(count))

        monkeypatch.setattr("weakloc.api.predictions.find_images", images)
        look = Look(batch_size=4, workers=2, map_side=224)
        places = Places(masks="threshold")
        preprocessing = Preprocessing(size=(64, 48), mean=(0.5,) * 3, std=(0.1,) * 3)
        predictor = Predictor(DotSource(preprocessing), look, places, thresholds=(0.5,) * 3)
        gc.collect()
        tracemalloc.reset_peak()
        monkeypatch.setattr(
            "weakloc.api.predictions.predictor_of", lambda *_: (predictor, {"run": "run"})
        )
        monkeypatch.setattr("weakloc.api.predictions.PART_SIZE", 8)
        written = predict_to_folder("run", str(tmp_path), tmp_path / "out")
        assert written.num_done == count
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        predict(8)  # caches fill
        few, many = predict(16), predict(80)
    finally:
        tracemalloc.stop()
    assert many <= 1.05 * few
