"""The experiments of BEAM (Bency et al. 2016): its tables, and the sweeps that it argues with."""

from __future__ import annotations

from typing import Any

from weakloc.papers.recipe import Cell, Finding, Published, Recipe, Tuning

_PAPER = "BEAM"
# The paper's ten levels end at single cells of its 6 x 6; None does so on any grid.
_PAPERS_BEAM = {"search": "beam", "beam_width": 8, "num_levels": None, "children": "one_side"}
_SLOW = 3  # fully connected layers learn slowly from nothing
_PLACES = ("classification_map", "point_map", "box_map_50", "corloc")


def _searching(name: str, at: float | None = None, *, series: str = "", **search: Any) -> Cell:
    """One network that looks in different ways, on its first feature map unless it says so."""
    fields = {**_PAPERS_BEAM, "recrop_every": "inf", **search}
    return Cell(name=name, method="beam", search={"search": fields}, at=at, series=series)


BACKBONE = Recipe(
    name="beam-backbone",
    number="B1",
    title="A better classifier places better",
    reference="BEAM table 1",
    question="Does a stronger network improve locations as it improves tags?",
    papers_data="VOC 2012 val",
    epochs_factor=_SLOW,
    backbones=("vgg16", "alexnet"),
    cells=(
        Cell(name="larger network", method="beam"),
        Cell(name="smaller network", method="beam", smaller_backbone=True),
    ),
    metrics=_PLACES,
    findings=(
        Finding(
            "the larger network names better (+6.7)",
            "larger network",
            "smaller network",
            "classification_map",
            said_by=_PAPER,
        ),
        Finding(
            "and places better (+2.6)",
            "larger network",
            "smaller network",
            "point_map",
            said_by=_PAPER,
        ),
    ),
    published=(
        Published(
            source="BEAM table 1",
            data="VOC 2012 val",
            metric="classification_map",
            values={"larger network": 86.5, "smaller network": 79.8},
        ),
        Published(
            source="BEAM table 1",
            data="VOC 2012 val",
            metric="point_map",
            values={"larger network": 79.7, "smaller network": 77.1},
        ),
    ),
    notes=("The paper's networks are VGG-16 and AlexNet; on scenes two widths of the tiny one.",),
)

_ALPHAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

RESCORING = Recipe(
    name="beam-rescoring",
    number="B2",
    title="Classes that are tagged together",
    reference="BEAM section 3.2",
    question="Does the score of one class help to find those that come with it?",
    papers_data="VOC 2012 val: +1.2 points of classification, +0.8 of location",
    epochs_factor=_SLOW,
    axis="alpha",
    cells=tuple(
        Cell(name=f"alpha = {alpha:g}", method="beam", look={"rescoring": alpha}, at=alpha)
        for alpha in _ALPHAS
    ),
    metrics=("classification_map", "point_map"),
    findings=(
        Finding(
            "co-occurrence helps to name (+1.2)",
            "alpha = 0.1",
            "alpha = 0",
            "classification_map",
            said_by=_PAPER,
        ),
        Finding(
            "co-occurrence helps to place (+0.8)",
            "alpha = 0.1",
            "alpha = 0",
            "point_map",
            said_by=_PAPER,
        ),
    ),
    notes=("The claims are read at alpha = 0.1, fixed before any measurement.",),
)

_WIDTHS = (1, 2, 4, 8, 16)
_LEVELS = (2, 4, 6, 8, 12, 16)

WIDTH = Recipe(
    name="beam-width",
    number="B3",
    title="How wide and how deep to search",
    reference="BEAM section 3.4; no table",
    question="Is a greedy search worse than a beam, and a beam worse than everything?",
    papers_data="M = 8 and H = 10 on 6 x 6 cells throughout",
    epochs_factor=_SLOW,
    axis="M, H",
    cells=(
        *(_searching(f"M = {m}", m, series="width M", beam_width=m) for m in _WIDTHS),
        _searching("all windows, 8 a level", search="exhaustive"),
        *(_searching(f"H = {h}", h, series="levels H", num_levels=h) for h in _LEVELS),
    ),
    metrics=("point_map", "box_map_50", "corloc"),
    findings=(
        Finding(
            "a beam of 8 places better than greedy", "M = 8", "M = 1", "point_map", said_by=_PAPER
        ),
        Finding(
            "a beam of 8 boxes better than greedy", "M = 8", "M = 1", "box_map_50", said_by=_PAPER
        ),
        Finding("all levels box better than four", "M = 8", "H = 4", "box_map_50"),
        Finding(
            "a beam of 8 is within a point of all windows",
            "M = 8",
            "all windows, 8 a level",
            "point_map",
            margin=-0.01,
        ),
    ),
    notes=("One network; M down to single cells, H at M = 8, both on the first feature map.",),
)

_SMALL_BEAM: dict[str, Any] = {"beam_width": 4}

