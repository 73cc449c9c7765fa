"""`weakloc train`, `refine` and `calibrate`: what a run learns and keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from weakloc.cli.options import require_there
from weakloc.cli.terminal import Terminal
from weakloc.errors import SettingError
from weakloc.extensions import names_of, require_backbone, require_known
from weakloc.settings import (
    CalibrateSettings,
    Cut,
    DataSettings,
    DistilSettings,
    Look,
    RefineSettings,
    TrainSettings,
)
from weakloc.work import keep_freed_memory

if TYPE_CHECKING:
    from weakloc.api.runs import TrainedRun
    from weakloc.localize.calibration import Calibration
    from weakloc.structures import DataSet


def train(
    data: str,
    /,
    *,
    out: Path,
    method: Annotated[
        str, Parameter(help=f"Paper to follow: {', '.join(names_of('methods'))}.")
    ] = "wildcat",
    preset: Literal["practical", "literal"] = "practical",
    choices: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    resume: Annotated[bool, Parameter(negative=())] = False,
    settings: TrainSettings = TrainSettings(),
    reading: DataSettings = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Learn from tags where things are; drawn boxes and masks are never looked at.

    Args:
        data: Folder, table, annotation file or tar shards.
        out: Folder for the run.
        preset: practical: best result for the time; literal: as the paper has it.
        choices: NAME=VALUE for a choice of the method, such as alpha=0.7 or optimisation.kind=sgd.
        resume: Continue the run in --out where it stopped.
    """
    from weakloc.api import data_sets

    require_known("methods", method, f"method {method!r} is not known")
    require_backbone(settings.backbone)
    data_set = data_sets.read(data, reading)
    from weakloc.api import training

    with terminal.display() as display:
        run = training.train(
            data_set,
            method=method,
            preset=preset,
            choices=training.parse_choices(choices),
            out=out,
            settings=settings,
            resume=resume,
            display=display,
        ).run
    terminal.say(f"Run in {out}: {len(run.history)} epochs, weights of epoch {run.selection.epoch}")
    terminal.say(*(f"  note: {note}" for note in run.notes))
    terminal.say(f'Next: weakloc predict "{out}" IMAGES --out predictions')
    history = [asdict(record) for record in run.history]
    terminal.give(run=out, weights_of_epoch=run.selection.epoch, history=history)


