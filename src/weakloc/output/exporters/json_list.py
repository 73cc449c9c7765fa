"""JSON documents written piece by piece, so that no document is ever held in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import IO, Any

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def json_text(value: Any) -> str:
    return _ENCODER.encode(value)


def write_list(stream: IO[str], pieces: Iterable[list[Any]]) -> None:
    """All items of all pieces as one list, a piece to the line."""
    stream.write("[")
    separator = "\n"
    for piece in pieces:
        if piece:
            stream.write(separator + _ENCODER.encode(piece)[1:-1])
            separator = ",\n"
    stream.write("\n]")
