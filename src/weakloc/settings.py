"""Every setting once: its default, its check and the help text its flag shows.

A field's docstring is the help of its command-line flag (`batch_size` is `--batch-size`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from weakloc.errors import SettingError

Budget: TypeAlias = Literal["quick", "standard", "paper", "paper60"]


def flag_of(field_name: str) -> str:
    return "--" + field_name.replace("_", "-")


def require(condition: bool, field_name: str, value: object, remedy: str) -> None:
    """SettingError that names the flag, the value met and what would do."""
    if not condition:
        raise SettingError(f"{flag_of(field_name)} is {value!r}", remedy=remedy)


def limit(fits: Callable[[Any], bool], remedy: str) -> Mapping[str, Any]:
    """The metadata of a field that only takes some values; None, where it may be, is not asked."""
    return {"fits": fits, "remedy": remedy}


ONE_OR_MORE = limit(lambda value: value >= 1, "Give 1 or more")
ZERO_OR_MORE = limit(lambda value: value >= 0, "Give 0 or more")
SHARE = limit(lambda share: 0 <= share <= 1, "Give a share from 0 to 1")
PART = limit(lambda share: 0 <= share < 1, "Give a share from 0 to below 1")
POSITIVE = limit(lambda number: number > 0, "Give a number above 0")
RATE = limit(lambda rate: 0 < rate < 1, "Give a number between 0 and 1")
SEED = limit(lambda seed: 0 <= seed < 2**31, "Give a whole number from 0 to 2**31 - 1")
SCALES = limit(
    lambda scales: all(0.05 <= scale <= 16 for scale in scales), "Give factors between 0.05 and 16"
)
FEW = limit(lambda boxes: boxes >= 0, "Give 5 to 50, or leave out")


class Checked:
    """Settings, each refused beyond its limit."""

    def __post_init__(self) -> None:
        for part in fields(self):  # type: ignore[arg-type]
            value, known = getattr(self, part.name), part.metadata
            if known and value is not None:
                require(known["fits"](value), part.name, value, known["remedy"])


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(Checked):
    """Which network learns the tags, and for how long."""

    backbone: str | None = field(
        default=None, metadata=limit(lambda name: name != "", "Give a network's name")
    )
    """Network below the class maps, as NAME or NAME[key=value,...]. Not given: the method's."""

    weights: str = field(
        default="default",
        metadata=limit(lambda name: name != "", "Give a file, a hub id or 'none'"),
    )
    """The backbone's weights: default (the published ones), none, a file, or a hub id."""

    epochs: int | None = field(default=None, metadata=ONE_OR_MORE)
    """Passes over the images to learn the tags. Not given: as the method says."""

    seed: int = field(default=0, metadata=SEED)
    """Number from which all randomness follows."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings(NetworkSettings):
    """How a network is trained; what a method decides stays with the method."""

    frozen: bool = False
    """Keep the backbone as it is: compute features once, then train the head on them."""

    refine: bool = True
    """Also learn which cells are the object, where the backbone knows images already."""

    output_stride: Literal[8, 16, 32] | None = None
    """Input pixels per map cell, by dilation. Not given: as the backbone is built."""

    image_size: int | None = field(default=None, metadata=ONE_OR_MORE)
    """Side of the square the network sees, in pixels. Not given: as the method says."""

    batch_size: int | None = field(default=None, metadata=ONE_OR_MORE)
    """Images per step on each device. Not given: as the method says."""

    learning_rate: float | None = field(
        default=None, metadata=limit(lambda rate: 0 < rate < math.inf, "Give a number above 0")
    )
    """Step size of the head; the backbone keeps its ratio. Not given: as the method says."""

    accumulate: int = field(default=1, metadata=ONE_OR_MORE)
    """Batches whose gradients are summed before the weights move."""

    quarter_turns: bool = False
    """Also learn from images turned by 90, 180 and 270 degrees: for pictures that have no up."""

    mixup: float = field(default=0.0, metadata=SHARE)
    """Share of the images that are blended with another one, which adds its tags."""

    workers: int | None = field(default=None, metadata=ZERO_OR_MORE)
    """Processes that read images. Not given: by the number of cores."""

    cache: Literal["auto", "none", "memory"] = "auto"
    """Keep decoded images in memory; auto does so where they take a quarter of it at most."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the network; auto takes bf16 where the processor computes in it."""

    channels_last: bool = True
    """Lay out images with the channels innermost: faster nearly everywhere."""

    devices: int | None = field(default=None, metadata=ONE_OR_MORE)
    """Devices on each machine. Not given: every GPU, or one process without GPUs."""

    nodes: int = field(default=1, metadata=ONE_OR_MORE)
    """Machines that train together (under torchrun or SLURM)."""

    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices share the work; fsdp also divides the weights among GPUs."""

    train_split: str = "train"
    """Split to learn from, or several as train+val."""

    val_split: str = "val"
    """Split to watch. Where val is missing, or is learned from as well, what --hold-out keeps back
    is watched."""

    hold_out: float | None = field(default=None, metadata=PART)
    """Share of the training images that is not learned from: what `weakloc calibrate` chooses by
    tags is chosen on it. Not given: 0.1 where there is no other split to watch, else 0."""

    select: Literal["last", "best"] = "last"
    """Weights to keep: of the last epoch, or of the best classification mAP while watching."""

    patience: int | None = field(default=None, metadata=ONE_OR_MORE)
    """Stop after so many epochs without a better mAP. Not given: never stop early."""

    logger: Literal["tensorboard", "csv", "mlflow", "wandb"] = "tensorboard"
    """Who also keeps the numbers of every epoch: files in the run folder, or MLflow or Weights &
    Biases where these are installed, set up by their own environment variables."""

    watch_maps: int = field(default=0, metadata=ZERO_OR_MORE)
    """Images whose maps are drawn after every epoch, in maps.png of the run folder."""

    checkpoint_minutes: float = field(default=10.0, metadata=POSITIVE)
    """Save for --resume at least so often, besides after every epoch."""

    feature_cache: str | None = None
    """Folder for the features of --frozen. Not given: inside the run folder."""

    feature_scales: tuple[float, ...] = field(
        default=(1.0,),
        metadata=limit(
            lambda scales: scales and all(0.1 <= scale <= 8 for scale in scales),
            "Give factors between 0.1 and 8",
        ),
    )
    """Image sizes, as factors, at which --frozen computes features; each epoch draws from them."""

    feature_flip: bool = True
    """With --frozen, also compute the features of mirrored images and draw from both."""

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "Watch a split other than the one that is learned from"
        require(self.train_split != self.val_split, "val_split", self.val_split, remedy)
        fits = not (self.quarter_turns and self.frozen)
        remedy = "Leave it out, or --frozen, which learns from features that were computed once"
        require(fits, "quarter_turns", self.quarter_turns, remedy)


LocaliserChoice: TypeAlias = Literal["auto", "score_map", "cells", "detector", "beam_search"]


@dataclass(frozen=True, kw_only=True)
class Look(Checked):
    """How images are seen, before anything is said about them."""

    scales: tuple[float, ...] = field(default=(), metadata=SCALES)
    """Sizes whose class scores are averaged, as factors. Not given: as the method says."""

    map_scales: tuple[float, ...] = field(default=(), metadata=SCALES)
    """Sizes whose maps become one. Not given: those of --scales, else as the method says."""

    flip: bool = False
    """Also look at the mirrored image."""

    tile: int = field(default=0, metadata=ZERO_OR_MORE)
    """Also look at squares of so many pixels of large images; 0 does not."""

    tile_overlap: float = field(default=0.25, metadata=PART)
    """Share of a tile that its neighbour repeats."""

    fuse: Literal["auto", "max", "mean"] = "auto"
    """How the maps of several sizes, mirrored images and tiles become one; auto: the method's."""

    fuse_scores: Literal["mean", "max", "mean_probability"] = "mean"
    """How the class scores of several sizes and mirrored images become one: their mean, the
    highest, or the mean of their probabilities."""

    normalise: Literal["auto", "none", "minmax", "relu_max", "sigmoid", "zscore"] = "auto"
    """What is done to each of several maps before they become one; auto: the method's."""

    localiser: LocaliserChoice = "auto"
    """Where places are looked for: in the score maps, in the cells that `weakloc refine` learned,
    by the detector of `weakloc distil`, or by searching windows of the image. auto: the detector,
    else the cells where there are any, else the method's."""

    map_side: int = field(default=224, metadata=limit(lambda n: 1 <= n <= 4096, "Give 1 to 4096"))
    """Cells along the long side of the map in which boxes are found."""

    batch_size: int = field(default=8, metadata=ONE_OR_MORE)
    """Images per pass through the network."""

    workers: int = field(default=2, metadata=ZERO_OR_MORE)
    """Threads that read images."""

    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Number format of the network; auto takes bf16 where the processor computes in it."""

    channels_last: bool = True
    """Lay out images with the channels innermost: faster nearly everywhere."""

    compile: bool = False
    """Compile the network first: pays off from about a thousand images."""

    max_pixels: int = field(default=250_000_000, metadata=ONE_OR_MORE)
    """Largest image that is opened, in pixels."""


@dataclass(frozen=True, kw_only=True)
class ServedLook(Look):
    """How images of strangers are seen, of which a few of the largest shall not fill the memory."""

    max_pixels: int = field(default=2**26, metadata=ONE_OR_MORE)
    """Largest image that is opened, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Cut(Checked):
    """What part of a map gets a box, in calibration as in prediction."""

    threshold_mode: Literal["auto", "minmax", "relu_max", "otsu", "none"] = "auto"
    """What 1 is: the map's range, its maximum, nothing; otsu: 0.5 is Otsu's. auto: as tuned."""

    min_area: float = field(default=0.001, metadata=SHARE)
    """Smallest part of the map that gets a box, as a share of the image."""

    max_area: float = field(default=1.0, metadata=SHARE)
    """Largest part of the map that gets a box, as a share of the image."""

    min_share: float | None = field(default=None, metadata=PART)
    """Least share of a class's heat for a box, or of its best box's score from a detector.
    Not given: the method's, 0.02 from cells, 0.3 from a detector."""


