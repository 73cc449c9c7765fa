"""Label Studio's brush format: run lengths packed bit by bit (the `rle-pack` of thi.ng).

The picture is unrolled row by row with four values to the pixel (red, green, blue, alpha, here
all 0 or 255). Packed: 32 bits for the number of values; 5 for the bits of a value, less one;
4 x 4 for the bits of the four run counters, less one; then runs of: 1 bit "repeated", 2 bits
which counter, the run less one, and the value (or the values, if not repeated).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

VALUE_BITS = 8
COUNTER_BITS = (3, 4, 8, 16)
VALUES_PER_PIXEL = 4


def pack_brush(mask: NDArray[np.bool_]) -> list[int]:
    """The bytes that Label Studio expects under `rle`."""
    flat = mask.ravel()
    starts = np.concatenate(([0], np.flatnonzero(np.diff(flat)) + 1))
    runs = np.diff(np.append(starts, flat.size)) * VALUES_PER_PIXEL
    bits = [f"{flat.size * VALUES_PER_PIXEL:032b}", f"{VALUE_BITS - 1:05b}"]
    bits += [f"{count - 1:04b}" for count in COUNTER_BITS]
    for start, run in zip(starts.tolist(), runs.tolist(), strict=True):
        bits += _packed_run(run, 255 if flat[start] else 0)
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _packed_run(run: int, value: int) -> list[str]:
    """One run, in as many pieces as the largest counter asks for."""
    pieces = []
    largest = 1 << COUNTER_BITS[-1]
    while run > 0:
        piece = min(run, largest)
        index = next(i for i, bits in enumerate(COUNTER_BITS) if piece <= 1 << bits)
        pieces.append(f"1{index:02b}{piece - 1:0{COUNTER_BITS[index]}b}{value:08b}")
        run -= piece
    return pieces


def unpack_brush(packed: list[int], *, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of a (width, height) image; a pixel is marked where its alpha is not 0."""
    stream = _Bits(packed)
    values = np.zeros(stream.take(32), dtype=np.uint8)
    value_bits = stream.take(5) + 1
    counter_bits = [stream.take(4) + 1 for _ in range(4)]
    place = 0
    while place < len(values):
        is_repeated = stream.take(1)
        end = place + stream.take(counter_bits[stream.take(2)]) + 1
        if is_repeated:
            values[place:end] = stream.take(value_bits)
        else:
            values[place:end] = [stream.take(value_bits) for _ in range(end - place)]
        place = end
    width, height = size
    return np.asarray(values.reshape(height, width, VALUES_PER_PIXEL)[..., 3] > 0)


class _Bits:
    """Bytes read a few bits at a time, the highest first."""

    def __init__(self, packed: list[int]) -> None:
        self._text = "".join(f"{byte:08b}" for byte in packed)
        self._place = 0

    def take(self, count: int) -> int:
        self._place += count
        return int(self._text[self._place - count : self._place], 2)
