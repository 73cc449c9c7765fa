"""The colours of Pascal VOC's index masks."""

from __future__ import annotations

from collections.abc import Sequence


def voc_palette() -> list[int]:
    """256 x (red, green, blue): the bits of the index, spread over the channels from the top."""
    colors = []
    for index in range(256):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        colors += channels
    return colors


def label_map_text(class_names: Sequence[str]) -> str:
    """`labelmap.txt`: which colour of the masks is which class, as CVAT and Datumaro write it."""
    palette = voc_palette()
    lines = ["# label:color_rgb:parts:actions"]
    for value, name in enumerate(("background", *class_names)):
        first = 3 * (value % 256)  # past 255 there are boxes only, and colours mean nothing
        color = ",".join(map(str, palette[first : first + 3]))
        lines.append(f"{name}:{color}::")
    return "\n".join(lines) + "\n"
