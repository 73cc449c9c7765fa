"""Hugging Face's image folders: tables of metadata beside the images, in the root or in splits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from weakloc.cli import run as command
from weakloc.data.readers import read_data_set
from weakloc.data.sources import find_images, read_tags
from weakloc.errors import DataError, MissingPackageError
from weakloc.settings import ReaderOptions
from weakloc.structures import TruthBox

OPTIONS = ReaderOptions()


def jsonl(*records):
    return "\n".join(json.dumps(record) for record in records)


def test_metadata_in_the_folders_of_splits_is_seen_and_read(write, states, kinds):
    root = write(
        {
            "train/metadata.csv": "file_name,label,text\n1.jpg,cat,a\nsub dir/ü.jpg,dog,b\n",
            "test/metadata.csv": "file_name,label,text\n1.jpg,dog,a\n",
            "train/1.jpg": "", "train/sub dir/ü.jpg": "", "test/1.jpg": "",
        }
    )  # fmt: skip
    data_set = read_data_set(root, options=OPTIONS)
    assert data_set.layout == "table"
    assert states(data_set) == {
        "train": {"train/1.jpg": "+-", "train/sub dir/ü.jpg": "-+"},
        "test": {"test/1.jpg": "-+"},
    }
    assert set(kinds(data_set)) == {"class in one split only"}


def test_metadata_in_the_root_names_the_splits_by_its_folders(write, states):
    lines = [{"file_name": f"{split}/1.jpg", "labels": ["cat", "dog"][:n]}
             for split, n in (("train", 2), ("validation", 1), ("test", 0))]  # fmt: skip
    images = {f"{split}/1.jpg": "" for split in ("train", "validation", "test")}
    root = write({"metadata.jsonl": jsonl(*lines), **images})
    assert states(read_data_set(root, options=OPTIONS)) == {
        "train": {"train/1.jpg": "++"},
        "val": {"validation/1.jpg": "+-"},
        "test": {"test/1.jpg": "--"},
    }


def test_class_folders_beside_metadata_do_not_make_it_ambiguous(write, states):
    table = "file_name,label\na/1.jpg,cat\nb/2.jpg,dog\n"
    root = write({"metadata.csv": table, "a/1.jpg": "", "b/2.jpg": ""})
    assert states(read_data_set(root, options=OPTIONS))["all"] == {"a/1.jpg": "+-", "b/2.jpg": "-+"}


def test_objects_are_drawn_boxes_and_tags_where_there_is_no_label(write, states):
    lines = [
        {"file_name": "1.jpg", "objects": {"bbox": [[4, 3, 10, 20], [1, 1, 2, 2]],
                                           "categories": ["dog", "cat"]}},
        {"file_name": "2.jpg", "objects": {"bbox": [], "category": []}},
        {"file_name": "3.jpg", "objects": [{"bbox": [1.5, 2, 3, 4], "category": "cat"}]},
        {"file_name": "4.jpg", "objects": None},
        {"file_name": "5.jpg", "label": "dog", "objects": {"bbox": [[1, 1, 0, 2], [1, 2]],
                                                           "categories": ["dog", "dog"]}},
    ]  # fmt: skip
    root = write({"metadata.jsonl": jsonl(*lines), **{f"{n}.jpg": "" for n in range(1, 6)}})
    data_set = read_data_set(root, options=OPTIONS)
    assert states(data_set)["all"] == {
        "1.jpg": "++", "2.jpg": "--", "3.jpg": "+-", "4.jpg": "??", "5.jpg": "-+",
    }  # fmt: skip
    drawn = [sample.drawn.boxes for sample in data_set.splits["all"]]
    assert drawn[0] == (TruthBox(1, (4, 3, 14, 23)), TruthBox(0, (1, 1, 3, 3)))
    assert drawn[2] == (TruthBox(0, (1.5, 2, 4.5, 6)),)
    assert drawn[1] == drawn[3] == drawn[4] == ()
    assert [(p.kind, p.location) for p in data_set.problems] == [
        ("zero-area box", "metadata.jsonl, line 5"),
        ("unreadable box", "metadata.jsonl, line 5"),
    ]


@pytest.mark.parametrize(
    "name", ["../outside.jpg", "a/../../outside.jpg", "{outside}", "..\\\\outside.jpg"]
)
@pytest.mark.parametrize("table", ["metadata.csv", "train/metadata.csv", "metadata.jsonl"])
def test_no_path_leads_out_of_the_folder(write, states, kinds, places, tmp_path, name, table):
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(b"x")
    name = name.format(outside=outside).replace("\\\\", "\\")
    text = f"file_name,label\n{name},cat\n1.jpg,cat\n"
    if table.endswith("jsonl"):
        text = jsonl({"file_name": name, "label": "cat"}, {"file_name": "1.jpg", "label": "cat"})
    folder = "train/" if "/" in table else ""
    root = write({table: text, f"{folder}1.jpg": "", "outside.jpg": ""})
    data_set = read_data_set(root, options=OPTIONS)
    assert [sample.name for sample in data_set.samples()] == [f"{folder}1.jpg"]
    first = 1 if table.endswith("jsonl") else 2
    assert places(data_set, "label for no image") == [f"{table}, line {first}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the table is empty"),
        ("file_name,label\n", "the table does not name it"),
        ("file_name,label\n../1.jpg,cat\n", "leads out of the folder of the table"),
        ("file_name,label\ngone.jpg,cat\n", "none of the 1 images named in the table exists"),
        ("file_name\n1.jpg\n", "neither a column of labels nor one for each class"),
    ],
)
def test_metadata_without_an_image_is_an_error_that_says_so(write, text, message):
    root = write({"metadata.csv": text, "1.jpg": ""})
    with pytest.raises(DataError) as error:
        read_data_set(root, options=OPTIONS)
    assert message in str(error.value)


def test_two_tables_of_metadata_in_a_folder_are_an_error(write):
    root = write({"train/metadata.csv": "", "train/metadata.jsonl": "", "train/1.jpg": ""})
    with pytest.raises(DataError, match=r"several tables of metadata: metadata.csv, metadata.json"):
        read_data_set(root, options=OPTIONS)


def test_tags_of_a_folder_and_of_a_table_are_those_of_its_images(write):
    root = write(
        {
            "train/metadata.csv": "file_name,label\n1.jpg,cat\n",
            "test/metadata.csv": "file_name,label\n1.jpg,dog\n",
        }
    )
    tags, problems = read_tags(root, ("cat", "dog"))
    assert not problems
    assert tags.get("train/1.jpg").tolist() == [1, -1]
    assert tags.get("test/1.jpg").tolist() == [-1, 1]
    tags, _ = read_tags(root / "test/metadata.csv", ("cat", "dog"))
    assert tags.get("1.jpg").tolist() == [-1, 1]


def test_the_command_reads_it_as_it_looks(write, capsys):
    root = write({"train/metadata.csv": "file_name,label\n1.jpg,cat\n", "train/1.jpg": None})
    assert command(["data", str(root), "--json", "--check"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["layout"] == "table"
    assert shown["splits"]["train"]["images"] == 1


def test_parquet_names_the_extra_where_it_cannot_be_read(write):
    root = write({"metadata.parquet": b"PAR1", "1.jpg": ""})
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from weakloc.cli import run; sys.exit(run(['data', sys.argv[1]]))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=False
    )
    assert answer.returncode == MissingPackageError.exit_code
    assert 'pip install "weakloc[parquet]"' in answer.stderr


@pytest.fixture
def parquet(write):
    """Writes rows as a Parquet file in the data's folder, described as Hugging Face does."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow.parquet import write_table

    def _write(rows, features, name="metadata.parquet"):
        root = write({f"{n}.jpg": "" for n in (1, 2, 3)})
        described = json.dumps({"info": {"features": features}})
        table = pyarrow.Table.from_pylist(rows)
        write_table(table.replace_schema_metadata({"huggingface": described}), root / name)
        return root

    return _write


