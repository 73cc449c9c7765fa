"""The report's content: what is counted, judged, shrunk and written, and what cannot get in."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.output.report_material import (
    HOSTILE,
    NAMES,
    counted,
    grey,
    metrics_record,
    named_report,
    run_record,
    scene_report,
)
from weakloc.errors import ImageError
from weakloc.output.report import (
    chart_picture,
    embedded_json,
    line_chart,
    map_overlap,
    map_warnings,
    metric_label,
    round_ticks,
    shown_metrics,
    tag_warnings,
    write_report,
)
from weakloc.output.report_gallery import (
    ReportContent,
    ReportPicture,
    TrueObject,
    judge_box,
    outcomes_of,
    picture_side,
    shrunk_mask,
)
from weakloc.structures import Box, Disagreement, Point, Prediction


class Elements(HTMLParser):
    """Every element of a page, and the text of each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = (dict(attrs).get("id") or "page") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data


def written(path: Path, content: ReportContent) -> Elements:
    return Elements(write_report(path, content).read_text(encoding="utf-8"))


def said(name: str, doubt: float, **more: Any) -> Prediction:
    return Prediction(name, 60, 40, {NAMES[0]: 0.9}, doubt=doubt, **more)


def test_the_page_holds_what_was_said_and_the_pictures_most_doubtful_first(tmp_path):
    content = scene_report(6, run=run_record(), metrics=metrics_record())
    scripts = written(tmp_path / "r.html", content).scripts
    index = json.loads(scripts["index"])
    doubts = [image["doubt"] for image in index["images"]]
    assert doubts == sorted(doubts, reverse=True)
    by_name = {picture.prediction.image: picture for picture in content.pictures}
    for number, image in enumerate(index["images"]):
        picture = by_name[image["name"]]
        for own, box in zip(image["boxes"], picture.prediction.boxes, strict=True):
            assert NAMES[own[0]] == box.class_name
            assert own[1:] == pytest.approx([*box.box, box.score], abs=1e-4)
        block = json.loads(scripts[f"block-{number}"])
        shown = Image.open(io.BytesIO(base64.b64decode(block["jpeg"])))
        ratio = max(shown.size) / max(picture.prediction.width, picture.prediction.height)
        assert shown.height == pytest.approx(picture.prediction.height * ratio, abs=1)
        for own, columns, rows, cells in block["heat"]:
            stored = np.frombuffer(base64.b64decode(cells), np.uint8).reshape(rows, columns)
            np.testing.assert_array_equal(stored, picture.heat[NAMES[own]])


def test_names_never_become_markup_whatever_they_are(tmp_path):
    plain = tuple(f"plain {number}" for number in range(len(HOSTILE)))
    hostile = written(tmp_path / "a.html", named_report(HOSTILE))
    harmless = written(tmp_path / "b.html", named_report(plain))
    assert [(tag, sorted(found)) for tag, found in hostile.tags] == [
        (tag, sorted(found)) for tag, found in harmless.tags
    ]
    assert json.loads(hostile.scripts["index"])["classes"] == list(HOSTILE)


