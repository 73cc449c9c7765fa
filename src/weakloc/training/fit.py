"""A data set, a method and settings in; a trained run in its folder out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from weakloc.errors import FailureError, RunError
from weakloc.methods.method import Method
from weakloc.methods.settings import to_settings
from weakloc.settings import TrainSettings
from weakloc.structures import DataSet, Sample
from weakloc.training import engine
from weakloc.training.checkpointing import (
    Keeper,
    KeepingRules,
    read_checkpoint,
    started_with,
)
from weakloc.training.engine import checkpoint_in, fit, make_trainer
from weakloc.training.inputs import Inputs, Process, feature_inputs, image_inputs
from weakloc.training.module import LocalizationModule, Watch
from weakloc.training.plan import Plan, make_plan, optimiser_configuration
from weakloc.training.progress import ProgressStyle, TrainingProgress, counted
from weakloc.training.run_folder import (
    CHECKPOINT_NAME,
    RECORD_NAME,
    Run,
    RunWriter,
    load_run,
    read_record,
)

# What may change between the start of a run and its continuation.
_FREE = frozenset(("epochs", "workers", "patience", "checkpoint_minutes", "feature_cache"))


def train(
    data_set: DataSet,
    method: Method,
    settings: TrainSettings,
    out: Path,
    *,
    resume: bool = False,
    progress: ProgressStyle = "quiet",
) -> Run:
    """Trains into the folder `out`, or continues what was begun there."""
    _check_folder(out, resume=resume)
    plan = make_plan(data_set, method, settings)
    _make_folder(out)
    start = _start_of(plan)
    checkpoint = checkpoint_in(out)
    if checkpoint is not None:
        _check_same_start(started_with(read_checkpoint(checkpoint)), start, checkpoint)
        if _is_complete(out, plan):
            return load_run(out)
    writer = RunWriter(out, plan.header)
    keeper = Keeper(out, _rules(settings), started_with=start, publish=writer.publish)
    _fit(plan, out, keeper, checkpoint, progress)
    if engine.is_first_process():
        _finish(plan, writer, keeper)
    return load_run(out)


def _fit(
    plan: Plan, out: Path, keeper: Keeper, checkpoint: Path | None, progress: ProgressStyle
) -> None:
    settings = plan.header.settings
    trainer = make_trainer(
        settings,
        out,
        epochs=plan.optimisation.epochs,
        max_steps=plan.optimisation.max_steps,
        callbacks=[keeper, TrainingProgress(progress, keeper)],
        watches=bool(plan.division.watched),
    )
    process = Process(trainer.global_rank, trainer.world_size)
    inputs = _inputs(plan, settings, out, process, progress)
    module = _module(plan, settings, inputs)
    fit(trainer, module, inputs.learned, inputs.watched, checkpoint=checkpoint)
    keeper.broken = inputs.broken()


def _inputs(
    plan: Plan, settings: TrainSettings, out: Path, process: Process, progress: ProgressStyle
) -> Inputs:
    if not settings.frozen:
        return image_inputs(plan, settings, process)
    with counted("computing features", progress) as update:
        return feature_inputs(plan, settings, out, process, update)


def _module(plan: Plan, settings: TrainSettings, inputs: Inputs) -> LocalizationModule:
    network = plan.network
    if settings.channels_last:
        network = network.to(memory_format=torch.channels_last)
    steps_per_epoch = -(-len(inputs.learned) // settings.accumulate)
    return LocalizationModule(
        network,
        plan.loss,
        augmentation=plan.augmentation,
        build_optimiser=lambda network: optimiser_configuration(
            network, plan.optimisation, steps_per_epoch=steps_per_epoch
        ),
        batches=inputs.learned,
        watch=Watch(plan.division.watched, plan.header.class_names),
        seed=settings.seed,
        mixup=settings.mixup,
        takes_features=settings.frozen,
    )


def _check_folder(out: Path, *, resume: bool) -> None:
    """Refuses to overwrite a run; further processes find it begun."""
    if not engine.is_first_process():
        return
    begun = [name for name in (CHECKPOINT_NAME, RECORD_NAME) if (out / name).exists()]
    if begun and not resume:
        raise RunError(
            f"there is a run here already ({begun[0]})",
            where=str(out),
            remedy="Continue it with --resume, or give another --out",
        )
    if begun == [RECORD_NAME]:
        raise RunError(
            f"{CHECKPOINT_NAME} is missing, so this run cannot be continued",
            where=str(out),
            remedy="Train anew into another --out; this run still predicts",
        )


def _make_folder(out: Path) -> None:
    """Only once everything else is known to fit, so that a mistake leaves nothing behind."""
    if not engine.is_first_process():
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FailureError(
            f"the folder cannot be made ({error.strerror})",
            where=str(out),
            remedy="Give another --out",
        ) from error
    for leftover in out.glob(".*.part*"):  # of a killed process
        leftover.unlink(missing_ok=True)


def _start_of(plan: Plan) -> dict[str, Any]:
    """What must be the same for a run to continue as if it had never stopped."""
    settings = to_settings(plan.header.settings)
    method = to_settings(plan.header.method)
    method["optimisation"] = {**method["optimisation"], "epochs": None}
    return {
        "method": plan.header.method.name,
        **{f"method.{name}": value for name, value in method.items()},
        **{name: value for name, value in settings.items() if name not in _FREE},
        "classes": list(plan.header.class_names),
        "training images": _digest(plan.division.learned),
        "watched images": _digest(plan.division.watched),
    }


def _digest(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.name.encode("utf-8", "surrogateescape") + sample.labels.tobytes())
    return f"{len(samples)}, {digest.hexdigest()[:12]}"


def _check_same_start(then: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    for name in now:
        if name not in then or then[name] != now[name]:
            raise RunError(
                f"the run was started with {name} = {then.get(name)!r}, now it is {now[name]!r}",
                where=str(where),
                remedy="Give the same settings and data as at the start, or another --out",
            )


def _is_complete(out: Path, plan: Plan) -> bool:
    if not (out / RECORD_NAME).is_file():
        return False
    record = read_record(out)
    epochs = record["method"]["settings"]["optimisation"]["epochs"]
    whole = (out / "model.safetensors").is_file()
    return bool(record["finished"]) and whole and bool(epochs == plan.optimisation.epochs)


def _rules(settings: TrainSettings) -> KeepingRules:
    return KeepingRules(
        minutes=settings.checkpoint_minutes,
        keeps_best=settings.select == "best",
        patience=settings.patience,
    )


def _finish(plan: Plan, writer: RunWriter, keeper: Keeper) -> None:
    kept = keeper.kept_epoch()
    is_latest = kept == keeper.history[-1].epoch
    weights = plan.network.state_dict() if is_latest else None
    writer.publish(weights, keeper.history, kept, broken=keeper.broken, is_finished=True)
