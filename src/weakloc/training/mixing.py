"""Images blended with others of their batch, which add their tags.

Classes that always come alone let a network learn that one excludes the other. A blend shows both:
it stands for an image with the objects of two, and breaks that rule without a new photograph.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from weakloc.data.loaders import Batch

_FAINTEST = 0.2  # less of an image than this need not show its tags


def mixed_batch(batch: Batch, share: float) -> Batch:
    """On average `share` of the images blended, by PyTorch's generator; the order stays."""
    if share == 0 or len(batch) < 2:
        return batch
    others = _others(len(batch))
    is_mixed = torch.rand(len(batch)) < share
    weights = torch.empty(len(batch)).uniform_(_FAINTEST, 1 - _FAINTEST) * is_mixed
    images = torch.lerp(
        batch.images,
        batch.images[others],
        weights.to(batch.images)[:, None, None, None],
    )
    # Present in either is present, absent in both is absent, all else is unknown: -1 < 0 < 1.
    both = torch.maximum(batch.labels, batch.labels[others])
    labels = torch.where(is_mixed.to(both.device)[:, None], both, batch.labels)
    return replace(batch, images=images, labels=labels)


def _others(count: int) -> Tensor:
    """A partner for each image, never itself: the next one around a random circle."""
    circle = torch.randperm(count)
    partners = torch.empty_like(circle)
    partners[circle] = circle.roll(1)
    return partners
