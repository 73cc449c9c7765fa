"""Any image file -> an upright 8-bit RGB picture, or an `ImageError` that says why not.

The content decides the format, never the suffix. Of several frames the first is taken. Colour
profiles are not applied. Transparent pixels show white, as in a browser.
"""

from __future__ import annotations

import math
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    TiffTags,
    WebPImagePlugin,
)

from weakloc.errors import ImageError
from weakloc.files import Stored, is_url
from weakloc.structures import BrokenImage

_MEMBER = re.compile(r"(?P<archive>.+)::(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)


def member_path(archive: str, *, offset: int, size: int) -> str:
    """How a member is named: `offset` and `size` are those of its content, in bytes."""
    return f"{archive}::{offset}+{size}"


def is_member_path(path: str) -> bool:
    return "::" in path and _MEMBER.fullmatch(path) is not None


def read_member(path: str) -> bytes:
    member = _MEMBER.fullmatch(path)
    assert member is not None, path
    archive, start, size = Path(member["archive"]), int(member["offset"]), int(member["size"])
    try:
        if is_url(path):
            return Stored(member["archive"]).read_bytes(start, start + size)
        if not archive.is_file():  # opening a pipe would wait for ever
            raise FileNotFoundError(None, "there is no such file")
        with archive.open("rb") as file:
            file.seek(start)
            content = file.read(min(size, archive.stat().st_size))
    except (OSError, ValueError) as error:  # an offset beyond all files
        reason = getattr(error, "strerror", error)
        raise ImageError(f"the archive cannot be read ({reason})", location=path) from error
    if len(content) < size:
        raise ImageError(f"the archive ends after {len(content)} of {size} bytes", location=path)
    return content


Openable: TypeAlias = str | Path | bytes

NO_MEMORY = "needs more memory than there is now"
DEFAULT_MAX_PIXELS = 178_956_970  # what Pillow itself refuses: 0.5 GiB of RGB pixels
MOST_SCANS = 200  # of a JPEG, each over all pixels: cameras and programs write a dozen
# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm",
))
# fmt: on

