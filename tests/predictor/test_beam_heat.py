"""Beam search through a real network against every window cropped and scored on its own."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from weakloc.data.sources import ImageSource
from weakloc.data.transforms import Preprocessing
from weakloc.geometry import FloatArray, IntArray
from weakloc.localize.beam_search import BeamSettings, beam_search, heat_maps
from weakloc.model.backbones import build_backbone
from weakloc.model.network import ClassPool, GridHead, LocalizationNetwork, TransferHead
from weakloc.model.pooling import AveragePool
from weakloc.model.trunk import BackboneSpec
from weakloc.predictor.beam_heat import BeamHeat, crop_pixels
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import NetworkSource, SeenImage
from weakloc.settings import Look, Places

CLASSES = ("a", "b", "c")
LOOK = Look(workers=0, map_side=40)


def network(*, fixed_grid: bool) -> LocalizationNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        backbone = build_backbone(BackboneSpec.parse("tiny[width=4]", weights="none"))
        channels = backbone.out_channels
        head = (
            GridHead(channels, 3, grid_side=4, reduced_channels=None, hidden=(8,))
            if fixed_grid
            else TransferHead(channels, 3)
        )
        built = LocalizationNetwork(backbone, head, ClassPool(), AveragePool())
        for parameter in head.parameters():  # windows differ, and none is near 0 or 1
            parameter.data.mul_(2.0 if fixed_grid else 40.0)
    return built.eval()


def source(*, fixed_grid: bool) -> NetworkSource:
    return NetworkSource(
        network(fixed_grid=fixed_grid),
        LOOK,
        class_names=CLASSES,
        preprocessing=Preprocessing(size=(32, 32)),
        activation="sigmoid",
        uses_bf16=False,
    )


@pytest.fixture
def seen(random: np.random.Generator) -> SeenImage:
    pixels = random.integers(0, 255, (9, 13, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((65, 45), Image.Resampling.NEAREST)
    return SeenImage("a.png", picture, (), np.zeros(3), np.zeros(3))


@dataclass
class OneAtATime:
    """Every crop a forward pass of its own, every window a call of the head."""

    source: NetworkSource
    picture: Image.Image
    grid_size: tuple[int, int] = (4, 4)

    @torch.inference_mode()
    def read_crops(self, boxes: FloatArray) -> list[torch.Tensor]:
        grids = []
        for left, top, right, bottom in boxes.tolist():
            cut = self.picture.crop(crop_pixels((left, top, right, bottom), self.picture.size))
            inputs = self.source.preprocessing.apply(cut)[0][None]
            grids.append(self.source.network.backbone(inputs))
        return grids

    @torch.inference_mode()
    def score_windows(
        self, grids: Sequence[torch.Tensor], owners: IntArray, windows: IntArray
    ) -> FloatArray:
        scores = []
        for owner, (x, y, width, height) in zip(owners.tolist(), windows.tolist(), strict=True):
            part = grids[owner][:, :, y : y + height, x : x + width]
            whole = interpolate(part, (4, 4), mode="bilinear", align_corners=False)
            scores.append(self.source.network.from_features(whole).scores[0].double().sigmoid())
        return torch.stack(scores).numpy()


@pytest.mark.parametrize(
    ("recrop_every", "fixed_grid"), [(1, True), (1, False), (2, True), (2, False), (math.inf, True)]
)
def test_searching_in_batches_finds_what_one_window_at_a_time_finds(
    seen: SeenImage, fixed_grid: bool, recrop_every: float
) -> None:
    search = BeamSettings(beam_width=3, num_levels=4, recrop_every=recrop_every)
    own = source(fixed_grid=fixed_grid)
    heat = BeamHeat(own, search)(seen, [2, 0], LOOK)
    slow = beam_search(
        OneAtATime(own, seen.picture), seen.picture.size, class_indices=[2, 0], settings=search
    )
    expected = heat_maps(slow, long_side=LOOK.map_side)
    assert heat.transform == expected.transform
    np.testing.assert_allclose(heat.values, expected.values, atol=1e-5)
    assert (expected.values.max(axis=(1, 2)) > 2 * expected.values.min(axis=(1, 2))).all()


@dataclass
class ContrastOneByOne(OneAtATime):
    """The mean of a window's cells less that of the ring around it, cell by cell, as a logit."""

    def read_crops(self, boxes: FloatArray) -> list[torch.Tensor]:
        features = super().read_crops(boxes)
        return [self.source.network.from_features(grid).maps[0] for grid in features]

    def score_windows(
        self, grids: Sequence[torch.Tensor], owners: IntArray, windows: IntArray
    ) -> FloatArray:
        scores = []
        for owner, (x, y, width, height) in zip(owners.tolist(), windows.tolist(), strict=True):
            inside: list[list[float]] = []
            ring: list[list[float]] = []
            for row in range(max(y - 1, 0), min(y + height + 1, 4)):
                for column in range(max(x - 1, 0), min(x + width + 1, 4)):
                    within = y <= row < y + height and x <= column < x + width
                    (inside if within else ring).append(grids[owner][:, row, column].tolist())
            around = np.mean(ring, axis=0) if ring else np.mean(inside, axis=0)
            scores.append(1 / (1 + np.exp(-(np.mean(inside, axis=0) - around))))
        return np.array(scores)


