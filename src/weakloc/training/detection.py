"""Boxes of some images -> a detector on the frozen backbone's fine features.

Whose boxes they are does not matter here: a run's own, or some that people drew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from weakloc.data.loaders import EveryImageOnce, SampleLoader
from weakloc.data.transforms import Preprocessing
from weakloc.errors import DataError, SettingError
from weakloc.geometry import BoxLTRB, GridTransform, map_box_to_grid
from weakloc.model.fine_layers import (
    DETECTOR_STRIDES,
    Detector,
    cell_middles,
    fine_features,
    read_finely,
)
from weakloc.model.network import LocalizationNetwork
from weakloc.settings import DistilSettings
from weakloc.structures import BrokenImage, Sample
from weakloc.work import Progress

MIDDLE = 0.6  # of a box's sides: the cells in this part of it answer for the box
FOCAL_ALPHA = 0.5  # weight of the middles against all other cells
_IMAGES_A_STEP = 16
_IMAGES_AN_EPOCH = 200  # at least: fewer are shown several times


@dataclass(frozen=True)
class Lesson:
    """An image with boxes of its classes, in the image frame.

    `unknown` are classes that may be there and whose boxes nobody named.
    """

    sample: Sample
    boxes: tuple[tuple[int, BoxLTRB], ...]
    unknown: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _Taught:
    """What cells should say of one image; `mirrored` is the image in the mirror."""

    cells: Tensor  # (D, rows, columns), half precision, standardised
    classes: Tensor  # (boxes,)
    boxes: Tensor  # (boxes, 4) in pixels of the input
    unknown: tuple[int, ...]

    def mirrored(self, width: float) -> _Taught:
        left, top, right, bottom = self.boxes.unbind(1)
        boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
        return _Taught(self.cells.flip(-1), self.classes, boxes, self.unknown)


def learn_detector(
    network: LocalizationNetwork,
    lessons: Sequence[Lesson],
    preprocessing: Preprocessing,
    settings: DistilSettings,
    on_progress: Progress,
) -> tuple[Detector, list[BrokenImage]]:
    """A detector of the boxes in the lessons; images without any say what is no object."""
    if preprocessing.fixed_size is None:
        raise SettingError(
            "a detector needs images of one size",
            remedy="Train with the resize mode warp, pad or crop",
        )
    network, channels = read_finely(network, DETECTOR_STRIDES)
    torch.manual_seed(settings.seed)
    detector = Detector(channels, len(lessons[0].sample.labels))
    detector.reach.fill_(max(preprocessing.fixed_size))
    taught, broken = _taught(network, detector, lessons, preprocessing, on_progress)
    if not any(len(image.boxes) for image in taught):
        raise DataError(
            f"none of {len(lessons)} images has a box that could be learned",
            remedy="Give images that can be read, with boxes of the run's classes",
        )
    _learn(detector, taught, preprocessing.fixed_size[0], settings)
    return detector.eval(), broken


@torch.no_grad()
def _taught(
    network: LocalizationNetwork,
    detector: Detector,
    lessons: Sequence[Lesson],
    preprocessing: Preprocessing,
    on_progress: Progress,
) -> tuple[list[_Taught], list[BrokenImage]]:
    """The standardised cells of all images that can be read, with what they should say."""
    samples = [lesson.sample for lesson in lessons]
    loader = SampleLoader(samples, preprocessing, EveryImageOnce(len(samples), batch_size=8))
    device = next(network.parameters()).device
    cells, places = [], []
    for batch in loader:
        pixels = batch.images.to(device, memory_format=torch.channels_last)
        features = fine_features(network.backbone, pixels, detector.levels)
        cells += list(detector.cells(features).half().cpu())
        for index, transform in zip(batch.indices.tolist(), batch.transforms, strict=True):
            assert transform is not None  # nothing was rotated
            places.append((lessons[index], transform))
        on_progress(len(cells), len(samples))
    detector.measure(values.flatten(1).T for values in cells)
    mean, std = detector.mean[:, None, None], detector.std[:, None, None]
    taught = [
        _told(lesson, transform, ((values.float() - mean) / std).half())
        for values, (lesson, transform) in zip(cells, places, strict=True)
    ]
    return taught, list(loader.broken)


def _told(lesson: Lesson, transform: GridTransform, cells: Tensor) -> _Taught:
    boxes = [map_box_to_grid(box, transform) for _, box in lesson.boxes]
    return _Taught(
        cells,
        torch.tensor([index for index, _ in lesson.boxes], dtype=torch.long),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        tuple(sorted(lesson.unknown)),
    )


def _learn(
    detector: Detector, taught: Sequence[_Taught], width: int, settings: DistilSettings
) -> None:
    shown = list(range(len(taught))) * max(1, round(_IMAGES_AN_EPOCH / len(taught)))
    steps = settings.epochs * -(-len(shown) // _IMAGES_A_STEP)
    optimiser = torch.optim.AdamW(detector.parameters(), settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 2 * settings.learning_rate, total_steps=steps
    )
    draw = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        order = torch.randperm(len(shown), generator=draw)
        for drawn in torch.split(order, _IMAGES_A_STEP):
            images = [taught[shown[number]] for number in drawn.tolist()]
            if torch.rand((), generator=draw) < 0.5:
                images = [image.mirrored(width) for image in images]
            optimiser.zero_grad()
            _loss(detector, images).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def _loss(detector: Detector, images: Sequence[_Taught]) -> Tensor:
    """Focal loss of the middles, and 1 - GIoU of the boxes of the cells that answer for one."""
    proposed = detector.propose(torch.stack([image.cells for image in images]).float())
    target = torch.zeros_like(proposed.logits)
    counted = torch.ones_like(proposed.logits)
    misses = []
    for number, image in enumerate(images):
        counted[number, list(image.unknown)] = 0
        for index, box in zip(image.classes.tolist(), image.boxes, strict=True):
            middle = answering(box, target.shape[2:], detector.levels[-1])
            target[number, index][middle] = 1
            boxes = proposed.boxes[number][:, middle].T
            misses.append(generalized_box_iou_loss(boxes, box.expand_as(boxes), reduction="mean"))
    focal = sigmoid_focal_loss(proposed.logits, target, alpha=FOCAL_ALPHA)
    loss: Tensor = (focal * counted).sum() / target.sum().clamp(min=1)
    return loss + torch.stack(misses).mean() if misses else loss


def answering(box: Tensor, grid: Sequence[int], stride: int) -> Tensor:
    """Which cells (rows, columns) lie in the middle of a box: at least one."""
    x, y = cell_middles(grid, stride, device=box.device)
    left, top, right, bottom = box.unbind()
    from_x, from_y = (x - (left + right) / 2).abs(), (y - (top + bottom) / 2).abs()
    half_width, half_height = MIDDLE * (right - left) / 2, MIDDLE * (bottom - top) / 2
    nearest = (from_x <= from_x.min()) & (from_y <= from_y.min())
    return nearest | (from_x <= half_width) & (from_y <= half_height)
