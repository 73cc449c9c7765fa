"""What each paper decides, by name; `METHODS[name]().practical()` is a ready one."""

from __future__ import annotations

from weakloc.methods.beam import Beam
from weakloc.methods.cam import Cam
from weakloc.methods.max_mil import MaxMil
from weakloc.methods.method import Method
from weakloc.methods.wildcat import Wildcat

METHODS: dict[str, type[Method]] = {
    "max_mil": MaxMil,
    "beam": Beam,
    "wildcat": Wildcat,
    "cam": Cam,
}
