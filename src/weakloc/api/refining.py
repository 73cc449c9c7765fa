"""A trained run learns which cells are the object, still from tags alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from weakloc.api.data_sets import read
from weakloc.api.runs import TrainedRun
from weakloc.config import DataSettings, RefineSettings
from weakloc.errors import DataError
from weakloc.structures import BrokenImage, DataSet
from weakloc.training.cell_file import save_cells
from weakloc.training.cells import learn_cells
from weakloc.training.checkpoint import forget_thresholds
from weakloc.training.splits import divide

OnProgress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Refined:
    """The run with its cells, and what could not be read on the way."""

    run: TrainedRun
    num_images: int
    broken: tuple[BrokenImage, ...]


def refine(
    trained: TrainedRun,
    data: str | Path | DataSet,
    *,
    settings: RefineSettings | None = None,
    reading: DataSettings | None = None,
    keep: bool = True,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Refined:
    """Learns from the images that the run was trained on, and keeps the cells in its folder.

    Thresholds of an earlier calibration belong to other maps and are forgotten. Without `keep`
    nothing is written, and the run that is given back alone has the cells.
    """
    settings = settings or RefineSettings()
    data_set = data if isinstance(data, DataSet) else read(data, reading or DataSettings())
    run = trained.run
    if data_set.class_names != run.class_names:
        raise DataError(
            f"the data has the classes {', '.join(data_set.class_names[:5])}, the run "
            f"{', '.join(run.class_names[:5])}",
            where=str(data_set.root),
            remedy="Give the data that the run was trained on",
        )
    samples = divide(data_set, run.settings).learned
    cells, broken = learn_cells(run.network, samples, run.preprocessing, settings, on_progress)
    if keep:
        save_cells(run.path, cells, run.network.backbone, settings)
        run = forget_thresholds(run)
    run = replace(run, cells=cells, thresholds=None)
    num_images = min(len(samples), settings.images) - len(broken)
    return Refined(TrainedRun(run), num_images, tuple(broken))
