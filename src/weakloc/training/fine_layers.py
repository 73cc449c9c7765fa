"""What is learned on the fine features of a frozen trunk: which cells are the object, a detector.

Cells are learned from tags, without any drawn box:

1. A classifier of single cells learns the tags: a cell that all kinds of images share cannot tell.
2. Cells that stand out from the rest of their image, and betray the tag at least a little, are
   taken for the object; Otsu's threshold divides each image. The run's class maps have a weak say.
3. A classifier of single cells learns this division. One image's guess is noise; what many
   images of a class have in common is not. Its answers divide the images once more.
4. What the images of a class have in common shows in deeper features, too: their first principal
   axis, which tells a face from the shoulders that come with it.

A detector is learned from boxes: a run's own, or some that people drew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import scipy.linalg
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from weakloc.data.loaders import EveryImageOnce, SampleLoader
from weakloc.data.transforms import Preprocessing
from weakloc.errors import DataError, SettingError
from weakloc.geometry import BoxLTRB, map_box_to_grid
from weakloc.localize.maps import cells_inside, otsu_threshold
from weakloc.model.fine_layers import (
    EVIDENCE,
    CellClassifier,
    Detector,
    cell_middles,
    fine_features,
    read_finely,
    without_border,
)
from weakloc.model.network import LocalizationNetwork
from weakloc.settings import DistilSettings, RefineSettings
from weakloc.structures import PRESENT, UNKNOWN, BrokenImage, Sample
from weakloc.work import Progress

IGNORED = -1
_CELLS_A_STEP = 8192  # fewer where that would be less than so many steps in an epoch:
_LEAST_STEPS = 4
_CELLS_AT_ONCE = 65536  # bounds the memory of what is computed of all cells
_LEAST_RATE = 1e-3
MIDDLE = 0.6  # of a box's sides: the cells in this part of it answer for the box
FOCAL_ALPHA = 0.5  # weight of the middles against all other cells
_IMAGES_A_STEP = 16
_IMAGES_AN_EPOCH = 200  # at least: fewer are shown several times


@dataclass(frozen=True)
class KeptImage:
    """What is kept of an image beside its cells: its tags, where it has cells, and its class maps.

    `shares` are those of its tags, each over its own range; `deeper` is the level in which is
    looked for what the images of a class have in common, each image with cells of its own there.
    """

    labels: Tensor  # (C,)
    shares: Tensor  # (tags, rows, columns), half precision
    inside: Tensor  # (rows, columns): not padding
    deeper: Tensor  # (channels, fewer rows, columns), half precision

    @property
    def num_cells(self) -> int:
        return int(self.inside.sum())

    @property
    def deeper_cells(self) -> Tensor:
        """Those inside the image: (channels, N)."""
        rows, columns = self.deeper.shape[1:]
        inside = functional.adaptive_avg_pool2d(self.inside[None].float(), (rows, columns))[0]
        return self.deeper[:, inside > 0.5]


def learn_cells(
    network: LocalizationNetwork,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    settings: RefineSettings,
    on_progress: Progress,
) -> tuple[CellClassifier, list[BrokenImage]]:
    """Nothing but the samples' labels is looked at."""
    draw = torch.Generator().manual_seed(settings.seed)
    drawn = torch.randperm(len(samples), generator=draw)[: settings.images]
    chosen = [samples[index] for index in sorted(drawn.tolist())]
    network, channels = read_finely(network)
    torch.manual_seed(settings.seed)
    classifier = CellClassifier(channels, len(chosen[0].labels))
    images, cells, broken = _keep_images(network, classifier, chosen, preprocessing, on_progress)
    if not any((image.labels == PRESENT).any() for image in images):
        raise DataError(
            f"none of {len(images)} readable images has a tag",
            remedy="Give images of which some are known to show a class",
        )
    _measure(classifier, images, cells)
    _learn_cells(classifier.tags, cells, _tag_loss(images), settings)
    for heat in [_standing_out_and_telling, *[_learned_division] * (settings.rounds - 1)]:
        division = _divided_anew(classifier, images, cells, heat)
        _learn_cells(classifier.places, cells, _place_loss(torch.cat(division)), settings)
    _find_common(classifier, [*zip(images, division, strict=True)])
    return classifier.eval(), broken


