"""What a person may say about a data set that its files do not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from weakloc.errors import SettingError

Difficult: TypeAlias = Literal["unknown", "present"]


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """Answers that override what a reader would guess.

    `class_names` fixes the classes and their order; a label outside of them becomes a problem.
    `difficult` says what a class is in an image where all its objects are marked difficult.
    `image_root` is the folder that image names are relative to, where it is not the data folder.
    """

    class_names: tuple[str, ...] | None = None
    difficult: Difficult = "unknown"
    image_root: str | None = None
    path_column: str | None = None
    labels_column: str | None = None
    split_column: str | None = None
    label_delimiter: str = ";"

    def __post_init__(self) -> None:
        if self.difficult not in {"unknown", "present"}:
            raise SettingError(
                f"difficult is {self.difficult!r}", remedy="Choose 'unknown' or 'present'"
            )
        if not self.label_delimiter:
            raise SettingError("label_delimiter is empty", remedy="Give the sign between labels")
        if self.class_names is not None and len(set(self.class_names)) < len(self.class_names):
            raise SettingError("class_names names a class twice", remedy="Name each class once")
