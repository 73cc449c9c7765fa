"""An input that ends badly in, a smaller one that ends in the same way out; and cases in files."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.arena import Finding, run
from tests.fuzz.inputs import Entry, Input, input_of

CASES = Path(__file__).parent / "cases"
SECONDS_TO_SHRINK = 40.0


def keep(finding: Finding, *, seed: int, folder: Path) -> Path:
    """The smallest input that is found in a while, as a case."""
    small = shrunk(input_of(finding.target, seed, finding.number), finding)
    words = re.sub(r"[^A-Za-z0-9]+", "-", f"{finding.outcome} {finding.signature}").strip("-")
    path = folder / f"{finding.target}-{words[:90].lower()}.json"
    write_case(path, small, said=finding.detail or finding.signature)
    return path


def shrunk(made: Input, finding: Finding) -> Input:
    """Files left out, then halves, quarters, eighths ... of what is in them."""
    until = time.monotonic() + SECONDS_TO_SHRINK
    while time.monotonic() < until:
        candidates = [Input(made.target, smaller) for smaller in _smaller(made.entries)]
        chosen = _first_that_ends_alike(candidates, finding, until)
        if chosen is None:
            break
        made = chosen
    return made


def _smaller(entries: Mapping[str, Entry]) -> Iterator[dict[str, Entry]]:
    """Each piece left out, the largest first."""
    for name in entries:
        yield {other: entry for other, entry in entries.items() if other != name}
    largest_first = sorted(entries, key=lambda name: -len(entries[name][1]))
    for pieces in (2, 4, 8, 16, 32, 64):
        for name in largest_first:
            kind, content = entries[name]
            size = -(-len(content) // pieces)
            for at in range(0, len(content), max(size, 1)):
                yield {**entries, name: (kind, content[:at] + content[at + size :])}


def _first_that_ends_alike(
    candidates: Sequence[Input], finding: Finding, until: float
) -> Input | None:
    start = 0
    while start < len(candidates) and time.monotonic() < until:
        at_once = 8 if finding.outcome in ("hang", "memory", "crash") else 64
        batch = candidates[start : start + at_once]
        tally = run(batch.__getitem__, len(batch), target=finding.target, until=until)
        alike = [f.number for s, f in tally.findings.items() if s == finding.signature]
        if alike:
            return batch[alike[0]]
        start += at_once
    return None


def write_case(path: Path, made: Input, *, said: str) -> None:
    """`said` tells what came of it when it was found."""
    entries: dict[str, Any] = {}
    for name, (kind, content) in made.entries.items():
        try:
            written = {"text": content.decode("utf-8")}
        except UnicodeDecodeError:
            written = {"base64": base64.b64encode(content).decode()}
        entries[name] = {**written, **({} if kind == "file" else {"kind": kind})}
    record = {"target": made.target, "found": said, "files": entries}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_case(path: Path) -> Input:
    record = json.loads(path.read_text("utf-8"))
    entries: dict[str, Entry] = {}
    for name, entry in record["files"].items():
        text = entry.get("text")
        content = base64.b64decode(entry["base64"]) if text is None else text.encode("utf-8")
        entries[name] = (entry.get("kind", "file"), content)
    return Input(record["target"], entries)
