"""Are the maps of timm's networks at the right place? 25 names, random weights, no download.

    python -m benchmarks.check_classifiers [--names resnet18 swin_tiny_patch4_window7_224]

A square of a picture of noise is changed, at one place and then at another. What that changes in a
map has to be where the square is, and to move with it: as a backbone (`--backbone NAME`), on an
input that is not square, and as a classifier (`timm:NAME`), at the network's own size. Ends with 1
where one is not. The licence is what timm says of the published weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from benchmarks.measure import write_results
from weakloc.model.backbones import build_backbone
from weakloc.model.trunk import BackboneSpec
from weakloc.predictor.classifier_source import ClassifierMaps

NAMES = (
    "resnet18",
    "resnet50",
    "resnetv2_50",
    "resnext50_32x4d",
    "regnety_002",
    "densenet121",
    "vgg11_bn",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "efficientnet_b0",
    "tf_efficientnetv2_b0",
    "ghostnet_100",
    "convnext_atto",
    "convnextv2_atto",
    "poolformer_s12",
    "pvt_v2_b0",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "eva02_tiny_patch14_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
)
SPOTS = ((2 / 7, 5 / 7), (5 / 7, 3 / 7))  # (x, y) as shares of the picture
SIDE = 2 / 7  # of the square, as a share of the picture
FARTHEST = 0.15  # share of a side between the square's middle and that of what it changed most
CELLS = (14, 7)  # columns and rows of the input that is not square
CLASSES = 32


def pictures(height: int, width: int) -> Tensor:
    """One of noise, and one with a square of brighter noise at each spot."""
    draw = torch.Generator().manual_seed(0)
    shown = torch.randn(3, height, width, generator=draw).repeat(1 + len(SPOTS), 1, 1, 1)
    other = 1 + 2 * torch.randn(3, height, width, generator=draw)
    for picture, (x, y) in zip(shown[1:], SPOTS, strict=True):
        rows, columns = (
            slice(round((at - SIDE / 2) * length), round((at + SIDE / 2) * length))
            for at, length in ((y, height), (x, width))
        )
        picture[:, rows, columns] = other[:, rows, columns]
    return shown


def farthest(maps: Tensor) -> float:
    """From a square to as large a part of the map (1 + spots, D, h, w) that it changed most, as a
    share of the sides."""
    changes = (maps[1:] - maps[0]).abs().sum(1)
    window = [max(round(SIDE * length), 1) for length in changes.shape[1:]]
    sums = avg_pool2d(changes[:, None], window, stride=1)[:, 0]
    distances = []
    for changed, (x, y) in zip(sums, SPOTS, strict=True):
        row, column = divmod(int(changed.argmax()), changed.shape[1])
        middle = (column + window[1] / 2) / maps.shape[3], (row + window[0] / 2) / maps.shape[2]
        distances += [abs(middle[0] - x), abs(middle[1] - y)]
    return max(distances)


def as_backbone(name: str) -> dict[str, object]:
    backbone = build_backbone(BackboneSpec.parse(name, weights="none")).eval()
    width, height = (count * backbone.stride for count in CELLS)
    with torch.inference_mode():
        features = backbone(pictures(height, width))
    assert features.shape[1:] == (backbone.out_channels, CELLS[1], CELLS[0]), features.shape
    return {"of": f"{width} x {height}", "off": farthest(features)}


def as_classifier(name: str) -> dict[str, object]:
    model: Any = timm.create_model(name, pretrained=False, num_classes=CLASSES).eval()
    side = model.pretrained_cfg["input_size"][-1]
    shown = pictures(side, side)
    maps = ClassifierMaps(model, shown[1:2])
    found = [maps(image[None], all_classes).maps for image in shown]
    licence = model.pretrained_cfg.get("license")
    return {
        "maps by": maps.method.replace("cam", "CAM").replace("layer_", "Layer-"),
        "at": maps.layer,
        "of the classifier": f"{found[0].shape[3]} x {found[0].shape[2]}",
        "off there": farthest(torch.cat(found)),
        "licence of weights": licence or "not said",
    }


def all_classes(_scores: Tensor) -> Sequence[int]:
    return range(CLASSES)


def row_of(name: str) -> dict[str, object]:
    torch.manual_seed(0)
    row: dict[str, object] = {"network": name}
    roads: tuple[Callable[[str], dict[str, object]], ...] = (as_backbone, as_classifier)
    for road in roads:
        try:
            row |= road(name)
        except Exception as error:  # each network is to have its row
            row |= {"fault": f"{road.__name__}: {type(error).__name__}: {error}"[:200]}
    offs = (float("inf") if row.get(key) is None else row[key] for key in OFFS)
    row["right"] = "yes" if all(off <= FARTHEST for off in offs) else "NO"  # type: ignore[operator]
    print(row, flush=True)
    return row


OFFS = ("off", "off there")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", nargs="+", default=NAMES)
    arguments = parser.parse_args()
    rows = [row_of(name) for name in arguments.names]
    rows.sort(key=lambda row: arguments.names.index(row["network"]))
    if tuple(arguments.names) == NAMES:
        write_results(
            "classifiers",
            rows,
            title="Networks of timm whose maps are where they should be",
            notes=[
                (
                    f"random weights; off: how far from a square of {SIDE:.0%} of the sides that "
                    f"is which it changes most, as a share of a side, at two places; up to "
                    f"{FARTHEST} is right: one cell of 7"
                )
            ],
        )
    sys.exit(any(row["right"] != "yes" for row in rows))


if __name__ == "__main__":
    main()