@dataclass(frozen=True, kw_only=True)
class Places(Cut):
    """What is said about an image: which classes, and how their places are cut from the maps."""

    min_score: float = field(default=0.5, metadata=SHARE)
    """Probability from which a class counts as present, where no tag says so."""

    top: int = field(default=0, metadata=ZERO_OR_MORE)
    """Classes that count as present however unlikely, the likeliest first, without tags."""

    rescoring: float | None = field(
        default=None, metadata=limit(lambda alpha: 0 <= alpha <= 10, "Give 0 to 10")
    )
    """Weight of the classes that were tagged together. Not given: as calibrated, else 0."""

    sure: float = field(default=0.9, metadata=SHARE)
    """Probability at which the model contradicts a tag; below 1 minus it, it misses one."""

    threshold: float | None = field(default=None, metadata=PART)
    """Share of a map's range above which a pixel is the object's. Not given: as calibrated."""

    boxes: Literal["auto", "all", "largest", "best", "proposals", "none"] = "auto"
    """Boxes of a class: of all parts of the map, the largest, the best; proposals: of the parts at
    every threshold, for whoever picks among them; auto: the method's."""

    box_score: Literal["auto", "mean", "raw_mean", "max", "share"] = "auto"
    """Heat that scores a box; auto: the method's, its share of all heat from cells."""

    box_times_class: bool | None = None
    """Multiply the score of a box by the probability of its class. Not given: the method's."""

    points: int = field(default=1, metadata=ZERO_OR_MORE)
    """Points per class: the hottest place, and further peaks if more are asked for."""

    point_method: Literal["auto", "arg_max", "plateau", "sub_cell", "densest"] = "auto"
    """Place of a point: the hottest cell, the middle of equally hot ones, between cells, or where
    most heat is around. auto: densest where places come from cells, else the method's."""

    peak_distance: float = field(default=0.1, metadata=ZERO_OR_MORE)
    """Least distance of two points of a class, as a share of the image's long side."""

    masks: Literal["none", "threshold", "crf"] = "none"
    """Masks of present classes: none, by threshold, or refined along the edges of the image."""

    background: Literal["auto", "threshold", "class", "power"] = "auto"
    """What masks stand against: thresholds, the map of a background class, a power of the heat."""


