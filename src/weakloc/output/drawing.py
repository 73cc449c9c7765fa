"""Pictures of predictions: heat map, masks, boxes and points over the image, and grids.

Every line has a dark edge around a light or coloured core and every label its own ground, so that
both show on any picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from scipy.ndimage import binary_erosion

from weakloc.files import file_name_of, open_buffered
from weakloc.geometry import BoxLTRB, FloatArray, GridTransform, PointXY, box_overlap
from weakloc.localize.maps import resample, sigmoid
from weakloc.rle import decode_mask
from weakloc.structures import Prediction, ScoreMaps

Color: TypeAlias = tuple[int, int, int]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)
GROUND: Color = (24, 24, 28)
SMALLEST_SIDE = 320  # pixels along the long side, below which a picture is enlarged
HEAT_OPACITY = 0.65
MASK_OPACITY = 0.4
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "NotoSansCJK-Regular.ttc")

# Oklab (Ottosson 2020): lightness, green to red and blue to yellow -> cones -> linear sRGB.
_CONES_FROM_LAB = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_RGB_FROM_CONES = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
# From dark violet over red to pale yellow; lightness rises all the way.
_HEAT_CORNERS = np.array(
    [
        [0.142486, 0.012825, -0.053241],
        [0.309047, 0.067340, -0.133291],
        [0.465873, 0.148617, -0.076566],
        [0.620638, 0.180829, 0.038692],
        [0.788780, 0.087771, 0.097193],
        [0.978527, -0.025129, 0.074905],
    ]
)
_GOLDEN_TURN = 137.50776  # degrees: any first few multiples are far apart


def from_oklab(lab: ArrayLike) -> FloatArray:
    """(..., 3) -> sRGB in [0, 255], clipped where no screen shows the colour."""
    cones = (np.asarray(lab, dtype=np.float64) @ _CONES_FROM_LAB.T) ** 3
    linear = np.clip(cones @ _RGB_FROM_CONES.T, 0.0, 1.0)
    shares = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(255.0 * shares)


@cache
def _heat_table() -> NDArray[np.uint8]:
    """256 colours at equal distances along the corners."""
    lengths = np.linalg.norm(np.diff(_HEAT_CORNERS, axis=0), axis=1)
    turns = np.concatenate(([0.0], np.cumsum(lengths))) / lengths.sum()
    shares = np.linspace(0.0, 1.0, 256)
    lab = np.stack([np.interp(shares, turns, channel) for channel in _HEAT_CORNERS.T], axis=1)
    return np.rint(from_oklab(lab)).astype(np.uint8)


def heat_colors(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(...) in [0, 1] -> (..., 3); what lies outside takes the colour of the end."""
    steps = np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.intp)
    return np.asarray(_heat_table()[steps])


def class_color(index: int) -> Color:
    """A colour for a class; neighbours in the list are far apart."""
    hue = np.deg2rad(30.0 + index * _GOLDEN_TURN)
    lightness = (0.72, 0.62, 0.80)[index % 3]
    chroma = 0.16
    lab = (lightness, chroma * np.cos(hue), chroma * np.sin(hue))
    red, green, blue = (round(value) for value in from_oklab(lab).tolist())
    return red, green, blue


def ink_on(color: Color) -> Color:
    """Black or white, whichever contrasts more (WCAG's relative luminance)."""
    shares = [value / 255.0 for value in color]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    on_black, on_white = (luminance + 0.05) / 0.05, 1.05 / (luminance + 0.05)
    return BLACK if on_black >= on_white else WHITE


def image_maps(maps: ScoreMaps) -> NDArray[np.float32]:
    """(C, height, width): the maps at the pixels of their image, logits as probabilities."""
    width, height = (round(side) for side in maps.transform.image_size)
    values = resample(maps, GridTransform.identity((width, height))).values
    return sigmoid(values) if maps.kind == "logit" else values


