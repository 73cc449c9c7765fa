"""How training shows where it is: a bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

from lightning.pytorch import Callback, LightningModule, Trainer
from rich import progress as bars
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn

from weakloc.training.checkpointing import Keeper
from weakloc.training.module import LocalizationModule
from weakloc.work import Progress, silent

ProgressStyle: TypeAlias = Literal["auto", "bar", "lines", "quiet"]
_COLUMNS = (
    TextColumn("epoch {task.fields[epoch]}"),
    BarColumn(),
    TextColumn("loss {task.fields[loss]}  mAP {task.fields[map]}  {task.fields[rate]} images/s"),
    TextColumn("left"),
    TimeRemainingColumn(),
)


def resolve(style: ProgressStyle) -> ProgressStyle:
    """A bar where standard error is a terminal, else lines."""
    if style != "auto":
        return style
    return "bar" if sys.stderr.isatty() else "lines"


class TrainingProgress(Callback):
    """One bar over the whole training, or one line an epoch, on standard error."""

    def __init__(self, style: ProgressStyle, keeper: Keeper) -> None:
        self._style = resolve(style)
        self._keeper = keeper
        self._console = Console(stderr=True, highlight=False)
        self._progress: bars.Progress | None = None
        self._task = TaskID(0)
        self._images, self._began = 0, time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        if self._style != "bar" or not trainer.is_global_zero:
            return
        self._progress = bars.Progress(*_COLUMNS, console=self._console, transient=True)
        steps = int(trainer.num_training_batches)
        fields: dict[str, Any] = self._fields(trainer, "-")
        total = steps * (trainer.max_epochs or 0)
        self._task = self._progress.add_task("", total=total, **fields)
        self._progress.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer, pl_module
        self._images, self._began = 0, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        del outputs
        self._images += len(batch.batch) * trainer.world_size
        if self._progress is None:
            return
        assert isinstance(pl_module, LocalizationModule)
        done = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1
        fields: dict[str, Any] = self._fields(trainer, f"{pl_module.guard.latest:.4f}")
        self._progress.update(self._task, completed=done, **fields)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer, pl_module
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        del trainer, pl_module, exception
        self._close()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the keeper's, which puts the numbers of the epoch together."""
        del pl_module
        if self._style == "quiet" or not trainer.is_global_zero:
            return
        record = self._keeper.history[-1]
        numbers = [f"loss {record.loss:.4f}"]
        for name, value in (("mAP", record.classification_map), ("point AP", record.point_map)):
            if value is not None:
                numbers.append(f"{name} {value:.3f}")
        numbers.append(f"{record.seconds:.1f} s")
        line = f"epoch {record.epoch}/{trainer.max_epochs}  " + "  ".join(numbers)
        self._console.print(line)

    def _rate(self) -> float:
        return self._images / max(time.monotonic() - self._began, 1e-9)

    def _fields(self, trainer: Trainer, loss: str) -> dict[str, str]:
        return {
            "epoch": f"{trainer.current_epoch + 1}/{trainer.max_epochs}",
            "loss": loss,
            "map": self._latest_map(),
            "rate": f"{self._rate():.0f}",
        }

    def _latest_map(self) -> str:
        history = self._keeper.history
        value = history[-1].classification_map if history else None
        return "-" if value is None else f"{value:.3f}"

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


@contextmanager
def counted(description: str, style: ProgressStyle) -> Iterator[Progress]:
    """A function of (done, total) for work that comes before training."""
    style = resolve(style)
    console = Console(stderr=True, highlight=False)
    if style == "quiet":
        yield silent
    elif style == "bar":
        with bars.Progress(console=console, transient=True) as progress:
            task = progress.add_task(description, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
    else:
        yield _lines(description, console)


def _lines(description: str, console: Console) -> Progress:
    shown = -1

    def update(done: int, total: int | None) -> None:
        nonlocal shown
        tenth = 10 * done // max(total or 0, 1)
        if tenth > shown:
            shown = tenth
            console.print(f"{description}: {done} of {total}")

    return update
