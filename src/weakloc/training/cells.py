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

from weakloc.data.loaders import SampleLoader
from weakloc.data.sampling import EveryImageOnce
from weakloc.data.transforms import Preprocessing
from weakloc.errors import DataError
from weakloc.localize.maps import cells_inside, shares_of_range
from weakloc.model.cell_classifier import (
    EVIDENCE,
    CellClassifier,
    fine_features,
    fine_levels,
    on_coarsest_grid,
)
from weakloc.model.network import LocalizationNetwork
from weakloc.settings import RefineSettings
from weakloc.structures import PRESENT, UNKNOWN, BrokenImage, Sample, ScoreMaps
from weakloc.work import Progress

IGNORED = -1
_IMAGES_A_STEP = 16
_SMALLEST_SPREAD = 1e-6
_LEAST_RATE = 1e-3


@dataclass(frozen=True)
class KeptImage:
    """What is kept of an image: half-precision features by stride, its tags, where it has cells.

    `shares` are the class maps of its tags, each over its own range.
    """

    features: dict[int, Tensor]  # stride -> (D, h, w)
    labels: Tensor  # (C,)
    shares: Tensor  # (tags, rows, columns)
    inside: Tensor  # (rows, columns): not padding


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
    kept, broken = _keep_images(network, chosen, preprocessing, on_progress)
    if not any((image.labels == PRESENT).any() for image in kept):
        raise DataError(
            f"none of {len(kept)} readable images has a tag",
            remedy="Give images of which some are known to show a class",
        )
    torch.manual_seed(settings.seed)
    classifier = CellClassifier(
        {level: len(values) for level, values in kept[0].features.items()}, len(kept[0].labels)
    )
    _measure(classifier, kept)
    _learn_tags(classifier, kept, settings)
    division = [_guess(classifier, image) for image in kept]
    for number in range(settings.rounds):
        if number:
            division = [_divided(_is_object(classifier, image), image) for image in kept]
        _learn_places(classifier, kept, division, settings)
    return classifier.eval(), broken


@torch.inference_mode()
def _keep_images(
    network: LocalizationNetwork,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    on_progress: Progress,
) -> tuple[list[KeptImage], list[BrokenImage]]:
    network.eval()
    levels = fine_levels(network.backbone)
    # Images of one size share a pass through the network; others come one by one, unpadded.
    batch_size = 8 if preprocessing.fixed_size is not None else 1
    order = EveryImageOnce(len(samples), batch_size=batch_size)
    loader = SampleLoader(samples, preprocessing, order)
    device = next(network.parameters()).device
    kept: list[KeptImage] = []
    for batch in loader:
        images = batch.images.to(device)
        fine = fine_features(network.backbone, images, levels)
        maps = network(images).maps.float().cpu().numpy()
        for row, transform in enumerate(batch.transforms):
            features = {level: values[row].half().cpu() for level, values in fine.items()}
            rows, columns = features[max(levels)].shape[1:]
            assert transform is not None
            cells = network.backbone.geometry.cell_transform(transform, rows, columns)
            inside = cells_inside((0.0, 0.0, *transform.image_size), cells)
            labels = batch.labels[row]
            tagged = maps[row][(labels == PRESENT).numpy()]
            tagged_at = network.backbone.geometry.cell_transform(transform, *tagged.shape[1:])
            shares = shares_of_range(ScoreMaps(tagged, tagged_at), cells)
            kept.append(
                KeptImage(
                    features,
                    labels,
                    torch.from_numpy(shares).half(),
                    torch.from_numpy(inside),
                )
            )
        on_progress(len(kept), len(samples))
    return kept, list(loader.broken)


def _measure(classifier: CellClassifier, kept: Sequence[KeptImage]) -> None:
    """Mean and spread of every channel, and how common each tag is."""
    labels = torch.stack([image.labels for image in kept])
    known = (labels != UNKNOWN).sum(0).clamp(min=1)
    rates = (labels == PRESENT).sum(0) / known
    classifier.base_rates.copy_(rates.clamp(_LEAST_RATE, 1 - _LEAST_RATE))
    means, spreads = [], []
    for level in classifier.levels:
        total = torch.zeros(classifier.channels[level], dtype=torch.float64)
        squares, count = torch.zeros_like(total), 0
        for image in kept:
            values = image.features[level].flatten(1).double()
            total += values.sum(1)
            squares += values.square().sum(1)
            count += values.shape[1]
        mean = total / count
        means.append(mean)
        spreads.append((squares / count - mean.square()).clamp(min=0).sqrt())
    classifier.mean.copy_(torch.cat(means))
    classifier.std.copy_(torch.cat(spreads).clamp(min=_SMALLEST_SPREAD))


def _standardised(classifier: CellClassifier, image: KeptImage) -> dict[int, Tensor]:
    return classifier.standardised({k: value[None].float() for k, value in image.features.items()})


