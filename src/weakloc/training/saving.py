"""What continues a run, and what is said when it cannot be written."""

from __future__ import annotations

from pathlib import Path

from weakloc.errors import TrainingError

CHECKPOINT_NAME = "last.ckpt"


def cannot_save(path: Path, error: Exception) -> TrainingError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return TrainingError(
        f"cannot be saved ({reason})",
        where=str(path),
        remedy="Free space on the disk and continue with --resume from what was saved before",
    )
