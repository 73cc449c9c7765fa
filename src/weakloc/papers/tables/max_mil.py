"""The experiments of Max-MIL (Oquab et al. 2015): rows D, E and F of table 1, and what it fixes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from weakloc.papers.recipe import Cell, Finding, Published, Recipe, names, places

if TYPE_CHECKING:
    from weakloc.methods.method import Preset  # loads torch

_PAPER = "Max-MIL"
_NO_JITTER: dict[str, Any] = {"scale_jitter": None}
_ONE_SIZE: dict[str, Any] = {"scales": (1.0,)}
_SEVEN_SCALES = (0.5, 0.654, 0.855, 1.118, 1.462, 1.912, 2.5)
_ALL_SCALES = tuple(round(0.5 + 0.05 * index, 2) for index in range(65))
_TABLE_1 = partial(Published, "Max-MIL table 1", "VOC 2012 test", "classification_map")
_recipe = partial(Recipe, metrics=("classification_map", "point_map"), splits=("trainval", "test"))


def _pooled(name: str, *, only: Preset | None = None, **choices: Any) -> Cell:
    """WILDCAT's pooling, of which the maximum, the top cells and the average are corners."""
    plain = {"maps_per_class": 1, "k_min": 0, "alpha": 0.0, "loss": "logistic_sum"}
    return Cell(name, "wildcat", choices={**plain, **choices}, only=only)


SEARCH = _recipe(
    "max-mil-search", "A1", "Searching the image while learning",
    reference="Max-MIL table 1, rows D and F",
    question="Does a maximum over places and sizes beat looking at the whole image at once?",
    papers_data="VOC 2012 test, AlexNet frozen up to FC7",
    cells=(
        Cell("full image, one window", "max_mil",
             choices={**_NO_JITTER, "side": 224, "resize": "warp"}, look=_ONE_SIZE, only="literal"),
        _pooled("full image, mean of cells", k_max="all", only="practical"),
        Cell("search, one size", "max_mil", choices=_NO_JITTER, look=_ONE_SIZE),
        Cell("search, many sizes", "max_mil"),
    ),
    findings=(
        names("the search helps (+7.6 on VOC 2012)",
              "search, many sizes", "full image, one window", _PAPER),
        names("the search helps, compared with the mean of cells",
              "search, many sizes", "full image, mean of cells"),
        places("the search places better than the mean",
               "search, many sizes", "full image, mean of cells"),
    ),
    published=(_TABLE_1({"full image, one window": 78.7, "search, many sizes": 86.3}),),
    notes=(
        "A network without fully connected layers has no window: its mean over cells stands in.",
    ),
)  # fmt: skip

_TRAINED: dict[str, dict[str, Any]] = {"jitter": {}, "no jitter": _NO_JITTER}
_TESTED: dict[str, dict[str, Any]] = {
    "one size": {"look": _ONE_SIZE},
    "7 sizes": {"look": {"scales": _SEVEN_SCALES}},
    "65 sizes": {"look": {"scales": _ALL_SCALES}, "only": "literal"},
}

SCALES = _recipe(
    "max-mil-scales", "A2", "Sizes in training and in testing",
    reference="Max-MIL sections 3 and 5; no table",
    question="Which helps: varying the size while learning, or testing at many sizes?",
    papers_data="merged in the paper into row F of table 1",
    cells=tuple(
        Cell(f"{trained}, {tested}", "max_mil", choices=choices, **rest)
        for trained, choices in _TRAINED.items()
        for tested, rest in _TESTED.items()
    ),
    findings=(
        names("jitter in training helps at one size", "jitter, one size", "no jitter, one size"),
        names("seven sizes in testing help after jitter", "jitter, 7 sizes", "jitter, one size"),
        names("65 sizes are better than seven", "jitter, 65 sizes", "jitter, 7 sizes"),
    ),
)  # fmt: skip

STRONG = _recipe(
    "max-mil-boxes", "A3", "Do drawn boxes help?",
    reference="Max-MIL table 1, rows E and F",
    question="Are tags enough, or do tight crops of drawn boxes improve on them?",
    papers_data="VOC 2012 test",
    cells=(Cell("weak", "max_mil"), Cell("strong + weak", "max_mil", crops_of_boxes=True)),
    findings=(
        names("boxes gain less than a point (86.0 against 86.3)",
              "weak", "strong + weak", _PAPER, margin=-0.01),
    ),
    published=(_TABLE_1({"weak": 86.3, "strong + weak": 86.0}),),
    notes=("Every drawn box of 16 pixels or more becomes a further training image of its class.",),
)  # fmt: skip

POOLING = _recipe(
    "max-mil-pooling", "A4", "From the best cell to all cells",
    reference="Max-MIL section 3.2; no table",
    question="Is the maximum the best way from cells to an image?",
    papers_data="the maximum alone",
    cells=(
        _pooled("maximum", k_max=1),
        *(
            Cell(f"log-sum-exp, sharpness {sharpness:g}", "max_mil",
                 choices={**_NO_JITTER, "sharpness": sharpness}, look=_ONE_SIZE)
            for sharpness in (1.0, 5.0)
        ),
        _pooled("best 10 %", k_max=0.1),
        _pooled("average", k_max="all"),
        _pooled("best and worst 10 %", k_max=0.1, k_min=0.1, alpha=0.7),
    ),
    metrics=("classification_map", "point_map", "max_box_acc_v2"),
    findings=(
        names("the maximum classifies better than the average", "maximum", "average"),
        names("the best 10 % classify better than the maximum", "best 10 %", "maximum"),
        Finding("the average covers objects better than the maximum",
                "average", "maximum", metric="max_box_acc_v2"),
    ),
)  # fmt: skip

_FUSED: dict[str, dict[str, Any]] = {
    "maximum over sizes": {"fuse": "max"},
    "mean over sizes": {"fuse": "mean"},
    "maximum over sizes, highest score": {"fuse": "max", "fuse_scores": "max"},
    "maximum over sizes, mean probability": {"fuse": "max", "fuse_scores": "mean_probability"},
}

TOLERANCE = _recipe(
    "max-mil-points", "A5, A7", "Points: the tolerance, and what several sizes say together",
    reference="point localisation as quoted by BEAM and WILDCAT",
    question="How much of the point metric is its tolerance, how much the fusing of sizes?",
    papers_data="VOC 2012 val (tolerance not printed)",
    splits=("train", "val"),
    cells=(
        Cell("one size", "max_mil", look=_ONE_SIZE),
        *(
            Cell(name, "max_mil", look={"scales": _SEVEN_SCALES, **fusing})
            for name, fusing in _FUSED.items()
        ),
    ),
    metrics=("classification_map", "point_map", "point_map_18px", "pointing_accuracy"),
    findings=(
        places("18 pixels of tolerance add less than a point",
               "maximum over sizes", "maximum over sizes",
               margin=-0.01, worse_metric="point_map_18px"),
        places("the maximum over sizes places better than the mean",
               "maximum over sizes", "mean over sizes"),
        names("the mean score over sizes names better than the highest",
              "maximum over sizes", "maximum over sizes, highest score"),
    ),
    published=(
        Published("BEAM table 1", "VOC 2012 val", "point_map", {"maximum over sizes": 74.5}),
    ),
)  # fmt: skip

RECIPES = (SEARCH, SCALES, STRONG, POOLING, TOLERANCE)
