"""A second look: tags -> which cells are the object, without any drawn box.

1. A classifier of single cells learns the tags: a cell that all kinds of images share cannot tell.
2. Cells that stand out from the rest of their image, and betray the tag at least a little, are
   taken for the object; Otsu's threshold divides each image. The run's class maps have a weak say.
3. A classifier of single cells learns this division. One image's guess is noise; what many
   images of a class have in common is not. Its answers divide the images once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from weakloc.data.loaders import EveryImageOnce, SampleLoader
from weakloc.data.transforms import Preprocessing
from weakloc.errors import DataError
from weakloc.localize.maps import cells_inside, otsu_threshold, shares_of_range
from weakloc.model.fine_layers import (
    CELL_STRIDES,
    EVIDENCE,
    CellClassifier,
    fine_features,
    read_finely,
)
from weakloc.model.network import LocalizationNetwork
from weakloc.settings import RefineSettings
from weakloc.structures import PRESENT, UNKNOWN, BrokenImage, Sample, ScoreMaps
from weakloc.work import Progress

IGNORED = -1
_CELLS_A_STEP = 8192  # fewer where that would be less than so many steps in an epoch:
_LEAST_STEPS = 4
_CELLS_AT_ONCE = 65536  # bounds the memory of what is computed of all cells
_LEAST_RATE = 1e-3


@dataclass(frozen=True)
class KeptImage:
    """What is kept of an image beside its cells: its tags, where it has cells, and its class maps.

    `shares` are those of its tags, each over its own range.
    """

    labels: Tensor  # (C,)
    shares: Tensor  # (tags, rows, columns), half precision
    inside: Tensor  # (rows, columns): not padding


@dataclass(frozen=True)
class KeptCells:
    """The cells inside all images, one image after the other."""

    values: Tensor  # (cells, D), half precision
    image: Tensor  # (cells,) number of the image
    starts: Sequence[int]  # of each image, and the end of the last

    def of(self, number: int) -> Tensor:
        return self.values[self.starts[number] : self.starts[number + 1]].float()


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
    network, channels = read_finely(network, CELL_STRIDES)
    torch.manual_seed(settings.seed)
    classifier = CellClassifier(channels, len(chosen[0].labels))
    images, cells, broken = _keep_images(network, classifier, chosen, preprocessing, on_progress)
    if not any((image.labels == PRESENT).any() for image in images):
        raise DataError(
            f"none of {len(images)} readable images has a tag",
            remedy="Give images of which some are known to show a class",
        )
    labels = torch.stack([image.labels for image in images])
    _measure(classifier, labels, cells)
    _learn(classifier.tags, cells, _tag_loss(labels, cells), settings)
    division = _divided_anew(classifier, images, cells, _standing_out_and_telling)
    for number in range(settings.rounds):
        if number:
            division = _divided_anew(classifier, images, cells, _learned_division)
        _learn(classifier.places, cells, _place_loss(division), settings)
    return classifier.eval(), broken


@torch.no_grad()
def _keep_images(
    network: LocalizationNetwork,
    classifier: CellClassifier,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    on_progress: Progress,
) -> tuple[list[KeptImage], KeptCells, list[BrokenImage]]:
    # Images of one size share a pass through the network; others come one by one, unpadded.
    batch_size = 8 if preprocessing.fixed_size is not None else 1
    order = EveryImageOnce(len(samples), batch_size=batch_size)
    loader = SampleLoader(samples, preprocessing, order)
    device = next(network.parameters()).device
    images: list[KeptImage] = []
    values: list[Tensor] = []
    for batch in loader:
        pixels = batch.images.to(device, memory_format=torch.channels_last)
        fine = fine_features(network.backbone, pixels, classifier.levels)
        grids = classifier.cells(fine).half().cpu()
        maps = network(pixels).maps.float().cpu().numpy()
        for row, transform in enumerate(batch.transforms):
            assert transform is not None
            geometry = network.backbone.geometry
            cells = geometry.cell_transform(transform, *grids.shape[2:])
            inside = torch.from_numpy(cells_inside((0.0, 0.0, *transform.image_size), cells))
            labels = batch.labels[row]
            tagged = maps[row][(labels == PRESENT).numpy()]
            tagged_at = geometry.cell_transform(transform, *tagged.shape[1:])
            shares = shares_of_range(ScoreMaps(tagged, tagged_at), cells)
            images.append(KeptImage(labels, torch.from_numpy(shares).half(), inside))
            values.append(grids[row][:, inside].T.contiguous())
        on_progress(len(images), len(samples))
    counts = torch.tensor([len(part) for part in values], dtype=torch.long)
    numbers = torch.arange(len(values), dtype=torch.int32).repeat_interleave(counts)
    starts = [0, *counts.cumsum(0).tolist()]
    joined = torch.cat(values) if values else torch.zeros(0, 0)
    return images, KeptCells(joined, numbers, starts), list(loader.broken)


def _measure(classifier: CellClassifier, labels: Tensor, cells: KeptCells) -> None:
    """Mean and spread of every channel, and how common each tag is; the cells are standardised."""
    known = (labels != UNKNOWN).sum(0).clamp(min=1)
    rates = (labels == PRESENT).sum(0) / known
    classifier.base_rates.copy_(rates.clamp(_LEAST_RATE, 1 - _LEAST_RATE))
    classifier.measure(torch.split(cells.values, _CELLS_AT_ONCE))
    for part in torch.split(cells.values, _CELLS_AT_ONCE):
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
    classifier: CellClassifier, images: Sequence[KeptImage], cells: KeptCells, heat: CellHeat
) -> Tensor:
    """Of every cell its class + 1, 0 for background, IGNORED where nothing is known: (cells,)."""
    parts = [
        _divided(heat(classifier, cells.of(number)), image) for number, image in enumerate(images)
    ]
    return torch.cat(parts)


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


CellLoss = Callable[[Tensor, Tensor], Tensor]  # logits of the drawn cells, which they are -> loss


def _tag_loss(labels: Tensor, cells: KeptCells) -> CellLoss:
    """Every cell is asked for the tags of its image; unknown ones do not count."""

    def loss(logits: Tensor, drawn: Tensor) -> Tensor:
        tags = labels[cells.image[drawn].long()]
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


def _learn(layers: nn.Module, cells: KeptCells, loss: CellLoss, settings: RefineSettings) -> None:
    """On batches of cells of all images."""
    count = len(cells.values)
    batch = min(_CELLS_A_STEP, -(-count // _LEAST_STEPS))
    steps = settings.epochs * -(-count // batch)
    optimiser = torch.optim.AdamW(layers.parameters(), settings.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 3 * settings.learning_rate, total_steps=steps
    )
    draw = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        for drawn in torch.split(torch.randperm(count, generator=draw), batch):
            optimiser.zero_grad()
            logits = _flat(layers, cells.values[drawn].float())
            loss(logits, drawn).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def _flat(layers: Callable[[Tensor], Tensor], cells: Tensor) -> Tensor:
    """What is made for maps, over a list of cells: (cells, D) -> (cells, outputs)."""
    return layers(cells.T[None, :, :, None])[0, :, :, 0].T
