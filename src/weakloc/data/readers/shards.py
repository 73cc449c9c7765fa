"""WebDataset shards: tar files in which the members of one sample follow each other.

Labels are a class number or name in `.cls`, names with `;` between them or one a line in `.txt`,
or in `.json` an object with `labels` written as in a table. A file `classes.txt` beside the shards
names the class numbers. Shards called `train-...` or lying in a folder `train` are that split.

A data set of shards holds where each image lies, some fifty bytes; its samples are made when asked
for, and their paths are opened like those of files.
"""

from __future__ import annotations

import os
import re
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from weakloc.data.images import member_path
from weakloc.data.readers.assembly import (
    ALL,
    SPLIT_NAMES,
    LabelClaim,
    LabelVectors,
    Problems,
    ReaderOptions,
    chosen_classes,
    finished_data_set,
)
from weakloc.data.readers.shard_members import (
    BROKEN_SHARD,
    ShardImage,
    find_shards,
    images_of_shard,
)
from weakloc.data.readers.table_rows import numbered_lines
from weakloc.errors import DataError
from weakloc.structures import DataSet, LabelVector, Sample


class ShardSplit(Sequence[Sample]):
    """The samples of one split, made when asked for from a few numbers each."""

    def __init__(self, shards: Sequence[str], names: Sequence[str]) -> None:
        self._shards = tuple(shards)
        self._shard_names = tuple(names)
        self._shard_of = array("i")
        self._offsets = array("q")
        self._sizes = array("q")
        self._claims = array("i")
        self._name_ends = array("q")
        self._names = bytearray()
        self._vectors: tuple[LabelVector, ...] = ()

    def append(self, shard_index: int, image: ShardImage, claim_index: int) -> None:
        self._shard_of.append(shard_index)
        self._offsets.append(image.offset)
        self._sizes.append(image.size)
        self._claims.append(claim_index)
        self._names += image.name.encode("utf-8", "surrogateescape")
        self._name_ends.append(len(self._names))

    def label(self, vectors: Sequence[LabelVector]) -> list[LabelVector]:
        """Gives each claim its vector; returns those that occur here."""
        self._vectors = tuple(vectors)
        return [self._vectors[claim] for claim in sorted(set(self._claims))]

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        start = self._name_ends[position - 1] if position else 0
        name = self._names[start : self._name_ends[position]].decode("utf-8", "surrogateescape")
        shard = self._shard_of[position]
        path = member_path(
            self._shards[shard], offset=self._offsets[position], size=self._sizes[position]
        )
        labels = self._vectors[self._claims[position]]
        return Sample(f"{self._shard_names[shard]}/{name}", path, labels)


def read_shards(path: Path, labels: Path | None, options: ReaderOptions) -> DataSet:
    """A tar file, a pattern like `shard-{00..09}.tar`, or a folder; `labels` lists the classes."""
    shards = find_shards(path.as_posix())
    root = Path(os.path.commonpath([Path(shard).parent for shard in shards]))
    listed = labels or root / "classes.txt"
    numbered = options.class_names
    if numbered is None and listed.is_file():
        numbered = tuple(line for _, line in numbered_lines(listed))
    problems = Problems()
    claims: dict[LabelClaim, int] = {}
    names = [Path(shard).relative_to(root).as_posix() for shard in shards]
    splits: dict[str, ShardSplit] = {}
    for number, shard in enumerate(shards):
        split = splits.setdefault(_split_of(names[number]), ShardSplit(shards, names))
        for image in _headers(shard, numbered, problems):
            split.append(number, image, claims.setdefault(image.claim, len(claims)))
    named = sorted({name for claim in claims for name in claim.names}, key=_numbers_by_size)
    vectors = LabelVectors(chosen_classes(numbered or named, options))
    for claim in claims:
        vectors.report_strangers(claim, problems.at(root.as_posix()))
    in_order = [vectors.of(claim) for claim in claims]
    used = {split: part.label(in_order) for split, part in splits.items()}
    return finished_data_set(
        DataSet(root, "shards", tuple(vectors.class_index), splits, tuple(problems.listed)), used
    )


def _headers(
    shard: str, numbered: Sequence[str] | None, problems: Problems
) -> Iterator[ShardImage]:
    """The images of a shard without their content; the images are jumped over, not read."""
    if not tarfile.is_tarfile(shard):
        message = "is not a tar file"
        problems.at(shard).error(BROKEN_SHARD, message)
        return
    try:
        tarfile.open(shard, "r:").close()
    except tarfile.TarError as error:
        raise DataError(
            "is compressed, so that its images cannot be reached singly",
            where=shard,
            remedy="Decompress it; `weakloc predict` alone reads it as it is",
        ) from error
    yield from images_of_shard(shard, numbered, mode="r:", read_image=_nothing, problems=problems)


def _nothing(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    del tar, member
    return b""


def _split_of(name: str) -> str:
    """By the folder of a shard, else by what its name begins with."""
    folder, _, file = name.rpartition("/")
    start = re.split(r"[-_.\d]", file, maxsplit=1)[0]
    return SPLIT_NAMES.get(folder.lower(), SPLIT_NAMES.get(start.lower(), ALL))


def _numbers_by_size(name: str) -> tuple[int, int, str]:
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)
