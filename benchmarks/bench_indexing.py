"""Reading a data set without decoding it, and decoding all of it to check it.

    python -m benchmarks.bench_indexing [--images-per-class 500] [--check 8000]

Tables: seconds and bytes a sample for 110,000 images of Tiny ImageNet's shape (generated, empty
files: nothing is decoded) in three layouts, beside a bare listing of the same folders; and images
a second of `check_images` beside a bare Pillow loop on one core times the processes.
"""

from __future__ import annotations

import argparse
import gc
import io
import multiprocessing
import os
import shutil
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import paired_ratio, time_interleaved, write_results
from weakloc.data.readers import read_data_set
from weakloc.data.summary import check_images
from weakloc.settings import ReaderOptions
from weakloc.structures import DataSet, Sample

NUM_CLASSES, VAL_PER_CLASS = 200, 50


def write_tree(root: Path, *, images_per_class: int) -> None:
    """Empty images, real boxes files, and a table that says the same."""
    random = np.random.default_rng(0)
    root.mkdir()
    ids = [f"n{number:08}" for number in range(NUM_CLASSES)]
    (root / "wnids.txt").write_text("\n".join(ids))
    rows = ["path,labels,split"]
    for class_id in ids:
        folder = root / "train" / class_id / "images"
        folder.mkdir(parents=True)
        names = [f"{class_id}_{number}.JPEG" for number in range(images_per_class)]
        boxes = [f"{name}\t{_corners(random)}\n" for name in names]
        (folder.parent / f"{class_id}_boxes.txt").write_text("".join(boxes))
        rows += [f"train/{class_id}/images/{name},{class_id},train" for name in names]
        for name in names:
            os.close(os.open(folder / name, os.O_CREAT))
    folder = root / "val" / "images"
    folder.mkdir(parents=True)
    lines = []
    for number in range(NUM_CLASSES * VAL_PER_CLASS):
        os.close(os.open(folder / f"val_{number}.JPEG", os.O_CREAT))
        class_id = ids[number % NUM_CLASSES]
        lines.append(f"val_{number}.JPEG\t{class_id}\t{_corners(random)}\n")
        rows.append(f"val/images/val_{number}.JPEG,{class_id},val")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "labels.csv").write_text("\n".join(rows))


def _corners(random: np.random.Generator) -> str:
    left, top = random.integers(0, 31, 2)
    right, bottom = random.integers(32, 64, 2)
    return f"{left}\t{top}\t{right}\t{bottom}"


def list_files(root: Path) -> int:
    """What no reader can do without: each folder listed once."""
    return sum(len(files) for _, _, files in os.walk(root))


def read(root: Path, layout: str) -> int:
    return num_samples(read_data_set(root, layout=layout, options=ReaderOptions()))


def num_samples(data_set: DataSet) -> int:
    return sum(map(len, data_set.splits.values()))


def bytes_per_sample(root: Path, layout: str) -> float:
    """What stays allocated while the data set is held."""
    gc.collect()
    tracemalloc.start()
    data_set = read_data_set(root, layout=layout, options=ReaderOptions())
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held / num_samples(data_set)


def index_rows(root: Path, *, rounds: int) -> list[dict[str, object]]:
    layouts = ("tiny_imagenet", "table", "folders")
    variants = {"listing alone": lambda: list_files(root)}
    variants |= {layout: lambda layout=layout: read(root, layout) for layout in layouts}
    timings = time_interleaved(variants, rounds=rounds)
    return [
        {
            "work": name,
            "images": read(root, name) if name in layouts else list_files(root),
            "seconds": timing.wall,
            "CPU seconds": timing.cpu,
            "times a bare listing": paired_ratio(timing, timings["listing alone"]),
            "bytes a sample": bytes_per_sample(root, name) if name in layouts else None,
        }
        for name, timing in timings.items()
    ]


def write_images(folder: Path, *, count: int, size: tuple[int, int]) -> list[Sample]:
    """JPEGs with detail at every scale, so that they cost what photographs cost to decode."""
    random = np.random.default_rng(0)
    picture = np.zeros((size[1], size[0], 3))
    for scale in (1, 4, 16, 64):
        shape = (size[1] // scale + 1, size[0] // scale + 1, 3)
        noise = random.normal(size=shape).repeat(scale, 0).repeat(scale, 1)
        picture += noise[: size[1], : size[0]] * scale**0.5
    stream = io.BytesIO()
    shown = np.clip(picture * 8 + 128, 0, 255).astype(np.uint8)
    Image.fromarray(shown).save(stream, "JPEG", quality=90)
    labels = np.ones(1, np.int8)
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(stream.getvalue())
    return [Sample(f"{n}.jpg", str(folder / f"{n}.jpg"), labels) for n in range(count)]


def decode_bare(paths: list[str]) -> int:
    for path in paths:
        with Image.open(path) as image:
            image.convert("RGB")
    return len(paths)


def check_rows(folder: Path, *, count: int, rounds: int) -> list[dict[str, object]]:
    processes = os.cpu_count() or 1
    rows = []
    for size in ((500, 375), (64, 64)):
        samples = write_images(folder / f"{size[0]}", count=count, size=size)
        paths = [sample.path for sample in samples]
        variants = {
            "bare, one core": lambda paths=paths: decode_bare(paths[: len(paths) // processes]),
            "check_images": lambda samples=samples: check_images(
                samples, processes=processes, on_progress=lambda *_: None
            ),
            "bare, all cores": lambda paths=paths: bare_on_all_cores(paths, processes),
        }
        timings = time_interleaved(variants, rounds=rounds)
        one, check, all_cores = (timings[name] for name in variants)
        rows.append(
            {
                "work": f"decode {count} JPEG of {size[0]} x {size[1]}",
                "processes": processes,
                "bare, one core, images/s": count / processes / one.wall,
                "check_images, images/s": count / check.wall,
                # Each core of the bare loop gets its share of the images in the same time.
                "check_images / (cores x bare)": paired_ratio(one, check),
                "check_images / bare on all cores": paired_ratio(all_cores, check),
                "CPU time, bare / check_images": paired_ratio(one, check, clock="cpu") * processes,
                "seconds of check_images": check.wall,
            }
        )
    return rows


def bare_on_all_cores(paths: list[str], processes: int) -> None:
    """The bare loop in as many processes, each with its part from the start."""
    context = multiprocessing.get_context("spawn")
    parts = [paths[number::processes] for number in range(processes)]
    running = [context.Process(target=decode_bare, args=(part,)) for part in parts]
    for process in running:
        process.start()
    for process in running:
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images-per-class", type=int, default=500)
    parser.add_argument("--check", type=int, default=8000, help="images to decode")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        write_tree(folder / "tree", images_per_class=arguments.images_per_class)
        indexed = index_rows(folder / "tree", rounds=arguments.rounds)
        write_results(
            "indexing",
            indexed,
            title="Reading a data set of Tiny ImageNet's shape, without decoding",
            notes=("Goal: at most 6 seconds and 1,024 bytes a sample for 110,000 images.",),
        )
        checked = check_rows(folder, count=arguments.check, rounds=arguments.rounds)
        write_results(
            "checking",
            checked,
            title="Decoding every image of a data set",
            notes=(
                "Goal: at least 0.9 of the cores times the bare loop.",
                "The start of the processes is included: some 0.3 s of CPU time each.",
            ),
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
