"""Transforms that photographs do not need and geometry must still get right."""

from __future__ import annotations

from dataclasses import replace

from weakloc.geometry import GridTransform


def flip_vertical(transform: GridTransform) -> GridTransform:
    offset = transform.grid_size[1] - transform.offset_y
    return replace(transform, scale_y=-transform.scale_y, offset_y=offset)
