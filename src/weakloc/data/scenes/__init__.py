"""Stand-in data sets: drawn scenes with exact boxes, masks and tags, in Pascal VOC layout."""

from weakloc.data.scenes.clutter import CLUTTER_CLASSES, Difficulty
from weakloc.data.scenes.making import (
    Artist,
    Kind,
    artist_from,
    artist_of,
    draw_scene,
    scene_samples,
    write_scenes,
)
from weakloc.data.scenes.single import SINGLE_CLASSES

__all__ = [
    "CLUTTER_CLASSES",
    "SINGLE_CLASSES",
    "Artist",
    "Difficulty",
    "Kind",
    "artist_from",
    "artist_of",
    "draw_scene",
    "scene_samples",
    "write_scenes",
]
