"""Per-image records that come in any order, from any process, and leave sorted by image."""

from __future__ import annotations

from typing import Generic, TypeVar

from weakloc.errors import PredictionsError

Record = TypeVar("Record")


class ImageRecords(Generic[Record]):
    """One record an image; a second one for the same image is an error, also across processes."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def add(self, image_name: str, record: Record) -> None:
        if image_name in self._records:
            raise PredictionsError(
                f"image {image_name!r} was measured twice",
                remedy="Give each image once, also when several processes share the work",
            )
        self._records[image_name] = record

    def merge(self, other: ImageRecords[Record]) -> None:
        for image_name, record in other._records.items():
            self.add(image_name, record)

    def sorted(self) -> tuple[tuple[str, ...], list[Record]]:
        """Names in order, and their records."""
        names = tuple(sorted(self._records))
        return names, [self._records[name] for name in names]
