"""The one coordinate convention, and every conversion between frames.

Image frame: float pixels of the original image, origin at the top-left corner, x to the right,
y down. The pixel in column 0 covers [0, 1) and its centre is 0.5 (half-pixel convention).
Points are (x, y). Boxes are (left, top, right, bottom), right and bottom exclusive.
Grid frame: the same convention on any array made from the image (network input, score map):
cell (row i, column j) covers [j, j + 1) x [i, i + 1) and its centre is (j + 0.5, i + 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

PointXY: TypeAlias = tuple[float, float]
BoxLTRB: TypeAlias = tuple[float, float, float, float]
Size: TypeAlias = tuple[float, float]  # (width, height), never (height, width)
FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GridTransform:
    """Axis-aligned affine map from image pixels to a grid: `grid = scale * image + offset`.

    A negative scale is a flip. `image_size` and `grid_size` are the extents of the two frames.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    image_size: Size
    grid_size: Size

    @classmethod
    def identity(cls, image_size: Size) -> GridTransform:
        return cls(1.0, 1.0, 0.0, 0.0, image_size, image_size)

    def resize(self, grid_size: Size) -> GridTransform:
        """The grid frame warped to a new size."""
        factor_x, factor_y = (new / old for new, old in zip(grid_size, self.grid_size, strict=True))
        return replace(
            self,
            scale_x=self.scale_x * factor_x,
            scale_y=self.scale_y * factor_y,
            offset_x=self.offset_x * factor_x,
            offset_y=self.offset_y * factor_y,
            grid_size=grid_size,
        )

    def pad(self, left: float, top: float, right: float, bottom: float) -> GridTransform:
        """The grid frame with a margin added on each side."""
        width, height = self.grid_size
        return replace(
            self,
            offset_x=self.offset_x + left,
            offset_y=self.offset_y + top,
            grid_size=(width + left + right, height + top + bottom),
        )

    def crop(self, box_in_grid: BoxLTRB) -> GridTransform:
        """The grid frame cut down to a box of itself; a tile is a crop."""
        left, top, right, bottom = box_in_grid
        return replace(
            self,
            offset_x=self.offset_x - left,
            offset_y=self.offset_y - top,
            grid_size=(right - left, bottom - top),
        )

    def flip_horizontal(self) -> GridTransform:
        return replace(self, scale_x=-self.scale_x, offset_x=self.grid_size[0] - self.offset_x)

    def to_cells(
        self, num_cells: tuple[int, int], *, stride: float, first_center: float
    ) -> GridTransform:
        """From the network input to its score map of (columns, rows) cells.

        Cell (0, 0) is centred at `first_center` input pixels, neighbours are `stride` apart.
        """
        cells_per_pixel, offset = 1.0 / stride, 0.5 - first_center / stride
        return replace(
            self,
            scale_x=self.scale_x * cells_per_pixel,
            scale_y=self.scale_y * cells_per_pixel,
            offset_x=self.offset_x * cells_per_pixel + offset,
            offset_y=self.offset_y * cells_per_pixel + offset,
            grid_size=(float(num_cells[0]), float(num_cells[1])),
        )


def map_point_to_grid(point_in_image: PointXY, transform: GridTransform) -> PointXY:
    x, y = point_in_image
    return (transform.scale_x * x + transform.offset_x, transform.scale_y * y + transform.offset_y)


def map_point_to_image(point_in_grid: PointXY, transform: GridTransform) -> PointXY:
    u, v = point_in_grid
    return (
        (u - transform.offset_x) / transform.scale_x,
        (v - transform.offset_y) / transform.scale_y,
    )


def map_box_to_grid(box_in_image: BoxLTRB, transform: GridTransform) -> BoxLTRB:
    left, top = map_point_to_grid((box_in_image[0], box_in_image[1]), transform)
    right, bottom = map_point_to_grid((box_in_image[2], box_in_image[3]), transform)
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)


def map_box_to_image(box_in_grid: BoxLTRB, transform: GridTransform) -> BoxLTRB:
    left, top = map_point_to_image((box_in_grid[0], box_in_grid[1]), transform)
    right, bottom = map_point_to_image((box_in_grid[2], box_in_grid[3]), transform)
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)


def map_boxes_to_image(boxes_in_grid: FloatArray, transform: GridTransform) -> FloatArray:
    """(N, 4) boxes of the grid frame in the image frame."""
    scale = np.array([transform.scale_x, transform.scale_y])
    offset = np.array([transform.offset_x, transform.offset_y])
    corners = (boxes_in_grid.reshape(-1, 2, 2) - offset) / scale
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def cell_center_in_image(row: int, column: int, transform: GridTransform) -> PointXY:
    return map_point_to_image((column + 0.5, row + 0.5), transform)


def image_box_in_grid(transform: GridTransform) -> BoxLTRB:
    """Where the whole image lies in the grid; what is outside of it is padding."""
    width, height = transform.image_size
    return map_box_to_grid((0.0, 0.0, width, height), transform)


