"""Scores of all windows of one feature map: a head on a fixed grid, three ways, same numbers.

    python -m benchmarks.bench_window_scores [--rounds 3]

One window at a time is what the paper describes. In parts, windows are resampled and scored in
batches of bounded size, as searches with re-cropping do. The table lets the first layer go before
the resampling. Grids and heads are those of `beam`'s practical preset (on 224 and on 384 pixels
with stride 32) and of a network without hidden layers; weights are random.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.measure import Timing, paired_ratio, time_interleaved, write_results
from weakloc.localize.beam_search import all_windows
from weakloc.model.network import GridHead
from weakloc.predictor.beam_heat import GridHeadScorer, all_spans, resampling_matrices, table_scores

NUM_CLASSES = 20
CHANNELS = 128


def one_by_one(head: GridHead, grid: Tensor, windows: np.ndarray) -> np.ndarray:
    scores = []
    for x, y, width, height in windows.tolist():
        part = grid[None, :, y : y + height, x : x + width]
        whole = interpolate(part, grid.shape[1:], mode="bilinear", align_corners=False)
        scores.append(head.score_narrow(whole)[0])
    return torch.stack(scores).numpy()


def in_parts(head: GridHead, grid: Tensor, windows: np.ndarray) -> np.ndarray:
    cells = head.grid_side
    scorer = GridHeadScorer(
        lambda _: grid[None].numpy(),
        lambda grids: head.score_narrow(torch.from_numpy(np.ascontiguousarray(grids))).numpy(),
        (cells, cells),
    )
    return scorer.score_windows([grid.numpy()], np.zeros(len(windows), dtype=np.int64), windows)


def as_table(head: GridHead, grid: Tensor, windows: np.ndarray) -> np.ndarray:
    cells = head.grid_side
    spans = torch.from_numpy(resampling_matrices(*all_spans(cells), cells)).float()
    table = head.score_spans(grid, spans, spans).numpy()
    return table_scores(table, windows, grid_size=(cells, cells))


WAYS: dict[str, Callable[[GridHead, Tensor, np.ndarray], np.ndarray]] = {
    "one window at a time": one_by_one,
    "in parts": in_parts,
    "table": as_table,
}


def measure(
    cells: int, hidden: tuple[int, ...], rounds: int
) -> tuple[list[dict[str, object]], dict[str, Timing]]:
    torch.manual_seed(0)
    head = GridHead(
        CHANNELS, NUM_CLASSES, grid_side=cells, reduced_channels=None, hidden=hidden
    ).eval()
    grid = torch.randn(CHANNELS, cells, cells)
    windows = np.array(all_windows((cells, cells)))
    with torch.inference_mode():
        scores = {name: way(head, grid, windows) for name, way in WAYS.items()}
        timings = time_interleaved(
            {name: lambda way=way: way(head, grid, windows) for name, way in WAYS.items()},
            rounds=rounds,
        )
    slowest = next(iter(WAYS))
    name = f"{cells} x {cells}, hidden {', '.join(map(str, hidden)) or 'none'}"
    rows: list[dict[str, object]] = [
        {
            "grid and head": name,
            "windows": len(windows),
            "way": way,
            "s": timing.wall,
            "speed-up": paired_ratio(timings[slowest], timing),
            "largest difference": float(np.abs(scores[way] - scores[slowest]).max()),
        }
        for way, timing in timings.items()
    ]
    return rows, {f"{name}: {way}": timing for way, timing in timings.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, timings = [], {}
    for cells, hidden in ((7, (512,)), (12, (512,)), (12, ())):
        more_rows, more_timings = measure(cells, hidden, arguments.rounds)
        rows += more_rows
        timings |= more_timings
    write_results(
        "window_scores",
        rows,
        title="Scores of all windows of one feature map",
        notes=[f"{CHANNELS} channels, {NUM_CLASSES} classes, 1 thread"],
        timings=timings,
    )


if __name__ == "__main__":
    main()
