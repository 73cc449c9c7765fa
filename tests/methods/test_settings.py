"""A method as plain values and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from weakloc.errors import SettingError
from weakloc.methods import METHODS
from weakloc.methods.beam import Beam
from weakloc.methods.settings import from_settings, to_settings
from weakloc.methods.wildcat import Wildcat
from weakloc.model.trunk import BackboneSpec


@pytest.mark.parametrize("preset", ["practical", "literal"])
@pytest.mark.parametrize("name", METHODS)
def test_every_preset_survives_the_way_through_strict_json(name: str, preset: str) -> None:
    method = getattr(METHODS[name], preset)()
    text = json.dumps(to_settings(method), allow_nan=False)
    assert from_settings(METHODS[name], json.loads(text)) == method
    assert METHODS[name].name == name


@pytest.mark.parametrize("name", METHODS)
def test_every_changed_field_survives_too(name: str) -> None:
    method = METHODS[name].literal()
    method = replace(
        method,
        side=321,
        map_scales=(0.5, 1.0),
        optimisation=replace(method.optimisation, backbone_factor="auto", max_steps=7),
    )
    assert from_settings(METHODS[name], json.loads(json.dumps(to_settings(method)))) == method


def test_infinity_is_written_as_text() -> None:
    settings = to_settings(Beam.practical())
    assert settings["search"]["recrop_every"] == "inf"
    assert from_settings(Beam, settings).search.recrop_every == math.inf


def test_a_field_made_anew_each_time_needs_no_value() -> None:
    spec = BackboneSpec.parse("tiny")
    assert from_settings(BackboneSpec, {"name": "tiny"}) == spec


def test_fields_not_given_keep_their_defaults() -> None:
    assert from_settings(Wildcat, {"k_max": 3}) == replace(Wildcat.practical(), k_max=3)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"k_mx": 3}, "there is no setting 'k_mx'. Did you mean 'k_max'?"),
        ({"k_max": "some"}, "k_max: 'some' will not do. Give a whole number or a number or"),
        ({"class_pool": "median"}, "class_pool: 'median' will not do. Give one of mean, max, lse"),
        ({"side": 4.5}, "side: 4.5 will not do. Give a whole number"),
        ({"flip": 1}, "flip: 1 will not do. Give true or false"),
        ({"flip": "no"}, "flip: 'no' will not do. Give true or false"),
        ({"map_scales": 1.0}, "map_scales: 1.0 will not do. Give a list"),
        ({"map_scales": [1.0, "two"]}, "map_scales: 'two' will not do. Give a number"),
        ({"optimisation": {"kind": "adam"}}, "optimisation.kind: 'adam' will not do"),
        ({"optimisation": {"rate": 1}}, "there is no setting 'optimisation.rate'"),
        ({"optimisation": {**to_settings(Wildcat().optimisation), "epochs": 0}}, "epochs is 0"),
        ({"optimisation": {"kind": "sgd"}}, "optimisation.learning_rate: no value is given"),
        ({"optimisation": 3}, "optimisation: 3 will not do. Give a table of settings"),
    ],
)
def test_a_wrong_value_is_told_by_its_field(values: dict[str, object], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        from_settings(Wildcat, values)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
