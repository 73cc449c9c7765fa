"""Run lengths, beside pycocotools."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from weakloc.rle import decode_mask, run_lengths


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 90), st.integers(1, 70), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_masks_come_back_as_pycocotools_encoded_them(
    width: int, height: int, share: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    mask = np.asarray(random.random((height, width)) < share, dtype=np.uint8)
    rle = coco_mask.encode(np.asfortranarray(mask))
    assert (decode_mask(rle) == mask).all()
    text = {"size": rle["size"], "counts": rle["counts"].decode()}
    assert (decode_mask(text) == mask).all()
    plain = {"size": rle["size"], "counts": run_lengths(rle["counts"]).tolist()}
    assert (decode_mask(plain) == mask).all()


def test_long_runs_and_large_steps_come_back() -> None:
    mask = np.zeros((3000, 2000), dtype=np.uint8)
    mask[:, 700:1900] = 1
    mask[5, 3] = 1
    rle = coco_mask.encode(np.asfortranarray(mask))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert (decode_mask(rle) == coco_mask.decode(rle)).all()
    assert decode_mask(rle).sum() == 1200 * 3000 + 1


@pytest.mark.parametrize(
    "counts", ["\x10", "o", "é", "0" * 3, [5, -1, 8], [3, 3], "o" * 20 + "0", ""]
)
def test_what_does_not_fill_the_image_is_refused(counts: str | list[int]) -> None:
    with pytest.raises(ValueError, match="run"):
        decode_mask({"size": [3, 4], "counts": counts})
