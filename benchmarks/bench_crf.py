"""Refining maps by the image's edges: dense CRF against pydensecrf2.

    python -m benchmarks.bench_crf [--rounds 7] [--photograph FILE]

One thread a refinement. pydensecrf2 (it needs a compiler) is measured where it is installed. The
photograph is scikit-learn's sample unless a file is given.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from benchmarks.measure import paired_ratio, time_interleaved, write_results
from weakloc.localize.crf import CrfSettings, refine_unary

PEER = "pydensecrf2"


def photograph(path: str | None, width: int, height: int) -> np.ndarray:
    if path is not None:
        return np.asarray(Image.open(path).convert("RGB").resize((width, height)))
    from sklearn.datasets import load_sample_image

    return np.asarray(Image.fromarray(load_sample_image("china.jpg")).resize((width, height)))


def coarse_unary(classes: int, width: int, height: int) -> np.ndarray:
    """Energies of maps of 16 x 12 cells, as a network would give them, enlarged."""
    random = np.random.default_rng(0)
    maps = [
        Image.fromarray(random.normal(size=(12, 16)).astype(np.float32) * 2) for _ in range(classes)
    ]
    logits = np.stack([np.asarray(each.resize((width, height), 2)) for each in maps])
    shifted = logits - logits.max(axis=0)
    return np.ascontiguousarray(np.log(np.exp(shifted).sum(axis=0)) - shifted, dtype=np.float32)


def refine_by_peer(unary: np.ndarray, image: np.ndarray, settings: CrfSettings) -> np.ndarray:
    from pydensecrf.densecrf import DenseCRF2D

    classes, height, width = unary.shape
    peer = DenseCRF2D(width, height, classes)
    peer.setUnaryEnergy(np.ascontiguousarray(unary.reshape(classes, -1)))
    peer.addPairwiseGaussian(sxy=settings.smooth_position_sigma, compat=settings.smooth_weight)
    peer.addPairwiseBilateral(
        sxy=settings.color_position_sigma,
        srgb=settings.color_sigma,
        rgbim=np.array(image),
        compat=settings.color_weight,
    )
    return np.array(peer.inference(settings.iterations)).reshape(unary.shape)


def agreement(unary: np.ndarray, image: np.ndarray, settings: CrfSettings) -> str:
    ours, theirs = refine_unary(unary, image, settings), refine_by_peer(unary, image, settings)
    labels = (ours.argmax(axis=0) == theirs.argmax(axis=0)).mean()
    largest = np.abs(ours - theirs).max()
    return f"largest difference to {PEER} {largest:.1e}, equal labels {labels:.4%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375))
    parser.add_argument("--classes", type=int, nargs="+", default=(21, 3))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--photograph")
    arguments = parser.parse_args()
    image = photograph(arguments.photograph, *arguments.size)
    has_peer = importlib.util.find_spec("pydensecrf") is not None
    rows, timings, notes = [], {}, []
    for classes in arguments.classes:
        unary = coarse_unary(classes, *arguments.size)
        variants = _variants(unary, image, has_peer=has_peer)
        measured = time_interleaved(variants, rounds=arguments.rounds)
        reference = measured[PEER if has_peer else "dense CRF"]
        rows += [
            {
                "classes": classes,
                "variant": name,
                "wall s": timing.wall,
                "cpu s": timing.cpu,
                "times as fast (cpu)": paired_ratio(reference, timing, clock="cpu"),
                "times as fast (wall)": paired_ratio(reference, timing),
            }
            for name, timing in measured.items()
        ]
        timings |= {f"{name}, {classes}": timing for name, timing in measured.items()}
        if has_peer:
            notes.append(f"{classes} classes: {agreement(unary, image, CrfSettings())}")
    if not has_peer:
        notes.append(f"{PEER} is not installed: ratios are to our own dense CRF")
    size = f"{arguments.size[0]} x {arguments.size[1]} px"
    write_results(
        "crf",
        rows,
        title=f"Refinement of maps, {size}, 10 iterations",
        notes=notes,
        timings=timings,
    )


def _variants(
    unary: np.ndarray, image: np.ndarray, *, has_peer: bool
) -> dict[str, Callable[[], object]]:
    settings = CrfSettings()

    def two_in_threads() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: refine_unary(unary, image, settings), range(2)))

    def two_in_turn() -> None:
        for _ in range(2):
            refine_unary(unary, image, settings)

    variants: dict[str, Callable[[], object]] = {
        "dense CRF": lambda: refine_unary(unary, image, settings),
        "dense CRF, two images in turn": two_in_turn,
        "dense CRF, two images in two threads": two_in_threads,
    }
    if has_peer:
        variants = {PEER: lambda: refine_by_peer(unary, image, settings), **variants}
    return variants


if __name__ == "__main__":
    main()
