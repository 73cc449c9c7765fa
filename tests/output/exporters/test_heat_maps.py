"""Heat map pictures, read back to their precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from weakloc.geometry import GridTransform
from weakloc.output.drawing import write_heat_maps
from weakloc.structures import ScoreMaps


def read_back(path: Path) -> np.ndarray:
    picture = Image.open(path)
    low, high = float(picture.text["weakloc low"]), float(picture.text["weakloc high"])
    return low + np.asarray(picture, dtype=float) / 255 * (high - low)


@pytest.mark.parametrize("kind", ["logit", "probability", "cam"])
def test_the_picture_is_the_map_at_the_pixels_of_the_image(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(3)
    values = random.normal(0, 3, size=(2, 5, 7)).astype(np.float32)
    if kind == "probability":
        values = np.abs(values) / 12
    transform = GridTransform.identity((42, 20)).resize((7, 5))
    maps = ScoreMaps(values, transform, kind)  # type: ignore[arg-type]
    write_heat_maps(tmp_path / "a b/c.jpg", maps, class_names=("dog", "x/y"))
    rows, columns = np.mgrid[0:20, 0:42] + 0.5
    cells = [rows / 4 - 0.5, columns / 6 - 0.5]
    for name, plane in (("dog.png", values[0]), ("x%2Fy.png", values[1])):
        wanted = ndimage.map_coordinates(plane.astype(float), cells, order=1, mode="nearest")
        if kind == "logit":
            wanted = 1 / (1 + np.exp(-wanted))
        found = read_back(tmp_path / "a b" / "c.jpg" / name)
        step = (max(wanted.max(), 1) - min(wanted.min(), 0)) / 255
        assert np.abs(found - wanted).max() <= 0.51 * step