def test_a_fixed_map_of_an_averaging_head_is_searched_for_contrast(seen: SeenImage) -> None:
    """The mean of a window alone would always prefer a single cell (specification 3.8)."""
    search = BeamSettings(beam_width=3, num_levels=4, recrop_every=math.inf)
    own = source(fixed_grid=False)
    heat = BeamHeat(own, search)(seen, [2, 0, 1], LOOK)
    with torch.inference_mode():
        slow = beam_search(
            ContrastOneByOne(own, seen.picture),
            seen.picture.size,
            class_indices=[2, 0, 1],
            settings=search,
        )
    expected = heat_maps(slow, long_side=LOOK.map_side)
    np.testing.assert_allclose(heat.values, expected.values, atol=1e-5)
    assert expected.values.std(axis=(1, 2)).min() > 0.01


@pytest.mark.parametrize("fixed_grid", [True, False])
@pytest.mark.parametrize("recrop_every", [1, 2, math.inf])
def test_classes_are_searched_for_apart_and_keep_their_order(
    seen: SeenImage, fixed_grid: bool, recrop_every: float
) -> None:
    heat = BeamHeat(
        source(fixed_grid=fixed_grid),
        BeamSettings(beam_width=3, num_levels=4, recrop_every=recrop_every),
    )
    together = heat(seen, [2, 0], LOOK)
    for row, index in enumerate([2, 0]):
        alone = heat(seen, [index], LOOK)
        np.testing.assert_allclose(together.values[row], alone.values[0], atol=1e-6)
    assert together.values.max() > 0
    assert (together.values <= 1.0 + 1e-6).all()
    assert together.transform.grid_size == (40.0, 28.0)


def test_the_predictor_cuts_boxes_from_the_heat(seen: SeenImage) -> None:
    buffer = io.BytesIO()
    seen.picture.save(buffer, "PNG")
    own = source(fixed_grid=True)
    heat = BeamHeat(own, BeamSettings(beam_width=2, num_levels=4))
    places = Places(top=1, min_score=1.0, boxes="largest")
    predictor = Predictor(own, LOOK, places, thresholds=(0.5,) * 3, heat=heat)
    (found,) = predictor.predict_with_heat([ImageSource("a.png", buffer.getvalue())])
    (index,) = found.classes  # type: ignore[union-attr]
    best = int(np.argmax(found.image.logits))  # type: ignore[union-attr]
    assert index == best
    (box,) = found.prediction.boxes  # type: ignore[union-attr]
    values = found.heat.values[0]  # type: ignore[union-attr]
    low, high = values.min(), values.max()
    hot = np.argwhere(values > low + 0.5 * (high - low))
    cell = 65 / 40
    assert box.box[0] >= hot[:, 1].min() * cell - 1e-6
    assert box.box[2] <= (hot[:, 1].max() + 1) * cell + 1e-6
