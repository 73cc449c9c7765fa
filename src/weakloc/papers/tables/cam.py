"""The experiments of CAM with crops (Choe et al. 2018): tables 1 and 2 on Tiny ImageNet.

    weakloc reproduce cam-augmentation --data tiny-imagenet-200 --budget paper60 --precision bf16

trains pre-activation ResNets of 34 and 18 layers for 60 epochs of 100,000 images, on a GPU.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from weakloc.papers.recipe import Cell, Finding, Published, Recipe

_PAPER = "Choe et al."
_NETS = ("larger", "smaller")
_AUGMENTS = {
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
_CLAIMS = (
    ("GR is ahead of CAM", "GR", "CAM", "top_1_loc", _PAPER),
    ("GR is ahead of HnS", "GR", "HnS", "top_1_loc", _PAPER),
    ("HnS is ahead of CAM", "HnS", "CAM", "top_1_loc", _PAPER),
    ("GR is ahead of HnS after GR", "GR", "HnS after GR", "top_1_loc", _PAPER),
    ("GR covers more than CAM", "GR", "CAM", "gt_known_loc", _PAPER),
    ("GR covers more at the best threshold too", "GR", "CAM", "max_box_acc", "weakloc"),
)
_BATCHES = {256: 1.0, 128: 0.5, 32: 0.125}
_TABLE_2: dict[str, dict[str, tuple[float, ...]]] = {  # batches of 256, 128 and 32
    "larger": {
        "CAM": (27.50, 29.62, 31.49), "HnS": (29.72, 30.32, 31.17), "GR": (36.00, 36.13, 37.84)
    },
    "smaller": {
        "CAM": (27.13, 27.76, 28.47), "HnS": (27.56, 29.25, 29.45), "GR": (34.43, 35.83, 35.94)
    },
}  # fmt: skip
_recipe = partial(
    Recipe,
    papers_data="Tiny ImageNet val, pre-activation ResNets of 34 and 18 layers",
    data="single",
    backbones=("preact34", "preact18"),
    metrics=("top_1_accuracy", "gt_known_loc", "top_1_loc", "max_box_acc", "max_box_acc_v2"),
)


def _cell(name: str, net: str, augment: str, **rest: Any) -> Cell:
    return Cell(
        f"{name}, {net} net",
        "cam",
        choices={"augment": _AUGMENTS[augment]},
        look={"boxes": "largest", "threshold": 0.2},  # section 3: 20 % of the maximum
        smaller_backbone=net == "smaller",
        below_head=True,
        **rest,
    )


AUGMENTATION = _recipe(
    name="cam-augmentation",
    number="D1, D3",
    title="Crops and hidden patches",
    reference="Choe et al. table 1",
    question="Do random crops make class activation maps cover more of the object?",
    cells=tuple(_cell(name, net, name) for net in _NETS for name in _AUGMENTS),
    findings=tuple(
        Finding(
            f"{claim}, {net} net", f"{better}, {net} net", f"{worse}, {net} net", metric, said_by
        )
        for net in _NETS
        for claim, better, worse, metric, said_by in _CLAIMS
    ),
    published=tuple(
        Published(
            source="Choe et al. table 1",
            data="Tiny ImageNet",
            metric=metric,
            values={
                f"{name}, {net} net": value
                for net, values in rows.items()
                for name, value in zip(_AUGMENTS, values, strict=True)
            },
        )
        for metric, rows in _TABLE_1.items()
    ),
)

_SLOWER = "GR, batch 32, rates / 8"
_BATCH_FINDINGS = (
    *(
        Finding(f"{name} gains from a batch of 32", f"{name}, batch 32, larger net",
                f"{name}, batch 256, larger net", "top_1_loc", _PAPER)
        for name in _COMPARED
    ),
    Finding("the gain remains when the rate shrinks with the batch",
            f"{_SLOWER}, larger net", "GR, batch 256, larger net", "top_1_loc"),
)  # fmt: skip

BATCH = _recipe(
    name="cam-batch",
    number="D2",
    title="Small batches",
    reference="Choe et al. table 2",
    question="Do smaller batches place better, or only slower learning rates for each image?",
    cells=(
        *(
            _cell(
                f"{name}, batch {batch}",
                net,
                name,
                batch=share,
                only="literal" if net == "smaller" else None,
            )
            for net in _NETS
            for name in _COMPARED
            for batch, share in _BATCHES.items()
        ),
        _cell(_SLOWER, "larger", "GR", batch=1 / 8, head_rate=1 / 8, backbone_rate=1 / 8),
    ),
    findings=_BATCH_FINDINGS,
    published=(
        Published(
            source="Choe et al. table 2",
            data="Tiny ImageNet",
            metric="top_1_loc",
            values={
                f"{name}, batch {batch}, {net} net": value
                for net, rows in _TABLE_2.items()
                for name, values in rows.items()
                for batch, value in zip(_BATCHES, values, strict=True)
            },
        ),
    ),
    notes=("On scenes the batches are those shares of the setup's: 1, 1/2 and 1/8.",),
)

_TAUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)

THRESHOLD = _recipe(
    name="cam-threshold",
    number="D3",
    title="The threshold of the map",
    reference="Choe et al. section 3; Choe et al. 2020",
    question="Does the gain of crops survive any threshold?",
    papers_data="20 % of the maximum, throughout",
    axis="threshold",
    cells=tuple(
        Cell(
            f"{name} at {tau:g}",
            "cam",
            choices={"augment": _AUGMENTS[name]},
            look={"boxes": "largest", "threshold": tau},
            at=tau,
            series=name,
        )
        for name in _COMPARED
        for tau in _TAUS
    ),
    metrics=("gt_known_loc", "top_1_loc", "max_box_acc", "max_box_acc_v2"),
    findings=tuple(
        Finding(f"GR covers more at {tau:g}", f"GR at {tau:g}", f"CAM at {tau:g}", "gt_known_loc")
        for tau in _TAUS
    ),
)

RECIPES = (AUGMENTATION, BATCH, THRESHOLD)