NAMES = {"_type": "ClassLabel", "names": ["cat", "dog"]}


def test_parquet_has_names_for_numbers_of_classes(parquet, states):
    rows = [{"file_name": "1.jpg", "label": 1}, {"file_name": "2.jpg", "label": 0},
            {"file_name": "3.jpg", "label": -1}]  # fmt: skip
    root = parquet(rows, {"label": NAMES})
    assert states(read_data_set(root, options=OPTIONS))["all"] == {
        "1.jpg": "-+", "2.jpg": "+-", "3.jpg": "??",
    }  # fmt: skip
    assert [image.name for image in find_images(str(root / "metadata.parquet"))] == [
        "1.jpg", "2.jpg", "3.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([{"path": "a/1.jpg", "bytes": b"1"}, {"path": "b.jpg", "bytes": b"2"}], "a/1.jpg b.jpg"),
        ([{"bytes": b"1"}, {"bytes": b"2"}], "1 2"),
        ([{"image": {"bytes": b"1", "path": "1.jpg"}, "label": 0},
          {"image": {"bytes": b"2", "path": None}, "label": 1}], "1.jpg 2"),
        ([{"img": {"bytes": b"1"}, "file_name": "x.jpg"}, {"img": {"bytes": b"2"}}], "x.jpg 2"),
    ],
)  # fmt: skip
def test_parquet_may_hold_the_images_themselves(parquet, rows, names):
    root = parquet(rows, {"image": {"_type": "Image"}, "label": NAMES}, "photos.parquet")
    images = list(find_images(str(root / "photos.parquet")))
    assert [image.name for image in images] == names.split()
    assert [image.content for image in images] == [b"1", b"2"]


