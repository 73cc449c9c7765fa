"""JSON documents written piece by piece, so that no document is ever held in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import IO, Any

AT_ONCE = 64  # items; the encoder's start costs as much as a few items
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def json_text(value: Any) -> str:
    return _ENCODER.encode(value)


class ItemWriter:
    """Writes the items of a list, without its brackets, some dozens at a time."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._waiting: list[Any] = []
        self._separator = "\n"

    def add(self, items: Iterable[Any]) -> None:
        self._waiting.extend(items)
        if len(self._waiting) >= AT_ONCE:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._stream.write(self._separator + _ENCODER.encode(self._waiting)[1:-1])
            self._separator = ",\n"
            self._waiting = []


def write_list(stream: IO[str], pieces: Iterable[list[Any]]) -> None:
    """All items of all pieces as one list."""
    stream.write("[")
    writer = ItemWriter(stream)
    for piece in pieces:
        writer.add(piece)
    writer.flush()
    stream.write("\n]")
