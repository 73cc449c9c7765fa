"""Beam search with re-cropping: all at once against one candidate at a time, same boxes.

    python -m benchmarks.bench_beam_search [--network resnet50 --network vgg16] [--rounds 3]

The plain loop follows the paper: per class and level every kept region is cropped and read alone,
each of its children is resized and scored alone. Weights are random, the picture is synthetic.
ResNet-50 has an averaged linear head (collapsed to a matrix over cells), VGG-16 its fully
connected layers. Without arguments this takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.measure import Timing, paired_ratio, time_interleaved, write_results
from weakloc.localize.beam_search import (
    BeamSettings,
    SearchResult,
    WindowScorer,
    beam_search,
    one_side_children,
)
from weakloc.methods.beam import Beam
from weakloc.model.backbones import build_backbone
from weakloc.model.network import (
    ClassPool,
    GridHead,
    LocalizationNetwork,
    TransferHead,
    fold_batch_norms,
)
from weakloc.model.pooling import AveragePool
from weakloc.model.trunk import BackboneSpec
from weakloc.predictor.beam_heat import (
    MapScorer,
    class_map_scores,
    crop_pixels,
    linear_window_scores,
    resampling_matrices,
)

NUM_CLASSES = 20
SIDE = 224
CHUNK = {"cpu": 4, "cuda": 64}  # large float32 batches are slower than small ones on a CPU


@dataclass(frozen=True)
class Crops:
    """Image boxes -> a batch of network inputs."""

    picture: Tensor  # (1, 3, H, W), normalised, on the device

    @property
    def image_size(self) -> tuple[int, int]:
        return self.picture.shape[3], self.picture.shape[2]

    def read(self, boxes_in_image: np.ndarray) -> Tensor:
        crops = []
        for box in boxes_in_image:
            left, top, right, bottom = crop_pixels(tuple(box), self.image_size)
            crop = self.picture[:, :, top:bottom, left:right]
            crops.append(interpolate(crop, (SIDE, SIDE), mode="bilinear", antialias=True))
        return torch.cat(crops)

    def read_chunks(
        self, boxes_in_image: np.ndarray, forward: Callable[[Tensor], Tensor]
    ) -> Tensor:
        chunk = CHUNK[self.picture.device.type]
        parts = [
            forward(
                self.read(boxes_in_image[first : first + chunk]).to(
                    memory_format=torch.channels_last
                )
            )
            for first in range(0, len(boxes_in_image), chunk)
        ]
        return torch.cat(parts)


@dataclass(frozen=True)
class GridScorer:
    """A network with a head on a fixed grid: features stay tensors, one head call per level."""

    crops: Crops
    network: LocalizationNetwork
    grid_size: tuple[int, int]

    def read_crops(self, boxes_in_image: np.ndarray) -> Sequence[Tensor]:
        return list(self.crops.read_chunks(boxes_in_image, self.network.backbone))

    def score_windows(
        self, grids: Sequence[Tensor], owners: np.ndarray, windows: np.ndarray
    ) -> np.ndarray:
        columns, rows = self.grid_size
        features = torch.stack([grids[owner] for owner in owners])  # (N, D, rows, columns)
        vertical = resampling_matrices(windows[:, 1], windows[:, 3], rows)
        horizontal = resampling_matrices(windows[:, 0], windows[:, 2], columns)
        down, across = (
            torch.as_tensor(matrix, dtype=features.dtype, device=features.device)[:, None]
            for matrix in (vertical, horizontal)
        )
        resized = down @ features @ across.transpose(-1, -2)
        scores = self.network.from_features(resized).scores
        return torch.sigmoid(scores.float()).double().cpu().numpy()


def class_map_scorer(crops: Crops, network: LocalizationNetwork) -> MapScorer:
    def read_class_maps(boxes_in_image: np.ndarray) -> np.ndarray:
        maps = crops.read_chunks(boxes_in_image, lambda images: network(images).maps)
        return maps.float().cpu().numpy()

    score = partial(class_map_scores, score=linear_window_scores, activation="sigmoid")
    return MapScorer(read_class_maps, (SIDE // 32, SIDE // 32), score)


def one_at_a_time(
    crops: Crops, network: LocalizationNetwork, classes: Sequence[int], settings: BeamSettings
) -> list[np.ndarray]:
    """The paper's algorithm, class by class, without anything shared."""
    return [_search_one_class(crops, network, index, settings) for index in classes]


def _search_one_class(
    crops: Crops, network: LocalizationNetwork, class_index: int, settings: BeamSettings
) -> np.ndarray:
    width, height = crops.image_size
    beam, kept = [(0.0, 0.0, float(width), float(height))], []
    for _ in range(settings.num_levels):
        found: dict[tuple[float, ...], tuple[float, tuple[float, ...]]] = {}
        for box in beam:
            features = network.backbone(crops.read(np.array([box])))
            for child, score in _score_children(features, network, class_index):
                region = _region(box, child, features.shape[3], features.shape[2])
                key = tuple(round(side, 3) for side in region)
                if key not in found or found[key][0] < score:
                    found[key] = score, region
        ranked = sorted(found.values(), key=lambda item: (-item[0], item[1][1], item[1][0]))
        beam = [region for _, region in ranked[: settings.beam_width]]
        kept += beam
    return np.array(kept)


def _score_children(
    features: Tensor, network: LocalizationNetwork, class_index: int
) -> list[tuple[tuple[int, int, int, int], float]]:
    rows, columns = features.shape[2:]
    scored = []
    for child in one_side_children((0, 0, columns, rows)):
        x, y, width, height = child
        window = features[:, :, y : y + height, x : x + width]
        resized = interpolate(window, (rows, columns), mode="bilinear", align_corners=False)
        scored.append(
            (child, float(torch.sigmoid(network.from_features(resized).scores)[0, class_index]))
        )
    return scored


