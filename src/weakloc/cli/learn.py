"""`weakloc train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from weakloc.cli.terminal import Terminal
from weakloc.cli.use import keep_freed_memory
from weakloc.extensions import names_of
from weakloc.settings import DataSettings, Look, Places, RefineSettings, TrainSettings

if TYPE_CHECKING:
    from weakloc.api.calibration import Plan
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
    settings: Annotated[TrainSettings, Parameter(name="*")] = TrainSettings(),
    reading: Annotated[DataSettings, Parameter(name="*")] = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Learn from tags where things are; drawn boxes and masks are never looked at.

    Parameters
    ----------
    data
        Folder, table, annotation file or tar shards.
    out
        Folder for the run.
    preset
        practical: best result for the time; literal: as the paper has it.
    choices
        NAME=VALUE for a choice of the method, such as alpha=0.7 or optimisation.kind=sgd.
    resume
        Continue the run in --out where it stopped.
    """
    from weakloc.api import training

    with terminal.display() as display:
        run = training.train(
            data,
            method=method,
            preset=preset,
            choices=training.parse_choices(choices),
            out=out,
            settings=settings,
            reading=reading,
            resume=resume,
            display=display,
        ).run
    terminal.say(f"Run in {out}: {len(run.history)} epochs, weights of epoch {run.selection.epoch}")
    for note in run.notes:
        terminal.say(f"  note: {note}")
    terminal.say(f'Next: weakloc predict "{out}" IMAGES --out predictions')
    history = [asdict(record) for record in run.history]
    terminal.give({"run": str(out), "weights_of_epoch": run.selection.epoch, "history": history})


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
    from weakloc.api.runs import load_folder
    from weakloc.api.training import refine as refine_run

    keep_freed_memory()
    with terminal.progress("images") as show:
        refined = refine_run(
            load_folder(run), data, settings=settings, reading=reading, on_progress=show
        )
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


MOST_CLASSES = 40  # shown on the terminal; --json lists all


@dataclass(frozen=True, kw_only=True)
class TunedPlaces(Places):
    """What is said about images; `--boxes` is a number of drawn boxes here."""

    boxes: Annotated[
        Literal["all", "largest", "best", "none"], Parameter(name="--boxes-of-a-class")
    ] = "all"
    """Boxes that the thresholds are to serve, as `weakloc predict --boxes` will name them."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What the thresholds are tuned on."""

    boxes: int = 0
    """Drawn boxes to look at, 5 to 50. 0 looks at none: tags alone decide."""

    split: str | None = None
    """Images to tune on. Not given: those learned from; with --oracle those watched."""

    rule: Literal["auto", "fixed", "otsu", "mean_ratio", "area_prior", "stability"] = "auto"
    """Rule for tuning without boxes; auto takes the one that sizes and mirror images agree on."""

    granularity: Literal["class", "global"] = "class"
    """A threshold for each class, or one for all."""

    most_images: int = 500
    """Images drawn at random to tune on without boxes."""

    seed: int = 0
    """Number from which the choice of images follows."""

    choose_rescoring: Annotated[bool, Parameter(negative=())] = False
    """Also choose the weight of classes tagged together, by tags kept back in training."""

    oracle: Annotated[bool, Parameter(negative=())] = False
    """Only print the thresholds that fit all boxes of the split best: an upper bound, not kept."""


