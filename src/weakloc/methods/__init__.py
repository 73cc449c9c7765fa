"""What each paper decides, by name; installed packages add by the group `weakloc.methods`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weakloc.errors import ExtensionError
from weakloc.extensions import Choices, require_known
from weakloc.methods.beam import Beam
from weakloc.methods.cam import Cam
from weakloc.methods.max_mil import MaxMil
from weakloc.methods.method import Method, Preset
from weakloc.methods.settings import from_settings, merged_settings, to_settings
from weakloc.methods.wildcat import Wildcat

METHODS: Mapping[str, type[Method]] = Choices(
    "methods", {"max_mil": MaxMil, "beam": Beam, "wildcat": Wildcat, "cam": Cam}
)


def method_named(
    name: str, preset: Preset, choices: Mapping[str, Any], *, prefix: str = ""
) -> Method:
    """The method of this name with some of its fields changed, as by `{"maps_per_class": 8}`.

    `prefix` stands before a field's name in errors.
    """
    require_known("methods", name, f"method {name!r} is not known")
    kind = METHODS[name]
    is_method = isinstance(kind, type) and issubclass(kind, Method)
    if not is_method or getattr(kind, "name", None) != name:
        raise ExtensionError(
            f"{kind!r} is not a subclass of weakloc.methods.method.Method with this name",
            location=repr(name),
            remedy="Mend or uninstall the package that adds it",
        )
    method = kind.literal() if preset == "literal" else kind.practical()
    if not choices:
        return method
    return from_settings(kind, merged_settings(to_settings(method), choices), prefix=prefix)
