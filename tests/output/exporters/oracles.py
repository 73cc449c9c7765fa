"""What the tools on the other side make of polygons and brush strokes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weakloc.output.exporters.label_studio import VALUES_PER_PIXEL


def fill_outline(
    corners: NDArray[np.floating | np.integer], *, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """The pixels of a (width, height) image whose centres lie within, by the even-odd rule."""
    width, height = size
    inside = np.zeros((height, width + 1), dtype=bool)
    following = np.roll(corners, -1, axis=0)
    for (x1, y1), (x2, y2) in zip(corners.tolist(), following.tolist(), strict=True):
        first, last = np.ceil(min(y1, y2) - 0.5), np.ceil(max(y1, y2) - 0.5)
        rows = np.arange(max(int(first), 0), min(int(last), height))
        if len(rows):
            crossings = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1)
            columns = np.ceil(crossings - 0.5).clip(0, width).astype(int)
            np.logical_xor.at(inside, (rows, columns), True)
    return np.asarray(np.logical_xor.accumulate(inside, axis=1)[:, :width])


def unpack_brush(packed: list[int], *, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of a (width, height) image; a pixel is marked where its alpha is not 0."""
    stream = _Bits(packed)
    values = np.zeros(stream.take(32), dtype=np.uint8)
    value_bits = stream.take(5) + 1
    counter_bits = [stream.take(4) + 1 for _ in range(4)]
    at = 0
    while at < len(values):
        is_repeated = stream.take(1)
        end = at + stream.take(counter_bits[stream.take(2)]) + 1
        if is_repeated:
            values[at:end] = stream.take(value_bits)
        else:
            values[at:end] = [stream.take(value_bits) for _ in range(end - at)]
        at = end
    width, height = size
    return np.asarray(values.reshape(height, width, VALUES_PER_PIXEL)[..., 3] > 0)


class _Bits:
    """Bytes read a few bits at a time, the highest first."""

    def __init__(self, packed: list[int]) -> None:
        self._text = "".join(f"{byte:08b}" for byte in packed)
        self._at = 0

    def take(self, count: int) -> int:
        self._at += count
        return int(self._text[self._at - count : self._at], 2)
