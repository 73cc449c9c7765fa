"""cells.safetensors in a run folder: what `weakloc refine` learned, bound to the run's weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors

from weakloc.config import RefineSettings
from weakloc.errors import RunError
from weakloc.files import write_whole
from weakloc.methods.settings import to_settings
from weakloc.model.backbones import Backbone
from weakloc.model.cell_classifier import CellClassifier
from weakloc.training.features import digest_of_weights
from weakloc.training.saving import cannot_save

CELLS_NAME = "cells.safetensors"
FORMAT = "weakloc.cells.1"


def save_cells(
    folder: Path, cells: CellClassifier, backbone: Backbone, settings: RefineSettings
) -> None:
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in cells.state_dict().items()
    }
    facts = {
        "channels": {str(level): count for level, count in cells.channels.items()},
        "backbone": digest_of_weights(backbone),
        "settings": to_settings(settings),
    }
    content = save_tensors(tensors, metadata={"format": FORMAT, "facts": json.dumps(facts)})
    try:
        with write_whole(folder / CELLS_NAME) as temporary, temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_save(folder, error) from error


def load_cells(folder: Path, backbone: Backbone, num_classes: int) -> CellClassifier | None:
    """None where the run was never refined."""
    path = folder / CELLS_NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = _facts(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        channels = {int(level): int(count) for level, count in facts["channels"].items()}
        cells = CellClassifier(channels, num_classes)
        cells.load_state_dict(tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _unfit(path, f"it cannot be read ({str(error).splitlines()[0]})") from error
    if facts["backbone"] != digest_of_weights(backbone):
        raise _unfit(path, "it belongs to other weights than those of this run")
    return cells.eval()


def _facts(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    if metadata is None or metadata.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    facts: dict[str, Any] = json.loads(metadata["facts"])
    return facts


def _unfit(path: Path, reason: str) -> RunError:
    return RunError(
        reason,
        where=str(path),
        remedy="Delete the file, and run 'weakloc refine' again for a new one",
    )
