"""A data set, a method and settings in; a trained run in its folder out."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from lightning.pytorch.plugins.io import TorchCheckpointIO

from weakloc.errors import RunError, StoppedError, needing
from weakloc.files import only_writer, open_synced, refusal, require_own
from weakloc.methods.method import Method
from weakloc.methods.settings import to_settings
from weakloc.settings import TrainSettings
from weakloc.structures import DataSet
from weakloc.training.inputs import inputs_of
from weakloc.training.module import LocalizationModule
from weakloc.training.plan import TrainingPlan, make_plan
from weakloc.training.run_folder import (
    CELLS_NAME,
    CHECKPOINT_NAME,
    DETECTOR_NAME,
    MODEL_NAME,
    RECORD_NAME,
    TABLE_NAME,
    EpochRecord,
    Run,
    load_run,
    publish,
    read_record,
)
from weakloc.work import NO_DISPLAY, Display

# (plan, number of the epoch)
AfterEpoch: TypeAlias = Callable[[TrainingPlan, int], None]


def fit(
    data_set: DataSet,
    method: Method,
    settings: TrainSettings,
    out: Path,
    *,
    resume: bool = False,
    display: Display = NO_DISPLAY,
    after_epoch: AfterEpoch = lambda _plan, _epoch: None,
) -> Run:
    """Trains into the folder `out`, or continues what was begun there.

    `after_epoch` is called before the epoch counts as done: a run killed on the way calls it again.
    """
    if not is_first_process():
        return _fitted(make_plan(data_set, method, settings), out, NO_DISPLAY, after_epoch)
    _check_folder(out, resume=resume)
    plan = make_plan(data_set, method, settings)
    with only_writer(out):  # only now, so that a mistake leaves nothing behind
        _check_folder(out, resume=resume)
        return _fitted(plan, out, display, after_epoch)


def _fitted(plan: TrainingPlan, out: Path, display: Display, after_epoch: AfterEpoch) -> Run:
    checkpoint = out / CHECKPOINT_NAME
    if checkpoint.is_file():
        check_same_start(checkpoint, plan.start)
        if is_complete(out, plan):
            return load_run(out)
        plan = replace(plan, notes=(*plan.notes, *_notes_of(out)))
    for name in (CELLS_NAME, DETECTOR_NAME):  # what was learned of the weights of fewer epochs
        (out / name).unlink(missing_ok=True)
    checkpointing = Checkpointing(out, plan, after_epoch)
    trainer = make_trainer(plan, out, [checkpointing, Shown(display, checkpointing, plan.method)])
    show = partial(display.count, "computing features")
    ranks = {"rank": trainer.global_rank, "world_size": trainer.world_size}
    inputs = inputs_of(plan, out, show, **ranks)
    module = LocalizationModule(plan, inputs)
    with quiet_engine():
        trainer.fit(
            module,
            inputs.learned,
            inputs.watched,
            ckpt_path=checkpoint if checkpoint.is_file() else None,
            weights_only=True,
        )
    if is_first_process():
        history, kept = checkpointing.history, checkpointing.kept_epoch()
        weights = plan.network.state_dict() if kept == history[-1].epoch else None
        publish(out, plan, weights, history, kept, broken=inputs.broken, is_finished=True)
    return load_run(out)


def _notes_of(out: Path) -> Iterator[str]:
    """What a training that goes on should say of how it differs from one that was not stopped."""
    for name in (CELLS_NAME, DETECTOR_NAME):
        if (out / name).exists():
            yield f"{name}, learned of the weights of fewer epochs, was taken away"
    num_threads = {*read_checkpoint(out / CHECKPOINT_NAME)[_OURS].get("num_threads", ())}
    if num_threads - {torch.get_num_threads()}:
        counts = " and ".join(map(str, sorted(num_threads | {torch.get_num_threads()})))
        yield f"trained with {counts} threads in turn: weights differ from those of one number"


def is_first_process() -> bool:
    """False in the further processes that torchrun, SLURM or the engine itself has started."""
    # SLURM, which may have started torchrun, does not number torchrun's processes.
    names = ("RANK",) if "RANK" in os.environ else ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def _check_folder(out: Path, *, resume: bool) -> None:
    """Refuses to overwrite a run."""
    begun = [name for name in (CHECKPOINT_NAME, RECORD_NAME) if (out / name).exists()]
    if not begun:
        results = (MODEL_NAME, CELLS_NAME, TABLE_NAME, "maps.png")
        require_own(out, results, marks=(MODEL_NAME,))
    if begun and not resume:
        raise RunError(
            f"there is a run here already ({begun[0]})",
            location=str(out),
            remedy="Continue it with --resume, or give another --out",
        )
    if begun == [RECORD_NAME]:
        record = read_record(out)
        # What was killed between its first record and its first checkpoint begins anew.
        if record["finished"] or len(record["history"]) > 1:
            raise RunError(
                f"{CHECKPOINT_NAME} is missing, so this run cannot be continued",
                location=str(out),
                remedy="Train anew into another --out; this run still predicts",
            )


def is_complete(out: Path, plan: TrainingPlan) -> bool:
    """Whether the run in this folder was trained to the end of the plan."""
    if not (out / RECORD_NAME).is_file() or not (out / MODEL_NAME).is_file():
        return False
    record = read_record(out)
    epochs = record["method"]["settings"]["optimisation"]["epochs"]
    return bool(record["finished"]) and bool(epochs == plan.optimisation.epochs)


def make_trainer(plan: TrainingPlan, folder: Path, callbacks: Sequence[Callback]) -> Trainer:
    """Lightning's Trainer without any output, file or signal of its own."""
    plugins: list[object] = [WholeCheckpoints()]
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        # The job's signal saves through our checkpoints; resubmitting is left to the user.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    name = plan.settings.logger
    with quiet_engine():
        with needing({"mlflow": "mlflow-skinny"}.get(name, name)):
            logger = LOGGERS[name](folder)
        logger.log_hyperparams({"method": to_settings(plan.method), **to_settings(plan.settings)})
        return Trainer(
            accelerator=plan.hardware.accelerator,
            devices=plan.hardware.num_devices,
            num_nodes=plan.settings.nodes,
            strategy=plan.hardware.strategy,
            precision="bf16-mixed" if plan.hardware.in_bf16 else "32-true",
            max_epochs=plan.optimisation.epochs,
            max_steps=plan.optimisation.max_steps or -1,
            accumulate_grad_batches=plan.settings.accumulate,
            limit_val_batches=1.0 if plan.division.watched else 0.0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            callbacks=list(callbacks),
            plugins=plugins,  # type: ignore[arg-type]
            logger=logger,
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )


