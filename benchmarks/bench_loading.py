"""Loading batches against bare Pillow loops with as many processes.

    python -m benchmarks.bench_loading [--images 2048] [--rounds 7] [--processes N]

Goal: the loader on 500 x 375 JPEG files to 224 x 224, flipped and normalised, at least 0.9 times
the bare decode-and-resize loop with the same number of processes. Run it on an otherwise idle
machine: every process here wants a whole core. Checking a data set is in `bench_indexing`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Timing, paired_ratio, time_interleaved, write_results
from weakloc.data.augmentation import Augmentation, HorizontalFlip
from weakloc.data.loaders import EpochBatches, SampleLoader
from weakloc.data.transforms import Preprocessing
from weakloc.structures import Sample

NUM_FILES = 64
WIDTH, HEIGHT, SIDE, BATCH = 500, 375, 224, 32
PHOTO = (4000, 3000)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = write_pictures(Path(folder), NUM_FILES, (WIDTH, HEIGHT))
        samples = repeat_files(files, arguments.images)
        variants = loading(samples, arguments.processes)
        variants |= loading_photos(Path(folder))
        timings = time_interleaved(variants, rounds=arguments.rounds)
    write_results(
        "loading",
        rows_of(timings, arguments.images),
        title="Loading images",
        notes=(
            f"{arguments.images} JPEG files of {WIDTH} x {HEIGHT} (quality 92, 1/f noise)",
            f"{NUM_FILES} of them different, in the page cache; {arguments.processes} processes",
            "ratio: images per second over the bare loop's in the same round, median",
            f"the photographs are {PHOTO[0]} x {PHOTO[1]}, in one process",
        ),
        timings=timings,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def write_pictures(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Pictures with the spectrum of photographs, so that they decode as slowly as those."""
    width, height = size
    random = np.random.default_rng(0)
    across = np.hypot(np.fft.rfftfreq(width)[None], np.fft.fftfreq(height)[:, None])
    files = []
    for number in range(count):
        waves = np.fft.rfft2(random.normal(size=(3, height, width))) / np.maximum(across, 1 / width)
        pixels = np.fft.irfft2(waves, s=(height, width))
        pixels = (pixels - pixels.mean()) / pixels.std() * 50 + 120
        path = folder / f"{width}_{number}.jpg"
        rows = np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
        Image.fromarray(rows).save(path, quality=92)
        files.append(path)
    return files


def repeat_files(files: Sequence[Path], count: int) -> list[Sample]:
    labels = np.full(20, -1, np.int8)
    names = [files[number % len(files)] for number in range(count)]
    return [Sample(f"{number}", str(path), labels) for number, path in enumerate(names)]


def decode_and_resize(paths: Sequence[str]) -> None:
    for path in paths:
        with Image.open(path) as image:
            image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def in_processes(work: Callable[[Sequence[str]], None], paths: Sequence[str], count: int) -> None:
    """The work split over forked processes, which start in a few milliseconds."""
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=work, args=(paths[first::count],)) for first in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def loading(samples: Sequence[Sample], processes: int) -> dict[str, Callable[[], object]]:
    paths = [sample.path for sample in samples]
    flips = Augmentation(steps=(HorizontalFlip(),))
    preprocessing = Preprocessing(size=SIDE)

    def loader(workers: int) -> SampleLoader:
        order = EpochBatches(len(samples), batch_size=BATCH, seed=0)
        return SampleLoader(samples, preprocessing, order, augmentation=flips, workers=workers)

    return {
        "bare decode + resize, 1 process": partial(decode_and_resize, paths),
        "loader, this process": partial(consume, loader(0)),
        "bare decode + resize, all": partial(in_processes, decode_and_resize, paths, processes),
        "loader, all workers": partial(consume, loader(processes)),
    }


def loading_photos(folder: Path) -> dict[str, Callable[[], object]]:
    """Large photographs, of which decoding takes nearly all the time."""
    samples = repeat_files(write_pictures(folder, 2, PHOTO), 8)
    variants: dict[str, Callable[[], object]] = {
        "photographs, bare": partial(decode_and_resize, [sample.path for sample in samples])
    }
    order = EpochBatches(len(samples), batch_size=8, seed=0)
    loader = SampleLoader(samples, Preprocessing(size=SIDE), order)
    variants["photographs, loader"] = partial(consume, loader)
    return variants


def consume(loader: SampleLoader) -> None:
    for _ in loader:
        pass


def rows_of(timings: Mapping[str, Timing], num_images: int) -> list[dict[str, object]]:
    bare = {
        "loader, this process": "bare decode + resize, 1 process",
        "loader, all workers": "bare decode + resize, all",
        "photographs, loader": "photographs, bare",
    }
    rows: list[dict[str, object]] = []
    for name, timing in timings.items():
        count = 8 if name.startswith("photographs") else num_images
        ratio = paired_ratio(timings[bare[name]], timing) if name in bare else None
        rows.append({"what": name, "images/s": count / timing.wall, "ratio": ratio})
    return rows


if __name__ == "__main__":
    main()
