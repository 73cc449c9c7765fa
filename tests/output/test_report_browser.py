"""The report in a real browser, opened from disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.output.chromium import Browser, chromium_program
from tests.output.report_material import (
    HOSTILE,
    NAMES,
    grey,
    metrics_record,
    named_report,
    run_record,
    scene_report,
)
from weakloc.data.readers.review import read_review
from weakloc.geometry import GridTransform
from weakloc.localize.maps import resample
from weakloc.localize.places import find_boxes
from weakloc.output.report import write_report
from weakloc.output.report_gallery import ReportContent, ReportPicture
from weakloc.structures import ABSENT, PRESENT, Box, Prediction, ScoreMaps

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium_program()
    running = Browser(tmp_path_factory.mktemp("profile"))
    running.resize(1400, 1000)
    yield running
    running.close()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportContent]:
    content = scene_report(24, run=run_record(), metrics=metrics_record())
    return write_report(tmp_path_factory.mktemp("report") / "r e p.html", content), content


def choose(browser: Browser, field: str, value: str) -> None:
    browser.evaluate(
        f"(() => {{ const field = document.getElementById('filters').elements[{field!r}];"
        f"field.value = {value!r}; field.dispatchEvent(new Event('change')); }})()"
    )
    browser.settle()


def slide(browser: Browser, name: str, value: float) -> None:
    browser.evaluate(
        f"(() => {{ const range = document.querySelector('#viewer [data-view={name}]');"
        f"range.value = '{value}'; range.dispatchEvent(new Event('input')); }})()"
    )
    browser.settle()


def shown_names(browser: Browser) -> list[str]:
    found: list[str] = browser.evaluate(
        "[...document.querySelectorAll('.card .file')].map(name => name.textContent)"
    )
    return found


def drawn_boxes(browser: Browser, kind: str = "box") -> list[list[float]]:
    found: list[list[float]] = browser.evaluate(
        f"[...document.querySelectorAll('#viewer rect.{kind}')].map(box => "
        "['x', 'y', 'width', 'height'].map(side => Number(box.getAttribute(side))))"
    )
    return [[x, y, x + width, y + height] for x, y, width, height in found]


def open_picture(browser: Browser, name: str) -> None:
    browser.evaluate(
        f"[...document.querySelectorAll('.card')].find(card => "
        f"card.querySelector('.file').textContent === {json.dumps(name)}).click()"
    )
    browser.settle()


def test_it_opens_from_disk_without_a_complaint_and_asks_nobody_for_anything(browser, scenes):
    browser.open(scenes[0])
    assert not browser.evaluate("document.querySelector('.card img')")  # not before it is near
    browser.evaluate("document.getElementById('gallery').scrollIntoView({behavior: 'instant'})")
    browser.wait("document.querySelector('.card img')?.complete")
    assert browser.evaluate("document.querySelector('.card img').naturalWidth") > 100
    assert len(shown_names(browser)) == 24
    assert browser.complaints() == []
    requests = [each for each in browser.events if each["method"] == "Network.requestWillBeSent"]
    addresses = {each["params"]["request"]["url"].split(":")[0] for each in requests}
    assert addresses <= {"file", "data"}


def test_no_name_runs_and_every_name_is_shown_as_it_is(browser, tmp_path):
    browser.open(write_report(tmp_path / "hostile.html", named_report(HOSTILE)))
    assert sorted(shown_names(browser)) == sorted(HOSTILE)
    for index in range(len(HOSTILE)):
        choose(browser, "class", str(index))
        assert HOSTILE[index] in browser.evaluate(
            "document.querySelector('.card').getAttribute('aria-label')"
        )
    open_picture(browser, HOSTILE[0])
    for key in ("a", "ArrowDown", "n", "ArrowRight", "w"):
        browser.press(key)
    labels = browser.evaluate(
        "[...document.querySelectorAll('.class-button')].map(b => b.innerText)"
    )
    assert any(HOSTILE[0] in label for label in labels)
    assert browser.evaluate("window.broken === undefined")
    assert browser.evaluate("document.querySelectorAll('main b, [onfocus], [onerror]').length") == (
        browser.evaluate("document.querySelectorAll('.metric-value > b, .chip > b').length")
    )
    assert browser.complaints() == []


def test_even_markup_that_got_in_could_not_run(browser, scenes):
    browser.open(scenes[0])
    browser.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.broken=1\">')"
    )
    browser.evaluate(
        "document.body.append(Object.assign(document.createElement('script'),"
        "{text: 'window.broken=2'}))"
    )
    browser.settle()
    assert browser.evaluate("window.broken === undefined")
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())


@pytest.mark.parametrize("size", [(300, 170), (90, 250), (40, 30)])
def test_the_threshold_slider_draws_the_boxes_that_the_localiser_finds(browser, tmp_path, size):
    random = np.random.default_rng(8)
    width, height = size
    columns, rows = (max(round(32 * side / max(size)), 1) for side in size)
    cells = random.integers(0, 256, (rows, columns)).astype(np.uint8)
    prediction = Prediction(
        "a", width, height, {"cat": 1.0}, boxes=(Box("cat", (1, 2, 3, 4), 0.5),)
    )
    picture = ReportPicture(prediction, lambda: grey(size), {"cat": cells})
    browser.open(write_report(tmp_path / "r.html", ReportContent(("cat",), [picture])))
    open_picture(browser, "a")
    assert drawn_boxes(browser) == [[1, 2, 3, 4]]  # as predicted, until the slider moves
    coarse = GridTransform.identity(size).resize((columns, rows))
    side = min(224, max(size))
    fine = coarse.resize(tuple(round(side * each / max(size)) for each in size))
    maps = ScoreMaps(cells[None].astype(np.float32) / 255, coarse, "cam")
    heat = resample(maps, fine)
    for threshold in (0.25, 0.5, 0.62, 0.9):
        slide(browser, "threshold", threshold)
        expected = find_boxes(
            heat.values[0], heat.transform, threshold=threshold, threshold_mode="none"
        )
        np.testing.assert_allclose(
            sorted(drawn_boxes(browser)), sorted(list(found.box) for found in expected), atol=1e-3
        )
    browser.evaluate("document.querySelector('#viewer [data-reset]').click()")
    assert drawn_boxes(browser) == [[1, 2, 3, 4]]


def test_layers_go_on_and_off_and_the_truth_is_where_it_was_drawn(browser, scenes):
    path, content = scenes
    browser.open(path)
    picture = next(each for each in content.pictures if len(each.prediction.boxes) == 1)
    open_picture(browser, picture.prediction.image)
    box = picture.prediction.boxes[0]
    np.testing.assert_allclose(drawn_boxes(browser), [box.box], atol=1e-3)
    assert drawn_boxes(browser, "true-box") == []
    browser.press("t")
    assert picture.truth is not None
    assert picture.truth.truth is not None
    np.testing.assert_allclose(
        drawn_boxes(browser, "true-box"), [picture.truth.truth.boxes[0].box], atol=1e-3
    )
    count = "document.querySelectorAll('#viewer {}').length"
    for key, what in (("b", "rect.box"), ("p", "path.point"), ("m", "canvas.mask")):
        assert browser.evaluate(count.format(what)) == 1
        browser.press(key)
        assert browser.evaluate(count.format(what)) == 0
    slide(browser, "heat", 0.8)
    opacity = "getComputedStyle(document.querySelector('#viewer canvas.heat')).opacity"
    assert float(browser.evaluate(opacity)) == pytest.approx(0.8)


def test_filters_keep_what_fits_them(browser, scenes):
    path, content = scenes
    browser.open(path)
    by_name = {each.prediction.image: each.prediction for each in content.pictures}
    choose(browser, "odd", "missing")
    assert set(shown_names(browser)) == {
        name for name, said in by_name.items() if said.disagreements
    }
    choose(browser, "odd", "")
    choose(browser, "class", "2")
    named = set(shown_names(browser))
    assert {
        n for n, said in by_name.items() if any(b.class_name == NAMES[2] for b in said.boxes)
    } <= named
    assert 0 < len(named) < 24
    choose(browser, "class", "")
    choose(browser, "outcome", "miss")
    missed = set(shown_names(browser))
    choose(browser, "outcome", "hit")
    assert missed
    assert missed != set(shown_names(browser))
    choose(browser, "outcome", "")
    choose(browser, "sort", "name")
    assert shown_names(browser) == sorted(by_name)


def test_the_keyboard_alone_reaches_every_picture(browser, scenes):
    browser.open(scenes[0])
    names = shown_names(browser)
    focused = "document.activeElement.querySelector?.('.file')?.textContent"
    for _ in range(60):
        browser.press("Tab")
        if browser.evaluate(focused):
            break
    assert browser.evaluate(focused) == names[0]
    browser.press("ArrowRight")
    assert browser.evaluate(focused) == names[1]
    per_row = browser.evaluate(
        "getComputedStyle(document.getElementById('cards')).gridTemplateColumns.split(' ').length"
    )
    browser.press("ArrowDown")
    assert browser.evaluate(focused) == names[1 + per_row]
    browser.press("End")
    assert browser.evaluate(focused) == names[-1]
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert browser.evaluate(outline) == "solid"
    browser.press("Enter")
    assert browser.evaluate("document.getElementById('viewer').open")
    browser.press("ArrowLeft")
    assert browser.evaluate("document.getElementById('viewer-name').textContent") == names[-2]
    browser.press("Escape")
    assert browser.evaluate(focused) == names[-2]


def test_what_is_judged_is_downloaded_and_read_back(browser, scenes, tmp_path):
    path, content = scenes
    browser.open(path)
    by_name = {each.prediction.image: each.prediction for each in content.pictures}
    name = next(n for n, said in by_name.items() if len({b.class_name for b in said.boxes}) == 2)
    said = by_name[name]
    first, second = (
        each
        for each, _ in sorted(said.scores.items(), key=lambda pair: -pair[1])
        if any(box.class_name == each for box in said.boxes)
    )
    open_picture(browser, name)
    browser.press("a")  # the likeliest class first
    browser.press("ArrowDown")
    browser.evaluate(
        "(() => { const field = document.querySelector('#viewer select[name=relabel]');"
        f"field.value = '{NAMES.index(first)}'; field.dispatchEvent(new Event('change')); }})()"
    )
    browser.press("Escape")
    browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.evaluate("document.getElementById('review-download').click()")
    saved = tmp_path / "weakloc-review.json"
    for _ in range(100):
        if saved.exists():
            break
        browser.settle()
    review = read_review(saved)
    (image,) = review.images
    assert review.class_names == NAMES
    assert (image.name, image.width, image.height) == (name, said.width, said.height)
    assert image.claim.states == {(first, PRESENT), (second, ABSENT)}
    expected = [box.box for box in said.boxes if box.class_name == first]
    expected += [box.box for box in said.boxes if box.class_name == second]
    np.testing.assert_allclose([box for _, box in image.boxes], expected, atol=1e-3)
    assert {own for own, _ in image.boxes} == {first}


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_and_text_is_legible(browser, scenes, width, scheme):
    browser.resize(width, 900)
    browser.prefer(scheme)
    browser.open(scenes[0])
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    open_picture(browser, shown_names(browser)[0])
    assert browser.evaluate("document.getElementById('viewer').scrollWidth") <= width
    colors: dict[str, Any] = browser.evaluate(
        "Object.fromEntries(['html', '.lead', '#class-table .link'].map(name =>"
        "[name, getComputedStyle(document.querySelector(name)).color]))"
    )
    colors["paper"] = browser.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    paper = _luminance(colors.pop("paper"))
    assert (paper > 0.5) == (scheme == "light")
    for color in colors.values():
        brighter, darker = sorted((paper, _luminance(color)), reverse=True)
        assert (brighter + 0.05) / (darker + 0.05) >= 4.5  # WCAG AA
    browser.prefer("light")
    browser.resize(1400, 1000)


def test_print_shows_every_picture_of_the_choice(browser, scenes):
    browser.open(scenes[0])
    browser.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.evaluate("document.querySelectorAll('.card img').length") == 24
    pdf = browser.send("Page.printToPDF")["data"]
    assert len(pdf) > 10_000


def _luminance(color: str) -> float:
    """WCAG's relative luminance of `rgb(r, g, b)`."""
    shares = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