LOGGERS: Mapping[str, Callable[[Path], Logger]] = {
    "tensorboard": lambda folder: TensorBoardLogger(folder, name="", version="tensorboard"),
    "csv": lambda folder: CSVLogger(folder, name="", version="csv"),
    "mlflow": lambda folder: MLFlowLogger(
        "weakloc", run_name=folder.resolve().name, save_dir=str(folder / "mlruns")
    ),
    "wandb": lambda folder: WandbLogger(
        folder.resolve().name, project="weakloc", save_dir=folder, id=folder.resolve().name
    ),
}


# What Lightning says of choices that are meant.
_EXPECTED_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # inside Lightning, with torch >= 2.9
    r"Found \d+ module\(s\) in eval mode",  # a frozen backbone
    r"Starting from v1.9.0, `tensorboardX`",
    r"You defined a `validation_step` but have no `val_dataloader`",  # too few images
    r".*You are using a CUDA device .* that has Tensor Cores",
)


@contextmanager
def quiet_engine() -> Iterator[None]:
    """Without Lightning's notes below a warning and its warnings about what is meant.

    Signals and PyTorch's random numbers are afterwards what they were before.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(), restored_signals(), torch.random.fork_rng(devices=()):
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# SIGUSR1, which Windows lacks, is what SLURM sends ahead of a time limit (`--signal=USR1@120`).
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
_SIGNALS = [signal.Signals[name] for name in _NAMES if hasattr(signal, name)]


@dataclass
class Interruption:
    """The name of the signal that asked training to stop, once one has."""

    signal_name: str | None = None

    def receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_name is not None:
            raise StoppedError(
                "stopped at once, as asked twice",
                remedy="Continue with the same command and --resume from what was saved before",
            )
        self.signal_name = signal.Signals(number).name


def hand_signals_to(handlers: Mapping[signal.Signals, Any]) -> None:
    """Nothing happens outside of the main thread."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def restored_signals() -> Iterator[None]:
    """Gives the signals back to whoever handled them before the block."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        hand_signals_to(before)


_OURS = "weakloc"
_NETWORK = "network."  # what the names of its weights begin with in the module


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoint files that are there whole or not at all, and hold no code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        try:
            with open_synced(Path(path)) as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # of torch, about the disk
            raise refusal(Path(path), error) from error

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a checkpoint; it is plain tensors and containers, never code."""
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a damaged file
        raise RunError(
            "this checkpoint cannot be read",
            location=str(path),
            remedy="Delete it to start the run anew; model.safetensors beside it still predicts",
        ) from error
    if not isinstance(content, dict) or _OURS not in content:
        raise RunError(
            "this is not a checkpoint of weakloc",
            location=str(path),
            remedy="Give another --out folder",
        )
    return content


