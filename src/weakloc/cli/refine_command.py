"""`weakloc refine`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from weakloc.cli.memory_allocator import keep_freed_memory
from weakloc.cli.terminal import Terminal
from weakloc.config import DataSettings, RefineSettings


def refine(
    run: str,
    data: str,
    /,
    *,
    settings: Annotated[RefineSettings, Parameter(name="*")] = RefineSettings(),
    reading: Annotated[DataSettings, Parameter(name="*")] = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Learn which parts of the images are the objects, from what stands out in tagged images.

    For boxes and points that follow the object instead of the spot that betrays it. No drawn box
    is looked at. The run predicts, evaluates and reports with the result from then on;
    `--localiser score_map` goes back to the maps of its method.

    Parameters
    ----------
    run
        Folder of a run; what is learned is kept in it.
    data
        The data it was trained on.
    """
    from weakloc.api.refining import refine as refine_run
    from weakloc.api.runs import load

    keep_freed_memory()
    with terminal.progress("images") as show:
        refined = refine_run(load(run), data, settings=settings, reading=reading, on_progress=show)
    for broken in refined.broken:
        terminal.say(f"{broken.name}: {broken.reason}")
    terminal.say(f"Learned from {refined.num_images} images, kept in {refined.run.path}")
    terminal.give(
        {
            "run": str(refined.run.path),
            "images": refined.num_images,
            "broken": [broken.name for broken in refined.broken],
        }
    )