def _region(
    box: tuple[float, ...], window: tuple[int, int, int, int], columns: int, rows: int
) -> tuple[float, ...]:
    left, top, right, bottom = box
    cell_width, cell_height = (right - left) / columns, (bottom - top) / rows
    x, y, width, height = window
    start_x, start_y = left + x * cell_width, top + y * cell_height
    return start_x, start_y, start_x + width * cell_width, start_y + height * cell_height


def build_network(name: str) -> LocalizationNetwork:
    torch.manual_seed(0)
    spec = BackboneSpec(name, weights="none")
    if name == "vgg16":
        spec = Beam.literal().backbone_spec(spec)
        backbone = build_backbone(spec)
        hidden = (4096, 4096)  # FC6, FC7
        head = GridHead(
            backbone.out_channels, NUM_CLASSES, grid_side=7, reduced_channels=None, hidden=hidden
        )
        return LocalizationNetwork(backbone, head, ClassPool(), AveragePool()).eval()
    backbone = build_backbone(spec)
    head = TransferHead(backbone.out_channels, NUM_CLASSES)
    return LocalizationNetwork(backbone, head, ClassPool(), AveragePool()).eval()


def synthetic_picture(width: int, height: int, device: str) -> Tensor:
    """Smooth noise with an edge or two: something for random filters to tell apart."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 3, 9, 12, generator=random)
    fine = torch.randn(1, 3, 60, 80, generator=random)
    size = (height, width)
    layers = [interpolate(noise, size, mode="bilinear") for noise in (coarse, fine)]
    return (layers[0] + 0.5 * layers[1]).to(device)


def measure(
    name: str, num_searched: int, arguments: argparse.Namespace
) -> tuple[list[dict[str, object]], dict[str, Timing]]:
    plain = build_network(name).to(arguments.device)
    tuned = fold_batch_norms(plain).to(arguments.device, memory_format=torch.channels_last)
    crops = Crops(synthetic_picture(*arguments.image, arguments.device))
    settings = BeamSettings(beam_width=arguments.beam_width, num_levels=arguments.levels)
    classes = range(num_searched)

    def together(dtype: torch.dtype) -> SearchResult:
        linear = not isinstance(tuned.head, GridHead)
        scorer: WindowScorer = (
            class_map_scorer(crops, tuned) if linear else GridScorer(crops, tuned, (7, 7))
        )
        with torch.autocast(arguments.device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            return beam_search(scorer, crops.image_size, class_indices=classes, settings=settings)

    with torch.inference_mode():
        result = together(torch.float32)
        expected = one_at_a_time(crops, plain, classes, settings)
        boxes = np.array([kept.boxes for kept in result.kept])
        chunk = min(CHUNK[arguments.device], result.num_crops)
        whole = np.tile([0, 0, *crops.image_size], (chunk, 1))
        variants: dict[str, Callable[[], object]] = {
            "one candidate at a time": lambda: one_at_a_time(crops, plain, classes, settings),
            "weakloc float32": lambda: together(torch.float32),
            "weakloc bfloat16": lambda: together(torch.bfloat16),
            f"{chunk} forward passes": lambda: crops.read_chunks(whole, tuned.backbone),
        }
        timings = time_interleaved(variants, rounds=arguments.rounds)
    naive = timings["one candidate at a time"]
    ours = timings["weakloc float32"]
    floor = result.num_crops / chunk * timings[f"{chunk} forward passes"].cpu
    rows: list[dict[str, object]] = [
        {
            "network": name,
            "classes": num_searched,
            "variant": variant,
            "cpu s": timing.cpu,
            "wall s": timing.wall,
            "speed-up (cpu)": paired_ratio(naive, timing, clock="cpu"),
            "crops": num_searched * (len(expected[0]) - len(_last(result)) + 1)
            if timing is naive
            else result.num_crops,
            "of crops x forward": ours.cpu / floor if timing is ours else None,
            "same boxes": bool(np.allclose(boxes, expected, atol=0.01)) if timing is ours else None,
        }
        for variant, timing in timings.items()
        if variant in list(variants)[:3]
    ]
    return rows, {f"{name}, {num_searched}: {key}": timing for key, timing in timings.items()}


def _last(result: SearchResult) -> np.ndarray:
    """The regions of the last level: kept, but never read."""
    levels = result.kept[0].levels
    return np.flatnonzero(levels == levels.max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="append", choices=("resnet50", "vgg16"))
    parser.add_argument("--classes", type=int, action="append", help="searched together")
    parser.add_argument("--image", type=int, nargs=2, default=(500, 375))
    parser.add_argument("--beam-width", type=int, default=8)
    parser.add_argument("--levels", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, timings = [], {}
    for name in arguments.network or ("resnet50", "vgg16"):
        for num_searched in arguments.classes or (1, 3):
            more_rows, more_timings = measure(name, num_searched, arguments)
            rows += more_rows
            timings |= more_timings
    write_results(
        "beam_search",
        rows,
        title="Beam search with re-cropping, per image",
        notes=[
            f"image {arguments.image[0]} x {arguments.image[1]}, beam {arguments.beam_width} wide",
            f"{arguments.levels} levels, {arguments.device}, {arguments.threads} thread(s)",
            "of crops x forward: time over (distinct crops x one tuned forward pass in its chunk)",
        ],
        timings=timings,
    )


if __name__ == "__main__":
    main()