def refine(
    run: str,
    data: str,
    /,
    *,
    settings: RefineSettings = RefineSettings(),
    reading: DataSettings = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Learn which parts of the images are the objects, from what stands out in tagged images.

    For boxes and points that follow the object instead of the spot that betrays it. No drawn box
    is looked at. The run predicts, evaluates and reports with the result from then on;
    `--localiser score_map` goes back to the maps of its method.

    Args:
        run: Folder of a run; what is learned is kept in it.
        data: The data it was trained on.
    """
    from weakloc.api import data_sets

    require_there(run)
    data_set = data_sets.read(data, reading)
    from weakloc.api import training

    keep_freed_memory()
    with terminal.progress("images") as show:
        refined = training.refine(
            run, data_set, settings=settings, reading=reading, on_progress=show
        )
    terminal.say(*(f"{broken.name}: {broken.reason}" for broken in refined.broken))
    terminal.say(f"Learned from {refined.num_images} images, kept in {refined.run.path}")
    broken = [image.name for image in refined.broken]
    terminal.give(run=refined.run.path, images=refined.num_images, broken=broken)


def distil(
    run: str,
    data: str,
    /,
    *,
    out: Path,
    settings: DistilSettings = DistilSettings(),
    reading: DataSettings = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Learn to say boxes at once: from a few that were drawn, or from the run's own.

    With --boxes a few drawn boxes teach how far the objects of a class reach. Without it the boxes
    of the run itself do, in all the images that it learned from: what they have in common is
    learned, what is odd about single ones is not.

    Args:
        run: Folder of a run that has learned cells; it stays as it is.
        data: The data it was trained on, or other data with the same classes.
        out: Folder for the run with the detector.
    """
    from weakloc.api import data_sets

    require_there(run)
    data_set = data_sets.read(data, reading)
    from weakloc.api import training

    keep_freed_memory()
    with terminal.display() as display:
        distilled = training.distil(run, data_set, out, settings, reading=reading, display=display)
    terminal.say(*(f"{broken.name}: {broken.reason}" for broken in distilled.broken))
    is_drawn = settings.boxes or settings.boxes_per_class
    boxes = f"{distilled.num_boxes} {'drawn boxes' if is_drawn else 'boxes of its own'}"
    comparison = distilled.comparison
    if comparison is not None:
        terminal.say(comparison.in_words())
    did = "Looked at" if comparison and comparison.is_worse else "Learned"
    terminal.say(f"{did} {boxes} in {distilled.num_images} images; run in {out}")
    terminal.say(f'Next: weakloc predict "{out}" IMAGES --out predictions')
    terminal.give(
        run=out,
        images=distilled.num_images,
        boxes=distilled.num_boxes,
        comparison=comparison and asdict(comparison),
    )


MOST_CLASSES = 40  # shown on the terminal; --json lists all


def calibrate(
    run: str,
    data: str,
    /,
    *,
    also: tuple[str, ...] = (),
    settings: CalibrateSettings = CalibrateSettings(),
    choose_rescoring: Annotated[bool, Parameter(negative=())] = False,
    oracle: Annotated[bool, Parameter(negative=())] = False,
    look: Look = Look(),
    cut: Cut = Cut(),
    reading: DataSettings = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Find the thresholds that cut boxes from maps, from a few drawn boxes.

    Args:
        run: Folder of a run; the thresholds are kept in it and said with every number they make.
        data: The data it was trained on, or other data with the same classes.
        also: Further runs on the same classes: only fit how the scores of all are combined, by tags
            alone, for `weakloc predict --also`. May be repeated.
        choose_rescoring: Choose the weight of classes tagged together, by tags kept back.
        oracle: Only print the thresholds that fit all boxes best, of the images watched where no
            --split is given: an upper bound.
    """
    from weakloc.api import data_sets
    from weakloc.localize.calibration import require_boxes

    require_there(run, *also)
    if not (also or oracle or choose_rescoring):
        require_boxes(settings.boxes or settings.boxes_per_class)
    data_set = data_sets.read(data, reading)
    from weakloc.api import calibration, runs

    trained, document = runs.load_folder(run), dict[str, Any](run=run)
    tune = calibration.oracle if oracle else calibration.calibrate
    tuning = partial(tune, trained, data_set, settings, look=look, cut=cut)
    if also and (oracle or choose_rescoring or settings != CalibrateSettings()):
        remedy = "Leave it out to tune one run, or leave out the other choices"
        raise SettingError("--also combines the scores of several runs, no more", remedy=remedy)
    if also:
        document |= _fit_fusion((run, *also), data_set, look, terminal)
    elif oracle or not choose_rescoring or settings.boxes or settings.boxes_per_class:
        document |= _tuned(tuning, trained.class_names, settings, terminal)
    if choose_rescoring and not oracle:
        now = runs.load_folder(run) if "thresholds" in document else trained
        document["rescoring"] = _choose_rescoring(now, data_set, look, terminal)
    if not (also or oracle):
        terminal.say(f"Kept in {run}")
    terminal.give(document)


def _choose_rescoring(
    trained: TrainedRun, data_set: DataSet, look: Look, terminal: Terminal
) -> dict[str, Any]:
    from weakloc.api.calibration import calibrate_rescoring

    with terminal.progress("images") as show:
        choice = calibrate_rescoring(trained, data_set, look=look, on_progress=show)
    terminal.say(
        f"Weight of classes tagged together: {choice.alpha:g} "
        f"(classification mAP {choice.mean_average_precision:.3f} of {choice.chosen_on})"
    )
    return asdict(choice)


def _fit_fusion(
    paths: Sequence[str], data_set: DataSet, look: Look, terminal: Terminal
) -> dict[str, Any]:
    from weakloc.api.fused_runs import load_fused

    with terminal.progress("images") as show:
        fused = load_fused(paths).fitted(data_set, look=look, on_progress=show)
    fused.save()
    assert fused.late is not None
    reached, fitted_on = dict(fused.late.classification_map), fused.late.fitted_on
    terminal.table("Classification mAP", ("scores", "mAP"), reached.items())
    terminal.say(f"Fitted on the tags of {fitted_on}, kept in {paths[0]}")
    return {"also": list(paths[1:]), "classification_map": reached, "fitted_on": fitted_on}


def _tuned(
    tuning: Callable[..., TrainedRun | Calibration],
    class_names: Sequence[str],
    settings: CalibrateSettings,
    terminal: Terminal,
) -> dict[str, Any]:
    """Also says which classes took the threshold of all, and what would give them their own."""
    from weakloc.localize.calibration import FEWEST_IMAGES, Calibration

    with terminal.progress("images") as show:
        answer = tuning(on_progress=show)
    tuned = answer if isinstance(answer, Calibration) else answer.calibration
    assert tuned is not None
    columns: dict[str, Sequence[object]] = {"class": class_names, "threshold": tuned.thresholds}
    if tuned.intervals is not None:
        columns[f"{tuned.confidence:.0%} from"], columns["to"] = zip(*tuned.intervals, strict=True)
    bases = tuned.basis or ()
    columns["drawn images"] = [basis.num_images for basis in bases]
    columns["boxes"] = [basis.num_boxes for basis in bases]
    columns["tuned on"] = ["its own" if basis.is_own else "all classes" for basis in bases]
    rows = list(zip(*columns.values(), strict=True))[:MOST_CLASSES]
    terminal.table("Thresholds", [*columns], rows)
    terminal.say(f"Tuned by {tuned.supervision}")
    if tuned.is_oracle:
        return {"oracle": asdict(tuned)}
    if tuned.leave_one_out is not None:
        terminal.say(f"Each image by the others' threshold: {tuned.leave_one_out:.1%} localised")
    shared = [name for name, basis in zip(class_names, bases, strict=True) if not basis.is_own]
    if shared and settings.granularity == "class":
        terminal.say(
            f"{len(shared)} of {len(class_names)} classes have fewer than {FEWEST_IMAGES} drawn "
            f"images and took the threshold of all: {', '.join(shared[:MOST_CLASSES])}. "
            "--boxes-per-class draws from each"
        )
    return {"thresholds": asdict(tuned)}
