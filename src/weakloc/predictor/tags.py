"""What people say is in the images to predict: a table of tags -> one label vector an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weakloc.data.readers.assembly import LabelClaim
from weakloc.data.readers.options import ReaderOptions
from weakloc.data.readers.table_rows import read_rows
from weakloc.errors import DataError, did_you_mean
from weakloc.files import by_last_part
from weakloc.structures import ABSENT, PRESENT, UNKNOWN, LabelVector, Problem


class Tags:
    """Label vectors by image name; an image that no line names is unknown in every class.

    Where no name fits, the last part of it does if only one line ends so: tables often name
    images from another folder than the one that is predicted.
    """

    def __init__(self, vectors: dict[str, LabelVector], num_classes: int) -> None:
        self._vectors = vectors
        self._by_last_part = by_last_part(vectors)
        self._nothing_known = np.full(num_classes, UNKNOWN, dtype=np.int8)

    def __len__(self) -> int:
        return len(self._vectors)

    def of(self, image_name: str) -> LabelVector:
        found = self._vectors.get(image_name)
        if found is None:
            named = self._by_last_part.get(image_name.rpartition("/")[2])
            found = None if named is None else self._vectors[named]
        return self._nothing_known if found is None else found


def read_tags(path: Path, class_names: Sequence[str]) -> tuple[Tags, list[Problem]]:
    """Any table that `weakloc train --labels` takes; image names as in the predictions.

    A class that the model does not know is an error: its tag could never be honoured.
    """
    problems: list[Problem] = []
    index = {name: number for number, name in enumerate(class_names)}
    shared: dict[LabelClaim, LabelVector] = {}
    vectors: dict[str, LabelVector] = {}
    for row in read_rows(path, ReaderOptions(), problems).rows:
        if row.claim not in shared:
            shared[row.claim] = _vector(row.claim, index, where=f"{path}, line {row.line}")
        vectors[row.image.replace("\\", "/").removeprefix("./")] = shared[row.claim]
    return Tags(vectors, len(class_names)), problems


def _vector(claim: LabelClaim, index: dict[str, int], *, where: str) -> LabelVector:
    vector = np.full(len(index), claim.rest, dtype=np.int8)
    states = ((claim.absent, ABSENT), (claim.unknown, UNKNOWN), (claim.present, PRESENT))
    for names, state in states:
        for name in names:
            if name not in index:
                raise DataError(
                    f"the run has no class {name!r}", where=where, remedy=did_you_mean(name, index)
                )
            vector[index[name]] = state
    return vector
