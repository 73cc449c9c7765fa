"""A tree of plain values in, a slightly wrong one out.

Trees are lists, dicts, texts, numbers, bytes, None and `Raw`: text that is written as it stands.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any


@dataclass(frozen=True)
class Raw:
    """Text that a format's writer passes through, such as a number of 5,000 digits."""

    text: str


NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 5, 7, 100, 255, 256, 65_535, 10**6, 10**9, 2**31 - 1, 2**31, -(2**31), 2**32),
    *(2**53, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30),
    *(0.0, -0.0, 0.5, 1.5, -1e-9, 1e-320, 1e9, 1e18, 1e300, 1.7e308, -1e300),
    *(math.nan, math.inf, -math.inf, Raw("9" * 5000), Raw("1e999"), Raw("-"), Raw("0x10")),
)
TEXTS = (
    *("", " ", "\t", "\0", "a\nb", "\r", "a\u2028b", "\ufeff", "\ud800", "\udcff", "e\u0301"),
    *("../outside/secret.png", "/etc/passwd", "..", ".", "/", "a/../../b.png", "./a.png", "..\\x"),
    *("a" * 300, "b" * 300 + ".png", "cat", "CAT", " cat ", "dog", "0", "1", "-1", "1.0", "nan"),
    *("?", "?cat", ";", ",", ";;", "cat;dog", "=1+1", "@SUM(A1)", "\x1b[31mred", "<b>&amp;\"'"),
    *("%252e%252e", "%00", "CON", "a.tar::0+10", "hf-hub:owner/name", "x[y=1]", "{0..99999}"),
    *("resnet18[checkpoint_path=/etc/passwd]", "http://127.0.0.1:9/x.png", "file:///etc/passwd"),
    *("true", "null", "[]", "{}", "\u0661", "\u00b2", "inf", "1e400", "1_000", "9" * 5000),
    *("x" * 140_000, "train", "val", "__class__", "__proto__", "$undefined$"),
)
LINKS = (".", "..", "nowhere", "a.png", "images")


def deep(open_sign: str, close_sign: str, inside: str = "", levels: int = 1000) -> Raw:
    return Raw(open_sign * levels + inside + close_sign * levels)


def anything(random: Random) -> Any:
    """A value that is seldom right."""
    kind = random.random()
    if kind < 0.40:
        return random.choice(NUMBERS)
    if kind < 0.75:
        return random.choice(TEXTS)
    if kind < 0.80:
        return deep("[", "]", levels=random.choice((20, 300, 1000, 5000)))
    if kind < 0.83:
        return deep('{"a":', "}", "1", levels=random.choice((20, 1000, 3000)))
    if kind < 0.84:
        return [random.choice(NUMBERS[:12])] * random.choice((1000, 30_000))
    fixed: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"": None}, [1, 2, 3, 4])
    return copy.deepcopy(random.choice(fixed))


Path = tuple[Any, ...]
_MOST_NODES = 3000


def paths_of(tree: Any) -> list[Path]:
    """The way to every node, the root's first."""
    paths: list[Path] = [()]
    todo: list[tuple[Path, Any]] = [((), tree)]
    while todo:
        path, node = todo.pop()
        if not isinstance(node, dict | list):
            continue
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            paths.append((*path, key))
            todo.append(((*path, key), value))
        if len(paths) > _MOST_NODES:
            break
    return paths


def node_at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def mutated(tree: Any, random: Random) -> Any:
    """One change somewhere in a copy of the tree."""
    tree = copy.deepcopy(tree)
    paths = paths_of(tree)
    path = random.choice(paths)
    if not path:
        return anything(random) if random.random() < 0.05 else _inner(tree, tree, (), random)
    parent, key = node_at(tree, path[:-1]), path[-1]
    action = random.random()
    if action < 0.12:
        del parent[key]
    elif action < 0.24 and isinstance(parent, list):
        parent.insert(random.randint(0, len(parent)), copy.deepcopy(parent[key]))
    elif action < 0.24:
        parent[random.choice(TEXTS)] = parent.pop(key)
    elif action < 0.36:
        parent[key] = copy.deepcopy(node_at(tree, random.choice(paths[1:])))
    elif action < 0.40:
        parent[key] = random.choice(([parent[key]], {"a": parent[key]}))
    elif action < 0.70:
        parent[key] = anything(random)
    else:
        parent[key] = _inner(parent[key], tree, path, random)
    return tree


def _inner(value: Any, tree: Any, path: Path, random: Random) -> Any:
    """A change that keeps the type of a value."""
    if isinstance(value, str):
        return mutated_text(value, random)
    if isinstance(value, bytes):
        return mutated_bytes(value, random)
    if isinstance(value, bool) or value is None:
        return random.choice((True, False, None, 0, 1))
    if isinstance(value, int | float):
        changes: tuple[Callable[[], Any], ...] = (
            lambda: value + random.choice((1, -1, 0.5)),
            lambda: -value,
            lambda: value * random.choice((2, 10, 1000, 10**6)),
            lambda: str(value),
            lambda: random.choice(NUMBERS),
        )
        try:
            return random.choice(changes)()
        except OverflowError:
            return 0
    if isinstance(value, list) and value:
        shuffled = random.sample(value, len(value))
        return random.choice((shuffled, value[: len(value) // 2], value * random.choice((2, 50))))
    if isinstance(value, dict):
        return {**value, random.choice(TEXTS): anything(random)}
    return anything(random)


def mutated_text(text: str, random: Random) -> str:
    start = random.randint(0, len(text))
    end = min(len(text), start + random.choice((0, 0, 1, 2, 8)))
    action = random.random()
    if action < 0.15:
        return text[:start] + text[end:]
    if action < 0.25:
        return text * random.choice((2, 3, 40))
    if action < 0.35:
        sign = random.choice("\0\t\n\r\x1b\x80\u2028\ud800")
        return text[:start] + sign + text[end:]
    if action < 0.45:
        return random.choice((text.upper(), text.strip("s"), f" {text} ", text[::-1]))
    return text[:start] + random.choice(TEXTS)[:400] + text[end:]


PIECES = (
    *(b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r\n", b'"', b"'", b",", b"\\u0"),
    *(b"[", b"]", b"{", b"}", b"<", b">", b"&", b"*", b"&a", b"!!python/object/apply:os.system "),
    *(b"NaN", b"Infinity", b"-1", b"1e999", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"),
    *(b"9" * 40, b"\\ud800", b"%", b"../", b"\xc3\x28", b"<!DOCTYPE a [<!ENTITY b 'c'>]>"),
)


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """A few bytes changed, put in, left out, moved or repeated."""
    start = random.randint(0, len(content))
    end = min(len(content), start + random.choice((1, 1, 2, 4, 16, 256)))
    action = random.random()
    if action < 0.25 and content:
        at = random.randrange(len(content))
        return content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]
    if action < 0.40:
        return content[:start] + random.randbytes(end - start) + content[end:]
    if action < 0.55:
        return content[:start] + random.choice(PIECES) + content[end:]
    if action < 0.65:
        return content[:start] + content[end:]
    if action < 0.75:
        return content[:start]
    if action < 0.85:
        return content[:start] + content[start:end] * random.choice((2, 3, 100)) + content[end:]
    if action < 0.95:
        return content[:start] + random.choice(PIECES) + content[start:]
    return content[end:]
