"""Class scores from 65 sizes of an image (Oquab et al. 2015), against one plain pass after another.

    python -m benchmarks.bench_scales [--images 1] [--rounds 3] [--scales 65] [--network resnet50]

The plain loop resizes and reads one size after the other with eager, unfolded, contiguous float32.
Both average the raw scores of the sizes; their difference is printed. Weights are random.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.bench_heat_maps import write_photographs
from benchmarks.measure import paired_ratio, time_interleaved, write_results
from benchmarks.own_processes import own_processes
from weakloc.data.sources import find_images
from weakloc.data.transforms import Preprocessing
from weakloc.methods.max_mil import MaxMil, paper_scales
from weakloc.model.backbones import build_backbone
from weakloc.model.network import LocalizationNetwork
from weakloc.model.trunk import BackboneSpec
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import NetworkSource, scaled
from weakloc.settings import Look, Places
from weakloc.structures import BrokenImage
from weakloc.work import keep_freed_memory

NUM_CLASSES = 20
Scores = list[list[float]]


def plain_loop(
    folder: str, network_name: str, side: int, scales: tuple[float, ...]
) -> Callable[[], Scores]:
    network = _network(network_name)
    preprocessing = Preprocessing(resize="pad", size=(side, side))

    @torch.inference_mode()
    def work() -> Scores:
        found = []
        for path in sorted(Path(folder).iterdir()):
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
            scores = [
                network(scaled(preprocessing, scale, picture.size).apply(picture)[0][None]).scores
                for scale in scales
            ]
            found.append(torch.cat(scores).double().mean(dim=0).tolist())
        return found

    return work


def weakloc_scores(
    folder: str, network_name: str, side: int, scales: tuple[float, ...], precision: str
) -> Callable[[], Scores]:
    keep_freed_memory()
    look = Look(scales=scales, map_scales=(1.0,), workers=1, batch_size=8)
    source = NetworkSource(
        _network(network_name),
        look,
        class_names=[str(index) for index in range(NUM_CLASSES)],
        preprocessing=Preprocessing(resize="pad", size=(side, side)),
        activation="sigmoid",
        uses_bf16=precision == "bf16",
    )
    predictor = Predictor(source, look, Places(), thresholds=(0.3,) * NUM_CLASSES)

    def work() -> Scores:
        found = []
        for seen in predictor.see(find_images(folder)):
            assert not isinstance(seen, BrokenImage)
            found.append(seen.logits.tolist())
        return found

    return work


def _network(name: str) -> LocalizationNetwork:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSpec.parse(name, weights="none"))
    method = replace(MaxMil.practical(), hidden=None)
    return method.build_network(backbone, NUM_CLASSES).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scales", type=int, default=65)
    parser.add_argument("--side", type=int, default=500)
    parser.add_argument("--network", default="resnet50")
    arguments = parser.parse_args()
    scales = paper_scales(arguments.scales)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), arguments.images)
        what = (folder, arguments.network, arguments.side, scales)
        variants = {
            "one size after another": (plain_loop, what),
            "weakloc": (weakloc_scores, (*what, "fp32")),
            "weakloc, bf16": (weakloc_scores, (*what, "bf16")),
        }
        with own_processes(variants) as prepared:
            scores = {name: np.array(variant()) for name, variant in prepared.items()}
            timings = time_interleaved(prepared, rounds=arguments.rounds, warmup=0)
            peaks = {name: variant.peak_mebibytes() for name, variant in prepared.items()}
    plain = "one size after another"
    rows = [
        {
            "variant": name,
            "seconds an image": timing.wall / arguments.images,
            "times faster": paired_ratio(timings[plain], timing),
            "peak MiB": peaks[name],
            "largest difference of a score": float(np.abs(scores[name] - scores[plain]).max()),
        }
        for name, timing in timings.items()
    ]
    write_results(
        "scales",
        rows,
        title=f"Class scores from {arguments.scales} sizes of an image",
        notes=[
            (
                f"{arguments.images} JPEGs of 500 x 375 inside {arguments.side} pixels, times "
                f"{scales[0]} to {scales[-1]}, {arguments.network}; from decoding to scores"
            ),
            "wall time, medians of paired rounds; each variant in a process of its own",
        ],
        timings=timings,
    )


if __name__ == "__main__":
    main()