@torch.no_grad()
def _keep_images(
    network: LocalizationNetwork,
    classifier: CellClassifier,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    on_progress: Progress,
) -> tuple[list[KeptImage], Tensor, list[BrokenImage]]:
    """Also the cells inside all images, one image after the other: (cells, D), half precision."""
    # Images of one size share a pass through the network; others come one by one, unpadded.
    batch_size = 8 if preprocessing.fixed_size is not None else 1
    order = EveryImageOnce(len(samples), batch_size=batch_size)
    loader = SampleLoader(samples, preprocessing, order)
    device = next(network.parameters()).device
    images: list[KeptImage] = []
    cells, end = torch.empty(0, dtype=torch.half), 0
    for batch in loader:
        pixels = batch.images.to(device, memory_format=torch.channels_last)
        fine = fine_features(network.backbone, pixels, classifier.levels)
        grids = classifier.cells(fine).half().cpu()
        output = network(pixels, (classifier.common_level,))
        maps = output.maps.float().cpu()
        deeper = without_border(output.levels[classifier.common_level]).half().cpu()
        for row, transform in enumerate(batch.transforms):
            assert transform is not None
            to_cells = classifier.cell_geometry.cell_transform(transform, *grids.shape[2:])
            inside = torch.from_numpy(cells_inside((0.0, 0.0, *transform.image_size), to_cells))
            labels = batch.labels[row]
            shares = classifier.shares_of_range(
                maps[row][labels == PRESENT],
                network.backbone.geometry,
                pixels.shape[2:],
                grids.shape[2:],
            )
            images.append(KeptImage(labels, shares.half(), inside, deeper[row]))
            start, end = end, end + images[-1].num_cells
            if end > len(cells):  # for all that may come: untouched, it takes no memory
                num_coming = len(samples) - len(images)
                cells.resize_(end + num_coming * inside.numel(), grids.shape[1])
            cells[start:end] = grids[row][:, inside].T
        on_progress(len(images), len(samples))
    return images, cells[:end], list(loader.broken)


def _measure(classifier: CellClassifier, images: Sequence[KeptImage], cells: Tensor) -> None:
    """Mean and spread of every channel, and how common each tag is; the cells are standardised."""
    labels = torch.stack([image.labels for image in images])
    known = (labels != UNKNOWN).sum(0).clamp(min=1)
    rates = (labels == PRESENT).sum(0) / known
    classifier.base_rates.copy_(rates.clamp(_LEAST_RATE, 1 - _LEAST_RATE))
    classifier.measure(torch.split(cells, _CELLS_AT_ONCE))
    for part in torch.split(cells, _CELLS_AT_ONCE):
        part.copy_((part.float() - classifier.mean) / classifier.std)


def standing_out(levels: Sequence[Tensor]) -> Tensor:
    """Distance of every cell (cells, channels) from the median, averaged over the levels: (cells,).

    The median is the background's as long as it covers more than half of the image.
    """
    distances = [(level - level.median(dim=0).values).square().mean(1).sqrt() for level in levels]
    return torch.stack(distances).mean(0)


CellHeat = Callable[[CellClassifier, Tensor], Tensor]  # (cells, D) of one image -> (cells, C)


def _standing_out_and_telling(classifier: CellClassifier, cells: Tensor) -> Tensor:
    sizes = [classifier.channels[level] for level in classifier.levels]
    levels = torch.split(cells, sizes, dim=1)
    return standing_out(levels)[:, None] * _flat(classifier.evidence, cells)


def _learned_division(classifier: CellClassifier, cells: Tensor) -> Tensor:
    return _flat(classifier.is_object, cells)


@torch.no_grad()
def _divided_anew(
    classifier: CellClassifier, images: Sequence[KeptImage], cells: Tensor, heat: CellHeat
) -> list[Tensor]:
    """Of each image's cells the class + 1, 0 for background, IGNORED where nothing is known."""
    of_images = zip(images, torch.split(cells, [image.num_cells for image in images]), strict=True)
    return [_divided(heat(classifier, part.float()), image) for image, part in of_images]