def look_and_places(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings by name -> those of `Look` and those of `Places`, which share no name."""
    of_look = {field.name for field in fields(Look)}
    look = {name: value for name, value in values.items() if name in of_look}
    return look, {name: value for name, value in values.items() if name not in of_look}


@dataclass(frozen=True, kw_only=True)
class RefineSettings(Checked):
    """How a trained run learns which cells are the object."""

    images: int = field(default=1500, metadata=ONE_OR_MORE)
    """Images to learn from at most, drawn at random; each takes about 0.2 MB at 320 pixels."""

    rounds: int = field(default=2, metadata=ONE_OR_MORE)
    """How often places are learned: first from what stands out, then from the round before."""

    epochs: int = field(default=4, metadata=ONE_OR_MORE)
    """Passes over the cells of all images in each round."""

    learning_rate: float = field(default=2e-3, metadata=RATE)
    """Step size at the start and, three times as large, at its highest."""

    seed: int = field(default=0, metadata=SEED)
    """Number from which weights, order and the choice of images follow."""


@dataclass(frozen=True, kw_only=True)
class DrawnBoxes(Checked):
    """How many drawn boxes may be looked at, and in which images."""

    boxes: int = field(default=0, metadata=FEW)
    """Drawn boxes to look at in all, 5 to 50, the classes in turn."""

    boxes_per_class: int = field(default=0, metadata=FEW)
    """Drawn boxes to look at of each class, instead of --boxes."""

    split: str | None = None
    """Images to look at. Not given: those that the run learned from."""

    seed: int = field(default=0, metadata=SEED)
    """Number from which the choice of images follows, and all else that is random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.boxes and self.boxes_per_class:
            given = f"--boxes is {self.boxes} and --boxes-per-class is {self.boxes_per_class}"
            raise SettingError(given, remedy="Give one of them")


@dataclass(frozen=True, kw_only=True)
class DistilSettings(DrawnBoxes):
    """Whose boxes a detector learns, by default the run's own, and how."""

    epochs: int = field(default=24, metadata=ONE_OR_MORE)
    """Passes over the images, of which fewer than 200 are shown several times."""

    learning_rate: float = field(default=2e-3, metadata=RATE)
    """Step size at the start and, twice as large, at its highest."""

    folds: int = 3
    """Parts of the drawn images; in each a detector of the others is compared with the run. Where
    it is worse by more than a standard error, the run's boxes stay. 0: it is kept uncompared."""

    def __post_init__(self) -> None:
        super().__post_init__()
        folds = self.folds
        require(folds == 0 or folds >= 2, "folds", folds, "Give 0, or 2 or more")


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(DrawnBoxes):
    """What thresholds are tuned on."""

    granularity: Literal["class", "global"] = "class"
    """A threshold for each class with enough drawn images, or one for all."""

    boxes_of_a_class: Literal["auto", "all", "largest", "best", "proposals", "none"] = "auto"
    """Boxes that the thresholds are to serve, as `weakloc predict --boxes` will name them."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Checked):
    """What is measured, and by which readings of the score maps."""

    split: str = "val"
    """Images to measure on."""

    resamples: int = field(default=1000, metadata=ZERO_OR_MORE)
    """Bootstrap resamples of the images behind each interval."""

    ap: Literal["voc12", "voc07", "nonint", "coco", "all"] | None = None
    """Definition of average precision, or all of them. Not given: the run's; voc12 for a file."""

    box_edges: Literal["half-open", "inclusive"] | None = None
    """Inclusive adds a pixel to widths and heights. Not given: the run's; half-open for a file."""

    compatible: bool = False
    """Also read score maps as the public wsolevaluation code does, and show the difference."""


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Checked):
    """What is shown besides the predictions."""

    split: str = "val"
    """Split of --data."""

    metrics: Path | None = None
    """What `weakloc evaluate --out` wrote. Not given: metrics.json in the source, if there."""

    run: Path | None = None
    """Run that draws the heat maps of predictions. Not given: the one that made them."""

    tags: Path | None = None
    """Table of what is in the images; what the run sees otherwise is shown."""

    pictures: int = field(default=200, metadata=ONE_OR_MORE)
    """Most pictures in the page; the most doubtful are taken."""


