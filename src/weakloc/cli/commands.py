"""All commands by name, in the order in which a newcomer meets them."""

from __future__ import annotations

from weakloc.cli.data_commands import data, scenes
from weakloc.cli.tour_commands import demo

COMMANDS = (demo, scenes, data)