def test_nothing_is_loaded_from_anywhere_and_only_the_own_script_may_run(tmp_path):
    path = write_report(tmp_path / "r.html", scene_report(2, run=run_record()))
    page = path.read_text()
    elements = Elements(page).tags
    assert not [found for _, found in elements if "src" in found or found.get("style")]
    assert not [name for _, found in elements for name in found if name.startswith("on")]
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    (policy,) = re.findall(r'Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_embedded_json_is_the_same_value_and_ends_no_script():
    value = {"</script>": ["<!--", "&amp;", " ", "\ud83d", 0.5, None]}
    text = embedded_json(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&")
    assert text.isascii()


def test_a_picture_that_cannot_be_opened_is_said_and_the_others_are_shown(tmp_path):
    def broken() -> Image.Image:
        raise ImageError("cut short")

    pictures = [ReportPicture(said("a", 0.9), broken), ReportPicture(said("b", 0.1), grey)]
    path = write_report(tmp_path / "r.html", ReportContent(NAMES, pictures))
    scripts = Elements(path.read_text()).scripts
    assert json.loads(scripts["block-0"])["jpeg"] is None
    assert json.loads(scripts["block-1"])["jpeg"]
    assert "1 of the shown pictures could not be opened" in path.read_text()


def test_a_report_of_nothing_is_still_a_page(tmp_path):
    scripts = written(tmp_path / "r.html", ReportContent((), ())).scripts
    assert json.loads(scripts["index"])["images"] == []


OBJECT = TrueObject("cat", (100, 100, 200, 200))


@pytest.mark.parametrize(
    ("box", "outcome"),
    [
        ((100, 100, 200, 200), "hit"),
        ((100, 100, 200, 150), "hit"),  # IoU exactly 0.5
        ((100, 100, 200, 149), "part"),
        ((120, 120, 130, 130), "part"),  # IoU 0.01, but inside
        ((50, 50, 260, 260), "too big"),
        ((0, 0, 1000, 1000), "too big"),
        ((199, 199, 299, 299), "false alarm"),  # a corner is not touching
        ((300, 300, 400, 400), "false alarm"),
        ((150, 150, 150, 150), "false alarm"),  # no area
    ],
)
def test_a_box_is_judged_by_how_it_lies_to_the_object(box, outcome):
    assert judge_box(box, [OBJECT]) == outcome


def test_outcomes_of_an_image_are_those_of_its_classes():
    prediction = Prediction(
        "a", 500, 400, {},
        boxes=(Box("cat", (100, 100, 200, 200), 0.9), Box("dog", (0, 0, 50, 50), 0.9)),
        points=(Point("cow", 20, 30, 0.9), Point("hen", 20, 30, 0.9), Point("pig", 1, 1, 0.2)),
    )  # fmt: skip
    objects = [
        OBJECT,
        TrueObject("cat", (300, 300, 350, 350)),
        TrueObject("cow", (10, 10, 40, 40)),
        TrueObject("hen", (200, 200, 240, 240)),
        TrueObject("fly", (200, 200, 240, 240), is_optional=True),
    ]
    found = set(outcomes_of(prediction, objects))
    assert found == {
        ("cat", "hit"),
        ("cat", "miss"),
        ("dog", "false alarm"),
        ("cow", "hit"),
        ("hen", "miss"),
    }


def test_totals_count_images_by_class_once():
    items = [
        said("a", 0, boxes=(Box("cat", (0, 0, 1, 1), 1.0),) * 3),
        said("b", 0, disagreements=(Disagreement("dog", "missing", 0.1),)),
    ]
    totals = counted(items)
    assert (totals.num_images, totals.num_disagreeing) == (2, 1)
    assert totals.present == {NAMES[0]: 2, "cat": 1}
    assert totals.boxes == {"cat": 3}
    assert totals.disagreements == {"dog": 1}


def test_a_mask_is_shrunk_to_the_cells_it_fills_by_half():
    mask = np.zeros((480, 640), dtype=bool)
    mask[100:200, 320:] = True
    small = shrunk_mask(mask)
    assert small.shape == (120, 160)
    np.testing.assert_array_equal(small, mask[2::4, 2::4])


def test_more_pictures_are_smaller_ones():
    assert [picture_side(count) for count in (1, 100, 101, 500, 5000)] == [640, 640, 480, 320, 320]


def test_numbers_are_spelt_for_people_and_missing_ones_come_last_with_their_reason():
    metrics = shown_metrics(metrics_record())
    assert [metric_label(metric.name) for metric in metrics] == [
        "Classification mAP",
        "Point mAP",
        "Box mAP 50",
        "Max box accuracy V2",
        "Mean IoU",
    ]
    assert metrics[1].baselines == {"centre": 0.33, "full image": 0.33, "random": 0.21}
    assert (metrics[-1].value, metrics[-1].unavailable) == (
        None,
        "no masks are drawn in this data set",
    )
    assert shown_metrics(None) == ()


def test_a_class_that_never_comes_alone_is_warned_of_once():
    (pair,) = tag_warnings(run_record())
    assert {pair.first, pair.second} == {NAMES[0], NAMES[1]}
    assert (pair.num_together, pair.num_images) == (117, 120)
    rails = {
        "class_names": ["train", "rails"],
        "labels": {"num_images": 100, "co_occurrence": [[20, 20], [20, 60]]},
    }
    (pair,) = tag_warnings(rails)
    assert (pair.first, pair.second) == ("train", "rails")  # not the other way round


def test_maps_that_light_up_the_same_place_are_warned_of():
    first = np.array([[0, 100, 200]], dtype=np.uint8)
    second = np.array([[50, 100, 100]], dtype=np.uint8)
    assert map_overlap(first, second) == pytest.approx(200 / 350)
    assert map_overlap(first, first.T) == 0
    (pair,) = map_warnings([{"a": first, "b": first, "c": second}] * 5)
    assert (pair.first, pair.second, pair.share, pair.num_images) == ("a", "b", 1.0, 5)
    assert map_warnings([{"a": first, "b": first}] * 4) == ()


def test_charts_put_values_where_their_ticks_say():
    chart = line_chart("Loss", (1.0, 2.0, 5.0), (0.5, 2.0, 1.0), x_label="epoch")
    x, y = ({text: at for at, text in ticks} for ticks in (chart.x_ticks, chart.y_ticks))
    (_, *_), middle, last = chart.dots
    assert middle[:2] == (x["2"], y["2"])
    assert last[:2] == (x["5"], y["1"])
    assert y["2"] < y["1"]  # upwards


def test_a_chart_alone_is_a_picture_of_the_same_lines():
    chart = line_chart("Loss & <b>", (1.0, 2.0), (0.5, 2.0), x_label="epoch")
    picture = ElementTree.fromstring(chart_picture(chart))
    name = "{http://www.w3.org/2000/svg}"
    assert picture.findtext(f"{name}text") == "Loss & <b>"
    assert [path.get("d") for path in picture.iter(f"{name}path")][-1] == chart.path
    assert len([*picture.iter(f"{name}circle")]) == len(chart.dots)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1, 12), (0.0031, 0.0099), (-4, 700)])
def test_ticks_are_few_round_and_within(low, high):
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert len({round(b - a, 9) for a, b in pairwise(ticks)}) == 1


def test_a_constant_or_absent_history_is_no_error(tmp_path):
    record = {**run_record(), "history": [{"epoch": n, "loss": 0.5} for n in (1, 2)]}
    for run in (record, {}):
        write_report(tmp_path / "r.html", ReportContent(NAMES, (), run=run))
