"""Score maps -> one grey PNG for each image and class, in the size of the image.

A logit becomes its probability; other maps are taken as they are, and what lies outside of
[0, 1] is stretched into it, with the ends kept in the PNG's text (`weakloc low`, `weakloc high`):
value = low + grey / 255 * (high - low).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from weakloc.files import file_name_of, write_whole
from weakloc.output.map_pictures import image_maps
from weakloc.structures import ScoreMaps


def write_heat_maps(
    maps_of_images: Iterable[tuple[str, ScoreMaps]],
    out: Path,
    *,
    class_names: Sequence[str],
) -> Path:
    """`<image>/<class>.png` for every class of every (image name, maps)."""
    for image, maps in maps_of_images:
        folder = out.joinpath(*map(file_name_of, image.split("/")))
        values = image_maps(maps)
        for class_name, heat in zip(class_names, values, strict=True):
            _write_heat_map(folder / f"{file_name_of(class_name)}.png", heat)
    return out


def _write_heat_map(path: Path, heat: NDArray[np.float32]) -> None:
    low, high = min(float(heat.min()), 0.0), max(float(heat.max()), 1.0)
    grey = np.rint((heat - low) * (255.0 / (high - low))).astype(np.uint8)
    ends = PngInfo()
    ends.add_text("weakloc low", repr(low))
    ends.add_text("weakloc high", repr(high))
    with write_whole(path) as temporary:
        Image.fromarray(grey).save(temporary, pnginfo=ends)
