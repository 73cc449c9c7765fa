"""Maps of every temper for the evaluators: smooth, noisy, with plateaus, with holes, constant."""

from __future__ import annotations

import cv2
import numpy as np


def smooth(random, cells, height=24, width=31):
    coarse = random.random((cells, cells))
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def rings(random, height=24, width=31):
    y, x = random.random(2) * (height, width)
    rows, columns = np.indices((height, width))
    return (np.hypot(rows - y, columns - x) // 2 % 4) + random.integers(0, 2, (height, width))


MAPS = (
    lambda random: smooth(random, 4),
    lambda random: smooth(random, 7),
    lambda random: random.random((24, 31)),
    lambda random: random.random((24, 31)) ** 8,
    lambda random: random.integers(0, 4, (24, 31)) * 1.0,
    lambda random: (random.random((24, 31)) < 0.6) * 1.0,
    lambda random: (random.random((24, 31)) < 0.03) * 1.0,
    lambda random: np.round(smooth(random, 6), 1),
    rings,
    lambda _: np.full((24, 31), 0.7),
)


def random_maps(number, seed=0):
    random = np.random.default_rng(seed)
    return [MAPS[i % len(MAPS)](random) for i in range(number)]