MODE = Recipe(
    name="beam-mode",
    number="B4",
    title="Cut the feature map or the image",
    reference="BEAM sections 3.3 and 3.4, which differ",
    question="Is it worth computing features anew for every window?",
    papers_data="2.6 s an image speak for new features; no table",
    epochs_factor=_SLOW,
    cells=(
        _searching("windows of the map", **_SMALL_BEAM),
        _searching("windows of the map, both sides", children="eq6", **_SMALL_BEAM),
        _searching(
            "windows of the map, corners aligned", interpolation="align_corners", **_SMALL_BEAM
        ),
        _searching("new crop at every level", recrop_every=1, **_SMALL_BEAM),
        _searching("new crop at every 2nd level", recrop_every=2, **_SMALL_BEAM),
        _searching("all windows of the map", search="exhaustive", **_SMALL_BEAM),
    ),
    metrics=("point_map", "box_map_50", "corloc"),
    findings=(
        Finding(
            "new crops place better",
            "new crop at every level",
            "windows of the map",
            "point_map",
            said_by=_PAPER,
        ),
        Finding(
            "new crops box better",
            "new crop at every level",
            "windows of the map",
            "box_map_50",
            said_by=_PAPER,
        ),
        Finding(
            "every level is better than every second",
            "new crop at every level",
            "new crop at every 2nd level",
            "box_map_50",
        ),
    ),
    notes=("A beam of 4 instead of 8, down to single cells: new crops are slow on a CPU.",),
)

_TUNINGS: dict[str, Tuning] = {
    "fixed 0.5": "fixed",
    "from tags": "tags",
    "20 boxes, one for all": "boxes, one threshold",
    "20 boxes, by class": "boxes",
    "oracle": "oracle",
}
_SCORES: dict[str, dict[str, Any]] = {
    "mean heat": {"box_score": "mean", "box_times_class": False},
    "highest heat": {"box_score": "max", "box_times_class": False},
    "mean heat before scaling": {"box_score": "raw_mean", "box_times_class": False},
    "mean heat x class": {"box_score": "mean"},
    "highest heat x class": {"box_score": "max"},
    "mean heat before scaling x class": {"box_score": "raw_mean"},
}

BOXES = Recipe(
    name="beam-boxes",
    number="B5",
    title="Thresholds and scores of boxes",
    reference="BEAM section 3.5; table 4",
    question="What makes boxes of heat maps: the threshold or the score?",
    papers_data="VOC 2012 val, thresholds tuned for each class on drawn boxes",
    epochs_factor=_SLOW,
    cells=(
        *(
            Cell(name=f"threshold {name}", method="beam", tuning=tuning)
            for name, tuning in _TUNINGS.items()
        ),
        *(
            Cell(name=f"scored by {name}", method="beam", look=look)
            for name, look in _SCORES.items()
        ),
    ),
    metrics=("box_map_50", "corloc", "max_box_acc_v2"),
    findings=(
        Finding(
            "thresholds by class, from boxes, are better than a fixed one",
            "threshold 20 boxes, by class",
            "threshold fixed 0.5",
            "box_map_50",
            said_by=_PAPER,
        ),
        Finding(
            "thresholds from tags are better than a fixed one",
            "threshold from tags",
            "threshold fixed 0.5",
            "box_map_50",
        ),
        Finding(
            "the mean heat ranks boxes better than the highest",
            "scored by mean heat",
            "scored by highest heat",
            "box_map_50",
            said_by=_PAPER,
        ),
        Finding(
            "the probability of the class helps to rank boxes",
            "scored by mean heat x class",
            "scored by mean heat",
            "box_map_50",
        ),
    ),
    published=(
        Published(
            source="BEAM table 4",
            data="VOC 2012 val",
            metric="box_map_50",
            values={"threshold 20 boxes, by class": 26.5},
        ),
    ),
    notes=("The thresholds' boxes are scored by mean heat x class; the paper does not say.",),
)

RANK = Recipe(
    name="beam-ranking",
    number="B6, B8",
    title="What ranks the points, and how Max-MIL compares",
    reference="BEAM table 1 against its section 4.2; table 4",
    question="Rank images by class score or by heat? And is a search better than one best cell?",
    papers_data="VOC 2012 val",
    epochs_factor=_SLOW,
    cells=(
        Cell(name="beam", method="beam"),
        Cell(name="max_mil", method="max_mil", look={"scales": (1.0,)}),
    ),
    metrics=("classification_map", "point_map", "point_map_by_heat", "box_map_50"),
    findings=(
        Finding(
            "class scores rank better than heat",
            "beam",
            "beam",
            "point_map",
            worse_metric="point_map_by_heat",
        ),
        Finding(
            "BEAM places better than Max-MIL (+5.2)", "beam", "max_mil", "point_map", said_by=_PAPER
        ),
        Finding("BEAM boxes better than Max-MIL", "beam", "max_mil", "box_map_50", said_by=_PAPER),
    ),
    published=(
        Published(
            source="BEAM table 1",
            data="VOC 2012 val",
            metric="point_map",
            values={"beam": 79.7, "max_mil": 74.5},
        ),
        Published(
            source="BEAM table 4 (there Max-MIL with selective search)",
            data="VOC 2012 val",
            metric="box_map_50",
            values={"beam": 26.5, "max_mil": 11.7},
        ),
    ),
)

BALANCE = Recipe(
    name="beam-balance",
    number="B7",
    title="Repeating images of rare classes",
    reference="BEAM section 3.1; no table",
    question="Do repeated images, noisy and rotated, help?",
    papers_data="always on in the paper",
    epochs_factor=_SLOW,
    cells=(
        Cell(name="balanced", method="beam", choices={"balance": True}, below_head=True),
        Cell(name="as they come", method="beam", choices={"balance": False}),
    ),
    metrics=("classification_map", "point_map"),
    findings=(
        Finding("balancing helps to name", "balanced", "as they come", "classification_map"),
        Finding("balancing helps to place", "balanced", "as they come", "point_map"),
    ),
)

RECIPES = (BACKBONE, RESCORING, WIDTH, MODE, BOXES, RANK, BALANCE)