@dataclass(frozen=True, kw_only=True)
class ReaderOptions(Checked):
    """Answers that override what a reader would guess."""

    class_names: tuple[str, ...] | None = field(
        default=None,
        metadata=limit(lambda names: len(set(names)) == len(names), "Name each class once"),
    )
    """The classes and their order. Not given: as found in the labels."""

    image_root: str | None = None
    """Folder that the names of images are relative to. Not given: looked for beside the labels."""

    path_column: str | None = None
    """Column of a table that names the images. Not given: guessed from its header."""

    labels_column: str | None = None
    """Column of a table that holds the labels. Not given: guessed from its header."""

    split_column: str | None = None
    """Column of a table that names the split. Not given: guessed from its header."""

    label_delimiter: str = field(
        default=";", metadata=limit(lambda sign: sign != "", "Give the sign between labels")
    )
    """Sign between the labels of one image in a table."""

    image_set: str | None = None
    """Folder of a VOC data set's ImageSets with the lists: Main, Segmentation (masks are truth) or
    Action (classes are actions). Not given: the first of them with lists."""

    difficult: Literal["unknown", "present"] = field(
        default="unknown",
        metadata=limit(("unknown", "present").__contains__, "Choose unknown or present"),
    )
    """What a class is in an image where all its objects are marked difficult."""


