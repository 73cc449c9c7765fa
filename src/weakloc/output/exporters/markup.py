"""Any name as XML text or attribute, such that a parser gives the same name back."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape, quoteattr

from weakloc.errors import PredictionsError

# XML 1.0 has no way to write these, not even escaped.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def xml_text(name: str) -> str:
    return escape(_checked(name), {"\r": "&#13;"})


def xml_attribute(name: str) -> str:
    """With its quotation marks."""
    return quoteattr(_checked(name), {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;"})


def _checked(name: str) -> str:
    found = _UNWRITABLE.search(name)
    if found:
        raise PredictionsError(
            f"{name!r} holds the character U+{ord(found.group()):04X}, which XML cannot write",
            remedy="Export to a JSON format, or rename it",
        )
    return name
