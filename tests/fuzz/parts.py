"""Trees in, the bytes of files out: one writer a format, none of which minds what it is given."""

from __future__ import annotations

import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.fuzz.trees import Raw


@dataclass(frozen=True)
class Part:
    """One file of an input: how its tree is written, and the tree."""

    kind: str
    tree: Any

    def content(self) -> bytes:
        return WRITERS[self.kind](self.tree)


def as_bytes(value: Any) -> bytes:
    """Any value as a piece of a file."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, Raw):
        return value.text.encode("utf-8", "surrogatepass")
    if isinstance(value, Part):
        return value.content()
    text = "" if value is None else value if isinstance(value, str) else shown(value)
    return text.encode("utf-8", "surrogateescape" if _is_escaped(text) else "surrogatepass")


def _is_escaped(text: str) -> bool:
    return any("\udc80" <= letter <= "\udcff" for letter in text) and not any(
        "\ud800" <= letter < "\udc80" for letter in text
    )


def shown(value: Any) -> str:
    return str(value)[:300_000]


def as_int(value: Any, most: int = 2**63 - 1) -> int:
    """Any value as a whole number from 0 to `most`."""
    try:
        return max(0, min(int(value), most))
    except (TypeError, ValueError, OverflowError):
        return 0


def json_bytes(tree: Any) -> bytes:
    """JSON, with what is no JSON where a tree holds it."""
    pieces: list[bytes] = []
    _put_json(tree, pieces)
    return b"".join(pieces)


def _put_json(value: Any, pieces: list[bytes]) -> None:
    if isinstance(value, dict) and value.keys() == {"@xml"}:  # a document as a text in another
        _put_json(xml(value["@xml"]).decode("utf-8", "replace"), pieces)
    elif isinstance(value, dict):
        pieces.append(b"{")
        for number, (key, inner) in enumerate(value.items()):
            pieces.append(b", " if number else b"")
            # YAML's numbers of classes are no texts.
            pieces.append(str(key).encode()) if isinstance(key, int) else _put_json(key, pieces)
            pieces.append(b": ")
            _put_json(inner, pieces)
        pieces.append(b"}")
    elif isinstance(value, list):
        pieces.append(b"[")
        for number, inner in enumerate(value):
            pieces.append(b", " if number else b"")
            _put_json(inner, pieces)
        pieces.append(b"]")
    elif isinstance(value, Raw | Part | bytes):
        pieces.append(as_bytes(value))
    else:
        pieces.append(json.dumps(value).encode())


def json_lines(tree: Any) -> bytes:
    return b"".join(json_bytes(record) + b"\n" for record in items(tree))


def items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else [value]


def words(tree: Any) -> bytes:
    """Lines of words with blanks between them."""
    return _lines(tree, b" ")


def tabs(tree: Any) -> bytes:
    return _lines(tree, b"\t")


def commas(tree: Any) -> bytes:
    return _lines(tree, b",")


def _lines(tree: Any, sign: bytes) -> bytes:
    return b"".join(sign.join(map(as_bytes, items(line))) + b"\n" for line in items(tree))


def table(tree: Any) -> bytes:
    """Comma-separated values, quoted where it matters."""
    return b"".join(b",".join(map(_cell, items(row))) + b"\n" for row in items(tree))


def _cell(value: Any) -> bytes:
    content = as_bytes(value)
    if isinstance(value, str) and any(sign in content for sign in (b",", b'"', b"\n")):
        return b'"' + content.replace(b'"', b'""') + b'"'
    return content


def xml(tree: Any) -> bytes:
    """[tag, attributes, children], or text."""
    if not (isinstance(tree, list) and len(tree) == 3 and isinstance(tree[1], dict)):
        return b"".join(map(xml, tree)) if isinstance(tree, list) else as_bytes(tree)
    tag = as_bytes(tree[0])
    attributes = b"".join(
        b" " + as_bytes(name) + b'="' + as_bytes(value).replace(b'"', b"&quot;") + b'"'
        for name, value in tree[1].items()
    )
    inside = b"".join(map(xml, items(tree[2])))
    return b"<" + tag + attributes + b">" + inside + b"</" + tag + b">"


def yaml(tree: Any) -> bytes:
    """The outermost keys as a block, everything below them as JSON, which YAML reads."""
    if not isinstance(tree, dict):
        return json_bytes(tree)
    return b"".join(
        as_bytes(key) + b": " + json_bytes(value) + b"\n" for key, value in tree.items()
    )


TAR_TYPES = tuple(b"0127345gxLKS")


def tar(tree: Any) -> bytes:
    """Members with a name, a content and whatever their headers claim."""
    pieces: list[bytes] = []
    for member in items(tree):
        if not isinstance(member, dict):
            pieces.append(as_bytes(member))
            continue
        content = as_bytes(member.get("content"))
        header = tarfile.TarInfo(_as_tar_text(member.get("name"))[:5000])
        claimed = member.get("size")
        header.size = len(content) if claimed is None else as_int(claimed, 8**11 - 1)
        header.type = bytes([TAR_TYPES[as_int(member.get("type", 0)) % len(TAR_TYPES)]])
        header.linkname = _as_tar_text(member.get("link"))[:90]
        pieces.append(header.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape"))
        pieces.append(content + b"\0" * (-len(content) % 512))
    return b"".join(pieces) + b"\0" * 1024


def _as_tar_text(value: Any) -> str:
    return as_bytes(value).decode("utf-8", "surrogateescape").replace("\0", "?")


def png(tree: Any) -> bytes:
    """Chunks with right checksums: [name, content], the content bytes or a list of numbers."""
    pieces = [b"\x89PNG\r\n\x1a\n"]
    for chunk in items(tree):
        name, content = (*items(chunk), b"", b"")[:2]
        body = packed(content)
        named = (as_bytes(name) + b"\0\0\0\0")[:4] + body
        pieces += [struct.pack(">I", len(body)), named, struct.pack(">I", zlib.crc32(named))]
    return b"".join(pieces)


def packed(value: Any, order: str = ">") -> bytes:
    """Bytes as they are, [width, number] pairs as numbers of that many bytes."""
    if not isinstance(value, list):
        return as_bytes(value)
    pieces = []
    for item in value:
        if isinstance(item, list) and len(item) == 2:
            width = as_int(item[0], 8)
            pieces.append(
                (as_int(item[1]) % 256**width).to_bytes(width, "big" if order == ">" else "little")
            )
        else:
            pieces.append(as_bytes(item))
    return b"".join(pieces)


def numbers(tree: Any) -> bytes:
    return packed(tree)


def little_numbers(tree: Any) -> bytes:
    return packed(tree, "<")


def safetensors(tree: Any) -> bytes:
    """A header of JSON with its length before it, and the data."""
    if not isinstance(tree, dict):
        return as_bytes(tree)
    header = json_bytes(tree.get("header"))
    length = tree.get("length")
    claimed = len(header) if length is None else as_int(length, 2**64 - 1)
    return struct.pack("<Q", claimed) + header + as_bytes(tree.get("data"))


def onnx(tree: Any) -> bytes:
    """A small network's file with this metadata: protobuf's fields 14 of the model behind it."""
    if not isinstance(tree, dict):
        return as_bytes(tree)
    pieces = [as_bytes(tree.get("network"))]
    metadata = tree.get("metadata")
    for key, value in metadata.items() if isinstance(metadata, dict) else ():
        written = json_bytes(value)
        entry = _field(1, as_bytes(key)) + _field(2, written)
        pieces.append(_field(14, entry))
    return b"".join(pieces)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    pieces = bytearray()
    while value > 127:
        pieces.append(value & 127 | 128)
        value >>= 7
    return bytes((*pieces, value))


WRITERS: Mapping[str, Callable[[Any], bytes]] = {
    "raw": as_bytes,
    "json": json_bytes,
    "jsonl": json_lines,
    "words": words,
    "tabs": tabs,
    "commas": commas,
    "table": table,
    "xml": xml,
    "yaml": yaml,
    "tar": tar,
    "png": png,
    "numbers": numbers,
    "little": little_numbers,
    "safetensors": safetensors,
    "onnx": onnx,
}
