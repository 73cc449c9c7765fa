"""`weakloc calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from weakloc.cli.terminal import Terminal
from weakloc.config import DataSettings, PredictSettings

if TYPE_CHECKING:
    from weakloc.localize.calibrate import Calibration
    from weakloc.structures import DataSet

MOST_CLASSES = 40  # shown on the terminal; --json lists all


@dataclass(frozen=True, kw_only=True)
class Looking(PredictSettings):
    """How images are looked at; `--boxes` is a number of drawn boxes here."""

    boxes: Annotated[
        Literal["all", "largest", "best", "none"], Parameter(name="--boxes-of-a-class")
    ] = "all"
    """Boxes that the thresholds are to serve, as `weakloc predict --boxes` will name them."""


def calibrate(
    run: str,
    data: str,
    /,
    *,
    boxes: int = 0,
    also: tuple[str, ...] = (),
    split: str | None = None,
    rule: Literal["auto", "fixed", "otsu", "mean_ratio", "area_prior", "stability"] = "auto",
    granularity: Literal["class", "global"] = "class",
    most_images: int = 500,
    seed: int = 0,
    rescoring_from_tags: Annotated[bool, Parameter(name="--choose-rescoring", negative=())] = False,
    oracle: Annotated[bool, Parameter(negative=())] = False,
    settings: Annotated[Looking, Parameter(name="*")] = Looking(),
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
    boxes
        Drawn boxes to look at, 5 to 50. 0 looks at none: tags alone decide.
    also
        Further runs on the same classes: only fit how the scores of all are combined, by tags
        alone, for `weakloc predict --also`. May be repeated.
    split
        Images to tune on. Not given: train; with --oracle the split that was watched.
    rule
        Rule for tuning without boxes; auto takes the one that sizes and mirror images agree on.
    granularity
        A threshold for each class, or one for all.
    most_images
        Images drawn at random to tune on without boxes.
    seed
        Number from which the choice of images follows.
    rescoring_from_tags
        Also choose the weight of classes that are tagged together, by tags kept back in training.
    oracle
        Only print the thresholds that fit all boxes of the split best: an upper bound, not kept.
    """
    from weakloc.api import calibrating, data_sets, runs

    trained = runs.load(run)
    data_set = data_sets.read(data, reading)
    if also:
        _fit_fusion((run, *also), data_set, split, settings, terminal)
        return
    judged = split or (trained.run.settings.val_split if oracle else "train")
    plan = calibrating.Plan(
        split=judged,
        num_boxes=boxes,
        rule=rule,
        granularity=granularity,
        most_images=most_images,
        seed=seed,
    )
    with terminal.progress("images") as show:
        if oracle:
            bound = calibrating.oracle(trained, data_set, plan, settings=settings, on_progress=show)
            _show(bound, trained.class_names, terminal)
            terminal.give({"oracle": bound.to_json()})
            return
        tuned = calibrating.calibrate(trained, data_set, plan, settings=settings, on_progress=show)
    found = tuned.calibration
    assert found is not None
    document: dict[str, Any] = {"run": run, "split": judged, "thresholds": found.to_json()}
    _show(found, tuned.class_names, terminal)
    if rescoring_from_tags:
        with terminal.progress("images") as show:
            choice = calibrating.calibrate_rescoring(
                tuned, data_set, settings=settings, on_progress=show
            )
        document["rescoring"] = {
            "alpha": choice.alpha,
            "mean_average_precision": choice.mean_average_precision,
        }
        terminal.say(
            f"Weight of classes tagged together: {choice.alpha:g} "
            f"(classification mAP {choice.mean_average_precision:.3f})"
        )
    terminal.say(f"Kept in {tuned.path}")
    terminal.give(document)


def _fit_fusion(
    paths: Sequence[str],
    data_set: DataSet,
    split: str | None,
    settings: PredictSettings,
    terminal: Terminal,
) -> None:
    from weakloc.api.fusing import FusedRuns
    from weakloc.api.runs import load

    fused = FusedRuns(tuple(load(path) for path in paths))
    with terminal.progress("images") as show:
        reached = fused.fit(data_set, split=split, settings=settings, on_progress=show)
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
