"""Stages of one long work into one folder: each done once for its inputs, all shown as one.

A record in the folder holds a digest of what each stage was made from. The same work begun again
passes over what is done; a changed input does its stage anew and what follows from it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from msgspec import Struct, to_builtins

from weakloc.errors import DataError
from weakloc.files import fit_json, read_json, require_own, write_json
from weakloc.work import Display

StageResult: TypeAlias = Mapping[str, Any]  # what later stages need of one, as JSON values
RECORD_NAME = "label.json"
FORMAT = "weakloc.label/1"


class StageRecord(Struct):
    """`digest` is that of its inputs; a stage that was begun has no result yet."""

    digest: str
    is_done: bool
    result: dict[str, Any]
    seconds: float = 0.0  # of the call that finished it


class FolderRecord(Struct):
    """What label.json holds: `source` is what the work is done on."""

    source: str
    stages: dict[str, StageRecord]
    format: str = FORMAT


def open_record(folder: Path, source: str) -> FolderRecord:
    """What was done in the folder; DataError where somebody else's work lies there."""
    file, remedy = folder / RECORD_NAME, "Give another --out"
    if not file.is_file():
        require_own(folder, ("*",))
        return FolderRecord(source, {})
    content = read_json(file, error=DataError, remedy=remedy)
    try:
        record = fit_json(content, FolderRecord)
    except ValueError as error:
        raise DataError(f"is damaged: {error}", location=str(file), remedy=remedy) from error
    if (record.format, record.source) != (FORMAT, source):
        reason = f"belongs to another labelling: that of {record.source} ({record.format})"
        raise DataError(reason, location=str(file), remedy=remedy)
    return record


def digest_of(inputs: Any) -> str:
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass
class Stages:
    """The stages of a folder, in the order in which they are done.

    `costs` are shares of the time that each still takes, in any unit; what is passed over, or was
    never named, costs nothing.
    """

    folder: Path
    record: FolderRecord
    display: Display
    costs: dict[str, float] = field(default_factory=dict)
    _shares: dict[str, float] = field(default_factory=dict)  # stage -> how much of it is done
    _began: float | None = None

    def do(
        self,
        name: str,
        inputs: Any,
        work: Callable[[bool], StageResult],
        *,
        made: Sequence[Path] = (),
    ) -> StageResult:
        """The result of a stage; `work` is called where it is not there yet for these inputs.

        It is told whether it goes on with what it was stopped in. `made` are its files.
        """
        digest, stored = digest_of(inputs), self.record.stages.get(name)
        is_same = stored is not None and stored.digest == digest
        if stored and is_same and stored.is_done and all(path.exists() for path in made):
            self.costs.pop(name, None)
            return stored.result
        self._keep(name, StageRecord(digest, False, {}))
        self.show(name, name, 0.0)
        began = time.monotonic()
        result = work(is_same)
        seconds = round(time.monotonic() - began, 1)
        self._keep(name, StageRecord(digest, True, dict(result), seconds))
        self._shares[name] = 1.0
        return result

    def show(self, name: str, text: str, share: float) -> None:
        """Says that so much of a stage is done; the text says what is being done."""
        now = time.monotonic()
        self._began = self._began or now
        self._shares[name] = max(share, self._shares.get(name, 0.0))
        total = sum(self.costs.values())
        if total:
            done = sum(self.costs[key] * self._shares.get(key, 0.0) for key in self.costs) / total
            seconds = (now - self._began) * (1 - done) / done if done > 0.03 else None
            self.display.share(text, done, seconds)

    def _keep(self, name: str, stage: StageRecord) -> None:
        self.record.stages[name] = stage
        write_json(self.folder / RECORD_NAME, to_builtins(self.record))