def standing_out(standardised: Sequence[Tensor]) -> Tensor:
    """Distance of every cell from its image's median, averaged over the levels: (B, rows, columns).

    The median is the background's as long as it covers more than half of the image.
    """
    maps = []
    for features in standardised:
        middle = features.flatten(2).median(dim=2).values[:, :, None, None]
        maps.append((features - middle).square().mean(1, keepdim=True).sqrt())
    return torch.stack(on_coarsest_grid(maps)).mean(0)[:, 0]


@torch.no_grad()
def _guess(classifier: CellClassifier, image: KeptImage) -> Tensor:
    levels = _standardised(classifier, image)
    evidence = classifier.evidence(classifier.cells(levels))[0]
    out = standing_out([levels[level] for level in classifier.levels])[0]
    return _divided(out * evidence, image)


@torch.no_grad()
def _is_object(classifier: CellClassifier, image: KeptImage) -> Tensor:
    return classifier.is_object(classifier.cells(_standardised(classifier, image)))[0]


def _divided(heat: Tensor, image: KeptImage) -> Tensor:
    """Each cell's class + 1, 0 for background, IGNORED where nothing is known: (rows, columns).

    Where two tagged classes want a cell, the one gets it that is nearer to its own maximum.
    """
    present = [int(index) for index in (image.labels == PRESENT).nonzero()]
    if not present and bool((image.labels == UNKNOWN).any()):
        return torch.full(image.inside.shape, IGNORED)
    target = torch.zeros(image.inside.shape, dtype=torch.int64)
    best = torch.zeros(image.inside.shape)
    for index, share_of_map in zip(present, image.shares.float(), strict=True):
        weighed = (heat[index] * share_of_map**EVIDENCE)[None]
        smooth = functional.avg_pool2d(weighed, 3, 1, 1, count_include_pad=False)[0]
        known = smooth[image.inside]
        if known.min() == known.max():
            return torch.full(image.inside.shape, IGNORED)
        share = torch.where(smooth > otsu_threshold(known), smooth / known.max(), 0.0)
        target[share > best] = index + 1
        best = torch.maximum(best, share)
    target[~image.inside] = IGNORED
    return target


def otsu_threshold(values: Tensor) -> float:
    """Otsu 1979: the highest value of the lower of two groups that differ most in their means."""
    ordered = values.flatten().double().sort().values
    below = torch.arange(1, len(ordered), dtype=torch.float64)
    above = len(ordered) - below
    sums = ordered.cumsum(0)
    difference = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    return float(ordered[int((below * above * difference.square()).argmax())])


def _learn_tags(
    classifier: CellClassifier, kept: Sequence[KeptImage], settings: RefineSettings
) -> None:
    """Every cell is asked for the tags of its image; unknown ones do not count."""

    def loss(cells: Tensor, chosen: Sequence[int]) -> Tensor:
        counts = [int(kept[index].inside.sum()) for index in chosen]
        labels = torch.stack([kept[index].labels for index in chosen])
        labels = labels.repeat_interleave(torch.tensor(counts), dim=0)
        logits = _flat(classifier.tags, cells)
        losses = functional.binary_cross_entropy_with_logits(
            logits, (labels == PRESENT).float(), reduction="none"
        )
        known = labels != UNKNOWN
        return (losses * known).sum() / known.sum().clamp(min=1)

    _learn(classifier, classifier.tags, kept, loss, settings)


def _learn_places(
    classifier: CellClassifier,
    kept: Sequence[KeptImage],
    division: Sequence[Tensor],
    settings: RefineSettings,
) -> None:
    def loss(cells: Tensor, chosen: Sequence[int]) -> Tensor:
        targets = torch.cat([division[index][kept[index].inside] for index in chosen])
        logits = _flat(classifier.places, cells)
        total = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    _learn(classifier, classifier.places, kept, loss, settings)


def _learn(
    classifier: CellClassifier,
    layers: nn.Module,
    kept: Sequence[KeptImage],
    loss: Callable[[Tensor, Sequence[int]], Tensor],
    settings: RefineSettings,
) -> None:
    steps = settings.epochs * -(-len(kept) // _IMAGES_A_STEP)
    optimiser = torch.optim.AdamW(layers.parameters(), settings.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 3 * settings.learning_rate, total_steps=steps
    )
    draw = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        for drawn in torch.split(torch.randperm(len(kept), generator=draw), _IMAGES_A_STEP):
            chosen = drawn.tolist()
            with torch.no_grad():
                cells = torch.cat(  # (cells inside the images, D)
                    [
                        classifier.cells(_standardised(classifier, image))[0][:, image.inside].T
                        for image in (kept[index] for index in chosen)
                    ]
                )
            optimiser.zero_grad()
            loss(cells, chosen).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def _flat(layers: nn.Module, cells: Tensor) -> Tensor:
    """1x1 convolutions over a list of cells: (cells, D) -> (cells, outputs)."""
    outputs: Tensor = layers(cells.T[None, :, :, None])
    return outputs[0, :, :, 0].T
