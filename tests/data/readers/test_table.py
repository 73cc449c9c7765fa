"""Tables of labels, whole and broken."""

from __future__ import annotations

import unicodedata

import pytest

from weakloc.data.readers import raise_if_strict, read_data_set
from weakloc.errors import DataError
from weakloc.settings import ReaderOptions

OPTIONS = ReaderOptions()
IMAGES = {"a b.jpg": "", "sub/ü.png": "", "c,d.jpg": ""}


def test_lists_of_labels_say_present_absent_and_unknown(write, states, kinds):
    table = (
        "\ufefffile_name,Labels\r\n"
        "a b.jpg,cat; big dog\r\n"
        'sub/ü.png,"?cat;fish, raw"\r\n'
        '"c,d.jpg",\r\n'
    )
    root = write({"labels.csv": table, **IMAGES})
    data_set = read_data_set(root, options=OPTIONS)
    assert data_set.layout == "table"
    assert data_set.class_names == ("big dog", "cat", "fish, raw")
    assert states(data_set) == {"all": {"a b.jpg": "++-", "sub/ü.png": "-?+", "c,d.jpg": "---"}}
    assert kinds(data_set) == {}


def test_a_lone_question_mark_leaves_all_classes_not_named_unknown(write, states):
    root = write(
        {
            "labels.csv": "path,labels\na b.jpg,cat;?\nsub/ü.png,dog\n'c,d.jpg',?\n".replace(
                "'", '"'
            ),
            **IMAGES,
        }
    )
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set)["all"] == {"a b.jpg": "+?", "sub/ü.png": "-+", "c,d.jpg": "??"}


def test_a_line_with_too_many_or_too_few_cells_is_left_out_and_reported(write, states, places):
    text = "path,labels,split,\n1.jpg,fish, raw,train\n2.jpg\n3.jpg,cat,train,\n"
    root = write({"labels.csv": text, **{f"{n}.jpg": "" for n in (1, 2, 3)}})
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set) == {"train": {"3.jpg": "+"}}
    assert places(data_set, "unreadable label") == ["labels.csv, line 2", "labels.csv, line 3"]
    assert places(data_set, "image without labels") == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("sign", "suffix"), [(",", "csv"), ("\t", "tsv"), (";", "csv"), ("\t", "csv")]
)
def test_one_column_a_class_with_blank_for_unknown(write, states, sign, suffix):
    lines = ["cat|Image|a/b|subset", "1|a b.jpg||train", "0|sub/ü.png|1.0|validation"]
    text = "\n".join(lines).replace("|", sign)
    root = write({f"labels.{suffix}": text, "a b.jpg": "", "sub/ü.png": ""})
    data_set = read_data_set(root, options=OPTIONS)
    assert data_set.class_names == ("cat", "a/b")
    assert states(data_set) == {"train": {"a b.jpg": "+?"}, "val": {"sub/ü.png": "-+"}}


def test_json_lines_take_lists_text_objects_and_null(write, states):
    lines = [
        '{"image": "1.jpg", "tags": ["cat", "?cow"]}',
        '{"image": "2.jpg", "tags": "cat;dog"}',
        '{"image": "3.jpg", "tags": {"dog": 1, "cat": 0, "cow": null}}',
        '{"image": "4.jpg", "tags": {"dog": true}}',
        '{"image": "5.jpg", "tags": null}',
        '{"image": "6.jpg", "tags": []}',
    ]
    images = {f"{n}.jpg": "" for n in range(1, 7)}
    root = write({"labels.jsonl": "\n".join(lines), **images})
    data_set = read_data_set(root, options=OPTIONS)
    assert data_set.class_names == ("cat", "cow", "dog")
    assert states(data_set)["all"] == {
        "1.jpg": "+?-", "2.jpg": "+-+", "3.jpg": "-?+", "4.jpg": "??+", "5.jpg": "???",
        "6.jpg": "---",
    }  # fmt: skip


def test_headers_can_be_named(write, states):
    text = "id,wo,was,wann\n7,1.jpg,cat|dog,train\n8,2.jpg,,val\n"
    root = write({"labels.csv": text, "1.jpg": "", "2.jpg": ""})
    options = ReaderOptions(
        path_column="wo", labels_column="was", split_column="wann", label_delimiter="|"
    )
    assert states(read_data_set(root, options=options)) == {
        "train": {"1.jpg": "++"},
        "val": {"2.jpg": "--"},
    }


