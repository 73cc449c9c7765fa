"""Data, method and settings -> all that a training needs, checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from weakloc.data.augmentation import Augmentation, QuarterTurns
from weakloc.data.images import read_or_record
from weakloc.data.readers.assembly import ALL
from weakloc.data.transforms import Preprocessing, channel_moments
from weakloc.errors import DataError, SettingError
from weakloc.methods.method import Method, Optimisation, preprocessing
from weakloc.methods.settings import to_settings
from weakloc.model.backbones import Backbone, build_backbone
from weakloc.model.losses import Loss
from weakloc.model.network import LocalizationNetwork
from weakloc.model.trunk import BackboneSpec
from weakloc.settings import TrainSettings
from weakloc.structures import (
    ABSENT,
    PRESENT,
    UNKNOWN,
    BrokenImage,
    DataSet,
    LabelStatistics,
    Sample,
)
from weakloc.work import num_cores

Decided = TypeVar("Decided", Method, Optimisation)

HOLD_OUT = 0.1  # of the training images, where nothing else is there to watch


@dataclass(frozen=True)
class Division:
    """`watched` may be empty; `watched_name` says where it comes from.

    `held_out` are training images that are not learned from; without a split to watch they are
    watched.
    """

    learned: Sequence[Sample]
    watched: Sequence[Sample]
    watched_name: str
    held_out: Sequence[Sample] = ()


def divide(data_set: DataSet, settings: TrainSettings) -> Division:
    """The named splits, and a seeded share of the training images where it is asked for.

    Without a split to watch it is asked for.
    """
    samples = data_set.split(learned_split(data_set, settings.train_split), flag="--train-split")
    if not data_set.class_names:
        raise DataError("there is no class", location=str(data_set.root), remedy="Give tags first")
    if all((sample.labels == UNKNOWN).all() for sample in samples):
        raise DataError(
            "the tags of all training images are unknown, so there is nothing to learn from",
            location=str(data_set.root),
            remedy="Say for some images which classes are there and which are not",
        )
    watched = _watched(data_set, samples, settings.val_split)
    usual_share = 0.0 if watched else HOLD_OUT
    share = usual_share if settings.hold_out is None else settings.hold_out
    learned, held_out = _hold_out(samples, share=share, seed=settings.seed)
    if watched:
        return Division(learned, watched, f"split {settings.val_split!r}", held_out)
    if share == 0 and (settings.select == "best" or settings.patience is not None):
        raise SettingError(
            "--hold-out is 0 and there is no split to watch, so that no epoch is known as the best",
            remedy="Give --hold-out a share, or leave out --select best and --patience",
        )
    name = f"{len(held_out)} of {len(samples)} training images, drawn with seed {settings.seed}"
    if not held_out:
        reason = "too few images to keep some back" if share else "--hold-out is 0"
        name = f"nothing: {reason}"
    return Division(learned, held_out, name, held_out)


def learned_split(data_set: DataSet, name: str) -> str:
    """The split that `name` stands for: of data without splits, everything is learned from."""
    has_none = tuple(data_set.splits) == (ALL,) and name == TrainSettings.train_split
    return ALL if has_none else name


def _watched(data_set: DataSet, learned: Sequence[Sample], name: str) -> Sequence[Sample]:
    """The split to watch; none where no other than val was asked for and there is none to have.

    All of val is learned from where that is what trainval, or train+val, means.
    """
    is_usual = name == TrainSettings.val_split
    if is_usual and not data_set.splits.get(name):
        return ()
    watched = data_set.split(name, flag="--val-split")
    names = {sample.name for sample in watched}
    shared = [sample.name for sample in learned if sample.name in names]
    if is_usual and len(shared) == len(names):
        return ()
    if shared:
        raise DataError(
            f"{len(shared)} of {len(names)} images of split {name!r} would be learned from as "
            f"well as watched, such as {shared[0]!r}",
            location=str(data_set.root),
            remedy="Take them out of one of the two, or give another --train-split or --val-split",
        )
    return watched


def _hold_out(
    samples: Sequence[Sample], *, share: float, seed: int
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Learned and held out: draws images, but never the last one that shows a class."""
    num_held_out = round(share * len(samples))
    left = np.sum([sample.labels == PRESENT for sample in samples], axis=0)  # (C,)
    drawn: set[int] = set()
    for index in np.random.default_rng(seed).permutation(len(samples)).tolist():
        shown = samples[index].labels == PRESENT
        if len(drawn) < num_held_out and (left[shown] > 1).all():
            left = left - shown
            drawn.add(index)
    learned = [sample for index, sample in enumerate(samples) if index not in drawn]
    return learned, [samples[index] for index in sorted(drawn)]


