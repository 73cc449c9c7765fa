"""Any model of timm as a trunk: convolutional networks and vision transformers.

A transformer's patch tokens become a grid again; its position embedding is interpolated to the
input, whose sides must be multiples of the patch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from weakloc.errors import SettingError
from weakloc.model.trunk import IMAGENET_MEAN, IMAGENET_STD, BackboneSpec, Trunk, TrunkFacts
from weakloc.model.weights import (
    EMBEDDED,
    hub_cache_when_unreachable,
    load_file_into,
    weights_not_at_hand,
)

HUB = "hf-hub:"
# What lets a transformer take any input size, by the argument that its family understands.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class TimmTrunk(Trunk):
    def __init__(self, model: Any, facts: TrunkFacts) -> None:
        super().__init__()
        self.model: nn.Module = model
        self.facts = facts
        self.level_indices = {
            level["reduction"]: index for index, level in enumerate(model.feature_info)
        }

    def forward(self, images: Tensor, levels: Sequence[int] = ()) -> dict[int, Tensor]:
        model: Any = self.model
        extra = [level for level in levels if level != self.facts.stride]
        if not extra:
            return {self.facts.stride: self._as_grid(model.forward_features(images), images)}
        last, kept = model.forward_intermediates(
            images, indices=[self.level_indices[level] for level in extra], output_fmt="NCHW"
        )
        outputs = dict(zip(extra, kept, strict=True))
        return {**outputs, self.facts.stride: self._as_grid(last, images)}

    def early(self, images: Tensor, levels: Sequence[int]) -> dict[int, Tensor]:
        if self.facts.stride in levels:
            return super().early(images, levels)
        model: Any = self.model
        kept = model.forward_intermediates(
            images,
            indices=[self.level_indices[level] for level in levels],
            output_fmt="NCHW",
            stop_early=True,
            intermediates_only=True,
        )
        return dict(zip(levels, kept, strict=True))

    def _as_grid(self, features: Tensor, images: Tensor) -> Tensor:
        """Tokens (B, prefix + h * w, D) or channels-last maps (B, h, w, D) -> (B, D, h, w)."""
        if features.ndim == 3:
            rows = images.shape[2] // self.facts.stride
            tokens = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
            features = tokens.reshape(tokens.shape[0], rows, -1, tokens.shape[2])
        elif getattr(self.model, "output_fmt", "NCHW") != "NHWC":
            return features
        return features.permute(0, 3, 1, 2)


def architecture_of(spec: BackboneSpec) -> BackboneSpec:
    """What an id of a hub stands for: a run's record is to name a network, not a place."""
    if not spec.name.startswith(HUB):
        return spec
    from timm.models import load_model_config_from_hf

    try:
        with hub_cache_when_unreachable():
            facts, name, arguments = load_model_config_from_hf(spec.name.removeprefix(HUB))
    except (OSError, RuntimeError, ValueError) as error:
        raise weights_not_at_hand(spec.name, error) from error
    return replace(
        spec,
        name=name,
        arguments={**(arguments or {}), **spec.arguments},
        mean=spec.mean or (tuple(facts["mean"]) if "mean" in facts else None),
        std=spec.std or (tuple(facts["std"]) if "std" in facts else None),
        weights=spec.name if spec.weights == "default" else spec.weights,
    )


def build_timm_trunk(spec: BackboneSpec) -> TimmTrunk:
    model = _create(spec)
    config = model.pretrained_cfg or {}
    classifier = config.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    keys = tuple(f"{name}." for name in (*names, "fc", "classifier", "head", "head_dist"))
    if spec.weights not in ("default", "none"):
        load_file_into(model, spec.weights, ignored=keys)
    strides = [int(level["reduction"]) for level in model.feature_info]
    if spec.output_stride not in (None, strides[-1]):
        raise _no_output_stride(spec)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    facts = TrunkFacts(
        stride=strides[-1],
        out_channels=int(model.num_features),
        level_strides=tuple(sorted(set(strides))),
        mean=tuple(config.get("mean", IMAGENET_MEAN)),
        std=tuple(config.get("std", IMAGENET_STD)),
        input_multiple=int(patch[0]) if patch and patch[0] == strides[-1] else 1,
    )
    trunk = TimmTrunk(model, facts)
    if spec.weights == "default" or spec.weights.startswith(HUB):
        trunk.loaded_weights = config.get("hf_hub_id") or spec.name
    elif spec.weights != "none":
        trunk.loaded_weights = spec.weights
    _release_unused(trunk)
    return trunk


def build_embedded_trunk(spec: BackboneSpec) -> TimmTrunk:
    """A network of timm by a name of ours; its published weights come with an installed package."""
    embedded = EMBEDDED[spec.name]
    if spec.weights != "default":
        return build_timm_trunk(replace(spec, name=embedded.timm_name))
    trunk = build_timm_trunk(replace(spec, name=embedded.timm_name, weights="none"))
    trunk.loaded_weights = embedded.load_into(trunk.model, name=spec.name)
    return trunk


def _release_unused(trunk: TimmTrunk) -> None:
    """Parameters that the features do not depend on (a classifier's) are not trained.

    They would otherwise halt training on several devices.
    """
    trunk.eval()
    side = trunk.facts.stride * math.ceil(96 / trunk.facts.stride)
    features = trunk(torch.zeros(1, 3, side, side))[trunk.facts.stride]
    trained = [parameter for parameter in trunk.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(features.sum(), trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    trunk.train()


def _create(spec: BackboneSpec) -> Any:
    overlay: dict[str, Any] | None = None
    if spec.weights.startswith(HUB):
        overlay = {"hf_hub_id": spec.weights.removeprefix(HUB), "url": "", "file": ""}
    is_published = overlay is not None or spec.weights == "default"
    try:
        with hub_cache_when_unreachable() if is_published else nullcontext():
            return _of_any_size(spec, pretrained=is_published, pretrained_cfg_overlay=overlay)
    except (OSError, RuntimeError, ValueError) as error:
        if not is_published:
            raise
        raise weights_not_at_hand(spec.name, error) from error


def _of_any_size(spec: BackboneSpec, **source: Any) -> Any:
    import timm

    arguments = {**spec.arguments, "num_classes": 0}
    if spec.output_stride is not None and spec.output_stride != 32:
        arguments["output_stride"] = spec.output_stride
    for any_size in _ANY_SIZE:
        try:
            return timm.create_model(spec.name, **source, **{**any_size, **arguments})
        except TypeError as error:
            refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if refused is None or refused[1] not in any_size:
                raise _refusal(spec, refused[1] if refused else None, error) from error
        except (AssertionError, NotImplementedError) as error:
            if "output_stride" in arguments:
                raise _no_output_stride(spec) from error
            raise
    raise AssertionError("an empty set of arguments cannot be refused")


def _refusal(spec: BackboneSpec, name: str | None, error: TypeError) -> Exception:
    if name == "output_stride":
        return _no_output_stride(spec)
    if name in spec.arguments:
        return SettingError(
            f"{spec.name} has no argument {name!r}",
            location="--backbone",
            remedy="See the model's page in timm for what it takes",
        )
    return error


def _no_output_stride(spec: BackboneSpec) -> SettingError:
    return SettingError(
        f"{spec.name} cannot have an output stride of {spec.output_stride}",
        location="--output-stride",
        remedy="Leave it out, or choose a ResNet, EfficientNet or MobileNet",
    )