def draw_prediction(
    image: Image.Image, prediction: Prediction, *, score_map: ScoreMaps | None = None
) -> Image.Image:
    """A new picture; a small image is enlarged a whole number of times.

    Of several score maps the highest value counts at each pixel. Colours follow the order of
    `prediction.scores`.
    """
    factor = max(math.ceil(SMALLEST_SIDE / max(image.size)), 1)
    size = (image.width * factor, image.height * factor)
    picture = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    if score_map is not None:
        picture = overlay_heat(picture, image_maps(score_map).max(axis=0))
    places = (*prediction.masks, *prediction.boxes, *prediction.points)
    names = dict.fromkeys((*prediction.scores, *(item.class_name for item in places)))
    colors = {name: class_color(index) for index, name in enumerate(names)}
    for mask in prediction.masks:
        picture = overlay_mask(picture, decode_mask(mask.rle), color=colors[mask.class_name])
    pen = _Pen(picture, image_size=(prediction.width, prediction.height))
    for box in prediction.boxes:
        pen.box(box.box, colors[box.class_name])
    for point in prediction.points:
        pen.point((point.x, point.y), colors[point.class_name])
    for box in prediction.boxes:
        pen.label(f"{box.class_name} {box.score:.2f}", box.box, colors[box.class_name])
    for point in () if prediction.boxes else prediction.points:
        at = (point.x, point.y, point.x, point.y)
        pen.label(f"{point.class_name} {point.score:.2f}", at, colors[point.class_name])
    return picture


def overlay_heat(picture: Image.Image, heat: NDArray[np.floating]) -> Image.Image:
    """The picture under a heat map, (rows, columns) in [0, 1], stretched over it; cold is clear."""
    whole = Image.fromarray(heat.astype(np.float32))
    values = np.asarray(whole.resize(picture.size, Image.Resampling.BILINEAR))
    opacity = HEAT_OPACITY * np.clip(values, 0.0, 1.0)[..., None]
    return _blend(picture, heat_colors(values), opacity)


def overlay_mask(picture: Image.Image, mask: NDArray[np.bool_], *, color: Color) -> Image.Image:
    """The picture with the pixels of a mask tinted and its contour drawn."""
    whole = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    covered = np.asarray(whole.resize(picture.size, Image.Resampling.NEAREST)) > 0
    edge = covered & ~binary_erosion(covered, iterations=_line_width(picture.size))
    opacity = np.where(edge, 1.0, np.where(covered, MASK_OPACITY, 0.0))[..., None]
    return _blend(picture, np.broadcast_to(np.array(color, np.uint8), (*covered.shape, 3)), opacity)


