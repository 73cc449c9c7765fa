"""WebDataset shards: tar files in which the members of one sample follow each other.

Labels are a class number or name in `.cls`, names with `;` between them or one a line in `.txt`,
or in `.json` an object with `labels` written as in a table. A file `classes.txt` beside the shards
names the class numbers. Shards called `train-...` or lying in a folder `train` are that split.

A data set of shards holds where each image lies, some fifty bytes; its samples are made when asked
for, and their paths are opened like those of files.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from weakloc.data.images import member_path
from weakloc.data.readers.assembly import (
    ALL,
    NOTHING_KNOWN,
    SPLIT_NAMES,
    LabelClaim,
    LabelVectors,
    Oddity,
    Problems,
    chosen_classes,
    finished_data_set,
)
from weakloc.data.readers.file_tree import file_names, is_image_name, join, subfolders
from weakloc.data.readers.table import LABELS_HEADERS, claim_of_json, claim_of_list
from weakloc.errors import DataError
from weakloc.files import numbered_lines, parse_foreign_json, path_of
from weakloc.settings import ReaderOptions
from weakloc.structures import DataSet, LabelVector, Sample

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_LABEL_KINDS = ("cls", "json", "txt")  # the first that a sample has counts
_BRACES = re.compile(r"\{([^{}]*)\}")
_ROW = struct.Struct("=iiqqq")  # numbers of the shard and the claim, offset, size, name's end
ReadImage = Callable[[tarfile.TarFile, tarfile.TarInfo], bytes]


@dataclass(frozen=True, slots=True)
class ShardImage:
    """One image of a shard; the member says where it lies, content what was read of it."""

    member: tarfile.TarInfo
    claim: LabelClaim
    content: bytes


MOST_SHARDS = 100_000
MOST_BYTES = 2**29  # of one member


def expand_braces(pattern: str) -> list[str]:
    """`shard-{0000..0009}.tar` or `{train,val}.tar` -> all names, as a shell would."""
    pieces = _BRACES.split(pattern)  # text, braced, text, braced, ..., text
    choices = [[text] if n % 2 == 0 else _choices(text) for n, text in enumerate(pieces)]
    if math.prod(map(len, choices)) > MOST_SHARDS:
        raise DataError(f"names more than {MOST_SHARDS:,} shards", location=pattern)
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(braced: str) -> list[str]:
    bounds = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", braced)
    if bounds is None:
        return braced.split(",") if "," in braced else [f"{{{braced}}}"]
    first, last = int(bounds[1]), int(bounds[2])
    digits = len(bounds[1]) if bounds[1].startswith("0") else 0
    step = 1 if first <= last else -1
    numbers = itertools.islice(range(first, last + step, step), MOST_SHARDS + 1)
    return [f"{number:0{digits}d}" for number in numbers]


def find_shards(path: str) -> list[str]:
    """The shards of a pattern, of a tar file, or of a folder and the folders in it."""
    if "{" in path and not path_of(path).exists():
        names = expand_braces(path)
    elif path_of(path).is_dir():
        folders = [path, *(f"{path}/{name}" for name in subfolders(path))]
        names = [f"{f}/{n}" for f in folders for n in file_names(f) if n.endswith(SHARD_SUFFIXES)]
    else:
        names = [path]
    missing = [name for name in names if not path_of(name).is_file()]
    if missing:
        message = f"{len(missing)} of {len(names)} shards do not exist, such as {missing[0]}"
        raise DataError(message, location=path)
    if not names:
        raise DataError("holds no tar shards", location=path)
    return names


def jump_over(_tar: tarfile.TarFile, _member: tarfile.TarInfo) -> bytes:
    return b""


def read_content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MOST_BYTES:
        raise tarfile.ReadError(f"{member.name} has {member.size:,} bytes")
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def images_of_shard(
    shard: str,
    numbered: Sequence[str] | None,
    problems: Problems,
    read_image: ReadImage = jump_over,
) -> Iterator[ShardImage]:
    """The images of one shard; `numbered` names the class numbers.

    Where their content is read, the shard is read once from end to end, and may be compressed.
    """
    mode: Any = "r:" if read_image is jump_over else "r|*"
    try:
        with path_of(shard).open("rb") as file, tarfile.open(fileobj=file, mode=mode) as tar:
            for key, members in itertools.groupby(_members(tar), _key_of):
                at_key = problems.at(f"{Path(shard).name}, {key}")
                if image := _image_of_sample(tar, members, numbered, read_image, at_key):
                    yield image
            # tarfile stops in silence before the zeros that end a file; decompression would fail.
            is_plain = getattr(tar.fileobj, "comptype", "tar") == "tar"
            if is_plain and file.seek(0, os.SEEK_END) < tar.offset + tarfile.BLOCKSIZE:
                message = "ends without a tar file's end mark, so that samples may be missing"
                problems.at(shard).error(Oddity.BROKEN_SHARD, message)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        problems.at(shard).error(Oddity.BROKEN_SHARD, f"cannot be read to its end: {error}")


def _image_of_sample(
    tar: tarfile.TarFile,
    members: Iterable[tarfile.TarInfo],
    numbered: Sequence[str] | None,
    read_image: ReadImage,
    problems: Problems,
) -> ShardImage | None:
    image, content, labels = None, b"", dict[str, bytes]()
    for member in members:
        name = member.name.rpartition("/")[2]
        kind = name.partition(".")[2]
        if is_image_name(name):
            if image is not None and member.name == image.name:
                problems.warning(Oddity.DUPLICATE_IMAGE, f"'{member.name}' comes twice")
            elif image is None or (
                # What was met before is something beside the image, such as `12.mask.png`.
                "." not in kind and image.name.rpartition("/")[2].count(".") > 1
            ):
                image, content = member, read_image(tar, member)
        elif kind in _LABEL_KINDS:
            labels[kind] = read_content(tar, member)
    claim = _claim(labels, numbered, problems)
    if image is None:
        if labels:
            problems.error(Oddity.LABEL_FOR_NO_IMAGE, "there are labels but no image")
        return None
    if claim is None:
        problems.warning(Oddity.IMAGE_WITHOUT_LABELS, "nothing is known of it")
    return ShardImage(image, claim or NOTHING_KNOWN, content)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The visible files."""
    while (member := tar.next()) is not None:
        vars(tar)["members"].clear()  # tarfile keeps every header that it has met
        if member.isfile() and not member.name.rpartition("/")[2].startswith("."):
            yield member