def count_labels(samples: Sequence[Sample], num_classes: int) -> LabelStatistics:
    labels = np.array([sample.labels for sample in samples], dtype=np.int8)
    labels = labels.reshape(-1, num_classes)
    states = PRESENT, ABSENT, UNKNOWN
    present, absent, unknown = ((labels == state).sum(axis=0).tolist() for state in states)
    shown = (labels == PRESENT).astype(np.int64)
    return LabelStatistics(len(samples), present, absent, unknown, (shown.T @ shown).tolist())


_FROZEN_NOTE = (
    "the backbone is frozen and its features are cached: of the method's augmentation only "
    "mirroring and scales apply"
)
# What may change between the start of a run and its continuation.
_FREE = frozenset(("epochs", "workers", "patience", "checkpoint_minutes", "feature_cache"))


def accelerator() -> str:
    return "gpu" if torch.cuda.is_available() else "cpu"


def uses_bf16(precision: str) -> bool:
    """Whether "auto" is bfloat16: where such arithmetic is in the hardware, not emulated."""
    if precision != "auto":
        return precision == "bf16"
    if accelerator() == "gpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if hasattr(torch.cpu, "get_capabilities"):  # torch >= 2.9
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported())


@dataclass(frozen=True)
class Hardware:
    """What trains, in the engine's words; workers are reading processes for each device."""

    accelerator: str
    num_devices: int
    strategy: str
    num_workers: int
    in_bf16: bool


