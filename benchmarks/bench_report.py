"""The report of 500 photographs: seconds to write, megabytes, seconds until it can be used.

    python -m benchmarks.bench_report [--pictures 500] [--side 1024] [--results FOLDER]

Pictures are drawn scenes enlarged to photographs of `--side` pixels with noise, and kept as JPEG
files, so that reading them is part of the writing. The browser is headless Chromium, with a new
profile, from its start of loading until the page's script has built every card.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import RESULTS, write_results

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.output.chromium import Browser
from tests.output.report_material import metrics_record, run_record, scene_report
from weakloc.data.images import open_image
from weakloc.output.report import write_report
from weakloc.output.report_gallery import ReportContent, ReportPicture

MOST_MEGABYTES, MOST_SECONDS_TO_WRITE, MOST_SECONDS_TO_USE = 25.0, 30.0, 2.0


def photographs(content: ReportContent, folder: Path) -> ReportContent:
    """The same report whose pictures lie on disk, as grainy as a camera's."""
    random = np.random.default_rng(0)
    return replace(content, pictures=[_stored(each, folder, random) for each in content.pictures])


def _stored(picture: ReportPicture, folder: Path, random: np.random.Generator) -> ReportPicture:
    pixels = np.asarray(picture.open_picture()).astype(np.float32)
    grain = random.normal(0.0, 12.0, (*pixels.shape[:2], 1)).astype(np.float32)
    path = folder / picture.prediction.image
    noisy = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path, quality=92)
    return replace(picture, open_picture=partial(open_image, str(path), shrink_to=(640, 640)))


def seconds_to_use(path: Path, profile: Path) -> tuple[float, float]:
    """From the start of loading to the ready page; then a threshold's redraw of what is seen."""
    browser = Browser(profile)
    try:
        browser.resize(1400, 1000)
        started = time.perf_counter()
        browser.open(path)
        ready = time.perf_counter() - started
        browser.evaluate("document.getElementById('gallery').scrollIntoView()")
        browser.settle()
        started = time.perf_counter()
        browser.evaluate(
            "(() => { const range = document.querySelector('#filters [data-view=threshold]');"
            "range.value = '0.4'; range.dispatchEvent(new Event('input')); })()"
        )
        browser.settle()
        return ready, time.perf_counter() - started
    finally:
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        drawn = scene_report(
            arguments.pictures, side=arguments.side, run=run_record(), metrics=metrics_record()
        )
        content = photographs(drawn, folder)
        started, cpu = time.perf_counter(), time.process_time()
        path = write_report(folder / "report.html", content)
        written, cpu = time.perf_counter() - started, time.process_time() - cpu
        megabytes = path.stat().st_size / 1e6
        ready, redrawn = seconds_to_use(path, folder / "profile")
    rows = [
        {"what": "write, s", "measured": written, "at most": MOST_SECONDS_TO_WRITE},
        {"what": "write, CPU s", "measured": cpu, "at most": None},
        {"what": "file, MB", "measured": megabytes, "at most": MOST_MEGABYTES},
        {"what": "load until usable, s", "measured": ready, "at most": MOST_SECONDS_TO_USE},
        {"what": "threshold moved until drawn, s", "measured": redrawn, "at most": None},
    ]
    write_results(
        "report",
        rows,
        title=f"A report of {arguments.pictures} photographs",
        notes=[f"Photographs of {arguments.side} pixels across, 8 classes, heat maps and masks."],
        folder=arguments.results,
    )


if __name__ == "__main__":
    main()
