"""`weakloc demo`, `scenes` and `data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from weakloc.cli.terminal import Terminal
from weakloc.settings import DataSettings

if TYPE_CHECKING:
    from weakloc.data.summary import DataSummary, ImageCheck, SplitSummary


MOST_PROBLEMS = 20  # shown on the terminal; --json lists all
MOST_PAIRS = 10


def scenes(
    folder: Path,
    /,
    *,
    kind: Literal["clutter", "large", "single"] = "clutter",
    source: Annotated[Path | None, Parameter(name="--from")] = None,
    train: int = 1500,
    val: int = 300,
    seed: int = 0,
    terminal: Terminal = Terminal(),
) -> None:
    """Write a stand-in data set in Pascal VOC layout: boxes, masks and tags exact.

    Args:
        folder: New folder to write to.
        kind: clutter: several objects among distractors; large: one or two large objects; single:
            one object in 64 px.
        source: Paste the boxed objects of this data set instead of drawing.
        train: Training images.
        val: Validation images.
        seed: The same seed gives the same bytes.
    """
    from weakloc.api import data_sets

    with terminal.progress("scenes") as show:
        data_sets.scenes(
            folder,
            kind=kind,
            source=source,
            num_train=train,
            num_val=val,
            seed=seed,
            on_progress=show,
        )
    terminal.say(f"{train} training and {val} validation images in {folder}")
    terminal.say(f'Next: weakloc data "{folder}"')
    terminal.give(folder=folder, train=train, val=val, seed=seed)


def data(
    data: str,
    /,
    *,
    check: bool = False,
    reading: DataSettings = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """What is in a data set: classes, counts, co-occurrence, problems, broken files.

    Args:
        data: Folder, table, annotation file or tar shards.
        check: Decode every image with all cores.
    """
    from weakloc.api import data_sets
    from weakloc.data.readers.assembly import ALL
    from weakloc.data.summary import advice, summarise

    data_set = data_sets.read(data, reading)
    summary = summarise(data_set)
    document = summary.to_json()
    terminal.say(f"{summary.root} ({summary.layout})")
    _show_classes(summary, terminal)
    for name, split in summary.splits.items():
        _show_labels(name, split, terminal)
    if check:
        with terminal.progress("images") as show:
            checked = data_sets.check(data_set, show)
        document["images"] = checked.to_json()
        _show_images(checked, terminal)
    _show_problems(summary, terminal)
    learned = next((split for split in ("train", ALL) if split in summary.splits), None)
    document["advice"] = [] if learned is None else advice(summary.splits[learned])
    terminal.say(*(f"{learned}: {line}" for line in document["advice"]))
    terminal.give(document)


def _show_classes(summary: DataSummary, terminal: Terminal) -> None:
    header = ["class"]
    for split in summary.splits:
        header += [f"{split} images", "unknown", "boxes"]
    rows: list[list[str | int]] = []
    for name in summary.classes:
        counts = [split.classes[name] for split in summary.splits.values()]
        rows.append([name, *(n for c in counts for n in (c.present, c.unknown, c.boxes))])
    terminal.table("Classes", header, rows)


def _show_labels(name: str, split: SplitSummary, terminal: Terminal) -> None:
    labels = ", ".join(
        f"{count} with {number}" for number, count in sorted(split.labels_per_image.items())
    )
    terminal.say(f"{name}: {split.images} images; classes per image: {labels or 'none'}")
    if split.unlabelled:
        terminal.say(f"  {split.unlabelled} of which nothing is known")
    pairs = split.co_occurrence[:MOST_PAIRS]
    shown = [f"{' + '.join(pair.classes)} ({pair.images})" for pair in pairs]
    if shown:
        terminal.say("  together: " + ", ".join(shown))


def _show_images(checked: ImageCheck, terminal: Terminal) -> None:
    width, height = checked.width, checked.height
    if width is not None and height is not None:
        terminal.say(
            f"{checked.images - len(checked.broken)} images decode; "
            f"width {width.smallest} to {width.largest} (median {width.median:g}), "
            f"height {height.smallest} to {height.largest} (median {height.median:g})"
        )
    rows = [(item.name, item.reason) for item in checked.broken[:MOST_PROBLEMS]]
    if rows:
        terminal.table(f"{len(checked.broken)} broken images", ("image", "reason"), rows)
    odd = [(o.image, f"{o.size[0]} x {o.size[1]}") for o in checked.odd[:MOST_PROBLEMS]]
    if odd:
        terminal.table(f"{len(checked.odd)} images of odd size", ("image", "size"), odd)


def _show_problems(summary: DataSummary, terminal: Terminal) -> None:
    if not summary.problems:
        terminal.say("No problems.")
        return
    terminal.table("Problems", ("kind", "times"), summary.problem_counts.items())
    rows = [(p.location, p.severity, p.message) for p in summary.problems[:MOST_PROBLEMS]]
    terminal.table("The first of them", ("where", "severity", "what"), rows)


SHOWN = {
    "classification_map": "tag mAP",
    "point_map": "point AP",
    "box_map_50": "box AP50",
    "corloc": "CorLoc",
    "max_box_acc_v2": "MaxBoxAccV2",
    "mean_iou": "mIoU",
}


def demo(*, out: Path = Path("demo"), terminal: Terminal = Terminal()) -> None:
    """Draw scenes, label them by their tags, measure the boxes: the whole tour, offline.

    Args:
        out: Folder for everything the tour makes.
    """
    from weakloc.api.tour import demo as take_tour

    with terminal.display() as display:
        tour = take_tour(out, say=terminal.say, display=display)
    terminal.say(f"{'pictures':>12}: {tour.pictures}")
    rows = [
        (look, *(numbers.get(name) for name in SHOWN)) for look, numbers in tour.headline.items()
    ]
    baselines = {result.name: result.best_baseline for result in tour.evaluated[0].metrics}
    best = [(baselines.get(name) or (None, None))[1] for name in SHOWN]
    title = "Learned from tags alone, measured on drawn scenes that were not learned from"
    terminal.table(title, ("places from", *SHOWN.values()), [*rows, ("best trivial answer", *best)])
    numbers, report = tour.folder / "metrics.md", tour.labelled.report
    files = {**tour.labelled.exports, "all numbers": numbers, "report": report}
    terminal.say(*(f"{name:>12}: {path}" for name, path in files.items()))
    terminal.say('Next, with your own photographs: weakloc label "PHOTOS" --out labelled')
    terminal.give(folder=tour.folder, metrics=tour.headline)
