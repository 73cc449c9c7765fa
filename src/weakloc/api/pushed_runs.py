"""A run for others: pushed to the Hugging Face Hub, with a card that says what it is."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import yaml

from weakloc.api.evaluation import markdown_of
from weakloc.api.runs import TrainedRun, load_folder
from weakloc.errors import RunError, SettingError
from weakloc.files import one_line
from weakloc.metrics.result import evaluation_of
from weakloc.training.hub import CARD_MARK, PREFIX, upload

_CARD = """\
---
{front_matter}---
{mark}

# {name}

Says where things are in images, as points, boxes and masks: learned with weakloc ({method}, backbone {backbone}) from tags alone or from what is listed below.

{num_classes} classes: {classes}.

## Supervision

| | |
|---|---|
| tagged images | {num_images} |
| drawn boxes or masks that training or selection looked at | {hidden_supervision} |
| thresholds | {thresholds_from} |
| drawn boxes looked at in all | {num_boxes_used} |
| made the weights that training began with | {weights_from} |

## Metrics

{metrics}
## Use

`pip install weakloc`, then `weakloc predict hf:{name} IMAGES --out predictions`, or in Python `weakloc.load("hf:{name}").predict("IMAGES")`.
"""  # noqa: E501 - a paragraph is a line


def push(
    run: str | Path | TrainedRun,
    name: str,
    *,
    metrics: str | Path | None = None,
    licence: str = "unknown",
    private: bool = False,
) -> tuple[str, bool]:
    """A run and a model card to USER/NAME of the Hugging Face Hub; its address, and if private.

    `metrics` is what `weakloc evaluate --out` wrote, metrics.json in the run where it is not given.
    A repository is made where there is none, a public one unless it is to be `private`.
    """
    repository = name.removeprefix(PREFIX)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise SettingError(f"the name is {name!r}", remedy="Give USER/NAME, as in maria/birds")
    trained = load_folder(run)
    if not trained.run.is_finished:
        remedy = "Continue it with the same command and --resume"
        raise RunError("its training has not ended", location=trained.name, remedy=remedy)
    file = None if metrics is None else Path(metrics)
    measured = evaluation_of(trained.path, file, trained.name)
    numbers = "None were given to `weakloc push`.\n"
    if measured is not None:
        numbers = markdown_of([replace(measured, evaluated=repository)])
    card = card_of(trained, repository, numbers, licence)
    return upload(trained.path, repository, card, private=private)


def card_of(trained: TrainedRun, name: str, metrics: str, licence: str) -> str:
    """Front matter for the hub, and what a reader needs to judge the run."""
    facts, method = trained.facts, trained.run.method.name
    front_matter = {
        "library_name": "weakloc",
        "pipeline_tag": "object-detection",
        "license": licence,
        "tags": ["weakly-supervised", "object-localization", "class-activation-map", method],
    }
    return _CARD.format(
        front_matter=yaml.safe_dump(front_matter, sort_keys=False),
        mark=CARD_MARK,
        name=name,
        method=method,
        backbone=trained.run.network.backbone.spec,
        num_classes=len(facts.class_names),
        classes=one_line(", ".join(facts.class_names)),
        num_images=trained.run.labels.num_images,
        hidden_supervision=facts.hidden_supervision,
        metrics=metrics,
        **facts.supervision,
    )