def test_a_column_that_is_not_there_is_an_error_with_the_nearest_name(write):
    root = write({"labels.csv": "pfad,labels\n1.jpg,cat\n", "1.jpg": ""})
    with pytest.raises(DataError, match=r"labels.csv, line 1: no column looks like image paths"):
        read_data_set(root, options=OPTIONS)
    with pytest.raises(DataError, match=r"no column 'pfda'. Did you mean 'pfad'\?"):
        read_data_set(root, options=ReaderOptions(path_column="pfda"))


def test_a_table_without_header_is_read_when_it_has_two_columns(write, states):
    root = write({"labels.csv": "1.jpg,cat;dog\n2.jpg,dog\n", "1.jpg": "", "2.jpg": ""})
    assert states(read_data_set(root, options=OPTIONS))["all"] == {"1.jpg": "++", "2.jpg": "-+"}
    write({"labels.csv": "1.jpg,cat,3\n"})
    with pytest.raises(DataError, match="the first line is no header"):
        read_data_set(root, options=OPTIONS)


def test_the_table_may_lie_elsewhere(write, states, tmp_path):
    root = write({"1.jpg": "", "sub/2.jpg": ""})
    labels = tmp_path / "my labels.csv"
    text = f"path,labels\n./1.jpg,cat\nsub\\2.jpg,dog\n{root / '1.jpg'},dog\n"
    labels.write_text(text)
    data_set = read_data_set(root, labels=labels, options=OPTIONS)
    assert states(data_set)["all"] == {"1.jpg": "+-", "sub/2.jpg": "-+"}
    assert [p.kind for p in data_set.problems] == ["duplicate image"]


def test_tables_named_like_splits_are_splits(write, states):
    root = write(
        {
            "train.csv": "path,labels\nimages/1.jpg,cat\n",
            "val.csv": "path,labels\nimages/2.jpg,cat\n",
            "images/1.jpg": "",
            "images/2.jpg": "",
        }
    )
    assert states(read_data_set(root, options=OPTIONS)) == {
        "train": {"images/1.jpg": "+"},
        "val": {"images/2.jpg": "+"},
    }
    write({"extra.csv": "path,labels\n"})
    with pytest.raises(DataError, match=r"several tables: extra\.csv, train\.csv, val\.csv"):
        read_data_set(root, options=OPTIONS)


def test_every_flaw_of_a_table_is_reported_with_its_line(write, states, places):
    text = (
        "path,cat,dog\n"
        "1.jpg,1,maybe\n"  # line 2
        "gone.jpg,1,0\n"
        "1.jpg,1,\n"  # says nothing new
        "2.jpg,0\n"  # a cell is missing
        "2.jpg,0,\n"
        ",1,1\n"
        "1.jpg,1,1\n"  # says more
        "\n"
        "2.jpg,0,0\n"
    )
    root = write({"labels.csv": text, "1.jpg": "", "2.jpg": "", "sub/unlisted.jpg": ""})
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set)["all"] == {"1.jpg": "++", "2.jpg": "-?"}
    assert places(data_set, "unreadable label") == [
        "labels.csv, line 2",
        "labels.csv, line 5",
        "labels.csv, line 7",
    ]
    assert places(data_set, "missing image") == ["labels.csv, line 3"]
    assert places(data_set, "duplicate image") == [f"labels.csv, line {n}" for n in (4, 8, 10)]
    assert places(data_set, "image without labels") == ["sub/unlisted.jpg"]
    with pytest.raises(DataError, match=r"labels.csv, line 5: unreadable label.*more problems"):
        raise_if_strict(data_set)


def test_unknown_and_absent_together_are_unknown_until_someone_says_present(write, states):
    text = "path,labels\n1.jpg,?cat\n1.jpg,dog\n2.jpg,cat\n"
    root = write({"labels.csv": text, "1.jpg": "", "2.jpg": ""})
    assert states(read_data_set(root, options=OPTIONS))["all"] == {"1.jpg": "?+", "2.jpg": "+-"}


def test_a_label_outside_of_the_chosen_classes_names_its_line(write):
    root = write({"labels.csv": "path,labels\n1.jpg,cat;dgo\n", "1.jpg": ""})
    data_set = read_data_set(root, options=ReaderOptions(class_names=("cat", "dog")))
    (problem,) = [p for p in data_set.problems if p.kind == "unknown class"]
    assert problem.location == "labels.csv, line 2"
    assert problem.message == "class 'dgo' is not among the classes. Did you mean 'dog'?"


