"""Shards as the public package writes them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from weakloc.data.readers import read_data_set
from weakloc.data.sources import find_images
from weakloc.settings import ReaderOptions
from weakloc.structures import PRESENT


def jpeg(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (level, level, level)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_shards_of_webdataset_are_read_as_they_were_written(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's own, at import
        import webdataset

    shard = tmp_path / "photos 000000.tar"
    with webdataset.TarWriter(str(shard)) as writer:
        for index in range(6):
            writer.write({"__key__": f"{index:06d}", "jpg": jpeg(index * 40), "cls": index % 3})
    (tmp_path / "classes.txt").write_text("cat\ndog\ndüne\n", encoding="utf-8")
    samples = list(read_data_set(shard, options=ReaderOptions()).samples())
    names = [f"{shard.name}/{index:06d}.jpg" for index in range(6)]
    assert [sample.name for sample in samples] == names
    images = list(find_images(str(shard)))
    assert [image.name for image in images] == names
    assert [image.content for image in images] == [jpeg(index * 40) for index in range(6)]
    present = [np.flatnonzero(sample.labels == PRESENT).tolist() for sample in samples]
    assert present == [[0], [1], [2], [0], [1], [2]]
