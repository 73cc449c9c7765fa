"""WebDataset shards, whole and broken."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from weakloc.data.images import open_image
from weakloc.data.readers import read_data_set
from weakloc.data.readers.shards import expand_braces
from weakloc.data.sources import find_images
from weakloc.errors import DataError, ImageError
from weakloc.settings import ReaderOptions

OPTIONS = ReaderOptions()


def picture(width: int) -> bytes:
    """A PNG of `width` x 3 pixels."""
    stream = io.BytesIO()
    Image.new("RGB", (width, 3), (width, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def shard(members: dict[str, bytes | str], *, mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, content in members.items():
            raw = content.encode() if isinstance(content, str) else content
            header = tarfile.TarInfo(name)
            header.size = len(raw)
            tar.addfile(header, io.BytesIO(raw))
    return stream.getvalue()


FIRST = {
    "a/000.png": picture(5),
    "a/000.cls": "0",
    "001.json": '{"labels": ["ü b", "?cat"]}',
    "001.png": picture(6),
    "001.mask.png": picture(99),
}
SECOND = {
    "002.txt": "cat; ü b\n",
    "002.png": picture(7),
    "._003.png": "not an image",
    "003.cls": "1",
    "003.png": picture(8),
}
WHOLE = {"train-00.tar": shard(FIRST), "train-01.tar": shard(SECOND), "classes.txt": "cat\nü b\n"}


def test_members_with_one_key_are_one_sample_whose_image_can_be_opened(write, states, kinds):
    root = write(WHOLE)
    data_set = read_data_set(root, options=OPTIONS)
    assert data_set.layout == "shards"
    assert data_set.class_names == ("cat", "ü b")
    assert states(data_set) == {
        "train": {
            "train-00.tar/a/000.png": "+-",
            "train-00.tar/001.png": "?+",
            "train-01.tar/002.png": "++",
            "train-01.tar/003.png": "-+",
        }
    }
    assert kinds(data_set) == {}
    samples = data_set.splits["train"]
    assert [open_image(sample.path).size for sample in samples] == [(5, 3), (6, 3), (7, 3), (8, 3)]
    assert samples[-1].name == samples[3].name
    assert [s.name for s in samples[1:3]] == [samples[1].name, samples[2].name]
    with pytest.raises(IndexError):
        samples[4]


def test_predicting_reads_the_same_samples_with_their_bytes(write):
    root = write(WHOLE)
    shards = f"{root}/train-{{00..01}}.tar"
    listed = list(read_data_set(root, options=OPTIONS).samples())
    for _ in range(2):  # it can be read again
        images = list(find_images(shards))
        assert [image.name for image in images] == [sample.name for sample in listed]
        assert [image.content for image in images] == [picture(width) for width in (5, 6, 7, 8)]
        assert [open_image(sample.path).width for sample in listed] == [5, 6, 7, 8]


def test_a_compressed_shard_is_predicted_and_refused_as_a_data_set(write):
    root = write({"a.tar.gz": gzip.compress(shard(SECOND))})
    assert len(list(find_images(f"{root}/a.tar.gz"))) == 2
    with pytest.raises(DataError, match="is compressed"):
        read_data_set(root, options=OPTIONS)


def test_a_shard_is_found_by_its_name_alone_and_where_it_is_hidden(write, monkeypatch):
    monkeypatch.chdir(write({"a.tar": shard(SECOND), ".b.tar": shard(SECOND)}))
    assert len(list(find_images("a.tar"))) == len(list(find_images("./.b.tar"))) == 2


def test_names_come_from_a_first_pass_where_no_list_gives_them(write, states):
    members = {f"{n}.png": picture(5) for n in range(3)}
    members |= {"0.cls": "10", "1.cls": "9", "2.cls": "dog"}
    ordered = {name: members[name] for name in sorted(members)}
    root = write({"a.tar": shard(ordered)})
    data_set = read_data_set(root / "a.tar", options=OPTIONS)
    assert data_set.class_names == ("9", "10", "dog")
    assert list(states(data_set)["all"].values()) == ["-+-", "+--", "--+"]


def test_braces_stand_for_many_shards(write, states):
    assert expand_braces("s-{008..011}.tar") == [f"s-0{n}.tar" for n in ("08", "09", "10", "11")]
    assert expand_braces("{a,b}-{1..0}.tar") == ["a-1.tar", "a-0.tar", "b-1.tar", "b-0.tar"]
    assert expand_braces("odd{x}.tar") == ["odd{x}.tar"]
    root = write(WHOLE)
    data_set = read_data_set(root / "train-{00..01}.tar", options=OPTIONS)
    assert len(states(data_set)["train"]) == 4
    with pytest.raises(DataError, match=r"1 of 3 shards do not exist, such as .*train-02\.tar"):
        read_data_set(root / "train-{00..02}.tar", options=OPTIONS)


def test_folders_and_names_of_shards_give_splits(write, states):
    root = write(
        {
            "classes.txt": WHOLE["classes.txt"],
            "train/x.tar": shard(FIRST),
            "valid/x.tar": shard(SECOND),
            "other.tar": shard(FIRST),
        }
    )
    data_set = read_data_set(root, options=OPTIONS)
    assert {split: len(samples) for split, samples in data_set.splits.items()} == {
        "train": 2,
        "val": 2,
        "all": 2,
    }


def test_every_flaw_is_reported_with_its_sample(write, states, places):
    flawed = {
        "0.png": picture(5),
        "0.cls": "7",
        "1.cls": "0",
        "2.png": picture(5),
        "3.png": picture(5),
        "3.json": '{"label": 1',
        "4.json": '{"caption": "x"}',
        "4.png": picture(5),
        "5.json": '{"label": 1}',
        "5.png": picture(5),
    }
    whole = shard(SECOND)
    root = write(
        {
            "a.tar": shard(flawed),
            "cut.tar": whole[: len(whole) // 3],
            "no.tar": "nothing",
            "classes.txt": "cat\nü b\n",
        }
    )
    data_set = read_data_set(root, options=OPTIONS)
    signs = {name.rpartition("/")[2]: s for name, s in states(data_set)["all"].items()}
    assert signs["0.png"] == signs["2.png"] == signs["3.png"] == signs["4.png"] == "??"
    assert signs["5.png"] == "-+"
    bad = [f"a.tar, {n}" for n in (0, 3, 4)]
    assert places(data_set, "unreadable label") == bad
    assert places(data_set, "image without labels")[:4] == [f"a.tar, {n}" for n in (0, 2, 3, 4)]
    assert places(data_set, "label for no image")[0] == "a.tar, 1"
    broken = places(data_set, "broken shard")
    assert {Path(place).name for place in broken} == {"cut.tar", "no.tar"}
    images = [image.name for image in find_images(str(root / "cut.tar"))]
    assert images == ["cut.tar/002.png", "cut.tar"]


def test_a_shard_cut_after_it_was_indexed_gives_an_image_error(write):
    root = write(WHOLE)
    last = read_data_set(root, options=OPTIONS).splits["train"][3]
    (root / "train-01.tar").write_bytes(WHOLE["train-01.tar"][:700])
    with pytest.raises(ImageError, match="the archive ends after"):
        open_image(last.path)


def test_an_index_takes_under_a_hundred_bytes_a_sample_and_a_stream_nothing(write):
    count = 1200
    members: dict[str, bytes | str] = {}
    for n in range(count):
        members |= {f"{n:06}.jpg": "x" * 700, f"{n:06}.cls": str(n % 2)}
    root = write({"a.tar": shard(members)})
    del members
    tracemalloc.start()
    try:
        data_set = read_data_set(root, options=OPTIONS)
        assert len(data_set.splits) == 1
        assert tracemalloc.get_traced_memory()[0] / count < 100
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        assert sum(1 for _ in find_images(str(root / "a.tar"))) == count
        assert tracemalloc.get_traced_memory()[1] - before < 100_000
    finally:
        tracemalloc.stop()
