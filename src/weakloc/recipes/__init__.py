"""The papers' tables and ablations as data; `RECIPES[name]` is one of them."""

from __future__ import annotations

from weakloc.recipes import headline, wildcat
from weakloc.recipes.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (*headline.RECIPES, *wildcat.RECIPES)
}
