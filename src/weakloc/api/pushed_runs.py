"""A run for others: pushed to the Hugging Face Hub, with a card that says what it is."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from weakloc.api.evaluation import markdown_of
from weakloc.api.runs import TrainedRun, load_folder
from weakloc.errors import RunError, SettingError
from weakloc.files import one_line
from weakloc.metrics.result import evaluation_of
from weakloc.training.hub import CARD_MARK, PREFIX, upload

_CARD = """\
---
library_name: weakloc
pipeline_tag: object-detection
license: {licence}
tags: [weakly-supervised, object-localization, class-activation-map, {run.method.name}]
---
{mark}

# {name}

Says where things are in images, as points, boxes and masks: learned with weakloc ({run.method.name}, backbone {run.network.backbone.spec}) from tags alone or from what is listed below.

{num_classes} classes: {classes}.

## Supervision

| | |
|---|---|
| tagged images | {run.labels.num_images} |
| drawn boxes or masks that training or selection looked at | {facts.hidden_supervision} |
| thresholds | {facts.thresholds_from} |
| drawn boxes looked at in all | {facts.num_boxes_used} |
| made the weights that training began with | {facts.weights_from} |

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
    card = _CARD.format(
        licence=json.dumps(licence),  # which is YAML
        mark=CARD_MARK,
        name=repository,
        run=trained.run,
        facts=trained.facts,
        num_classes=len(trained.class_names),
        classes=one_line(", ".join(trained.class_names)),
        metrics=numbers,
    )
    return upload(trained.path, repository, card, private=private)
