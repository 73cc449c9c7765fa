"""`weakloc label`: the main job, from tagged photographs to boxes on them."""

from __future__ import annotations

import webbrowser
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from msgspec import structs

from weakloc.cli.terminal import Terminal
from weakloc.cli.use import Formats
from weakloc.extensions import require_backbone
from weakloc.output.settings import ExportOptions
from weakloc.settings import DataSettings, LabelSettings
from weakloc.work import keep_freed_memory

if TYPE_CHECKING:
    from weakloc.api.label import Labelled

MOST_PROBLEMS = 5  # shown; `weakloc data` lists all
MOST_CLASSES = 40
MOSTLY = 0.8  # of the boxes about the middle: 0.96 on centred photographs, at most 0.4 on others


def label(
    photos: str,
    /,
    *,
    out: Path = Path("labelled"),
    tags: Path | None = None,
    new: Path | None = None,
    open_report: Annotated[bool, Parameter(name="--open", negative=())] = False,
    formats: Formats = (),
    settings: LabelSettings = LabelSettings(),
    exporting: ExportOptions = ExportOptions(),
    reading: DataSettings = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Put boxes on tagged photographs: learn from their tags, find places, export, report.

    The same command goes on where it was stopped, and does nothing twice.

    Args:
        photos: Folder with a folder of images for each class, or data in another known layout.
        out: Folder for everything: run, predictions, coco, yolo, report.html.
        tags: Table of what is in the images, where their folders do not say it.
        new: Folder of further images, without tags, that get boxes as well.
        open_report: Show the report in the browser.
    """
    from weakloc.api import data_sets
    from weakloc.output.exporters import check_formats

    check_formats(formats)
    require_backbone(settings.backbone)
    by_table = reading if tags is None else replace(reading, labels=tags)
    data_set = data_sets.read(photos, by_table)
    from weakloc.api.label import GOES_ON
    from weakloc.api.label import label as label_photographs

    keep_freed_memory()
    work = partial(label_photographs, data_set, out, tags=tags, new=new, formats=formats)
    try:
        with terminal.display() as shown:
            labelled = work(settings=settings, exporting=exporting, reading=reading, display=shown)
    except KeyboardInterrupt:
        terminal.say(GOES_ON)
        raise
    _say_what_was_found(labelled, terminal)
    _say_how_sure(labelled, terminal)
    if settings.drawn is None:
        terminal.say("How well the boxes fit is not known: nothing drawn was looked at")
    _say_what_is_next(labelled, terminal)
    if open_report:
        webbrowser.open(labelled.report.absolute().as_uri())


def _say_what_was_found(labelled: Labelled, terminal: Terminal) -> None:
    findings, problems = labelled.findings, labelled.data_set.problems
    rows = sorted(findings.boxes.items(), key=lambda row: -row[1])[:MOST_CLASSES]
    terminal.table(f"Boxes in {findings.num_images} images", ("class", "boxes"), rows)
    if findings.unreadable:
        first = findings.unreadable[0]
        terminal.say(f"{len(findings.unreadable)} images could not be read; the first: {first}")
    terminal.say(*(f"{odd.location}: {odd.message}" for odd in problems[:MOST_PROBLEMS]))
    if len(problems) > MOST_PROBLEMS:
        terminal.say(f"and {len(problems) - MOST_PROBLEMS} more oddities (weakloc data lists them)")


def _say_how_sure(labelled: Labelled, terminal: Terminal) -> None:
    findings, plan = labelled.findings, labelled.plan
    terminal.say(f"Seen at {plan.image_size} px: {plan.because}")
    if plan.cut:
        terminal.say(f"To fit the time: {plan.cut}")
    if findings.tag_map is not None:
        kept = "classification mAP of images kept back from learning"
        terminal.say(f"The network knows the tags: {kept} is {findings.tag_map:.3f}")
    terminal.say(
        f"{findings.num_doubtful} of {findings.num_images} images are doubtful, "
        f"{findings.num_disagreements} tags are contradicted: the report begins with them"
    )
    if findings.in_the_middle >= MOSTLY and labelled.comparison is None:
        terminal.say(
            f"{findings.in_the_middle:.0%} of the boxes lie about the middle of the image: a plain "
            "box of 0.7 of each side may fit as well there; draw some before you trust these"
        )
    if labelled.comparison is not None:
        terminal.say(labelled.comparison.in_words())


def _say_what_is_next(labelled: Labelled, terminal: Terminal) -> None:
    run, predictions = labelled.folder / "run", labelled.folder / "predictions"
    terminal.say_files(labelled.exports)
    terminal.say(
        f"Next: look at {labelled.report}",
        "  they reach too far or not far enough: draw 20, and add --drawn FILE",
        f'  more are drawn: weakloc evaluate "{run}" DRAWN',
        f'  other formats: weakloc export "{predictions}" --format voc --out voc',
    )
    terminal.give(
        folder=labelled.folder,
        report=labelled.report,
        exports=labelled.exports,
        plan=structs.asdict(labelled.plan),
        **asdict(labelled.findings),
        comparison=labelled.comparison and asdict(labelled.comparison),
    )
