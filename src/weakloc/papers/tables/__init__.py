"""The papers' tables and ablations as data; `RECIPES[name]` is one of them."""

from __future__ import annotations

from weakloc.papers.recipe import Recipe
from weakloc.papers.tables import beam, cam, headline, max_mil, wildcat

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for paper in (headline, max_mil, beam, wildcat, cam)
    for recipe in paper.RECIPES
}
