"""Files made to break a reader end in one line, and take neither time nor memory."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from weakloc.data.images import member_path, open_image
from weakloc.data.readers import read_data_set
from weakloc.data.readers.coco import read_coco_results
from weakloc.data.sources import find_images
from weakloc.errors import DataError, ImageError, PredictionsError
from weakloc.files import read_text, text_lines
from weakloc.output.exporters.jsonl import read_predictions
from weakloc.rle import decode_mask
from weakloc.settings import ReaderOptions
from weakloc.structures import DataSet

DIGITS = "9" * 5000
DEEP = "[" * 100_000


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def tar(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name.replace("_", "."))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def lying_tar() -> bytes:
    member = tarfile.TarInfo("a.png")
    member.size = 2**40
    return member.tobuf(tarfile.GNU_FORMAT) + tar(a_png=png())[512:]


def coco(**parts: Any) -> bytes:
    usual = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [],
    }
    return json.dumps(usual | parts).encode()


def drawn(**parts: Any) -> bytes:
    usual = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
    return coco(annotations=[usual | parts])


def read(folder: Path, name: str, content: bytes) -> DataSet:
    (folder / "a.png").write_bytes(png())
    (folder / name).write_bytes(content)
    return read_data_set(folder / name, options=ReaderOptions())


BOMB = b"a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nnames: *b\ntrain: .\n"
COLUMNS = ",".join(f"c{number}" for number in range(22_001))
REFUSED = [
    ("c.json", b'{"images":' + b"[" * 100_000, "nested too deeply"),
    ("c.json", coco()[:-1] + f',"x":{DIGITS}}}'.encode(), "4300 digits"),
    ("c.json", coco(images=[{"id": [1], "file_name": "a.png"}]), r"images\[0\].id is \[1\]"),
    ("c.json", coco(categories=[{"id": {}, "name": "a"}]), r"categories\[0\].id is {}"),
    ("c.json", drawn(image_id=[1]), r"annotations\[0\].image_id is \[1\]"),
    ("c.json", drawn(category_id={}), r"annotations\[0\].category_id is {}"),
    ("c.json", coco(annotations=7), "annotations is 7"),
    ("c.json", coco(annotations=[7]), r"annotations\[0\] is 7"),
    ("data.yaml", BOMB, "line 2: is not valid YAML: an alias"),
    ("data.yaml", b"names: " + b"[" * 2000, "recursion"),
    ("data.yaml", f"names: [a]\ntrain: .\nnc: {DIGITS}".encode(), "4300 digits"),
    ("data.yaml", b"names: [a]\ntrain: .\nd: 2020-13-45", "month must be"),
    ("data.yaml", b"names: [" + b"a," * 2**20 + b"]\ntrain: .", "letters"),
    ("l.csv", f"path,{COLUMNS}\na.png{',1' * 22_001}\n".encode(), "22,001 classes"),
    ("l.csv", b"path,label\na.png," + b"y" * 200_000, "field larger"),
    ("l.csv", "path,label\na.png,b\xe4r".encode("latin-1"), "0xe4 is not UTF-8"),
    ("l.jsonl", DEEP.encode(), "nested too deeply"),
    ("l.tar", lying_tar(), "cannot be read to its end"),
    ("l.tar", tar(), "no usable image|no image with labels"),
]


@pytest.mark.parametrize(("name", "content", "reason"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_file_made_to_break_its_reader_is_one_line(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        read(tmp_path, name, content)


FAR = "a corner far outside"
RLE = {"size": [10, 20]}
PROBLEMS = [
    ("c.json", drawn(segmentation=[[1e9, 1e9, -1e9, 1e9, 5, 5]]), FAR),
    ("c.json", drawn(segmentation=[[1e300, 1, -1e300, 1, 5, 5]]), FAR),
    ("c.json", drawn(segmentation=[[200, 1, -200, 1] * 20_000]), "edges of a polygon are over"),
    ("c.json", drawn(segmentation=RLE | {"counts": [5, 5]}), "runs of 10 pixels"),
    ("c.json", drawn(segmentation=RLE | {"counts": [-100, 300]}), "runs of 200 pixels"),
    ("c.json", drawn(segmentation=RLE | {"counts": [10**30]}), "too large"),
    ("c.json", drawn(segmentation={"size": [10**9] * 2, "counts": [10**18]}), "mask of 1000000000"),
    ("c.json", drawn(bbox=[10**400, 1, 2, 3]), "is not four numbers"),
    ("l.tar", tar(a_png=png(), a_json=DEEP.encode()), "nested too deeply"),
    ("l.tar", tar(a_png=png(), a_json=DIGITS.encode()), "4300 digits"),
]


@pytest.mark.parametrize(("name", "content", "reason"), PROBLEMS, ids=lambda value: str(value)[:40])
def test_a_value_made_to_break_its_reader_is_a_problem(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    data_set = read(tmp_path, name, content)
    assert any(reason in problem.message for problem in data_set.problems), data_set.problems
    for sample in data_set.samples():
        for mask in sample.truth.masks if sample.truth else ():
            decode_mask(mask.rle)


@pytest.mark.parametrize(
    "line", ["0 1e9 1e9 -1e9 1e9 5 5", "0 1e308 1e308 -1e308 1 5 5", "0 900 1 1 1 1 2"]
)
def test_a_polygon_far_outside_is_a_problem(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.txt").write_text(line)
    data_set = read(tmp_path, "data.yaml", b"names: [cat]\ntrain: .\n")
    kinds = {problem.kind for problem in data_set.problems}
    assert kinds & {"unreadable label", "unreadable mask"}


def test_an_image_of_a_billion_pixels_a_side_has_no_masks(tmp_path: Path) -> None:
    large = [{"id": 1, "file_name": "a.png", "width": 10**9, "height": 10**9}]
    polygon = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    data_set = read(tmp_path, "c.json", coco(images=large, annotations=[polygon]))
    assert any("no width and height" in problem.message for problem in data_set.problems)


@pytest.mark.parametrize("pattern", ["x-{0..9999999}.tar", "x-{0..999}{0..999}{0..999}.tar"])
def test_braces_that_name_a_million_shards_are_refused(pattern: str) -> None:
    with pytest.raises(DataError, match="more than 100,000 shards"):
        list(find_images(pattern))


def test_a_member_larger_than_its_archive_is_cut_short(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(png())
    for offset, size in ((0, 10**15), (10**30, 5)):
        with pytest.raises(ImageError, match=r"archive (ends after|cannot be read)"):
            open_image(member_path(str(archive), offset=offset, size=size))


def test_nobody_waits_for_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for error, reading in (
        (DataError, lambda: read_text(pipe)),
        (DataError, lambda: next(text_lines(pipe))),
        (DataError, lambda: list(find_images(str(pipe)))),
        (PredictionsError, lambda: next(read_predictions(pipe))),
        (ImageError, lambda: open_image(member_path(str(pipe), offset=0, size=9))),
    ):
        with pytest.raises(error):
            reading()


RESULTS = [
    "[" * 100_000,
    "{}",
    "[7]",
    '[{"image_id": [1], "category_id": 1, "score": 1}]',
    '[{"image_id": 1, "category_id": 1, "score": "a"}]',
    '[{"image_id": 1, "category_id": 1, "score": 1, "bbox": [1, 2]}]',
    '[{"image_id": 1, "category_id": 1, "score": 1, "segmentation": {"size": 9, "counts": "A"}}]',
    '[{"image_id": 9, "category_id": 1, "score": 1}]',
    '[{"image_id": 1, "category_id": 1, "score": NaN, "bbox": [1, 2, 3, 4]}]',
    '[{"image_id": 1, "category_id": 1, "score": 1, "bbox": [1, 2, Infinity, 4]}]',
    '[{"image_id": 1, "category_id": 1, "score": 1, "bbox": [1, 2, -1, 4]}]',
    '[{"image_id":1, "category_id":1, "score":1, "segmentation": {"size": [1, 1], "counts": [1]}}]',
]


@pytest.mark.parametrize("text", RESULTS, ids=lambda text: text[:60])
def test_results_that_are_none_are_one_line(tmp_path: Path, text: str) -> None:
    data_set = read(tmp_path, "c.json", coco())
    (tmp_path / "notes.json").write_text("[" * 100_000)  # of another tool: passed over
    path = tmp_path / "results.txt"
    path.write_text(text)
    with pytest.raises(PredictionsError):
        read_coco_results(path, data_set)