def _key_of(member: tarfile.TarInfo) -> str:
    folder, _, name = member.name.rpartition("/")
    return join(folder, name.partition(".")[0])


def _claim(
    labels: Mapping[str, bytes], numbered: Sequence[str] | None, problems: Problems
) -> LabelClaim | None:
    kind = next((kind for kind in _LABEL_KINDS if kind in labels), None)
    if kind is None:
        return None
    try:
        text = labels[kind].decode("utf-8-sig").strip()
        if kind == "json":
            return _claim_of_record(parse_foreign_json(text), numbered, problems)
        names = [text] if kind == "cls" else re.split(r"[;\n]", text)
        return claim_of_list([_named(name, numbered) for name in names])
    except ValueError as error:
        problems.error(Oddity.UNREADABLE_LABEL, f".{kind}: {error}")
        return None


def _claim_of_record(record: Any, numbered: Sequence[str] | None, problems: Problems) -> LabelClaim:
    written = record
    if isinstance(record, dict):
        key = next((name for name in LABELS_HEADERS if name in record), None)
        if key is None:
            raise ValueError(f"there are no labels among {', '.join(record)}")
        written = record[key]
    if isinstance(written, int) and not isinstance(written, bool):
        written = [written]
    if isinstance(written, list):
        return claim_of_list([_named(str(name), numbered) for name in written])
    return claim_of_json(written, ";", problems)