@dataclass(frozen=True, kw_only=True)
class DataSettings(ReaderOptions):
    """How a data set is read; mostly it is seen from what lies there."""

    labels: Path | None = None
    """Table of tags (CSV, TSV, JSONL) or file of annotations, where it is not inside the data."""

    layout: str | None = None
    """Arrangement: folders, table, voc, coco, yolo, tiny_imagenet, wsol, shards, review, or one
    that an installed package adds. Not given: as it looks."""

    strict: bool = False
    """Stop at the first oddity instead of reporting and counting it."""


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings(Checked):
    """How much of a paper's experiment is run, on what."""

    data: str | None = None
    """Data set with drawn boxes. Not given: scenes are drawn."""

    out: Path | None = None
    """Folder for the results and all runs. Not given: reproduced/RECIPE."""

    budget: Budget = "standard"
    """quick, standard: minutes on scenes, or your data in the practical preset; paper: the paper's
    own settings, for its own data; paper60: those in 60 epochs with mirrored images."""

    seeds: int | None = field(default=None, metadata=ONE_OR_MORE)
    """Trainings of each cell, from --seed on. Not given: 3, and 1 in quick."""

    splits: Literal["paper", "given"] = "paper"
    """With --budget paper: the paper's own, or those of --train-split and --val-split."""

    jobs: int | None = field(default=None, metadata=ONE_OR_MORE)
    """Processes that work side by side. Not given: one for each core, or one with a GPU."""

    cell: tuple[str, ...] = ()
    """Run only this cell; may be given several times."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data is None and self.budget not in ("quick", "standard"):
            raise SettingError(
                f"the budget {self.budget!r} is for a paper's own data",
                remedy="Name a folder with --data, or choose the budget quick or standard",
            )


@dataclass(frozen=True, kw_only=True)
class LabelSettings(NetworkSettings):
    """How tagged photographs are labelled: what is learned from them, and what is said."""

    minutes: float | None = field(default=None, metadata=POSITIVE)
    """Time there is: fewer images are learned from where all of them would take longer."""

    images: int = field(default=5000, metadata=ONE_OR_MORE)
    """Tagged images to learn from at most, the classes taking turns; all of them are labelled."""

    image_size: int | None = field(default=None, metadata=ONE_OR_MORE)
    """Side of the square the network sees, in pixels. Not given: by the size of the images."""

    drawn: Path | None = None
    """Boxes that people drew in some of the images, or accepted in a report: a COCO file, a review
    or another known layout. How far objects reach is then learned from them."""

    masks: Literal["none", "threshold", "crf"] = "none"
    """Masks of the tagged classes: none, by threshold, or refined along the edges of the image."""
