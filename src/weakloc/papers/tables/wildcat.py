"""The experiments of WILDCAT (Durand et al. 2017): tables 2 and 5 to 9, figures 4 and 5.

The ablations vary one thing at a time around one best and one worst cell, alpha = 1, one map a
class.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from weakloc.papers.recipe import Cell, Finding, Published, Recipe, names, places

_PLAIN: dict[str, Any] = {"k_max": 1, "k_min": 1, "alpha": 1.0, "maps_per_class": 1}
_PAPER = "WILDCAT"
_DATA_SETS = {  # the columns of tables 5 to 7
    "VOC 2007": "classification_map",
    "VOC 2012 Action": "classification_map",
    "MIT67": "top_1_accuracy",
}
_recipe = partial(
    Recipe,
    papers_data="VOC 2007, VOC 2012 Action and MIT67 (all 448 px, ResNet-101)",
    metrics=("classification_map", "point_map"),
    splits=("trainval", "test"),
)


def _cell(name: str, at: float | None = None, *, series: str = "", **choices: Any) -> Cell:
    return Cell(name, "wildcat", choices={**_PLAIN, **choices}, at=at, series=series)


def _published(table: str, rows: dict[str, tuple[float, float, float]]) -> tuple[Published, ...]:
    columns = zip(*rows.values(), strict=True)
    return tuple(
        Published(f"{_PAPER} {table}", data, metric, dict(zip(rows, column, strict=True)))
        for (data, metric), column in zip(_DATA_SETS.items(), columns, strict=True)
    )


_ORDERS = {"head_then_pool": "maps, then pooling", "pool_then_head": "pooling, then classifier"}
_POOLINGS: dict[str, dict[str, Any]] = {
    "max + min": {},
    "max": {"k_min": 0, "alpha": 0.0},
    "average": {"k_max": "all", "k_min": 0, "alpha": 0.0},
}

ORDER = _recipe(
    "wildcat-order", "C1", "Score maps before or after pooling",
    reference="WILDCAT table 5",
    question="Is it better to pool maps of class scores than to classify pooled features?",
    cells=tuple(
        _cell(f"{spelt}, {pooling}", order=order, **choices)
        for pooling, choices in _POOLINGS.items()
        for order, spelt in _ORDERS.items()
    ),
    findings=(
        names("Maps first is better (+1.7 on VOC 2007)",
              "maps, then pooling, max + min", "pooling, then classifier, max + min", _PAPER),
        names("Maps first is better with max alone",
              "maps, then pooling, max", "pooling, then classifier, max"),
    ),
    published=_published("table 5", {
        "maps, then pooling, max + min": (89.0, 78.9, 69.6),
        "pooling, then classifier, max + min": (87.3, 77.5, 68.1),
    }),
    notes=("With average pooling the two orders are the same function, apart from the seed.",),
)  # fmt: skip

ALPHA = _recipe(
    "wildcat-alpha", "C2", "The weight of negative evidence",
    reference="WILDCAT figures 4 and 5",
    question="How much should the least likely cells count against a class?",
    papers_data="VOC 2007, VOC 2012 Action, MIT67; location on VOC 2012",
    cells=tuple(
        _cell(f"alpha = {alpha:g}", alpha, alpha=alpha)
        for alpha in (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    ),
    axis="alpha",
    findings=(
        names("alpha = 0.6 is better than 1 (+1.6 on VOC 2007)",
              "alpha = 0.6", "alpha = 1", _PAPER),
        names("alpha = 0.7 is better than 1 (+2 on Action)", "alpha = 0.7", "alpha = 1", _PAPER),
        names("no negative evidence is worst: 1 beats 0", "alpha = 1", "alpha = 0", _PAPER),
        names("no negative evidence is worst: 0.7 beats 0", "alpha = 0.7", "alpha = 0", _PAPER),
        places("alpha = 0.7 places points better than 1 (+1.6 on VOC 2012)",
               "alpha = 0.7", "alpha = 1", _PAPER),
        places("no negative evidence is worst for points: 0.7 beats 0",
               "alpha = 0.7", "alpha = 0", _PAPER),
    ),
)  # fmt: skip

_M_VALUES = {
    1: (89.0, 78.9, 69.6),
    2: (91.0, 81.5, 71.8),
    4: (91.6, 82.1, 72.0),
    8: (92.5, 83.2, 72.8),
    12: (92.3, 83.0, 73.1),
    16: (92.0, 82.7, 72.9),
}

MAPS = _recipe(
    "wildcat-maps", "C3", "The number of maps a class",
    reference="WILDCAT table 6",
    question="Do several maps a class help, or only the step sizes that come with them?",
    optimiser="sgd",
    cells=(
        *(_cell(f"M = {count}", count, maps_per_class=count) for count in _M_VALUES),
        Cell("M = 1, head rate / 8", "wildcat", choices=_PLAIN, head_rate=1 / 8),
        Cell("M = 1, backbone rate x 8", "wildcat",
             choices=_PLAIN, backbone_rate=8.0, below_head=True),
        _cell("M = 8, released gradient", maps_per_class=8, class_pool_gradient="released"),
        _cell("M = 8, maximum of maps", maps_per_class=8, class_pool="max"),
        _cell("M = 8, log-sum-exp of maps", maps_per_class=8, class_pool="lse"),
    ),
    axis="maps a class",
    findings=(
        names("M = 2 is better than 1 (+2.0 on VOC 2007)", "M = 2", "M = 1", _PAPER),
        names("M = 4 is better than 1 (+2.6)", "M = 4", "M = 1", _PAPER),
        names("M = 8 is better than 1 (+3.5)", "M = 8", "M = 1", _PAPER),
        names("M = 8 is better than 16 (+0.5)", "M = 8", "M = 16", _PAPER),
        names("one map with an eighth of the head's rate is within a point of eight",
              "M = 1, head rate / 8", "M = 8", margin=-0.01),
        names("eight maps with the released gradient are better than one",
              "M = 8, released gradient", "M = 1"),
        names("one map with eight times the backbone's rate is within a point of that",
              "M = 1, backbone rate x 8", "M = 8, released gradient", margin=-0.01),
        names("the maximum of eight maps, which specialise, is better than their mean",
              "M = 8, maximum of maps", "M = 8"),
    ),
    published=_published("table 6", {f"M = {m}": row for m, row in _M_VALUES.items()}),
    notes=(
        "Only the average of the M maps counts: under SGD they are one map at a rate divided by M.",
        "Hence the controls with one map, and SGD throughout.",
        "Under --frozen the released gradient still leaves the head its full rate.",
    ),
)  # fmt: skip

BOTH = _recipe(
    "wildcat-both", "C4", "Negative evidence and several maps together",
    reference="WILDCAT table 7",
    question="Do the two changes add up?",
    cells=(
        _cell("max + min"),
        _cell("+ alpha = 0.7", alpha=0.7),
        _cell("+ M = 4", maps_per_class=4),
        _cell("+ both", alpha=0.7, maps_per_class=4),
    ),
    findings=(
        names("alpha = 0.7 helps (+1.3 on VOC 2007)", "+ alpha = 0.7", "max + min", _PAPER),
        names("M = 4 helps (+2.6)", "+ M = 4", "max + min", _PAPER),
        names("both help more than alpha alone (+1.7)", "+ both", "+ alpha = 0.7", _PAPER),
        names("both help more than M alone (+0.4)", "+ both", "+ M = 4", _PAPER),
    ),
    published=_published("table 7", {
        "max + min": (89.0, 78.9, 69.6),
        "+ alpha = 0.7": (90.3, 80.9, 71.3),
        "+ M = 4": (91.6, 82.1, 72.0),
        "+ both": (92.0, 82.9, 72.8),
    }),
)  # fmt: skip

_COUNTS: dict[str, int | float | str] = {
    "1": 1, "2": 2, "5": 5, "10 %": 0.1, "20 %": 0.2, "40 %": 0.4, "all": "all",
}  # fmt: skip

K = _recipe(
    "wildcat-k", "C5", "How many cells speak for and against a class",
    reference="WILDCAT section 3.2; no table",
    question="Is one best cell enough?",
    papers_data="not varied in the paper; the released code takes 20 % of the cells",
    cells=(
        *(
            _cell(f"k = {spelt}", at, series="k- = k+", k_max=count, k_min=count, alpha=0.7)
            for at, (spelt, count) in enumerate(_COUNTS.items())
        ),
        *(
            _cell(f"k = {spelt}, none against", at,
                  series="k- = 0", k_max=count, k_min=0, alpha=0.0)
            for at, (spelt, count) in enumerate(_COUNTS.items())
        ),
    ),
    axis="k: 1, 2, 5, 10 %, 20 %, 40 %, all",
    findings=(
        names("20 % of the cells are better than one", "k = 20 %", "k = 1"),
        names("20 % of the cells are better than all", "k = 20 %", "k = all"),
        places("20 % of the cells place points better than all", "k = 20 %", "k = all"),
    ),
)  # fmt: skip

HALVE = _recipe(
    "wildcat-halve", "C9", "The sum of the paper or the mean of its code",
    reference="WILDCAT equation 2 against the released code",
    question="Does the hidden division by two matter at equal rates?",
    papers_data="not discussed in the paper",
    optimiser="sgd",
    cells=(_cell("as printed"), _cell("as released (halved)", halve=True)),
    findings=(
        names("halving changes less than a point",
              "as released (halved)", "as printed", margin=-0.01),
    ),
)  # fmt: skip

_STATE_OF_THE_ART: dict[str, Any] = {"maps_per_class": 4, "alpha": 0.7}  # section 4.1
_SIDES = {"1/2": 1 / 2, "5/7": 5 / 7, "1": 1.0, "5/4": 5 / 4}  # of 448: 224, 320, 448 and 560
_THREE_SIDES = (5 / 7, 1.0, 5 / 4)
_best = partial(Cell, method="wildcat", choices=_STATE_OF_THE_ART)
_sized = partial(_best, train={"hold_out": 0.1})  # what the late classifier is fitted on
_LATE = "three networks, late classifier"

SIZES = _recipe(
    "wildcat-sizes", "C6", "Image sizes, a network each, and their fusion",
    reference="WILDCAT tables 2 and 7",
    question="What does the size of the image bring, and what do networks of several sizes?",
    papers_data="VOC 2007, M = 4, alpha = 0.7; its sizes are not printed",
    cells=(
        *(_sized(f"side x {name}", sizes=(size,), at=size) for name, size in _SIDES.items()),
        _sized("one network, three sizes", look={"scales": _THREE_SIDES}),
        _sized("three networks, mean", sizes=_THREE_SIDES),
        _sized(_LATE, sizes=_THREE_SIDES, fusion="late classifier"),
    ),
    axis="side, as a factor of the method's",
    findings=(
        names("networks of several sizes name better (+3.0 on VOC 2007)",
              _LATE, "side x 1", _PAPER),
        names("the late classifier names better than the mean", _LATE, "three networks, mean"),
        names("three networks name better than one that sees three sizes",
              "three networks, mean", "one network, three sizes"),
        places("three networks place better than one", "three networks, mean", "side x 1"),
    ),
    published=(
        Published(f"{_PAPER} table 2", "VOC 2007", "classification_map", {_LATE: 95.0}),
        Published(f"{_PAPER} table 7", "VOC 2007", "classification_map", {"side x 1": 92.0}),
    ),
    notes=("The three networks see 5/7, 1 and 5/4 of the side: 320, 448 and 560 pixels of 448.",),
)  # fmt: skip

POINTS = _recipe(
    "wildcat-points", "C7", "Points of the score maps",
    reference="WILDCAT table 8",
    question="What places a point better: the best cell, the space between cells, several sizes?",
    papers_data="VOC 2012 val: the best cell; it does not say of how many sizes",
    splits=("train", "val"),
    cells=(
        _best("best cell", look={"point_method": "arg_max"}),
        _best("between cells", look={"point_method": "sub_cell"}),
        _best("best cell, three sizes",
              look={"point_method": "arg_max", "map_scales": _THREE_SIDES, "fuse": "mean",
                    "normalise": "zscore"}),
        _best("best cell, three networks", look={"point_method": "arg_max"}, sizes=_THREE_SIDES),
    ),
    metrics=("classification_map", "point_map", "pointing_accuracy"),
    findings=(
        places("between cells is better than the middle of the best", "between cells", "best cell"),
        places("the mean of three sizes places better than one",
               "best cell, three sizes", "best cell"),
        places("three networks place better than one that sees three sizes",
               "best cell, three networks", "best cell, three sizes"),
    ),
    published=(Published(f"{_PAPER} table 8", "VOC 2012 val", "point_map", {"best cell": 82.9}),),
)  # fmt: skip

_BACKGROUNDS = ("threshold", "power", "class")
_REFINEMENTS = {"plain": "threshold", "CRF": "crf"}
_segments = partial(Finding, metric="mean_iou")
_TRAINED_WITH: dict[str, dict[str, Any]] = {"class": {"rules": {"background": "class"}}}

MASKS = _recipe(
    "wildcat-masks", "C8", "Masks: what stands for the background, and what follows edges",
    reference="WILDCAT table 9",
    question="What segments best when the paper leaves the background open?",
    papers_data="VOC 2012 Segmentation, 10,582 images to learn from",
    splits=("trainaug", "val"),
    cells=tuple(
        Cell(f"{background}, {name}", "wildcat",
             choices={**_STATE_OF_THE_ART, **_TRAINED_WITH.get(background, {})},
             look={"background": background, "masks": masks})
        for background in _BACKGROUNDS
        for name, masks in _REFINEMENTS.items()
    ),
    metrics=("mean_iou", "classification_map"),
    findings=(
        _segments("a CRF helps to segment (+4.5)", "threshold, CRF", "threshold, plain", _PAPER),
        _segments("a background class segments better than a threshold",
                  "class, plain", "threshold, plain"),
        _segments("a power of the heat segments better than a threshold",
                  "power, plain", "threshold, plain"),
    ),
    published=(
        Published(f"{_PAPER} table 9", "VOC 2012 val", "mean_iou",
                  {"threshold, plain": 39.2, "threshold, CRF": 43.7}),
    ),
    notes=("The paper does not say what stands for the background; its lists need --image-set.",),
)  # fmt: skip

RECIPES = (ORDER, ALPHA, MAPS, BOTH, K, SIZES, POINTS, MASKS, HALVE)
