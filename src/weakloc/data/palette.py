"""The colours of Pascal VOC's index masks."""

from __future__ import annotations


def voc_palette() -> list[int]:
    """256 x (red, green, blue): the bits of the index, spread over the channels from the top."""
    colors = []
    for index in range(256):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        colors += channels
    return colors
