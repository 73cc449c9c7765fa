"""The experiments of BEAM (Bency et al. 2016): its tables, and the sweeps that it argues with."""

from __future__ import annotations

from functools import partial
from typing import Any

from weakloc.papers.recipe import Cell, Published, Recipe, ThresholdOrigin, boxes, names, places

_PAPER = "BEAM"
_DATA = "VOC 2012 val"
_TABLE_1 = partial(Published, "BEAM table 1", _DATA)
# The paper's ten levels end at single cells of its 6 x 6; None does so on any grid.
_PAPERS_BEAM = {"search": "beam", "beam_width": 8, "num_levels": None, "children": "one_side"}
_recipe = partial(
    Recipe,
    papers_data=_DATA,
    epochs_factor=3,  # fully connected layers learn slowly from nothing
)


def _searching(name: str, at: float | None = None, *, series: str = "", **search: Any) -> Cell:
    """One network that looks in different ways, on its first feature map unless it says so."""
    fields = {**_PAPERS_BEAM, "recrop_every": "inf", **search}
    return Cell(name, "beam", search={"search": fields}, at=at, series=series)


BACKBONE = _recipe(
    "beam-backbone", "B1", "A better classifier places better",
    reference="BEAM table 1",
    question="Does a stronger network improve locations as it improves tags?",
    backbones=("vgg16", "alexnet"),
    cells=(
        Cell("larger network", "beam"),
        Cell("smaller network", "beam", smaller_backbone=True),
    ),
    metrics=("classification_map", "point_map", "box_map_50", "corloc"),
    findings=(
        names("the larger network names better (+6.7)",
              "larger network", "smaller network", _PAPER),
        places("and places better (+2.6)", "larger network", "smaller network", _PAPER),
    ),
    published=(
        _TABLE_1("classification_map", {"larger network": 86.5, "smaller network": 79.8}),
        _TABLE_1("point_map", {"larger network": 79.7, "smaller network": 77.1}),
    ),
    notes=("The paper's networks are VGG-16 and AlexNet; on scenes two widths of the tiny one.",),
)  # fmt: skip

_ALPHAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # those that `weakloc calibrate` chooses from
_CHOSEN_ALPHA = "alpha chosen on held-out tags"


def _holding_out(name: str, alpha: float | None, tuning: ThresholdOrigin = "fixed") -> Cell:
    """A network that leaves out the images on which an alpha may be chosen."""
    look, train = {"rescoring": alpha}, {"hold_out": 0.1}
    return Cell(name, "beam", train=train, look=look, at=alpha, tuning=tuning)


RESCORING = _recipe(
    "beam-rescoring", "B2", "Classes that are tagged together",
    reference="BEAM section 3.2",
    question="Does the score of one class help to find those that come with it?",
    papers_data="VOC 2012 val: +1.2 points of classification, +0.8 of location",
    axis="alpha",
    cells=(
        *(_holding_out(f"alpha = {alpha:g}", alpha) for alpha in _ALPHAS),
        _holding_out(_CHOSEN_ALPHA, None, tuning="held-out tags"),
    ),
    metrics=("classification_map", "point_map"),
    findings=(
        names("co-occurrence helps to name (+1.2)", "alpha = 0.1", "alpha = 0", _PAPER),
        places("co-occurrence helps to place (+0.8)", "alpha = 0.1", "alpha = 0", _PAPER),
        names("the alpha that held-out images choose helps to name", _CHOSEN_ALPHA, "alpha = 0"),
    ),
    notes=("The claims are read at alpha = 0.1, fixed before any measurement.",),
)  # fmt: skip

_WIDTHS = (1, 2, 4, 8, 16)
_LEVELS = (2, 4, 6, 8, 12, 16)

WIDTH = _recipe(
    "beam-width", "B3", "How wide and how deep to search",
    reference="BEAM section 3.4; no table",
    question="Is a greedy search worse than a beam, and a beam worse than everything?",
    papers_data="M = 8 and H = 10 on 6 x 6 cells throughout",
    axis="M, H",
    cells=(
        *(_searching(f"M = {m}", m, series="width M", beam_width=m) for m in _WIDTHS),
        _searching("all windows, 8 a level", search="exhaustive"),
        *(_searching(f"H = {h}", h, series="levels H", num_levels=h) for h in _LEVELS),
    ),
    metrics=("point_map", "box_map_50", "corloc"),
    findings=(
        places("a beam of 8 places better than greedy", "M = 8", "M = 1"),
        boxes("a beam of 8 boxes better than greedy", "M = 8", "M = 1"),
        boxes("all levels box better than four", "M = 8", "H = 4"),
        places("a beam of 8 is within a point of all windows",
               "M = 8", "all windows, 8 a level", margin=-0.01),
    ),
    notes=("One network; M down to single cells, H at M = 8, both on the first feature map.",),
)  # fmt: skip

_narrow = partial(_searching, beam_width=4)

