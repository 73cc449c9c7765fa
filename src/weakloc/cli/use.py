"""`weakloc predict`, `export` and `serve`: what a run is used for."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from cyclopts import Parameter

from weakloc.cli.options import UntaggedPlaces, require_there
from weakloc.cli.terminal import Terminal
from weakloc.errors import SettingError, needing
from weakloc.extensions import names_of
from weakloc.files import only_writer
from weakloc.output.settings import ExportOptions, ServeSettings, require_token_beyond_this_machine
from weakloc.settings import LocaliserChoice, Look, Places, ServedLook, flag_of, require
from weakloc.work import keep_freed_memory, map_in_processes

if TYPE_CHECKING:
    from weakloc.api.predictions import Workers, Written


_FORMAT_HELP = (
    f"Write {', '.join(names_of('exporters'))}: each into a folder of its name; may be repeated."
)
Formats: TypeAlias = Annotated[tuple[str, ...], Parameter(name="--format", help=_FORMAT_HELP)]


def _refuse(
    filters: ExportOptions,
    formats: tuple[str, ...],
    images: str | None,
    *sources: str | Path | None,
) -> None:
    """What is not there or not known, and filters without anything that they would filter."""
    from weakloc.data.sources import find_images
    from weakloc.output.exporters import check_formats

    if images is not None:
        find_images(images)
    require_there(*sources)
    check_formats(formats)
    usual = vars(ExportOptions())
    changed = [flag_of(name) for name, value in vars(filters).items() if value != usual[name]]
    if changed and not formats:
        raise SettingError(
            f"{' and '.join(changed)} would do nothing, as no --format is given",
            remedy="Say which, such as --format coco; predictions.jsonl keeps everything",
        )


def export(
    source: str,
    /,
    *,
    out: Path,
    localiser: LocaliserChoice = "auto",
    formats: Formats = (),
    filters: ExportOptions = ExportOptions(),
    terminal: Terminal = Terminal(),
) -> None:
    """Write a run as one ONNX file that was checked against it, or predictions in other formats.

    Args:
        source: A run; with --format, predictions (their folder or predictions.jsonl).
        out: File for the network, such as model.onnx; with --format, folder for all formats.
        localiser: Where the file looks for places, as in `weakloc predict`; a file knows one.
    """
    _refuse(filters, formats, None, source)
    if not formats:
        _export_network(source, out, localiser, terminal)
        return
    remedy = "Leave it out: predictions have their places already"
    require(localiser == "auto", "localiser", localiser, remedy)
    from weakloc.output.exporters.jsonl import predictions_file, read_predictions

    next(read_predictions(predictions_file(source)), None)  # refuses what cannot be read
    from weakloc.api.predictions import export_predictions

    written = export_predictions(source, formats, out, filters)
    terminal.say_files(written)
    terminal.give(written)


def _export_network(run: str, out: Path, localiser: LocaliserChoice, terminal: Terminal) -> None:
    from weakloc.output.exporters.jsonl import predictions_file

    if predictions_file(run).is_file() and not Path(run, "run.json").is_file():
        raise SettingError(
            "these are predictions, and no --format is given",
            location=run,
            remedy="Say which, such as --format coco",
        )
    from weakloc.api import runs

    written = runs.export(run, out, localiser=localiser)
    record = written.record
    places = {"cells": "cells", "detector": "detector"}.get(record.looking.localiser, "class maps")
    terminal.say(
        f"{out}: opset {record.opset}, {len(record.class_names)} classes, places from its {places}"
    )
    if record.fixed_size is None:
        terminal.say(f"  any batch, any size from {record.smallest_side} pixels a side")
    else:
        width, height = record.fixed_size
        terminal.say(f"  any batch of {width} x {height} pixels only: {record.fixed_because}")
    for check in written.parity:
        size = f"{check.batch} images of {check.width} x {check.height}"
        terminal.say(f"  differs from the run by {check.difference:.1e} on {size}")
    terminal.say(f'Next: weakloc predict "{out}" IMAGES --out predictions')
    terminal.give(
        onnx=out,
        opset=record.opset,
        fixed_size=record.fixed_size,
        fixed_because=record.fixed_because or None,
        parity=[asdict(check) for check in written.parity],
    )


def push(
    source: str,
    name: str,
    /,
    *,
    metrics: Path | None = None,
    licence: Annotated[str, Parameter(name="--license")] = "unknown",
    private: Annotated[bool, Parameter(negative=())] = False,
    image_prefix: str | None = None,
    terminal: Terminal = Terminal(),
) -> None:
    """Share a run on the Hugging Face Hub, or put predictions into a project of Label Studio.

    The hub is sent the files of the run, and a card that says what it is. In Label Studio each task
    is given the prediction of its image, once; LABEL_STUDIO_API_KEY is the token.

    Args:
        source: Folder of a run; for Label Studio, predictions (their folder or predictions.jsonl).
        name: USER/NAME on the hub, where everybody can then name the run as hf:USER/NAME; or the
            address of the project, as the browser shows it: http://HOST/projects/7.
        metrics: What `weakloc evaluate --out` wrote, for the card. Not given: metrics.json in the
            run, if there.
        licence: The hub's word for what others may do with it, such as apache-2.0.
        private: Show a new repository to its owners alone. Not given: to everybody, unless the
            organisation has another rule.
        image_prefix: What goes before the path of an image in Label Studio, where a task has to be
            made. Not given: its local files, where the document root is the folder above the
            images.
    """
    require_there(source, metrics)
    given: dict[str, object] = {"--image-prefix": image_prefix is not None}
    if is_project := "://" in name:
        given = {"--metrics": metrics, "--license": licence != "unknown", "--private": private}
    if idle := [flag for flag, value in given.items() if value]:
        remedy = f"Leave it out: {name} is {'a project' if is_project else 'a place on the hub'}"
        raise SettingError(f"{' and '.join(idle)} would do nothing", remedy=remedy)
    if is_project:
        _push_predictions(source, name, image_prefix, terminal)
        return
    from weakloc.api import pushed_runs

    hub = partial(pushed_runs.push, metrics=metrics, licence=licence, private=private)
    url, is_private = hub(source, name)
    terminal.say(f"{url} ({'private' if is_private else 'public'})")
    terminal.give(url=url, private=is_private)


def _push_predictions(
    source: str, address: str, image_prefix: str | None, terminal: Terminal
) -> None:
    from weakloc.api.predictions import classes_and_folder, summary_beside
    from weakloc.output.exporters.jsonl import predictions_file
    from weakloc.serving.projects import push_predictions

    file, token = predictions_file(source), os.environ.get("LABEL_STUDIO_API_KEY", "").strip()
    name = Path(summary_beside(file).get("run") or "weakloc").name
    options = ExportOptions(model_version=name, image_prefix=image_prefix)
    names, folder = classes_and_folder(file)
    push = partial(push_predictions, class_names=names, image_root=folder, options=options)
    with terminal.progress("predictions") as show:
        pushed = push(file, address, token, on_progress=show)
    terminal.say(
        "{posted} predictions posted, {with_new_task} with a new task, {there} were there; "
        "the project shows {model_version}".format(**pushed)
    )
    terminal.give(pushed)


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
    devices: int | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    heat_maps: Annotated[bool, Parameter(negative=())] = False,
    draw: int = 0,
    formats: Formats = (),
    filters: ExportOptions = ExportOptions(),
    look: Look = Look(),
    places: Places = Places(),
    terminal: Terminal = Terminal(),
) -> None:
    """Say where the classes are in any number of images.

    Args:
        run: Folder of a run, hf:USER/NAME[@REVISION] on the Hugging Face Hub, a file of `weakloc
            export`, or a trained classifier: timm:NAME or timm:NAME:WEIGHTS.
        images: Folder, image, quoted glob, list (.txt), table (.csv, .tsv, .jsonl), shards (.tar),
            by path or URL (s3://, gs://); or - for a list on standard input.
        out: Folder for predictions.jsonl and what comes with it.
        also: Further runs on the same classes, such as of other input sizes; all their maps and
            scores become one (`weakloc calibrate --also` fits how). May be repeated.
        tags: Table of what is in the images: only tagged classes get places, every tag gets one.
        resume: Continue after an interruption without repeating or losing an image.
        heat_maps: Also write the map of every class that has a place, as a grey PNG.
        draw: Also draw the first so many images with what was found in them.
        devices: Processes that share the images, one for each GPU. Not given: one; of a cluster
            one for each GPU that it has, or else for each core.
        engine: local, or ray to share the images with the machines of a Ray cluster.
        address: Where the cluster is, such as HOST:6379. Not given: RAY_ADDRESS, or one that this
            machine is part of, or a new one of this machine alone.
    """
    _refuse(filters, formats, images, run, *also, tags)
    from weakloc.api.predictions import SideFiles, predict_to_folder

    beside = SideFiles(heat_maps, draw, formats, filters)
    keep_freed_memory()
    with terminal.progress("images") as show:
        work = partial(predict_to_folder, run, images, out, also=also, tags=tags, resume=resume)
        work = partial(work, look=look, places=places, beside=beside, on_progress=show)
        written = work(workers=_workers(engine, devices, address))
    _say(written, terminal)


def _workers(engine: str, devices: int | None, address: str | None) -> Workers | None:
    """None where this process does it all."""
    require(devices is None or devices >= 1, "devices", devices, "Give 1 or more")
    if engine == "ray":
        with needing("weakloc[ray]"):
            import_module("ray")
            from weakloc.ray import map_in_actors
        return partial(map_in_actors, actors=devices, address=address)
    require(address is None, "address", address, "Say --engine ray, or leave it out")
    return partial(map_in_processes, processes=devices) if devices and devices > 1 else None


def _say(written: Written, terminal: Terminal) -> None:
    terminal.say(*(f"{problem.location}: {problem.message}" for problem in written.problems))
    terminal.say(f"{written.num_done} images in {written.predictions}")
    if written.num_skipped:
        terminal.say(f"{written.num_skipped} broken images listed in {written.skipped}")
    terminal.say_files(written.others)
    if written.licence is not None:
        terminal.say(f"timm says of the weights: licence {written.licence}")
    files = {"predictions": written.predictions, **written.others}
    terminal.give({**files, "done": written.num_done, "skipped": written.num_skipped})


def serve(
    run: str,
    /,
    *,
    also: tuple[str, ...] = (),
    token: Annotated[str | None, Parameter(env_var="WEAKLOC_TOKEN")] = None,
    serving: ServeSettings = ServeSettings(),
    look: ServedLook = ServedLook(),
    places: UntaggedPlaces = UntaggedPlaces(),
    terminal: Terminal = Terminal(),
) -> None:
    """Answer requests for predictions over HTTP, such as those of Label Studio.

    Args:
        run: Folder of a run, hf:USER/NAME[@REVISION] on the Hugging Face Hub, a file of `weakloc
            export`, or a trained classifier: timm:NAME or timm:NAME:WEIGHTS.
        also: Further runs on the same classes; their maps and scores become one. May be repeated.
        token: Secret that requests must bring: as Bearer token, or as password in Label Studio.
    """
    require_token_beyond_this_machine(serving.host, token)
    require_there(run, *also)
    with needing("weakloc[label-studio]"):
        from weakloc.serving.app import bound_socket, build_app, server_of, url_of
    from weakloc.api.fused_runs import served
    from weakloc.serving.allowed_images import allowed_images
    from weakloc.serving.corrections import Learner
    from weakloc.training.hub import folder_of

    learn, load = serving.learn, partial(served, also=also, look=look, places=places)
    learning = nullcontext() if learn is None else only_writer(learn)
    with bound_socket(serving.host, serving.port) as listening, learning:
        images = allowed_images(serving.root, serving.allow_url, max_bytes=serving.max_bytes)
        keep_freed_memory()
        learner = None if learn is None else Learner(folder_of(run), learn, images, load)
        predictor, version = load(run) if learner is None else learner.open()
        build = partial(build_app, model_version=version, token=token, learner=learner)
        app = build(predictor, images, serving)
        terminal.say(f"Answering at {url_of(listening)} (Ctrl-C ends it)")
        terminal.give(url=url_of(listening))
        sys.stdout.flush()
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("weakloc").setLevel(logging.WARNING if terminal.quiet else logging.INFO)
        # Without this, the process would end by the signal itself after the last answer.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        server_of(app).run(sockets=[listening])
