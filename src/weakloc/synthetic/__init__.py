"""Stand-in data sets: drawn scenes with exact boxes, masks and tags, in Pascal VOC layout."""

from weakloc.synthetic.clutter import CLUTTER_CLASSES, Difficulty
from weakloc.synthetic.folder import (
    Artist,
    Kind,
    artist_from,
    artist_of,
    draw_scene,
    write_scenes,
)
from weakloc.synthetic.single import SINGLE_CLASSES

__all__ = [
    "CLUTTER_CLASSES",
    "SINGLE_CLASSES",
    "Artist",
    "Difficulty",
    "Kind",
    "artist_from",
    "artist_of",
    "draw_scene",
    "write_scenes",
]