def test_parquet_has_lists_and_objects(parquet, states):
    rows = [{"file_name": "1.jpg", "objects": {"bbox": [[4.0, 3.0, 5.0, 6.0]], "category": [1]}},
            {"file_name": "2.jpg", "objects": {"bbox": [], "category": []}}]  # fmt: skip
    features = {
        "objects": {"bbox": {"_type": "List"}, "category": {"_type": "List", "feature": NAMES}}
    }
    data_set = read_data_set(parquet(rows, features), options=OPTIONS)
    assert states(data_set)["all"] == {"1.jpg": "+", "2.jpg": "-"}
    assert data_set.class_names == ("dog",)
    assert data_set.splits["all"][0].drawn.boxes == (TruthBox(0, (4, 3, 9, 9)),)


def test_damaged_parquet_is_an_error_with_its_name(write):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    root = write({"metadata.parquet": b"PAR1 and no more", "1.jpg": ""})
    with pytest.raises(DataError, match=r"metadata.parquet: is not readable Parquet"):
        read_data_set(root, options=OPTIONS)


@pytest.mark.filterwarnings("ignore")  # files that datasets leaves open
def test_what_datasets_reads_as_an_image_folder_is_read_alike(write, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    root = write(
        {
            "train/metadata.csv": "file_name,label\n1.jpg,cat\nsub/2.jpg,dog\n",
            "test/metadata.csv": "file_name,label\n1.jpg,dog\n",
            "train/1.jpg": None, "train/sub/2.jpg": None, "test/1.jpg": None,
        }
    )  # fmt: skip
    theirs = datasets.load_dataset(
        "imagefolder", data_dir=str(root), cache_dir=str(tmp_path / "cache")
    )
    ours = read_data_set(root, options=OPTIONS)
    for split, samples in ours.splits.items():
        labels = [ours.class_names[int((sample.labels == 1).argmax())] for sample in samples]
        assert sorted(labels) == sorted(theirs[split]["label"])
    shutil.rmtree(tmp_path / "cache")