# Only these parsers ever see the bytes: Pillow knows formats that start other programs.
_PARSERS: dict[bytes, Callable[[IO[bytes]], ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"II*\0": TiffImagePlugin.TiffImageFile,
    b"MM\0*": TiffImagePlugin.TiffImageFile,
    b"II+\0": TiffImagePlugin.TiffImageFile,
    b"MM\0+": TiffImagePlugin.TiffImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"GIF87a": GifImagePlugin.GifImageFile,
    b"GIF89a": GifImagePlugin.GifImageFile,
    **{f"P{digit}".encode(): PpmImagePlugin.PpmImageFile for digit in "123456"},
}

# EXIF orientation -> what makes the picture upright (1 and unknown values: nothing).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)

_BAND_PIXELS = 2**18

_pillow_settings = threading.Lock()


def open_image(
    source: Openable,
    *,
    name: str | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    shrink_to: tuple[int, int] | None = None,
) -> Image.Image:
    """The upright RGB picture of a path or of the bytes of a file.

    16-bit grey is scaled from its full range, 32-bit integers and floats from [0, 1], [0, 255]
    or [0, 65535] if they lie in there, else from their own range. `shrink_to` lets a JPEG decode
    at 1/2, 1/4 or 1/8 while both sides stay at least that large: faster, with slightly other
    pixels than an exact decode followed by a resize. `name` is what an error calls the image.
    """
    location = name or (None if isinstance(source, bytes) else str(source))
    with open_file(source) as file:
        opened, orientation = _parse(file, location, max_pixels)
        if shrink_to is not None:
            opened.draft(None, shrink_to[::-1] if orientation in _SIDEWAYS else shrink_to)
        may_warn = opened.width * opened.height > (Image.MAX_IMAGE_PIXELS or math.inf)
        try:
            # Several threads may decode at once what never warns.
            with _quiet_pillow(max_pixels) if may_warn else nullcontext():
                opened.load()
            picture = _to_rgb(opened, location)
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # a decoder fed with damaged bytes may raise anything
            raise ImageError(
                f"is cut short or damaged ({_say(error)})", location=location
            ) from error
    if orientation in _UPRIGHT:
        return picture.transpose(_UPRIGHT[orientation])
    return picture


def image_size(source: Openable, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """(width, height) of the upright picture, read from the header without decoding."""
    location = None if isinstance(source, bytes) else str(source)
    with open_file(source) as file:
        opened, orientation = _parse(file, location, max_pixels)
        width, height = opened.size
    return (height, width) if orientation in _SIDEWAYS else (width, height)


def read_or_record(
    sample_name: str, source: Openable, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Image.Image | BrokenImage:
    """The picture, or the record of why there is none."""
    try:
        return open_image(source, max_pixels=max_pixels)
    except ImageError as error:
        remedy = f". {error.remedy}" if error.remedy else ""
        return BrokenImage(sample_name, error.message + remedy)
    except MemoryError:
        return BrokenImage(sample_name, NO_MEMORY)


def open_file(source: Openable) -> IO[bytes]:
    """A regular file that is not empty, a member of one, or its bytes."""
    if isinstance(source, bytes):
        return BytesIO(source)
    if isinstance(source, str) and is_member_path(source):
        return BytesIO(read_member(source))
    location = str(source)
    try:
        if is_url(location):
            return BytesIO(Stored(location).read_bytes())
        status = os.stat(source)  # noqa: PTH116  # ten times cheaper than making a Path
        if stat.S_ISDIR(status.st_mode):
            raise ImageError("is a folder, not an image", location=location)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise ImageError("is not a regular file", location=location)
        if status.st_size == 0:
            raise ImageError("is empty (0 bytes)", location=location)
        return open(source, "rb")  # noqa: PTH123  # as above
    except FileNotFoundError as error:
        raise ImageError("there is no such file", location=location) from error
    except PermissionError as error:
        raise ImageError("may not be read (permission denied)", location=location) from error
    except (OSError, ValueError) as error:  # a broken link, a name too long, a zero byte in it
        raise ImageError(f"cannot be opened ({_say(error)})", location=location) from error


def _parse(
    file: IO[bytes], location: str | None, max_pixels: int
) -> tuple[ImageFile.ImageFile, int]:
    """The image with its header read but not decoded, and its orientation."""
    parser = _parser_of(file, location)
    try:
        with _quiet_pillow(max_pixels):
            opened = parser(file)
            width, height = opened.size
            # The PNG plugin's own getexif decodes the whole picture to look behind it.
            tags = Image.Image.getexif(opened)
            orientation = tags.get(ExifTags.Base.Orientation, 1)
            if isinstance(opened, TiffImagePlugin.TiffImageFile):
                orientation = 1  # Pillow turns it itself, and reports the turned size
                for group in TiffTags.TAGS_V2_GROUPS:  # or decoding would warn of them
                    with suppress(KeyError):  # of Pillow before 13, where there is none
                        tags.get_ifd(group)
    except Exception as error:  # as in open_image
        raise ImageError(f"has a damaged header ({_say(error)})", location=location) from error
    if min(width, height) < 1:
        raise ImageError(f"has no pixels ({width} x {height})", location=location)
    if opened.info.get("progressive"):
        file.seek(0)
        num_scans = file.read().count(b"\xff\xda")
        if num_scans > MOST_SCANS:
            raise ImageError(f"has {num_scans:,} scans, over {MOST_SCANS}", location=location)
    if width * height > max_pixels:
        raise ImageError(
            f"has {width * height:,} pixels ({width} x {height}), the limit is {max_pixels:,}",
            location=location,
            remedy="Raise max_pixels if you trust the file",
        )
    return opened, orientation if isinstance(orientation, int) else 1


def _parser_of(file: IO[bytes], location: str | None) -> Callable[[IO[bytes]], ImageFile.ImageFile]:
    start = file.read(16)
    file.seek(-len(start), os.SEEK_CUR)
    for signature, parser in _PARSERS.items():
        if start.startswith(signature) and (signature != b"RIFF" or start[8:12] == b"WEBP"):
            return parser
    if not start:
        raise ImageError("is empty (0 bytes)", location=location)
    raise ImageError(
        f"is not an image of a known format (it starts with {start!r})",
        location=location,
        remedy="Known are JPEG, PNG, WebP, TIFF, BMP, GIF and PPM",
    )


@contextmanager
def _quiet_pillow(max_pixels: int) -> Iterator[None]:
    """Damaged EXIF tags and sizes under our own limit are no news; both are process-wide."""
    with _pillow_settings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit_before = Image.MAX_IMAGE_PIXELS
        if limit_before is not None and max_pixels > 2 * limit_before:
            Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit_before


def _to_rgb(image: Image.Image, location: str | None) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image  # converting would copy
    if image.mode.startswith(("I", "F")):
        return _from_wide_values(image).convert("RGB")
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    if image.mode in ("1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"):
        return image.convert("RGB")
    raise ImageError(f"has the colour mode {image.mode}, which is not supported", location=location)


def _from_wide_values(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits as 8-bit grey."""
    bits = 16
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # some scanners write 12
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (bits,))[0]
    low, high = 0.0, float(2 ** int(bits) - 1)
    if not image.mode.startswith("I;"):
        extremes = [(float(band.min()), float(band.max())) for _, band in _bands(image)]
        smallest, largest = min(least for least, _ in extremes), max(most for _, most in extremes)
        known_ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        high = next((top for top in known_ranges if largest <= top), largest)
        if smallest < 0 or largest > 65535:
            low, high = smallest, max(largest, smallest + 1e-12)
    grey = Image.new("L", image.size)
    for top, values in _bands(image):
        scaled = np.rint((values - low) * (255.0 / (high - low)))
        grey.paste(Image.fromarray(scaled.clip(0, 255).astype(np.uint8)), (0, top))
    return grey


def _bands(image: Image.Image) -> Iterator[tuple[int, NDArray[Any]]]:
    """(top, values) of some rows at a time: a whole image as floats would fill the memory."""
    height = max(_BAND_PIXELS // image.width, 1)
    for top in range(0, image.height, height):
        band = np.asarray(image.crop((0, top, image.width, min(top + height, image.height))))
        yield top, band if image.mode == "RGB" else np.nan_to_num(band.astype(np.float64))


def pixels_of(picture: Image.Image) -> NDArray[np.uint8]:
    """RGB (height, width, 3); a large one as a whole takes three copies and holds up threads."""
    if picture.width * picture.height < 16 * _BAND_PIXELS:
        return np.array(picture)
    pixels = np.empty((picture.height, picture.width, 3), dtype=np.uint8)
    for top, band in _bands(picture):
        pixels[top : top + len(band)] = band
    return pixels


def _say(error: BaseException) -> str:
    return str(error) or type(error).__name__
