"""Naming a backbone with its arguments on the command line."""

from __future__ import annotations

import pytest

from weakloc.errors import SettingError
from weakloc.model.trunk import BackboneSpec


def test_values_are_literals_or_bare_words() -> None:
    spec = BackboneSpec.parse("net.tag[pad_type=same, depth=3,flag=True, rate=.5, sizes=(1, 2)]")
    assert spec.name == "net.tag"
    wanted = {"pad_type": "same", "depth": 3, "flag": True, "rate": 0.5, "sizes": (1, 2)}
    assert dict(spec.arguments) == wanted


def test_mean_and_std_replace_the_normalisation_and_are_no_arguments() -> None:
    spec = BackboneSpec.parse("mobilenetv2_100[pad_type=same,mean=0.5,std=(0.1,0.2,0.3)]")
    assert spec.mean == (0.5, 0.5, 0.5)
    assert spec.std == (0.1, 0.2, 0.3)
    assert dict(spec.arguments) == {"pad_type": "same"}


@pytest.mark.parametrize(
    "text", ["resnet50", "preact18[stem='cam']", "a[b=(1, 2),c='x,y]',mean=(0.5, 0.5, 0.5)]"]
)
def test_text_survives_the_way_through_a_spec(text: str) -> None:
    assert str(BackboneSpec.parse(text)) == text
    assert BackboneSpec.parse(str(BackboneSpec.parse(text))) == BackboneSpec.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not NAME"),
        ("a b", "not NAME"),
        ("net[x=1", "not NAME"),
        ("net[x]", "'x' is not key=value"),
        ("net[x=]", "'x=' is not key=value"),
        ("net[1x=2]", "is not key=value"),
        ("net[x=(1,2]", "left open"),
        ("net[x='1]", "left open"),
        ("net[x=1]]", "left open"),
        ("net[x=7x7]", "'x=7x7' is not key=value, with quotes around what is no plain word"),
        ("net[x=1) + (2]", "is not key=value"),
        ("net[**x]", "is not key=value"),
        ("net[mean=dark]", "mean must be a number"),
        ("net[std=(1,2)]", "std must be a number or three"),
        ("net[std=0]", "std must be positive"),
    ],
)
def test_a_malformed_name_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(SettingError) as caught:
        BackboneSpec.parse(text)
    assert reason in str(caught.value)
    assert "mobilenetv2_100[pad_type=same" in str(caught.value)


def test_code_in_a_value_stays_text() -> None:
    spec = BackboneSpec.parse("net[x=__import__('os').getcwd()]")
    assert spec.arguments["x"] == "__import__('os').getcwd()"


def test_any_text_can_be_given_in_quotes() -> None:
    spec = BackboneSpec.parse("net[x='7x7, (or', y=\"a]\", z=lower-case.name]")
    assert dict(spec.arguments) == {"x": "7x7, (or", "y": "a]", "z": "lower-case.name"}


def test_an_impossible_output_stride_is_refused() -> None:
    with pytest.raises(SettingError, match="output stride 12"):
        BackboneSpec.parse("resnet18", output_stride=12)
