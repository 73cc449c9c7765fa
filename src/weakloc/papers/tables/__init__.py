"""The papers' tables and ablations as data; `RECIPES[name]` is one of them.

Each paper has its module; all methods with one network on one data set, this project's own table,
stand here.
"""

from __future__ import annotations

from weakloc.papers.recipe import Cell, Published, Recipe, boxes, names, places
from weakloc.papers.tables import beam, cam, max_mil, wildcat

_REFINED = {"localiser": "cells"}

HEADLINE = Recipe(
    "headline", "X1", "Four methods, one network, one data set",
    reference="WILDCAT table 8; BEAM table 1",
    question="Which method names and places objects best when nothing else differs?",
    papers_data="VOC 2012 val, each method with its own network",
    epochs_factor=3,
    cells=(
        Cell("max_mil", "max_mil"),
        Cell("cam", "cam"),
        Cell("wildcat", "wildcat"),
        Cell("beam", "beam"),
        Cell("wildcat, refined", "wildcat", look=_REFINED),
        Cell("wildcat, refined, mirrored too", "wildcat", look={**_REFINED, "flip": True}),
        Cell("wildcat, mixup", "wildcat", train={"mixup": 1.0}),
    ),
    metrics=(
        "classification_map", "point_map", "pointing_accuracy", "box_map_50", "corloc",
        "max_box_acc_v2", "mean_iou",
    ),
    findings=(
        places("WILDCAT places better than Max-MIL (+8.4)", "wildcat", "max_mil", "WILDCAT"),
        places("WILDCAT places better than BEAM (+3.2)", "wildcat", "beam", "WILDCAT"),
        places("BEAM places better than Max-MIL (+5.2)", "beam", "max_mil", "BEAM"),
        places("WILDCAT places better than CAM", "wildcat", "cam"),
        places("refining helps to place", "wildcat, refined", "wildcat"),
        boxes("refining helps to box", "wildcat, refined", "wildcat"),
        boxes("a mirrored look helps a refined run to box",
              "wildcat, refined, mirrored too", "wildcat, refined"),
        names("mixup helps to name", "wildcat, mixup", "wildcat"),
        places("mixup helps to place", "wildcat, mixup", "wildcat"),
    ),
    published=(
        Published("WILDCAT table 8", "VOC 2012 val", "point_map",
                  {"max_mil": 74.5, "beam": 79.7, "wildcat": 82.9}),
    ),
)  # fmt: skip

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipes in ((HEADLINE,), max_mil.RECIPES, beam.RECIPES, wildcat.RECIPES, cam.RECIPES)
    for recipe in recipes
}
