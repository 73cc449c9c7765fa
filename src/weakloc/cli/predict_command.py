"""`weakloc predict`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from weakloc.cli.formats import Filters, Formats
from weakloc.cli.memory_allocator import keep_freed_memory
from weakloc.cli.terminal import Terminal
from weakloc.config import ExportOptions, PredictSettings
from weakloc.errors import FailureError, SettingError

if TYPE_CHECKING:
    from weakloc.api.predicting import Written
    from weakloc.api.side_files import SideFiles
    from weakloc.predictor.predictor import Predictor
    from weakloc.predictor.tags import Tags


@dataclass(frozen=True, kw_only=True)
class Beside(Formats):
    """What is written beside predictions.jsonl."""

    heat_maps: Annotated[bool, Parameter(negative=())] = False
    """Also write the map of every class that has a place, as a grey PNG."""

    draw: int = 0
    """Also draw the first so many images with what was found in them."""


def _no_option(_kind: object, images: str) -> None:
    """A lone hyphen is standard input; what else begins with one was meant as an option."""
    if images.startswith("-") and images != "-":
        raise ValueError(f"Unknown option: {images}")


def predict(
    run: str,
    images: Annotated[str, Parameter(allow_leading_hyphen=True, validator=_no_option)],
    /,
    *,
    out: Path,
    also: tuple[str, ...] = (),
    tags: Path | None = None,
    resume: Annotated[bool, Parameter(negative=())] = False,
    devices: int = 1,
    beside: Annotated[Beside, Parameter(name="*")] = Beside(),
    filters: Filters = ExportOptions(),
    settings: Annotated[PredictSettings, Parameter(name="*")] = PredictSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Say where the classes are in any number of images.

    Parameters
    ----------
    run
        Folder of a run, a file of `weakloc export`, or a trained classifier: timm:NAME or
        timm:NAME:WEIGHTS.
    images
        Folder, image, quoted glob, list (.txt), table (.csv), shards (.tar), or - for a list on
        standard input.
    out
        Folder for predictions.jsonl and what comes with it.
    also
        Further runs on the same classes, such as of other input sizes; all their maps and scores
        become one. May be repeated. `weakloc calibrate --also` fits how the scores are combined.
    tags
        Table of what is in the images: only tagged classes get places, every tag gets one.
    resume
        Continue after an interruption without repeating or losing an image.
    devices
        Processes on this machine that share the images, one for each GPU. Under torchrun leave it.
    """
    if devices > 1 and "WORLD_SIZE" not in os.environ:
        _run_on_devices(devices)
        return
    job = _Job(run, images, out, also, tags, resume)
    written = _predict(job, _side_files(beside, filters, tags), settings, terminal)
    if written.is_first_rank:
        _say(written, terminal)


@dataclass(frozen=True)
class _Job:
    run: str
    images: str
    out: Path
    also: tuple[str, ...]
    tags: Path | None
    resume: bool


def _side_files(beside: Beside, filters: ExportOptions, tags: Path | None) -> SideFiles:
    from weakloc.api.side_files import SideFiles

    beside.refuse_idle(filters)
    if filters.tagged_only and tags is None:
        raise SettingError(
            "--tagged-only needs to know what is in the images", remedy="Give a table with --tags"
        )
    return SideFiles(beside.heat_maps, beside.draw, beside.formats, filters)


def _predict(
    job: _Job, beside: SideFiles, settings: PredictSettings, terminal: Terminal
) -> Written:
    from weakloc.api.any_run import predictor_of
    from weakloc.api.predicting import predict_to_folder

    keep_freed_memory()
    predictor, described = predictor_of(job.run, job.also, settings)
    known = None if job.tags is None else _read_tags(job.tags, predictor, terminal)
    with terminal.progress("images") as show:
        return predict_to_folder(
            predictor,
            job.images,
            job.out,
            described={**described, "tags": None if job.tags is None else str(job.tags)},
            tags=known,
            beside=beside,
            resume=job.resume,
            on_progress=show,
        )


def _say(written: Written, terminal: Terminal) -> None:
    terminal.say(f"{written.num_done} images in {written.predictions}")
    if written.num_skipped:
        terminal.say(f"{written.num_skipped} broken images listed in {written.skipped}")
    for name, path in written.others.items():
        terminal.say(f"{name}: {path}")
    terminal.give(
        {
            "predictions": str(written.predictions),
            **{name: str(path) for name, path in written.others.items()},
            "done": written.num_done,
            "skipped": written.num_skipped,
        }
    )


def _read_tags(path: Path, predictor: Predictor, terminal: Terminal) -> Tags:
    from weakloc.predictor.tags import read_tags

    tags, problems = read_tags(path, predictor.source.class_names)
    for problem in problems:
        terminal.say(f"{problem.where}: {problem.message}")
    return tags


def _run_on_devices(devices: int) -> None:
    """This very command once for each device, as torchrun would start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(devices):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(devices),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = [sys.executable, "-m", "weakloc.cli", *sys.argv[1:]]
        processes.append(subprocess.Popen(command, env=environment))
    codes = [process.wait() for process in processes]
    if any(codes):
        raise FailureError(
            f"{sum(map(bool, codes))} of {devices} processes failed",
            remedy="Their messages are above; the same command with --resume goes on",
        )
