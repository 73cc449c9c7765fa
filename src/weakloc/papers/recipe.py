"""What an experiment of a paper is made of: plain data, which `weakloc.papers.reproduce` runs.

A recipe has cells (rows of a table), findings (what the paper says of pairs of cells) and published
numbers. Nothing here knows how a network is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from weakloc.errors import SettingError

if TYPE_CHECKING:
    from weakloc.methods.method import Preset  # loads torch

DataKind: TypeAlias = Literal["clutter", "single"]
ThresholdOrigin: TypeAlias = Literal[
    "fixed", "boxes by class", "boxes, one for all", "oracle", "held-out tags"
]
OptimiserFamily: TypeAlias = Literal["adamw", "sgd"]
Fusion: TypeAlias = Literal["mean", "late classifier"]


@dataclass(frozen=True)
class Cell:
    """One row: a method, and what differs from the conditions that all rows share.

    `choices` are fields of the method, `train` those of TrainSettings. `head_rate` and
    `backbone_rate` multiply the learning rates that all rows share, `batch` the batch size,
    `epochs` their number, `sizes` the side that the network sees: several are a network each,
    whose maps become one and whose scores `fusion` makes one of. `look` are fields of Look and
    Places, and `search` those fields of the method that only matter when images are looked at:
    cells that differ in nothing but `look`, `search`, `tuning` and `fusion` share one training.
    `tuning` is what chooses thresholds or, of held-out tags, the weight of classes that occur
    together. `crops_of_boxes` adds the content of the drawn boxes to the training images.
    `below_head` marks what a frozen backbone cannot show, `only` a row that one preset alone has.
    `at` is the place on the recipe's axis, in the curve of that `series`.
    """

    name: str
    method: str
    _: KW_ONLY
    choices: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    head_rate: float = 1.0
    backbone_rate: float = 1.0
    batch: float = 1.0
    epochs: float = 1.0
    sizes: tuple[float, ...] = (1.0,)
    fusion: Fusion = "mean"
    look: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    tuning: ThresholdOrigin = "fixed"
    crops_of_boxes: bool = False
    smaller_backbone: bool = False
    below_head: bool = False
    only: Preset | None = None
    at: float | None = None
    series: str = ""


@dataclass(frozen=True)
class Finding:
    """A claim: `metric` of the cell `better` exceeds that of `worse` by more than `margin`.

    `said_by` is the paper, or "weakloc" for a control of our own. A negative margin claims that
    `better` is hardly behind. `worse_metric`, where given, is what of `worse` is compared.
    """

    claim: str
    better: str
    worse: str
    metric: str
    said_by: str = "weakloc"
    margin: float = 0.0
    worse_metric: str | None = None


@dataclass(frozen=True)
class Published:
    """Numbers of a paper, in percent, by the name of our cell."""

    source: str
    data: str
    metric: str
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """`reference` is the paper's table or figure; `papers_data` what it was measured on.

    `backbones` are the paper's, the larger first, where its literal preset does not say.
    `splits` are those that the paper learned from and measured on. `epochs_factor` multiplies the
    epochs of a network that learns from scratch.
    """

    name: str
    number: str
    title: str
    reference: str
    question: str
    papers_data: str
    cells: tuple[Cell, ...]
    metrics: tuple[str, ...]
    splits: tuple[str, str] = ("train", "val")
    findings: tuple[Finding, ...] = ()
    published: tuple[Published, ...] = ()
    data: DataKind = "clutter"
    optimiser: OptimiserFamily = "adamw"
    epochs_factor: int = 1
    backbones: tuple[str, str] | None = None
    axis: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [cell.name for cell in self.cells]
        named = [name for finding in self.findings for name in (finding.better, finding.worse)]
        named += [name for numbers in self.published for name in numbers.values]
        strange = sorted({name for name in named if name not in names})
        if strange or len(set(names)) < len(names):
            raise SettingError(
                f"the cells are {', '.join(names)}; unknown or twice: {', '.join(strange) or '-'}",
                location=f"recipe {self.name}",
                remedy="Give every cell one name and use no other",
            )

    def cell(self, name: str) -> Cell:
        return next(cell for cell in self.cells if cell.name == name)
