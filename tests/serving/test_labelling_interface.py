"""Answers are the exporter's regions under the names of the project's own interface."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.output.exporters.conftest import CLASS_NAMES, IMAGES, one_prediction
from weakloc.errors import DataError
from weakloc.output.exporters.label_studio import labelling_config, results
from weakloc.output.settings import ExportOptions
from weakloc.serving.labelling_interface import LabellingInterface, read_interface
from weakloc.structures import Box, Mask, Point, Prediction

OPTIONS = ExportOptions()
RLE = {"size": [40, 60], "counts": "a1"}
DOG_AND_CAT = Prediction(
    "a.jpg",
    60,
    40,
    {"dog": 0.9, "cat": 0.8},
    points=(Point("dog", 5.0, 6.0, 0.9), Point("cat", 7.0, 8.0, 0.8)),
    boxes=(Box("dog", (0.0, 0.0, 30.0, 20.0), 0.7), Box("cat", (1.0, 1.0, 9.0, 9.0), 0.6)),
)


def interface(controls: str, value: str = "$photo") -> LabellingInterface:
    image = f'<Image name="pic" value="{value}"/>'
    return read_interface(f"<View>{image}{controls}</View>", ("dog", "cat"))


def said(found: LabellingInterface, prediction: Prediction = DOG_AND_CAT) -> list[tuple[str, ...]]:
    regions = found.regions(prediction, OPTIONS)
    return [(each["from_name"], *each["value"][each["type"]]) for each in regions]


@pytest.mark.parametrize("form", ["rle", "polygon"])
@pytest.mark.parametrize("seed", range(4))
def test_the_exporter_s_own_interface_is_answered_with_what_the_exporter_writes(
    form: str, seed: int
) -> None:
    prediction = one_prediction(IMAGES[seed], np.random.default_rng(seed), num_boxes=3)
    options = replace(OPTIONS, mask_form=form)
    found = read_interface(labelling_config(CLASS_NAMES, masks=form), CLASS_NAMES)  # type: ignore[arg-type]
    written = results(prediction, options)
    answered = found.regions(prediction, OPTIONS)
    assert len(written) >= 6
    assert [{**each, "id": ""} for each in answered] == [{**each, "id": ""} for each in written]
    assert len({each["id"] for each in answered}) == len(answered)
    assert found.data_key == "image"


def test_names_come_from_the_interface_and_only_its_controls_are_answered() -> None:
    found = interface(
        '<RectangleLabels name="r" toName="pic"><Label value="dog"/></RectangleLabels>'
    )
    assert found.data_key == "photo"
    (region,) = found.regions(DOG_AND_CAT, OPTIONS)
    assert (region["type"], region["from_name"], region["to_name"]) == (
        "rectanglelabels",
        "r",
        "pic",
    )
    assert region["value"]["rectanglelabels"] == ["dog"]
    assert (region["value"]["width"], region["value"]["height"]) == (50.0, 50.0)


def test_labels_are_understood_by_value_alias_and_predicted_values() -> None:
    found = interface(
        '<KeyPointLabels name="k" toName="pic">'
        '<Label value="A pet" predicted_values="ferret, dog"/><Label value="Katze" alias="CAT"/>'
        "</KeyPointLabels>"
    )
    assert said(found) == [("k", "A pet"), ("k", "CAT")]


def test_an_exact_name_goes_before_one_that_differs_in_capitals() -> None:
    labels = '<Label value="DOG"/><Label value="dog"/><Label value="Cat"/>'
    found = interface(f'<RectangleLabels name="r" toName="pic">{labels}</RectangleLabels>')
    assert said(found) == [("r", "dog"), ("r", "Cat")]


def test_choices_are_all_that_are_likely_or_the_likeliest() -> None:
    choices = '<View><Choice value="dog"/></View><Choice value="cat"/>'
    several = interface(f'<Choices name="c" toName="pic" choice="multiple">{choices}</Choices>')
    assert set(said(several)[0]) == {"c", "dog", "cat"}
    one = interface(f'<Choices name="c" toName="pic">{choices}</Choices>')
    assert said(one) == [("c", "dog")]
    assert said(one, replace(DOG_AND_CAT, scores={"dog": 0.2, "cat": 0.4})) == []


def test_two_classes_of_one_choice_count_as_the_likelier() -> None:
    pets = '<Choice value="pet" predicted_values="dog,cat"/>'
    found = interface(f'<Choices name="c" toName="pic" choice="multiple">{pets}</Choices>')
    (region,) = found.regions(DOG_AND_CAT, OPTIONS)
    assert region["value"]["choices"] == ["pet"]
    assert region["score"] == 0.9


def test_masks_are_strokes_or_polygons_as_the_control_takes_them() -> None:
    prediction = one_prediction("a.jpg", np.random.default_rng(0), num_boxes=1)
    (mask,) = prediction.masks
    prediction = replace(prediction, masks=(Mask("dog", mask.rle, mask.score),))
    both = interface(
        '<BrushLabels name="b" toName="pic"><Label value="dog"/></BrushLabels>'
        '<PolygonLabels name="p" toName="pic"><Label value="dog"/></PolygonLabels>'
    )
    kinds = {each["from_name"]: each["type"] for each in both.regions(prediction, OPTIONS)}
    assert kinds == {"b": "brushlabels", "p": "polygonlabels"}


def test_controls_of_other_things_and_of_regions_are_left_alone() -> None:
    with_text = (
        '<Text name="text" value="$text"/>'
        '<Choices name="mood" toName="text"><Choice value="dog"/></Choices>'
        '<Choices name="each" toName="pic" perRegion="true"><Choice value="dog"/></Choices>'
        '<RectangleLabels name="r" toName="text,pic"><Label value="cat"/></RectangleLabels>'
    )
    assert said(interface(with_text)) == [("r", "cat")]


RECTANGLES = '<RectangleLabels name="r" toName="pic"><Label value="{}"/></RectangleLabels>'
BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa">]><View>&a;</View>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>'


@pytest.mark.parametrize(
    "xml",
    [
        "",
        None,
        "<View>",
        "<View/>",
        BOMB,
        OUTSIDE,
        "no xml",
        f"<View>{RECTANGLES.format('dog')}</View>",
        f'<View><Image name="pic" value="$i"/>{RECTANGLES.format("horse")}</View>',
        f'<View><Image name="pic" value="/fixed.jpg"/>{RECTANGLES.format("dog")}</View>',
        f'<View><Image name="other" value="$i"/>{RECTANGLES.format("dog")}</View>',
        '<View><Audio name="pic" value="$i"/></View>',
    ],
)
def test_an_interface_with_nothing_to_fill_in_is_an_error_that_says_so(xml: object) -> None:
    with pytest.raises(DataError, match="labelling interface"):
        read_interface(xml, ("dog", "cat"))


def test_the_image_of_a_task_is_found_or_missed_by_name(tmp_path: Path) -> None:
    found = interface(RECTANGLES.format("dog"))
    assert found.image_of({"data": {"photo": "a.jpg", "$undefined$": "b.jpg"}}) == "a.jpg"
    assert found.image_of({"data": {"$undefined$": "b.jpg"}}) == "b.jpg"
    for task in ({}, {"data": None}, {"data": {"image": "a"}}, {"data": {"photo": 3}}):
        with pytest.raises(DataError, match=r"task 7.*'photo'"):
            found.image_of({"id": 7, **task})
