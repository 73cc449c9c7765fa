"""Label Studio's labelling interface (XML) -> how predictions are said in its own names.

Answered are RectangleLabels, KeyPointLabels, BrushLabels, PolygonLabels and Choices that belong
to an Image, with the labels that mean a class: by value, by alias, or as one of the words in
`predicted_values`, capital letters aside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from xml.etree.ElementTree import Element, ParseError

import msgspec
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from weakloc.errors import DataError
from weakloc.output.exporters.label_studio import results
from weakloc.output.exporters.selection import MaskForm
from weakloc.output.settings import ExportOptions
from weakloc.structures import Prediction

Labels: TypeAlias = Mapping[str, str]  # class name -> what the interface calls it
CONTROLS = {  # tag -> what of a prediction it shows
    "RectangleLabels": "boxes",
    "KeyPointLabels": "points",
    "BrushLabels": "masks",
    "PolygonLabels": "masks",
    "Choices": "scores",
}
UNNAMED = "$undefined$"  # where Label Studio keeps an image imported before there is an interface


@dataclass(frozen=True)
class Control:
    """One way of labelling: its tag, its name, and the classes it knows."""

    tag: str
    name: str
    labels: Labels
    takes_one: bool  # of Choices: only one of them

    @property
    def mask_form(self) -> MaskForm:
        return "polygon" if self.tag == "PolygonLabels" else "rle"

    def shown(self, prediction: Prediction) -> Prediction:
        """What this control can say of a prediction, in its own words."""
        nothing = replace(prediction, scores={}, points=(), boxes=(), masks=())
        if self.tag == "Choices":
            return replace(nothing, scores=self._choices(prediction.scores))
        kind = CONTROLS[self.tag]
        named: Any = {
            kind: tuple(
                msgspec.structs.replace(marked, class_name=self.labels[marked.class_name])
                for marked in getattr(prediction, kind)
                if marked.class_name in self.labels
            )
        }
        return replace(nothing, **named)

    def _choices(self, scores: Mapping[str, float]) -> dict[str, float]:
        best_scores: dict[str, float] = {}
        for name, label in self.labels.items():
            best_scores[label] = max(scores[name], best_scores.get(label, 0.0))
        if self.takes_one:
            label = max(best_scores, key=best_scores.__getitem__)
            return {label: best_scores[label]}
        return best_scores


@dataclass(frozen=True)
class LabellingInterface:
    """The image that is labelled and the controls that weakloc can fill in."""

    image_name: str
    data_key: str
    controls: tuple[Control, ...]

    def image_of(self, task: Mapping[str, Any]) -> str:
        """What a task says where its image is."""
        data = task.get("data")
        name = data.get(self.data_key, data.get(UNNAMED)) if isinstance(data, dict) else None
        if not isinstance(name, str):
            raise DataError(
                f"its data has no {self.data_key!r}, which the labelling interface shows as "
                f"the image, or it is no text",
                location=f"task {task.get('id', '?')}",
            )
        return name

    def regions(self, prediction: Prediction, options: ExportOptions) -> list[dict[str, Any]]:
        """The regions that the exporter writes, under the names of this interface."""
        regions: list[dict[str, Any]] = []
        for control in self.controls:
            fitting = replace(options, mask_form=control.mask_form)
            for region in results(control.shown(prediction), fitting):
                named = {"from_name": control.name, "to_name": self.image_name}
                regions.append({**region, **named, "id": f"weakloc-{len(regions)}"})
        return regions


def read_interface(xml: object, class_names: Sequence[str]) -> LabellingInterface:
    """The first image that has a control for one of the classes; DataError where none has."""
    try:
        view: Element = fromstring(xml if isinstance(xml, str) else "")
    except (ParseError, DefusedXmlException) as error:
        raise DataError(f"the labelling interface cannot be read ({error})") from error
    images = {tag.get("name", ""): tag.get("value", "") for tag in view.iter("Image")}
    for image_name, value in images.items():
        controls = tuple(_controls(view, image_name, class_names))
        if controls and value.startswith("$"):
            return LabellingInterface(image_name, value.removeprefix("$"), controls)
    raise DataError(
        "the labelling interface has no control that this run could fill in",
        remedy=f"It takes an Image, and one of {', '.join(CONTROLS)} for it, with labels among "
        f"{', '.join(class_names[:12])}{', ...' if len(class_names) > 12 else ''}",
    )


def _controls(view: Element, image_name: str, class_names: Sequence[str]) -> Iterator[Control]:
    for element in view.iter():
        belongs = image_name in element.get("toName", "").split(",")
        # Choices for each region answer a question about a region that is not drawn yet.
        if element.tag not in CONTROLS or not belongs or element.get("perRegion") == "true":
            continue
        labels = _labels(element, class_names)
        if labels:
            takes_one = element.get("choice", "single") != "multiple"
            yield Control(str(element.tag), element.get("name", ""), labels, takes_one)


def _labels(control: Element, class_names: Sequence[str]) -> Labels:
    exact: dict[str, str] = {}
    for label in control.iter("Choice" if control.tag == "Choices" else "Label"):
        value, alias = label.get("value", ""), label.get("alias", "")
        meant = [word.strip() for word in label.get("predicted_values", "").split(",")]
        for word in (value, alias, *meant):
            exact.setdefault(word, alias or value)
    folded = {word.casefold(): label for word, label in reversed(exact.items())}
    labels = {name: exact.get(name, folded.get(name.casefold(), "")) for name in class_names}
    return {name: label for name, label in labels.items() if label}