def chosen_hardware(settings: TrainSettings) -> Hardware:
    """Devices on this machine as asked, else all GPUs, else one process."""
    kind = accelerator()
    available = torch.cuda.device_count() if kind == "gpu" else None
    num_devices = settings.devices or available or 1
    if available is not None and num_devices > available:
        raise SettingError(
            f"--devices is {num_devices} but there are {available}",
            remedy=f"Give --devices {available} or fewer",
        )
    if settings.strategy == "fsdp" and kind == "cpu":
        raise SettingError("--strategy is 'fsdp' but there is no GPU", remedy="Use --strategy ddp")
    if settings.strategy == "fsdp" and settings.watch_maps:
        raise SettingError(
            "--watch-maps needs the whole network, which no process of --strategy fsdp has",
            remedy="Leave out one of the two",
        )
    # A small machine without a GPU computes with all cores.
    share = num_cores() // num_devices
    usual_workers = min(share - 1, 12) if kind == "gpu" else min(share // 4, 4)
    strategy = "ddp" if settings.strategy == "auto" else settings.strategy
    return Hardware(
        accelerator=kind,
        num_devices=num_devices,
        strategy="auto" if num_devices * settings.nodes == 1 else strategy,
        num_workers=usual_workers if settings.workers is None else settings.workers,
        in_bf16=uses_bf16(settings.precision),
    )


@dataclass(frozen=True)
class TrainingPlan:
    """All that is trained; the method is as the settings leave it."""

    network: LocalizationNetwork
    loss: Loss
    augmentation: Augmentation
    division: Division
    hardware: Hardware
    method: Method
    settings: TrainSettings
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    labels: LabelStatistics
    notes: tuple[str, ...]

    @property
    def optimisation(self) -> Optimisation:
        return self.method.optimisation

    @cached_property
    def start(self) -> dict[str, Any]:
        """What must be the same for a run to continue as if it had never stopped."""
        method = to_settings(self.method)
        method["optimisation"] = {**method["optimisation"], "epochs": None}
        settings = to_settings(self.settings)
        return {
            "method": self.method.name,
            **{f"method.{name}": value for name, value in method.items()},
            **{name: value for name, value in settings.items() if name not in _FREE},
            "classes": list(self.class_names),
            "training images": _digest(self.division.learned),
            "watched images": _digest(self.division.watched),
        }


def make_plan(data_set: DataSet, method: Method, settings: TrainSettings) -> TrainingPlan:
    method = with_settings(method, settings)
    division = divide(data_set, settings)
    num_classes = len(data_set.class_names)
    statistics = count_labels(division.learned, num_classes)
    loss = method.build_loss(num_classes=num_classes, single_label=statistics.is_single_label)
    spec = BackboneSpec.parse(
        method.backbone, weights=settings.weights, output_stride=settings.output_stride
    )
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        backbone = build_backbone(method.backbone_spec(spec))
        prepared = _preprocessing(method, backbone, division.learned)
        network = method.build_network(backbone, num_classes)
    notes = statistics.odd_classes(data_set.class_names)
    if division.watched is not division.held_out and division.held_out:
        notes.append(
            f"{len(division.held_out)} training images are held out, to choose by their tags"
        )
    if backbone.licence is not None:
        notes.append(f"timm says of the weights of {backbone.name}: licence {backbone.licence}")
    augmentation = Augmentation() if settings.frozen else method.augmentation(backbone)
    if settings.quarter_turns:
        augmentation = replace(augmentation, steps=(*augmentation.steps, QuarterTurns()))
    return TrainingPlan(
        network=network,
        loss=loss,
        augmentation=augmentation,
        division=division,
        hardware=chosen_hardware(settings),
        method=method,
        settings=settings,
        preprocessing=prepared,
        class_names=data_set.class_names,
        labels=statistics,
        notes=tuple([*notes, _FROZEN_NOTE] if settings.frozen else notes),
    )


def _preprocessing(method: Method, backbone: Backbone, samples: Sequence[Sample]) -> Preprocessing:
    """As the method has it; weights that know other images keep the normalisation of those."""
    prepared = preprocessing(method, backbone)
    is_given = backbone.is_pretrained or backbone.spec.mean is not None
    if method.normalisation == "backbone" or is_given:
        return prepared
    with ThreadPoolExecutor(num_cores()) as pool:
        moments = [of_image for of_image in pool.map(_moments, samples) if of_image is not None]
    if not moments:
        raise DataError("no training image can be read", remedy="Look at them with 'weakloc data'")
    means, squares = np.mean(moments, axis=0)  # every image counts alike
    variances = np.maximum(squares - np.square(means), 255**-2.0)  # a channel may be constant
    return replace(prepared, mean=tuple(means.tolist()), std=tuple(np.sqrt(variances).tolist()))


def _moments(sample: Sample) -> NDArray[np.float64] | None:
    picture = read_or_record(sample.name, sample.path)
    return None if isinstance(picture, BrokenImage) else channel_moments(picture)


def with_settings(method: Method, settings: TrainSettings) -> Method:
    """The method with what the user set; the rest as it says."""
    optimisation = _replaced(
        method.optimisation,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
    )
    return _replaced(
        method,
        optimisation=optimisation,
        backbone=settings.backbone,
        side=settings.image_size,
        trains_backbone=False if settings.frozen else None,
    )


def _replaced(value: Decided, **changes: Any) -> Decided:
    """`dataclasses.replace` with the changes that are not None."""
    return replace(value, **{name: new for name, new in changes.items() if new is not None})


def _digest(samples: Sequence[Sample]) -> str:
    digest = sha256()
    for sample in samples:
        digest.update(sample.fingerprint)
    return f"{len(samples)}, {digest.hexdigest()[:12]}"