def _named(text: str, numbered: Sequence[str] | None) -> str:
    """The class that a number stands for, where the numbers have names."""
    name = text.strip()
    if numbered is None or name in numbered or not name.isdecimal():
        return name
    if len(name) > 9 or int(name) >= len(numbered):
        raise ValueError(f"class {name} is not among the {len(numbered)} names")
    return numbered[int(name)]


class ShardSplit(Sequence[Sample]):
    """The samples of one split, made when asked for from a few numbers each."""

    def __init__(self, shards: Sequence[str], names: Sequence[str]) -> None:
        self._shards, self._shard_names = tuple(shards), tuple(names)
        self._rows, self._names = bytearray(), bytearray()
        self._claims: set[int] = set()
        self._vectors: tuple[LabelVector, ...] = ()

    def append(self, shard_index: int, image: ShardImage, claim_index: int) -> None:
        self._names += image.member.name.encode("utf-8", "surrogateescape")
        offset, size = image.member.offset_data, image.member.size
        self._rows += _ROW.pack(shard_index, claim_index, offset, size, len(self._names))
        self._claims.add(claim_index)

    def label(self, vectors: Sequence[LabelVector]) -> list[LabelVector]:
        """Gives each claim its vector; returns those that occur here."""
        self._vectors = tuple(vectors)
        return [self._vectors[claim] for claim in sorted(self._claims)]

    def __len__(self) -> int:
        return len(self._rows) // _ROW.size

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        start = self._row(position - 1)[-1] if position else 0
        shard, claim, offset, size, end = self._row(position)
        name = self._names[start:end].decode("utf-8", "surrogateescape")
        path = member_path(self._shards[shard], offset=offset, size=size)
        return Sample(f"{self._shard_names[shard]}/{name}", path, self._vectors[claim])

    def _row(self, position: int) -> tuple[int, ...]:
        return _ROW.unpack_from(self._rows, position * _ROW.size)


def read_shards(path: Path, labels: Path | None, options: ReaderOptions) -> DataSet:
    """A tar file, a pattern like `shard-{00..09}.tar`, or a folder; `labels` lists the classes."""
    shards = find_shards(path.as_posix())
    root = path_of(Path(os.path.commonpath([path_of(shard).parent for shard in shards])))
    listed = labels or root / "classes.txt"
    numbered = options.class_names
    if numbered is None and listed.is_file():
        numbered = tuple(line for _, line in numbered_lines(listed))
    problems = Problems()
    claims: dict[LabelClaim, int] = {}
    names = [path_of(shard).relative_to(root).as_posix() for shard in shards]
    splits: dict[str, ShardSplit] = {}
    for number, shard in enumerate(shards):
        if not shard.endswith(".tar"):
            raise DataError(
                "is compressed, so that its images cannot be reached singly",
                location=shard,
                remedy="Decompress it; `weakloc predict` alone reads it as it is",
            )
        split = splits.setdefault(_split_of(names[number]), ShardSplit(shards, names))
        for image in images_of_shard(shard, numbered, problems):
            split.append(number, image, claims.setdefault(image.claim, len(claims)))
    named = sorted({name for claim in claims for name in claim.names})
    # 9 before 10
    named.sort(key=lambda name: int(name) if name.isdecimal() and len(name) < 10 else math.inf)
    vectors = LabelVectors(chosen_classes(numbered or named, options))
    for claim in claims:
        vectors.report_strangers(claim, problems.at(root.as_posix()))
    in_order = [vectors.of(claim) for claim in claims]
    used = {split: part.label(in_order) for split, part in splits.items()}
    return finished_data_set(
        DataSet(root, "shards", tuple(vectors.class_index), splits, tuple(problems.listed)), used
    )


def _split_of(name: str) -> str:
    """By the folder of a shard, else by what its name begins with."""
    folder, _, file = name.rpartition("/")
    start = re.split(r"[-_.\d]", file, maxsplit=1)[0]
    return SPLIT_NAMES.get(folder.lower(), SPLIT_NAMES.get(start.lower(), ALL))