def _blend(
    picture: Image.Image, colors: NDArray[np.uint8], opacity: NDArray[np.floating]
) -> Image.Image:
    pixels = np.asarray(picture) * (1.0 - opacity) + colors * opacity
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def draw_grid(
    images: Sequence[Image.Image],
    *,
    num_columns: int,
    cell_size: tuple[int, int],
    captions: Sequence[str] = (),
) -> Image.Image:
    """The images side by side, each fitted into a cell, with a caption below where given."""
    width, height = cell_size
    font = _font(max(height // 18, 11), "")
    caption_height = int(font.getbbox("Ag")[3]) + 6 if captions else 0
    num_rows = max(math.ceil(len(images) / num_columns), 1)
    sheet = Image.new("RGB", (num_columns * width, num_rows * (height + caption_height)), GROUND)
    draw = ImageDraw.Draw(sheet)
    for number, image in enumerate(images):
        row, column = divmod(number, num_columns)
        left, top = column * width, row * (height + caption_height)
        factor = min((width - 4) / image.width, (height - 4) / image.height)
        size = max(round(image.width * factor), 1), max(round(image.height * factor), 1)
        corner = (left + (width - size[0]) // 2, top + (height - size[1]) // 2)
        sheet.paste(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), corner)
        if number < len(captions):
            font = _font(max(height // 18, 11), captions[number])
            text = _shortened(captions[number], font, width - 8)
            draw.text((left + 4, top + height), text, font=font, fill=WHITE)
    return sheet


class _Pen:
    """Draws in the image frame on a picture that may be larger than the image."""

    def __init__(self, picture: Image.Image, *, image_size: tuple[int, int]) -> None:
        self._draw = ImageDraw.Draw(picture)
        self._size = picture.size
        self._scale = (picture.width / image_size[0], picture.height / image_size[1])
        self._width = _line_width(picture.size)
        self._labels: list[BoxLTRB] = []

    def box(self, box: BoxLTRB, color: Color) -> None:
        for grown, ink, width in ((1, BLACK, self._width + 2), (0, color, self._width)):
            self._draw.rectangle(self._corners(box, grown), outline=ink, width=width)

    def point(self, point: PointXY, color: Color) -> None:
        x, y = point[0] * self._scale[0], point[1] * self._scale[1]
        for ink, radius in ((BLACK, 3.5), (WHITE, 2.8), (color, 2.0)):
            reach = radius * self._width
            self._draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=ink)

    def label(self, text: str, box: BoxLTRB, color: Color) -> None:
        """Above the box, else below it or within, where no label is yet."""
        font = _font(max(min(self._size) // 26, 11), text)
        shown = _shortened(text, font, self._size[0] - 6)
        _, top, width, bottom = (math.ceil(side) for side in font.getbbox(shown))
        width, height = width + 6, bottom + 4
        left, above, right, below = self._corners(box, 0)
        corners = [
            *((left, above - height), (left, below), (left, above), (left, below - height)),
            *((right - width, above - height), (right - width, below)),
        ]
        most_x, most_y = max(self._size[0] - width - 1, 0), max(self._size[1] - height - 1, 0)
        inside = [(min(max(x, 0), most_x), min(max(y, 0), most_y)) for x, y in corners]
        grounds = [(x, y, x + width, y + height) for x, y in inside]
        free = (g for g in grounds if not any(box_overlap(g, taken) > 0 for taken in self._labels))
        ground = next(free, grounds[0])
        self._labels.append(ground)
        self._draw.rectangle(ground, fill=color, outline=BLACK)
        at = (ground[0] + 3, ground[1] + 2 - top // 2)
        self._draw.text(at, shown, font=font, fill=ink_on(color))

    def _corners(self, box: BoxLTRB, grown: int) -> BoxLTRB:
        """Pillow's corners, both drawn: the box's own outermost pixels, or `grown` outside."""
        left, right = round(box[0] * self._scale[0]), round(box[2] * self._scale[0]) - 1
        top, bottom = round(box[1] * self._scale[1]), round(box[3] * self._scale[1]) - 1
        right, bottom = max(right, left), max(bottom, top)
        return left - grown, top - grown, right + grown, bottom + grown


def _line_width(size: tuple[int, int]) -> int:
    return max(round(max(size) / 260), 2)


def _shortened(text: str, font: Font, width: int) -> str:
    """On one line, without unprintable characters, cut to the width with dots."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    shown = plain
    while font.getlength(shown) > width and len(plain) > 1:
        plain = plain[:-1]
        shown = f"{plain}..."
    return shown


@cache
def _font(size: int, text: str) -> Font:
    """Pillow's own for Latin letters, the same everywhere; else one of the system's."""
    if not all(ord(letter) < 256 for letter in text):
        far_eastern = any(ord(letter) >= 0x2E80 for letter in text)
        for name in reversed(_FONTS) if far_eastern else _FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def write_heat_maps(folder: Path, maps: ScoreMaps, *, class_names: Sequence[str]) -> None:
    """`<class>.png` for every class of an image."""
    for class_name, heat in zip(class_names, image_maps(maps), strict=True):
        low, high = min(float(heat.min()), 0.0), max(float(heat.max()), 1.0)
        grey = np.rint((heat - low) * (255.0 / (high - low))).astype(np.uint8)
        ends = PngInfo()
        ends.add_text("weakloc low", repr(low))
        ends.add_text("weakloc high", repr(high))
        with open_buffered(folder / f"{file_name_of(class_name)}.png") as file:
            Image.fromarray(grey).save(file, "PNG", pnginfo=ends)
