"""Beam search over windows of an image with a trained network as the scorer of windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from weakloc.geometry import FloatArray
from weakloc.localize.beam_search import (
    BeamSettings,
    SearchResult,
    WindowScorer,
    beam_search,
    heat_maps,
)
from weakloc.localize.maps import probabilities
from weakloc.localize.windows import (
    ClassMapScorer,
    GridHeadScorer,
    TableScorer,
    all_spans,
    crop_pixels,
    resampling_matrices,
)
from weakloc.model.network import GridHead
from weakloc.predictor.views import Floats, NetworkSource, SeenImage
from weakloc.settings import Look
from weakloc.structures import ScoreMaps

CROPS_AT_ONCE = 8  # larger float32 batches are slower on a CPU


@dataclass(frozen=True)
class BeamHeat:
    """Makes the heat of the classes of an image by searching for them."""

    source: NetworkSource
    search: BeamSettings

    def __call__(self, image: SeenImage, classes: Sequence[int], look: Look) -> ScoreMaps:
        return heat_maps(self.search_image(image, classes), long_side=look.map_side)

    def search_image(self, image: SeenImage, classes: Sequence[int]) -> SearchResult:
        return beam_search(
            self._scorer(image.picture),
            image.picture.size,
            class_indices=list(classes),
            settings=self.search,
        )

    def _scorer(self, picture: Image.Image) -> WindowScorer[Any]:
        crops = _Crops(picture, self.source)
        size = self.source.preprocessing.fixed_size
        assert size is not None, "beam search crops to a fixed input size"
        columns, rows = self.source.network.backbone.map_size(size)
        head = self.source.network.head
        is_fixed = self.search.recrop_every > self.search.levels_on((columns, rows))
        if isinstance(head, GridHead) and is_fixed:
            return TableScorer(partial(self._read_tables, head, crops), (columns, rows))
        if isinstance(head, GridHead):
            return GridHeadScorer(
                partial(self._read_grids, head, crops),
                partial(self._score_grids, head),
                (columns, rows),
                interpolation=self.search.interpolation,
            )
        return ClassMapScorer(
            crops.read_class_maps,
            (columns, rows),
            window_score="contrast" if is_fixed else "linear",
            activation=self.source.activation,
            interpolation=self.search.interpolation,
        )

    @torch.inference_mode()
    def _read_grids(
        self, head: GridHead, crops: _Crops, boxes_in_image: FloatArray
    ) -> list[Floats]:
        features = torch.from_numpy(crops.read_features(boxes_in_image))
        return list(head.narrow(features.to(self.source.device)).float().cpu().numpy())

    @torch.inference_mode()
    def _read_tables(
        self, head: GridHead, crops: _Crops, boxes_in_image: FloatArray
    ) -> list[FloatArray]:
        grids = map(torch.from_numpy, self._read_grids(head, crops, boxes_in_image))
        cells = head.grid_side
        matrices = resampling_matrices(*all_spans(cells), cells, self.search.interpolation)
        spans = torch.from_numpy(matrices).float().to(self.source.device)
        tables = [head.score_spans(grid.to(self.source.device), spans, spans) for grid in grids]
        return list(probabilities(torch.stack(tables).cpu().numpy(), self.source.activation))

    @torch.inference_mode()
    def _score_grids(self, head: GridHead, grids: Floats) -> FloatArray:
        scores = head.score_narrow(torch.from_numpy(grids).to(self.source.device))
        return probabilities(scores.float().cpu().numpy(), self.source.activation)


@dataclass(frozen=True)
class _Crops:
    """Parts of one picture, warped to the network's input."""

    picture: Image.Image
    source: NetworkSource

    @torch.inference_mode()
    def read_features(self, boxes_in_image: FloatArray) -> Floats:
        return np.concatenate(
            [self.source.read_features(chunk) for chunk in self._inputs(boxes_in_image)]
        )

    def read_class_maps(self, boxes_in_image: FloatArray) -> list[Floats]:
        chunks = self._inputs(boxes_in_image)
        return [maps for chunk in chunks for maps in self.source.read(chunk).maps]

    def _inputs(self, boxes_in_image: FloatArray) -> list[torch.Tensor]:
        size = self.picture.size
        tensors = []
        for left, top, right, bottom in boxes_in_image.tolist():
            pixels = crop_pixels((left, top, right, bottom), size)
            tensors.append(self.source.preprocessing.apply(self.picture.crop(pixels))[0])
        stacked = torch.stack(tensors)
        return [
            stacked[start : start + CROPS_AT_ONCE]
            for start in range(0, len(stacked), CROPS_AT_ONCE)
        ]
