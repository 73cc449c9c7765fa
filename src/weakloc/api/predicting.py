"""Predictions of any number of images into a folder, in parts, by any number of processes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from weakloc import __version__
from weakloc.api.side_files import SideFiles
from weakloc.files import open_whole
from weakloc.output.exporters.jsonl import prediction_line
from weakloc.predictor.parts import Part, PartStore, cut_into_parts
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.ranks import joined_ranks
from weakloc.predictor.sources import find_images
from weakloc.predictor.tags import Tags
from weakloc.structures import BrokenImage

PART_SIZE = 256  # images: at most so many are lost when a run is killed
NOTHING = SideFiles()
OnProgress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Written:
    """What lies in the folder; only the first of several processes has counts."""

    predictions: Path
    skipped: Path
    num_done: int
    num_skipped: int
    others: Mapping[str, Path] = field(default_factory=dict)
    is_first_rank: bool = True


def predict_to_folder(
    predictor: Predictor,
    images: str,
    out: Path,
    *,
    described: Mapping[str, Any],
    tags: Tags | None = None,
    beside: SideFiles = NOTHING,
    resume: bool = False,
    part_size: int = PART_SIZE,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Written:
    """predictions.jsonl, skipped.jsonl and predictions.json in `out`.

    `described` says what made them (run, tags) and, with the settings, guards a resumed run
    against parts that something else made. Under torchrun the ranks share the parts.
    """
    store = PartStore(out / "parts")
    work = _Work(predictor, tags, beside, out, part_size)
    described = {**described, "images": images, "settings": asdict(predictor.settings)}
    guarded = {"part_size": part_size, "heat_maps": beside.heat_maps, "draw": beside.num_drawn}
    parts = cut_into_parts(find_images(images), size=part_size)
    first = next(parts)  # nothing is made in `out` before the first image is found
    with joined_ranks() as ranks:
        if ranks.rank == 0:
            store.open({**described, **guarded}, resume=resume)
        ranks.wait_for_all()
        stems = []
        num_seen = 0
        for part in itertools.chain((first,), parts):
            stems.append(part.stem)
            if part.index % ranks.world_size == ranks.rank and not store.is_done(part):
                store.write(part, *work.lines(part))
            num_seen += len(part.images)
            on_progress(num_seen, None)
        ranks.wait_for_all()
        predictions, skipped = out / "predictions.jsonl", out / "skipped.jsonl"
        if ranks.rank != 0:
            return Written(predictions, skipped, 0, 0, is_first_rank=False)
        num_done, num_skipped = store.join(stems, predictions, skipped)
        counts = {"num_done": num_done, "num_skipped": num_skipped}
        _write_summary(out / "predictions.json", predictor, {**described, **counts})
        others = beside.finish(out, predictions)
    return Written(predictions, skipped, num_done, num_skipped, others)


@dataclass(frozen=True)
class _Work:
    """What is done with every part."""

    predictor: Predictor
    tags: Tags | None
    beside: SideFiles
    out: Path
    part_size: int

    def lines(self, part: Part) -> tuple[list[str], list[str]]:
        """The lines of predictions.jsonl and of skipped.jsonl."""
        lines: list[str] = []
        skipped: list[str] = []
        answers = self.predictor.predict_with_heat(part.images, self.tags)
        for number, answer in enumerate(answers, start=part.index * self.part_size):
            if isinstance(answer, BrokenImage):
                record = {"image": answer.name, "reason": answer.reason}
                skipped.append(json.dumps(record, ensure_ascii=False) + "\n")
            else:
                self.beside.write(self.out, number, answer)
                lines.append(prediction_line(answer.prediction))
        return lines, skipped


def _write_summary(path: Path, predictor: Predictor, described: Mapping[str, Any]) -> None:
    names, locating = predictor.source.class_names, predictor.locating
    record = {
        "format": "weakloc.predictions.summary/1",
        "version": __version__,
        **described,
        "classes": list(names),
        "thresholds": dict(zip(names, locating.thresholds, strict=True)),
    }
    with open_whole(path) as file:
        json.dump(record, file, indent=2, ensure_ascii=False)
        file.write("\n")
