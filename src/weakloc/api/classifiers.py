"""Localisation with a classifier that somebody else trained."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from weakloc.data.sources import ImageSource
from weakloc.data.transforms import Preprocessing
from weakloc.errors import ImageError, SettingError, did_you_mean
from weakloc.methods.method import Looking, PlaceRules, settled
from weakloc.model.weights import (
    EMBEDDED,
    hub_cache_when_unreachable,
    load_file_into,
    supervision_of_weights,
    weights_not_at_hand,
)
from weakloc.predictor.classifier_source import ClassifierSource, MapMethod
from weakloc.predictor.parts import own_device
from weakloc.predictor.predictor import Predictor
from weakloc.settings import Look, Places, require
from weakloc.structures import Activation, BrokenImage, Prediction

TIMM = "timm:"
LOOKING = Looking(rules=PlaceRules(threshold=0.2))  # of a map's range, as the CAM paper has it


def localize(
    model: nn.Module,
    image: str | Path | bytes | Image.Image,
    *,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    activation: Activation = "softmax",
    method: MapMethod = "auto",
    layer: str | None = None,
    look: Look | None = None,
    places: Places | None = None,
) -> Prediction:
    """Where a classifier sees its likeliest class, and all classes above `places.min_score`.

    The model is used as it is: its mode, hooks and gradients are left as they were.
    """
    places = places or Places(top=1)
    source = ClassifierSource(
        model,
        places,
        class_names=class_names,
        preprocessing=preprocessing or Preprocessing(),
        activation=activation,
        method=method,
        layer=layer,
    )
    predictor = _predictor(source, look or Look(workers=0), places)
    if isinstance(image, Image.Image):
        shown = ImageSource.of_picture("image", image)
    elif isinstance(image, bytes):
        shown = ImageSource("image", image)
    else:
        shown = ImageSource(str(image), str(image))
    (prediction,) = predictor.predict([shown])
    if isinstance(prediction, BrokenImage):
        raise ImageError(prediction.reason, location=prediction.name)
    return prediction


def timm_predictor(name: str, look: Look, places: Places) -> tuple[Predictor, dict[str, Any]]:
    """`timm:NAME` with its published weights, or `timm:NAME:FILE` with a file's, and its origin."""
    from timm.data.config import resolve_model_data_config

    model_name, _, weights = name.removeprefix(TIMM).partition(":")
    model, label_names = _timm_model(model_name, weights)
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    _, height, width = config["input_size"]
    (red, green, blue), spread = config["mean"], config["std"]
    places = places if places.top else replace(places, top=1)
    source = ClassifierSource(
        model,
        places,
        class_names=label_names,
        preprocessing=Preprocessing(
            size=(width, height), mean=(red, green, blue), std=(spread[0], spread[1], spread[2])
        ),
        activation="softmax",
    )
    origin: dict[str, Any] = {"run": name, "thresholds_from": f"fixed {LOOKING.rules.threshold}"}
    published = {} if weights else getattr(model, "pretrained_cfg", {})
    made_from = supervision_of_weights(weights or published.get("hf_hub_id") or model_name)
    origin |= {"weights_from": made_from, "licence": published.get("license")}
    return _predictor(source, look, places), origin


def _predictor(source: ClassifierSource, look: Look, places: Places) -> Predictor:
    is_map = look.localiser in ("auto", "score_map")
    require(is_map, "localiser", look.localiser, "A classifier has score maps alone: leave it out")
    look, rules = settled(look, LOOKING)
    return Predictor(source, look, places, rules=rules)


def _timm_model(name: str, weights: str) -> tuple[nn.Module, tuple[str, ...] | None]:
    import timm
    from timm.data.imagenet_info import ImageNetInfo

    if not timm.is_model(name):
        raise SettingError(
            f"timm has no model {name!r}", remedy=did_you_mean(name, timm.list_models())
        )
    installed = {net.timm_name: net for net in EMBEDDED.values() if net.installed}
    is_fetched = not weights and name not in installed
    try:
        with hub_cache_when_unreachable() if is_fetched else nullcontext():
            model = timm.create_model(name, pretrained=is_fetched)
    except Exception as error:
        ways = " or ".join([*(TIMM + key for key in installed), f"a file: {TIMM}{name}:FILE"])
        raise weights_not_at_hand(name, error, f"Give {ways}") from error
    if weights:
        load_file_into(model, weights)
    elif not is_fetched:
        installed[name].load_into(model, name=name)
    label_names = None
    if getattr(model, "num_classes", 0) == 1000:
        label_names = tuple(map(ImageNetInfo().index_to_description, range(1000)))
    return model.eval().to(own_device()), label_names