MODE = _recipe(
    "beam-mode", "B4", "Cut the feature map or the image",
    reference="BEAM sections 3.3 and 3.4, which differ",
    question="Is it worth computing features anew for every window?",
    papers_data="2.6 s an image speak for new features; no table",
    cells=(
        _narrow("windows of the map"),
        _narrow("windows of the map, both sides", children="eq6"),
        _narrow("windows of the map, corners aligned", interpolation="align_corners"),
        _narrow("new crop at every level", recrop_every=1),
        _narrow("new crop at every 2nd level", recrop_every=2),
        _narrow("all windows of the map", search="exhaustive"),
    ),
    metrics=("point_map", "box_map_50", "corloc"),
    findings=(
        places("new crops place better", "new crop at every level", "windows of the map"),
        boxes("new crops box better", "new crop at every level", "windows of the map"),
        boxes("every level is better than every second",
              "new crop at every level", "new crop at every 2nd level"),
    ),
    notes=("A beam of 4 instead of 8, down to single cells: new crops are slow on a CPU.",),
)  # fmt: skip

_BY_CLASS = "20 boxes a class, by class"
_THRESHOLDS: dict[str, ThresholdOrigin] = {
    "fixed 0.5": "fixed",
    "20 boxes a class, one for all": "boxes, one for all",
    _BY_CLASS: "boxes by class",
    "oracle": "oracle",
}
_HEATS = {"mean heat": "mean", "highest heat": "max", "mean heat before scaling": "raw_mean"}
_SCORES: dict[str, dict[str, Any]] = {
    f"{heat}{times}": {"box_score": score, "box_times_class": bool(times)}
    for times in ("", " x class")
    for heat, score in _HEATS.items()
}

BOXES = _recipe(
    "beam-boxes", "B5", "Thresholds and scores of boxes",
    reference="BEAM section 3.5; table 4",
    question="What makes boxes of heat maps: the threshold or the score?",
    papers_data="VOC 2012 val, thresholds tuned for each class on drawn boxes",
    cells=(
        *(Cell(f"threshold {name}", "beam", tuning=origin) for name, origin in _THRESHOLDS.items()),
        *(Cell(f"scored by {name}", "beam", look=look) for name, look in _SCORES.items()),
    ),
    metrics=("box_map_50", "corloc", "max_box_acc_v2"),
    findings=(
        boxes("thresholds by class, from boxes, are better than a fixed one",
              f"threshold {_BY_CLASS}", "threshold fixed 0.5"),
        boxes("thresholds by class are better than one from the same boxes",
              f"threshold {_BY_CLASS}", "threshold 20 boxes a class, one for all"),
        boxes("the mean heat ranks boxes better than the highest",
              "scored by mean heat", "scored by highest heat"),
        boxes("the probability of the class helps to rank boxes",
              "scored by mean heat x class", "scored by mean heat"),
    ),
    published=(Published("BEAM table 4", _DATA, "box_map_50", {f"threshold {_BY_CLASS}": 26.5}),),
    notes=("The thresholds' boxes are scored by mean heat x class, if literal by raw mean heat.",),
)  # fmt: skip

_PROPOSALS = "max_mil, proposals"
_SCORED_PROPOSALS = {"boxes": "proposals", "box_score": "max"}

RANK = _recipe(
    "beam-ranking", "B6, B8", "What ranks the points, and how Max-MIL compares",
    reference="BEAM table 1 against its section 4.2; table 4",
    question="Rank images by class score or by heat? And is a search better than one best cell?",
    cells=(
        Cell("beam", "beam"),
        Cell("max_mil", "max_mil", look={"scales": (1.0,)}),
        Cell(_PROPOSALS, "max_mil", look={"scales": (1.0,), **_SCORED_PROPOSALS}),
    ),
    metrics=("classification_map", "point_map", "point_map_by_heat", "box_map_50"),
    findings=(
        places("class scores rank better than heat",
               "beam", "beam", worse_metric="point_map_by_heat"),
        places("BEAM places better than Max-MIL (+5.2)", "beam", "max_mil", _PAPER),
        boxes("BEAM boxes better than Max-MIL with proposals (+14.8)", "beam", _PROPOSALS, _PAPER),
        boxes("BEAM boxes better than Max-MIL with the parts of its maps", "beam", "max_mil"),
    ),
    published=(
        _TABLE_1("point_map", {"beam": 79.7, "max_mil": 74.5}),
        Published("BEAM table 4", _DATA, "box_map_50", {"beam": 26.5, _PROPOSALS: 11.7}),
    ),
    notes=("The paper's proposals are selective search's; here the parts of maps at all levels.",),
)  # fmt: skip

BALANCE = _recipe(
    "beam-balance", "B7", "Repeating images of rare classes",
    reference="BEAM section 3.1; no table",
    question="Do repeated images, noisy and rotated, help?",
    papers_data="always on in the paper",
    cells=(
        Cell("balanced", "beam", choices={"balance": True}, below_head=True),
        Cell("as they come", "beam", choices={"balance": False}),
    ),
    metrics=("classification_map", "point_map"),
    findings=(
        names("balancing helps to name", "balanced", "as they come"),
        places("balancing helps to place", "balanced", "as they come"),
    ),
)  # fmt: skip

RECIPES = (BACKBONE, RESCORING, WIDTH, MODE, BOXES, RANK, BALANCE)
