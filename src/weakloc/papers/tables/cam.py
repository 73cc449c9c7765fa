"""The experiments of CAM with crops (Choe et al. 2018): tables 1 and 2 on Tiny ImageNet, and what
the paper fixes: the stem, the crops' area, the epochs.

    weakloc reproduce cam-augmentation --data tiny-imagenet-200 --budget paper60 --precision bf16

trains pre-activation ResNets of 34 and 18 layers for 60 epochs of 100,000 images, on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

from weakloc.papers.recipe import Cell, Finding, Published, Recipe

_PAPER = "Choe et al."
_NETS = ("larger", "smaller")
_AUGMENTS = {  # the columns of table 1
    "CAM": "none", "HnS": "hns", "GR": "gr", "HnS after GR": "hns_after_gr",
    "GR after HnS": "gr_after_hns",
}  # fmt: skip
_COMPARED = ("CAM", "HnS", "GR")
_TABLE_1: dict[str, dict[str, tuple[float, ...]]] = {
    "gt_known_loc": {
        "larger": (53.46, 54.30, 57.82, 57.49, 57.43),
        "smaller": (53.42, 52.89, 57.00, 56.99, 56.76),
    },
    "top_1_loc": {
        "larger": (27.50, 29.72, 36.00, 33.93, 33.45),
        "smaller": (27.13, 27.56, 34.43, 33.33, 32.28),
    },
    "top_1_accuracy": {
        "larger": (44.54, 46.67, 54.13, 51.28, 50.45),
        "smaller": (43.90, 44.12, 52.23, 50.14, 48.87),
    },
}
_is_ahead = partial(Finding, metric="top_1_loc")
_covers = partial(Finding, metric="gt_known_loc")
_boxes = partial(Finding, metric="max_box_acc")
_CLAIMS = (
    (_is_ahead, "GR is ahead of CAM", "GR", "CAM", _PAPER),
    (_is_ahead, "GR is ahead of HnS", "GR", "HnS", _PAPER),
    (_is_ahead, "HnS is ahead of CAM", "HnS", "CAM", _PAPER),
    (_is_ahead, "GR is ahead of HnS after GR", "GR", "HnS after GR", _PAPER),
    (_covers, "GR covers more than CAM", "GR", "CAM", _PAPER),
    (_boxes, "GR covers more at the best threshold too", "GR", "CAM", "weakloc"),
    (_is_ahead, "GR is ahead of CutMix", "GR", "CutMix", "weakloc"),
)
_BATCHES = {256: 1.0, 128: 0.5, 32: 0.125}
_TABLE_2: dict[str, dict[str, tuple[float, ...]]] = {
    "top_1_loc": {  # CAM, HnS and GR, each in batches of 256, 128 and 32
        "larger": (27.50, 29.62, 31.49, 29.72, 30.32, 31.17, 36.00, 36.13, 37.84),
        "smaller": (27.13, 27.76, 28.47, 27.56, 29.25, 29.45, 34.43, 35.83, 35.94),
    }
}
_recipe = partial(
    Recipe,
    papers_data="Tiny ImageNet val, pre-activation ResNets of 34 and 18 layers",
    data="single",
    backbones=("preact34", "preact18"),
    metrics=("top_1_accuracy", "gt_known_loc", "top_1_loc", "max_box_acc", "max_box_acc_v2"),
)


_fixed = partial(  # section 3: 20 % of the maximum
    Cell, method="cam", look={"boxes": "largest", "threshold": 0.2}, below_head=True
)


def _cell(name: str, net: str, augment: str, **rest: Any) -> Cell:
    is_smaller, choices = net == "smaller", {"augment": augment}
    return _fixed(f"{name}, {net} net", choices=choices, smaller_backbone=is_smaller, **rest)


def _published(
    table: str, numbers: dict[str, dict[str, tuple[float, ...]]], names: Sequence[str]
) -> tuple[Published, ...]:
    """`numbers` are metric -> network -> one a name."""
    cells = [f"{name}, {net} net" for net in _NETS for name in names]
    by_cell = {m: zip(cells, chain(*rows.values()), strict=True) for m, rows in numbers.items()}
    source, data = f"{_PAPER} {table}", "Tiny ImageNet"
    return tuple(Published(source, data, metric, dict(row)) for metric, row in by_cell.items())


AUGMENTATION = _recipe(
    "cam-augmentation", "D1, D3", "Crops and hidden patches",
    reference="Choe et al. table 1",
    question="Do random crops make class activation maps cover more of the object?",
    cells=tuple(
        _cell(name, net, augment)
        for net in _NETS
        for name, augment in {**_AUGMENTS, "CutMix": "cutmix"}.items()
    ),
    findings=tuple(
        finding(f"{claim}, {net} net", f"{better}, {net} net", f"{worse}, {net} net", said_by)
        for net in _NETS
        for finding, claim, better, worse, said_by in _CLAIMS
    ),
    published=_published("table 1", _TABLE_1, [*_AUGMENTS]),
)  # fmt: skip

_SLOWER = "GR, batch 32, rates / 8"

BATCH = _recipe(
    "cam-batch", "D2", "Small batches",
    reference="Choe et al. table 2",
    question="Do smaller batches place better, or only slower learning rates for each image?",
    cells=(
        *(
            _cell(f"{name}, batch {batch}", net, _AUGMENTS[name],
                  batch=share, only="literal" if net == "smaller" else None)
            for net in _NETS
            for name in _COMPARED
            for batch, share in _BATCHES.items()
        ),
        _cell(_SLOWER, "larger", "gr", batch=1 / 8, head_rate=1 / 8, backbone_rate=1 / 8),
    ),
    findings=(
        *(
            _is_ahead(f"{name} gains from a batch of 32", f"{name}, batch 32, larger net",
                      f"{name}, batch 256, larger net", _PAPER)
            for name in _COMPARED
        ),
        _is_ahead("the gain remains when the rate shrinks with the batch",
                  f"{_SLOWER}, larger net", "GR, batch 256, larger net"),
    ),
    published=_published(
        "table 2", _TABLE_2, [f"{name}, batch {batch}" for name in _COMPARED for batch in _BATCHES]
    ),
    notes=("On scenes the batches are those shares of the setup's: 1, 1/2 and 1/8.",),
)  # fmt: skip

_TAUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)

THRESHOLD = _recipe(
    "cam-threshold", "D3", "The threshold of the map",
    reference="Choe et al. section 3; Choe et al. 2020",
    question="Does the gain of crops survive any threshold?",
    papers_data="20 % of the maximum, throughout",
    axis="threshold",
    cells=tuple(
        Cell(f"{name} at {tau:g}", "cam", choices={"augment": _AUGMENTS[name]},
             look={"boxes": "largest", "threshold": tau}, at=tau, series=name)
        for name in _COMPARED
        for tau in _TAUS
    ),
    metrics=("gt_known_loc", "top_1_loc", "max_box_acc", "max_box_acc_v2"),
    findings=tuple(
        _covers(f"GR covers more at {tau:g}", f"GR at {tau:g}", f"CAM at {tau:g}") for tau in _TAUS
    ),
)  # fmt: skip

_CELLS = {"8 x 8 cells": 1.0, "4 x 4 cells": 0.5, "2 x 2 cells": 0.25}
_STEMS = ("cifar", "s2", "cam", "imagenet")

STEM = _recipe(
    "cam-stem", "D4", "The stem of the network",
    reference='Choe et al. section 3: "slight modification to the size of input layer"',
    question="How fine must the map be for useful boxes?",
    cells=(
        *(_fixed(name, sizes=(size,), only="practical") for name, size in _CELLS.items()),
        *(
            _fixed(f"stem {stem}", train={"backbone": f"preact18[stem={stem}]"}, only="literal")
            for stem in _STEMS
        ),
    ),
    findings=(
        _covers("8 x 8 cells cover more than 4 x 4", "8 x 8 cells", "4 x 4 cells"),
        _covers("8 x 8 cells cover more than 4 x 4", "stem cifar", "stem s2"),
        _covers("8 x 8 cells cover more than 2 x 2", "stem cifar", "stem imagenet"),
    ),
    notes=(
        "Of 64 pixels the stems leave 8 x 8 (cifar), 4 x 4 (s2, cam) and 2 x 2 cells (imagenet).",
        "A network without stems gives as many cells of images at half and a quarter of the side.",
    ),
)  # fmt: skip

_AREAS = (0.08, 0.25, 0.5)

AREA = _recipe(
    "cam-area", "D5", "The smallest crop",
    reference="Choe et al. section 2; no table",
    question="How small may the crops of GoogLeNet Resize be?",
    papers_data="8 %, throughout",
    axis="smallest share of the area",
    cells=(
        *(
            _fixed(f"GR from {area:.0%}", choices={"augment": "gr", "smallest_crop": area}, at=area)
            for area in _AREAS
        ),
        _fixed("CAM", choices={"augment": "none"}),
    ),
    findings=tuple(
        _is_ahead(f"crops from {area:.0%} are ahead of none", f"GR from {area:.0%}", "CAM")
        for area in _AREAS
    ),
)  # fmt: skip

_EPOCHS: dict[str, dict[str, Any]] = {
    **{
        f"{share:g} of the epochs": {"epochs": share, "only": "practical"}
        for share in (0.25, 0.5, 1.0)
    },
    **{
        f"{epochs} epochs": {"train": {"epochs": epochs}, "only": "literal"}
        for epochs in (20, 60, 300, 1500)
    },
}

EPOCHS = _recipe(
    "cam-epochs", "D6", "How long to learn",
    reference="Choe et al. section 3; no table",
    question="Is the order of the augmentations the same after fewer epochs?",
    papers_data="1500 epochs, throughout",
    cells=tuple(
        _fixed(f"{name}, {length}", choices={"augment": _AUGMENTS[name]}, **rest)
        for length, rest in _EPOCHS.items()
        for name in _COMPARED
    ),
    findings=tuple(
        _is_ahead(f"{better} is ahead of {worse} after {length}",
                  f"{better}, {length}", f"{worse}, {length}")
        for length in _EPOCHS
        for better, worse in (("GR", "HnS"), ("GR", "CAM"), ("HnS", "CAM"))
    ),
)  # fmt: skip

RECIPES = (AUGMENTATION, BATCH, THRESHOLD, STEM, AREA, EPOCHS)