def _divided(heat: Tensor, image: KeptImage) -> Tensor:
    """Where two tagged classes want a cell, the one gets it that is nearer to its own maximum."""
    present = [int(index) for index in (image.labels == PRESENT).nonzero()]
    if not present and bool((image.labels == UNKNOWN).any()):
        return torch.full((len(heat),), IGNORED)
    target = torch.zeros(len(heat), dtype=torch.int64)
    best = torch.zeros(len(heat))
    for index, share_of_map in zip(present, image.shares.float(), strict=True):
        weighed = torch.zeros(2, *image.inside.shape)  # heat where there are cells; are there any
        weighed[0, image.inside] = heat[:, index] * share_of_map[image.inside] ** EVIDENCE
        weighed[1, image.inside] = 1.0
        around = functional.avg_pool2d(weighed, 3, 1, 1, count_include_pad=False)
        known = (around[0] / around[1])[image.inside]
        if known.min() == known.max():
            return torch.full((len(heat),), IGNORED)
        threshold = otsu_threshold(known.numpy())
        share = torch.where(known > threshold, known / known.max(), 0.0)
        target[share > best] = index + 1
        best = torch.maximum(best, share)
    return target


@torch.no_grad()
def _find_common(classifier: CellClassifier, divided: Sequence[tuple[KeptImage, Tensor]]) -> None:
    """The first principal axis of each class's images (as in DDT, Wei et al. 2019), towards the
    cells that the division takes for objects."""
    for index, axis in enumerate(classifier.axes):
        of_class = [pair for pair in divided if pair[0].labels[index] == PRESENT]
        axis.copy_(principal_axis([image.deeper_cells for image, _ in of_class], len(axis)))
        towards = 0.0
        for image, target in of_class:
            along = torch.einsum("drc,d->rc", image.deeper.float(), axis)[None, None]
            on_cells = functional.interpolate(along, size=image.inside.shape, mode="bilinear")
            values = on_cells[0, 0, image.inside]
            towards += float(((values - values.mean()) * (target == index + 1)).sum())
        if towards < 0:
            axis.neg_()


def principal_axis(parts: Iterable[Tensor], size: int) -> Tensor:
    """Along which the cells (size, N) of all parts differ most; without any no direction."""
    total, products = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size).double()
    count = 0
    for part in parts:
        cells = part.double()
        total += cells.sum(1)
        products += cells @ cells.T
        count += cells.shape[1]
    if not count:
        return total
    covariance = products / count - torch.outer(total, total) / count**2
    _, vectors = scipy.linalg.eigh(covariance.numpy(), subset_by_index=[size - 1, size - 1])
    return torch.from_numpy(vectors[:, 0])


CellLoss = Callable[[Tensor, Tensor], Tensor]  # logits of the drawn cells, which they are -> loss


def _tag_loss(images: Sequence[KeptImage]) -> CellLoss:
    """Every cell is asked for the tags of its image; unknown ones do not count."""
    labels = torch.stack([image.labels for image in images])
    counts = torch.tensor([image.num_cells for image in images])
    image_of_cell = torch.arange(len(images), dtype=torch.int32).repeat_interleave(counts)

    def loss(logits: Tensor, drawn: Tensor) -> Tensor:
        tags = labels[image_of_cell[drawn]]
        losses = functional.binary_cross_entropy_with_logits(
            logits, (tags == PRESENT).float(), reduction="none"
        )
        known = tags != UNKNOWN
        return (losses * known).sum() / known.sum().clamp(min=1)

    return loss


def _place_loss(division: Tensor) -> CellLoss:
    def loss(logits: Tensor, drawn: Tensor) -> Tensor:
        targets = division[drawn]
        total = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    return loss


