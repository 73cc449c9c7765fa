"""Shards as the public package writes them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from weakloc.data.readers.shards import ShardStream
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
    records = list(ShardStream([str(shard)], ("cat", "dog", "düne")))
    assert [record.sample.name for record in records] == [
        f"{shard.name}/{index:06d}.jpg" for index in range(6)
    ]
    assert [record.image for record in records] == [jpeg(index * 40) for index in range(6)]
    present = [np.flatnonzero(record.sample.labels == PRESENT).tolist() for record in records]
    assert present == [[0], [1], [2], [0], [1], [2]]
