"""Open any image as upright 8-bit RGB."""

from __future__ import annotations

from PIL import Image, ImageOps

from weakloc.errors import ImageError


def open_image(path: str) -> Image.Image:
    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot be read as an image ({error})", where=path) from error