def _learn_cells(
    layers: nn.Module, cells: Tensor, loss: CellLoss, settings: RefineSettings
) -> None:
    """On batches of cells of all images."""
    count = len(cells)
    batch_size = min(_CELLS_A_STEP, -(-count // _LEAST_STEPS))
    optimiser = torch.optim.AdamW(layers.parameters(), settings.learning_rate, weight_decay=1e-3)
    for drawn, _ in _steps(optimiser, count, batch_size, settings, peak=3.0):
        logits = _flat(layers, cells[drawn].float())
        loss(logits, drawn).backward()  # type: ignore[no-untyped-call]


def _steps(
    optimiser: torch.optim.Optimizer,
    count: int,
    batch_size: int,
    settings: RefineSettings | DistilSettings,
    *,
    peak: float,
) -> Iterator[tuple[Tensor, torch.Generator]]:
    """The numbers of what is learned from, drawn for each step, and a generator for more chance.

    The step is made of the gradients that are there when the next one is asked for.
    """
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        peak * settings.learning_rate,
        total_steps=settings.epochs * -(-count // batch_size),
    )
    draw = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        for drawn in torch.split(torch.randperm(count, generator=draw), batch_size):
            optimiser.zero_grad()
            yield drawn, draw
            optimiser.step()
            schedule.step()


def _flat(layers: Callable[[Tensor], Tensor], cells: Tensor) -> Tensor:
    """What is made for maps, over a list of cells: (cells, D) -> (cells, outputs)."""
    return layers(cells.T[None, :, :, None])[0, :, :, 0].T


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
    classes: Sequence[int]  # of the boxes
    boxes: Tensor  # (boxes, 4) in pixels of the input
    unknown: list[int]

    def mirrored(self, width: float) -> _Taught:
        left, top, right, bottom = self.boxes.unbind(1)
        boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
        return replace(self, cells=self.cells.flip(-1), boxes=boxes)


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
    network, channels = read_finely(network)
    torch.manual_seed(settings.seed)
    detector = Detector(channels, len(lessons[0].sample.labels))
    detector.reach.fill_(max(preprocessing.fixed_size))
    taught, broken = _taught(network, detector, lessons, preprocessing, on_progress)
    if not any(len(image.boxes) for image in taught):
        raise DataError(
            f"none of {len(lessons)} images has a box that could be learned",
            remedy="Give images that can be read, with boxes of the run's classes",
        )
    _learn_detector(detector, taught, preprocessing.fixed_size[0], settings)
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
    taught = []
    for values, (lesson, transform) in zip(cells, places, strict=True):
        values.copy_((values.float() - mean) / std)
        classes = [index for index, _ in lesson.boxes]
        placed = [map_box_to_grid(box, transform) for _, box in lesson.boxes]
        boxes = torch.tensor(placed, dtype=torch.float32).reshape(-1, 4)
        taught.append(_Taught(values, classes, boxes, sorted(lesson.unknown)))
    return taught, list(loader.broken)


def _learn_detector(
    detector: Detector, taught: Sequence[_Taught], width: int, settings: DistilSettings
) -> None:
    shown = list(range(len(taught))) * max(1, round(_IMAGES_AN_EPOCH / len(taught)))
    optimiser = torch.optim.AdamW(detector.parameters(), settings.learning_rate, weight_decay=0.01)
    for drawn, draw in _steps(optimiser, len(shown), _IMAGES_A_STEP, settings, peak=2.0):
        images = [taught[shown[number]] for number in drawn.tolist()]
        if torch.rand((), generator=draw) < 0.5:
            images = [image.mirrored(width) for image in images]
        _loss(detector, images).backward()  # type: ignore[no-untyped-call]


def _loss(detector: Detector, images: Sequence[_Taught]) -> Tensor:
    """Focal loss of the middles, and 1 - GIoU of the boxes of the cells that answer for one."""
    proposed = detector.propose(torch.stack([image.cells for image in images]).float())
    target = torch.zeros_like(proposed.logits)
    counted = torch.ones_like(proposed.logits)
    misses = []
    for number, image in enumerate(images):
        counted[number, image.unknown] = 0
        for index, box in zip(image.classes, image.boxes, strict=True):
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