def nearest_cells(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[IntArray, IntArray]:
    """Rows and columns that make an array of another size, (width, height), by nearest centres."""
    columns = np.floor((np.arange(size[0]) + 0.5) * shape[1] / size[0]).astype(np.int64)
    rows = np.floor((np.arange(size[1]) + 0.5) * shape[0] / size[1]).astype(np.int64)
    return rows[:, None], columns[None, :]


def clip_box(box: BoxLTRB, image_size: Size) -> BoxLTRB:
    width, height = image_size
    left, right = min(max(box[0], 0.0), width), min(max(box[2], 0.0), width)
    top, bottom = min(max(box[1], 0.0), height), min(max(box[3], 0.0), height)
    return left, top, right, bottom


def box_area(box: BoxLTRB) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def box_areas(boxes: ArrayLike, *, inclusive: bool = False) -> FloatArray:
    """Areas of (N, 4) boxes; `inclusive` counts right and bottom pixels in (VOC's +1)."""
    ltrb = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    extra = 1.0 if inclusive else 0.0
    sides = np.maximum(ltrb[:, 2:] - ltrb[:, :2] + extra, 0.0)
    return np.asarray(sides[:, 0] * sides[:, 1])


def box_ious(
    first_boxes: ArrayLike, second_boxes: ArrayLike, *, inclusive: bool = False
) -> FloatArray:
    """Intersection over union of (N, 4) with (M, 4) boxes: (N, M); empty pairs give 0."""
    first = np.asarray(first_boxes, dtype=np.float64).reshape(-1, 4)
    second = np.asarray(second_boxes, dtype=np.float64).reshape(-1, 4)
    extra = 1.0 if inclusive else 0.0
    top_left = np.maximum(first[:, None, :2], second[None, :, :2])  # (N, M, 2)
    bottom_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(bottom_right - top_left + extra, 0.0)
    overlap = sides[..., 0] * sides[..., 1]
    first_area = box_areas(first, inclusive=inclusive)[:, None]
    second_area = box_areas(second, inclusive=inclusive)[None, :]
    union = first_area + second_area - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0))


def box_overlap(first: BoxLTRB, second: BoxLTRB) -> float:
    """The area that two boxes share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)


def box_iou(first: BoxLTRB, second: BoxLTRB) -> float:
    """For two boxes alone; `box_ious` takes ten times as long for so few."""
    overlap = box_overlap(first, second)
    return overlap / (box_area(first) + box_area(second) - overlap) if overlap > 0 else 0.0


def box_from_voc(box_one_based_inclusive: BoxLTRB) -> BoxLTRB:
    """Pascal VOC (xmin, ymin, xmax, ymax), 1-based and inclusive -> image frame."""
    left, top, right, bottom = box_one_based_inclusive
    return left - 1.0, top - 1.0, right, bottom


def box_to_voc(box_in_image: BoxLTRB) -> BoxLTRB:
    left, top, right, bottom = box_in_image
    return left + 1.0, top + 1.0, right, bottom


def box_from_inclusive(box_zero_based_inclusive: BoxLTRB) -> BoxLTRB:
    """0-based corners whose right and bottom pixels count in (Tiny ImageNet) -> image frame."""
    left, top, right, bottom = box_zero_based_inclusive
    return left, top, right + 1.0, bottom + 1.0


def box_from_xywh(box_xywh: BoxLTRB) -> BoxLTRB:
    """COCO (left, top, width, height) -> image frame."""
    left, top, width, height = box_xywh
    return left, top, left + width, top + height


def box_to_xywh(box_in_image: BoxLTRB) -> BoxLTRB:
    left, top, right, bottom = box_in_image
    return left, top, right - left, bottom - top


def box_from_yolo(box_relative: BoxLTRB, image_size: Size) -> BoxLTRB:
    """YOLO (centre x, centre y, width, height) as shares of the image -> image frame."""
    center_x, center_y, width, height = box_relative
    half_width, half_height = width / 2, height / 2
    return (
        (center_x - half_width) * image_size[0],
        (center_y - half_height) * image_size[1],
        (center_x + half_width) * image_size[0],
        (center_y + half_height) * image_size[1],
    )


def box_to_yolo(box_in_image: BoxLTRB, image_size: Size) -> BoxLTRB:
    left, top, right, bottom = box_in_image
    width, height = image_size
    return (
        (left + right) / 2 / width,
        (top + bottom) / 2 / height,
        (right - left) / width,
        (bottom - top) / height,
    )


def box_of_points(points: ArrayLike) -> BoxLTRB:
    """The tight box around (N, 2) points, for polygons."""
    xy = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    left, top = xy.min(axis=0)
    right, bottom = xy.max(axis=0)
    return float(left), float(top), float(right), float(bottom)