def check_same_start(path: Path, start: Mapping[str, Any]) -> None:
    """Refuses to continue the checkpoint of a run that was started with something else."""
    before = read_checkpoint(path)[_OURS]["started_with"]
    for name, now in start.items():
        if name not in before or before[name] != now:
            raise RunError(
                f"the run was started with {name} = {before.get(name)!r}, now it is {now!r}",
                location=str(path),
                remedy="Give the same settings and data as at the start, or another --out",
            )


class Checkpointing(Callback):
    """Writes the run folder, in one process only, and then the checkpoint.

    A run killed between the two repeats the epoch and publishes the same again.
    """

    def __init__(self, folder: Path, plan: TrainingPlan, after_epoch: AfterEpoch) -> None:
        self.history: list[EpochRecord] = []
        self.interruption = Interruption()
        self._folder, self._plan, self._after_epoch = folder, plan, after_epoch
        self._saved_at = self._epoch_began = time.monotonic()
        self._seconds_before = 0.0  # that the epoch had taken when it was stopped
        self._num_threads = {torch.get_num_threads()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Only now has the engine taken the signals over.
        hand_signals_to(dict.fromkeys(_SIGNALS, self.interruption.receive))
        self._saved_at = time.monotonic()
        self._epoch_began = self._saved_at - self._seconds_before

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_last = batch_idx + 1 >= trainer.num_training_batches  # the epoch's end saves then
        between_steps = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if is_last or not between_steps:
            return
        due = time.monotonic() - self._saved_at > 60 * self._plan.settings.checkpoint_minutes
        stops = self.interruption.signal_name is not None
        # What any of the processes wants, all of them do.
        if trainer.strategy.reduce_boolean_decision(stops or due, all=False):
            self._save(trainer)
            if trainer.strategy.reduce_boolean_decision(stops, all=False):
                raise self._stopped(f"epoch {trainer.current_epoch + 1}, batch {batch_idx + 1}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LocalizationModule)
        watched = pl_module.watch.read()
        self.history.append(
            EpochRecord(
                epoch=trainer.current_epoch + 1,
                loss=pl_module.guard.mean(),
                learning_rate=pl_module.learning_rate(),
                **asdict(watched),
                seconds=round(time.monotonic() - self._epoch_began, 3),
            )
        )
        gathered = trainer.strategy.lightning_module_state_dict()  # from all processes
        if trainer.is_global_zero:
            kept = self.kept_epoch()
            weights = {
                name.removeprefix(_NETWORK): value
                for name, value in gathered.items()
                if name.startswith(_NETWORK)
            }
            is_new = kept == self.history[-1].epoch
            publish(self._folder, self._plan, weights if is_new else None, self.history, kept)
            self._after_epoch(self._plan, self.history[-1].epoch)
        record = asdict(self.history[-1])
        numbers = {key: record[key] for key in record if key != "epoch" and record[key] is not None}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)
        self._epoch_began = time.monotonic()  # or the next one, resumed, would last as long more
        self._save(trainer)
        self._epoch_began = self._saved_at
        stops = self.interruption.signal_name is not None
        stops = trainer.strategy.reduce_boolean_decision(stops, all=False)
        ends = trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        if stops and not ends:
            raise self._stopped(f"epoch {trainer.current_epoch + 1}")
        patience, last = self._plan.settings.patience, self.history[-1].epoch
        waited = last - (self.best_epoch() or last)
        trainer.should_stop = patience is not None and waited >= patience

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert isinstance(pl_module, LocalizationModule)
        checkpoint[_OURS] = {
            "started_with": self._plan.start,
            "history": [asdict(record) for record in self.history],
            "guard": pl_module.guard.state(),
            "seconds": time.monotonic() - self._epoch_began,
            "num_threads": sorted(self._num_threads),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert isinstance(pl_module, LocalizationModule)
        ours = checkpoint[_OURS]
        self.history = [EpochRecord(**record) for record in ours["history"]]
        pl_module.guard.restore(ours["guard"])
        self._seconds_before = ours["seconds"]
        self._num_threads.update(ours.get("num_threads", ()))

    def best_epoch(self) -> int | None:
        """The first epoch with the highest classification mAP, from 1."""
        judged = [record for record in self.history if record.classification_map is not None]
        if not judged:
            return None
        return max(judged, key=lambda record: record.classification_map or 0.0).epoch

    def kept_epoch(self) -> int:
        best = self.best_epoch() if self._plan.settings.select == "best" else None
        return best or self.history[-1].epoch

    def _save(self, trainer: Trainer) -> None:
        module = trainer.lightning_module
        assert isinstance(module, LocalizationModule)
        module.guard.read()  # never save weights after a loss that was not a number
        trainer.save_checkpoint(self._folder / CHECKPOINT_NAME)
        self._saved_at = time.monotonic()

    def _stopped(self, position: str) -> StoppedError:
        name = self.interruption.signal_name or "another process"
        return StoppedError(
            f"stopped by {name}; everything up to {position} is saved in "
            f"{self._folder / CHECKPOINT_NAME}",
            remedy="Continue with the same command and --resume",
        )


class Shown(Callback):
    """Shows batches and epochs."""

    def __init__(self, display: Display, checkpointing: Checkpointing, method: Method) -> None:
        self._display, self._checkpointing, self._method = display, checkpointing, method
        self._images, self._began = 0, time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._images, self._began = 0, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, LocalizationModule)
        self._images += len(batch.batch) * trainer.world_size
        history = self._checkpointing.history
        precision = history[-1].classification_map if history else None
        rate = self._images / max(time.monotonic() - self._began, 1e-9)
        epochs, per_epoch = trainer.max_epochs or 0, int(trainer.num_training_batches)
        self._display.step(
            f"epoch {trainer.current_epoch + 1}/{epochs}  loss {pl_module.guard.latest:.4f}  "
            f"mAP {'-' if precision is None else f'{precision:.3f}'}  {rate:.0f} images/s",
            trainer.current_epoch * per_epoch + batch_idx + 1,
            epochs * per_epoch,
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the checkpointing's, which puts the numbers of the epoch together."""
        record = self._checkpointing.history[-1]
        watched = {"mAP": record.classification_map, "point AP": record.point_map}
        numbers = [f"{name} {value:.3f}" for name, value in watched.items() if value is not None]
        if numbers:
            numbers[-1] += watched_as(self._method)
        numbers = [f"loss {record.loss:.4f}", *numbers, f"{record.seconds:.1f} s"]
        self._display.say(f"epoch {record.epoch}/{trainer.max_epochs}  " + "  ".join(numbers))


def watched_as(method: Method) -> str:
    """How watched images are seen, where predictions see more of them than one map."""
    if method.localiser == "beam_search":
        return " (without the search)"
    return "" if {*method.score_scales, *method.map_scales} == {1.0} else " (at one size)"