def test_accents_match_however_they_are_encoded(write, states):
    composed, split = unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg")
    root = write({"labels.csv": f"path,labels\n{composed},cat\n", split: ""})
    assert states(read_data_set(root, options=OPTIONS))["all"] == {split: "+"}


def test_other_encodings_are_read_or_named(write, states):
    text = "path\tlabels\nü.jpg\tcat\n"
    root = write({"labels.tsv": text.encode("utf-16"), "ü.jpg": ""})
    assert states(read_data_set(root, options=OPTIONS))["all"] == {"ü.jpg": "+"}
    write({"labels.tsv": text.encode("latin-1")})
    with pytest.raises(DataError, match=r"labels.tsv, line 2: byte 0xfc is not UTF-8 text"):
        read_data_set(root, options=OPTIONS)


def test_broken_json_lines_are_reported_and_passed_over(write, places):
    lines = ['{"path": "1.jpg", "labels": "cat"}', "{", "[1]", '{"labels": []}', "",
             '{"path": "1.jpg", "labels": 1.5}']  # fmt: skip
    root = write({"labels.jsonl": "\n".join(lines), "1.jpg": ""})
    data_set = read_data_set(root, options=OPTIONS)
    assert len(list(data_set.samples())) == 1
    assert places(data_set, "unreadable label") == [f"labels.jsonl, line {n}" for n in (2, 3, 4, 6)]


def test_a_table_of_which_no_image_exists_is_an_error(write):
    root = write({"labels.csv": "path,labels\nx/1.jpg,cat\n", "1.jpg": ""})
    with pytest.raises(DataError, match="none of the 1 images named in the table exists"):
        read_data_set(root, options=OPTIONS)


ELSEWHERE = ["../secret.jpg", "a/../../secret.jpg", "{secret}"]
IMAGES_OF_COCO = '[{{"id": 1, "file_name": "1.jpg"}}, {{"id": 2, "file_name": "{name}"}}]'
REVIEWED = '{{"image": "{name}", "width": 9, "height": 9, "decisions": []}}'
REVIEWS = f"{REVIEWED.replace('{name}', '1.jpg')}, {REVIEWED}"
NAMING = {
    "tags.csv": "path,labels\n1.jpg,cat\n{name},cat\n",
    "tags.jsonl": '{{"path": "1.jpg", "labels": ["a"]}}\n{{"path": "{name}", "labels": []}}',
    "mine.json": (
        f'{{{{"images": {IMAGES_OF_COCO}, "categories": [{{{{"id": 1, "name": "cat"}}}}]}}}}'
    ),
    "review.json": (
        f'{{{{"schema": "weakloc.review/1", "class_names": ["cat"], "images": [{REVIEWS}]}}}}'
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("file", NAMING)
def test_no_file_names_an_image_outside_of_the_data(write, tmp_path, file, name):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"x")
    root = write({"1.jpg": "", file: NAMING[file].format(name=name.format(secret=secret))})
    data_set = read_data_set(root, labels=root / file, options=ReaderOptions())
    assert [sample.name for sample in data_set.samples()] == ["1.jpg"]
    [problem] = [problem for problem in data_set.problems if problem.kind == "missing image"]
    assert "secret.jpg' is not below" in problem.message
    assert "--image-root" in problem.message


@pytest.mark.parametrize("name", ["../images/1.jpg", "{images}/1.jpg"])
def test_paths_that_come_back_to_the_data_are_taken(write, name):
    root = write({"images/1.jpg": "", "labels/tags.csv": ""})
    text = f"path,labels\n{name.format(images=root / 'images')},cat\n"
    (root / "labels" / "tags.csv").write_text(text)
    data_set = read_data_set(root, labels=root / "labels" / "tags.csv", options=ReaderOptions())
    assert [sample.path for sample in data_set.samples()] == [(root / "images/1.jpg").as_posix()]


def test_absolute_paths_elsewhere_are_taken_where_the_user_names_their_folder(write, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "1.jpg"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"x")
    root = write({"tags.csv": f"path,labels\n{elsewhere},cat\n"})
    with pytest.raises(DataError, match="--image-root names another folder"):
        read_data_set(root, options=ReaderOptions())
    options = ReaderOptions(image_root=str(elsewhere.parent))
    data_set = read_data_set(root, options=options)
    assert [sample.path for sample in data_set.samples()] == [elsewhere.as_posix()]