def calibrate(
    run: str,
    data: str,
    /,
    *,
    also: tuple[str, ...] = (),
    tuning: Annotated[Tuning, Parameter(name="*")] = Tuning(),
    look: Annotated[Look, Parameter(name="*")] = Look(),
    places: Annotated[TunedPlaces, Parameter(name="*")] = TunedPlaces(),
    reading: Annotated[DataSettings, Parameter(name="*")] = DataSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Find the thresholds that cut boxes from maps, from tags alone or from a few drawn boxes.

    Parameters
    ----------
    run
        Folder of a run; the thresholds are kept in it and said with every number they make.
    data
        The data it was trained on, or other data with the same classes.
    also
        Further runs on the same classes: only fit how the scores of all are combined, by tags
        alone, for `weakloc predict --also`. May be repeated.
    """
    from weakloc.api import data_sets
    from weakloc.api.runs import load_folder

    trained = load_folder(run)
    data_set = data_sets.read(data, reading)
    if also:
        _fit_fusion((run, *also), data_set, tuning.split, look, terminal)
    elif tuning.oracle:
        _show_oracle(trained, data_set, tuning, look=look, places=places, terminal=terminal)
    else:
        _tune(trained, data_set, tuning, look=look, places=places, terminal=terminal)


def _tune(
    trained: TrainedRun,
    data_set: DataSet,
    tuning: Tuning,
    *,
    look: Look,
    places: Places,
    terminal: Terminal,
) -> None:
    from weakloc.api import calibration
    from weakloc.training.splits import learned_split

    plan = _plan(tuning, learned_split(data_set, trained.run.settings.train_split))
    with terminal.progress("images") as show:
        tuned = calibration.calibrate(
            trained, data_set, plan, look=look, places=places, on_progress=show
        )
    found = tuned.calibration
    assert found is not None
    _show(found, tuned.class_names, terminal)
    document: dict[str, Any] = {
        "run": str(tuned.path),
        "split": plan.split,
        "thresholds": found.to_json(),
    }
    if tuning.choose_rescoring:
        with terminal.progress("images") as show:
            choice = calibration.calibrate_rescoring(
                tuned, data_set, look=look, places=places, on_progress=show
            )
        document["rescoring"] = asdict(choice)
        terminal.say(
            f"Weight of classes tagged together: {choice.alpha:g} "
            f"(classification mAP {choice.mean_average_precision:.3f})"
        )
    terminal.say(f"Kept in {tuned.path}")
    terminal.give(document)


def _show_oracle(
    trained: TrainedRun,
    data_set: DataSet,
    tuning: Tuning,
    *,
    look: Look,
    places: Places,
    terminal: Terminal,
) -> None:
    from weakloc.api import calibration

    plan = _plan(tuning, trained.run.settings.val_split)
    with terminal.progress("images") as show:
        bound = calibration.oracle(
            trained, data_set, plan, look=look, places=places, on_progress=show
        )
    _show(bound, trained.class_names, terminal)
    terminal.give({"oracle": bound.to_json()})


def _plan(tuning: Tuning, usual_split: str) -> Plan:
    from weakloc.api.calibration import Plan

    return Plan(
        split=tuning.split or usual_split,
        num_boxes=tuning.boxes,
        rule=tuning.rule,
        granularity=tuning.granularity,
        most_images=tuning.most_images,
        seed=tuning.seed,
    )


def _fit_fusion(
    paths: Sequence[str],
    data_set: DataSet,
    split: str | None,
    look: Look,
    terminal: Terminal,
) -> None:
    from weakloc.api.runs import FusedRuns, load_folder

    fused = FusedRuns(tuple(load_folder(path) for path in paths))
    with terminal.progress("images") as show:
        reached = fused.fit(data_set, split=split, look=look, on_progress=show)
    terminal.table("Classification mAP", ("scores", "mAP"), reached.items())
    terminal.say(f"Kept in {paths[0]}")
    terminal.give({"run": paths[0], "also": list(paths[1:]), "classification_map": reached})


def _show(found: Calibration, class_names: Sequence[str], terminal: Terminal) -> None:
    header = ["class", "threshold"]
    if found.intervals is not None:
        header += [f"{found.confidence:.0%} from", "to"]
    rows: list[list[object]] = []
    for index, name in enumerate(class_names[:MOST_CLASSES]):
        interval = () if found.intervals is None else found.intervals[index]
        rows.append([name, found.thresholds[index], *interval])
    terminal.table("Thresholds", header, rows)
    terminal.say(f"Tuned by {found.supervision}")
    if found.leave_one_out is not None:
        terminal.say(f"Each image by the others' threshold: {found.leave_one_out:.1%} localised")
    if found.agreement is not None:
        terminal.say(f"Agreement of views beyond chance: {found.agreement:.3f}")
