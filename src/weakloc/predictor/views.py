"""Images -> score maps, in input order, with memory that does not grow with their number.

Pictures are decoded by threads a bounded number ahead; views of equal shape go through the
network, or another source of maps, together.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from weakloc.data.images import read_or_record
from weakloc.data.sources import ImageSource
from weakloc.data.transforms import PixelSize, Preprocessing, jittered_size, resize_images
from weakloc.errors import SettingError
from weakloc.files import is_url
from weakloc.geometry import BoxLTRB, FloatArray, GridTransform, map_boxes_to_image
from weakloc.localize.maps import probabilities
from weakloc.model.fine_layers import CellReading, fine_features
from weakloc.model.network import LocalizationNetwork, fold_batch_norms
from weakloc.model.trunk import CellGeometry
from weakloc.predictor.parts import own_device
from weakloc.settings import Look
from weakloc.structures import Activation, BrokenImage, MapKind, ScoreMaps


@dataclass(frozen=True, slots=True)
class View:
    """What part of the picture, at what multiple of the network's usual input size."""

    scale: float = 1.0
    flip: bool = False
    tile: BoxLTRB | None = None  # whole pixels of the picture


def list_views(picture_size: PixelSize, look: Look) -> list[View]:
    """Every scale of every tile, plain and, if asked, mirrored."""
    tiles: list[BoxLTRB | None] = [None]
    if look.tile and max(picture_size) > look.tile:
        tiles += cut_tiles(picture_size, side=look.tile, overlap=look.tile_overlap)
    mirrored = (False, True) if look.flip else (False,)
    scales = sorted({*(look.scales or (1.0,)), *map_scales(look)})
    return [View(*parts) for parts in itertools.product(scales, mirrored, tiles)]


def map_scales(look: Look) -> tuple[float, ...]:
    """The scales whose maps are looked at, beside those whose scores are."""
    return look.map_scales or look.scales or (1.0,)


MOST_TILES = 10_000  # of an image, each a pass through the network


def cut_tiles(picture_size: PixelSize, *, side: int, overlap: float) -> list[BoxLTRB]:
    """Equal squares of at most `side` pixels that cover the picture, evenly spread.

    Neighbours share at least `overlap` of their side.
    """
    step = max(side * (1.0 - overlap), 1.0)
    steps = [math.ceil(max(length - side, 0) / step) for length in picture_size]
    if math.prod(number + 1 for number in steps) > MOST_TILES:
        message = f"--tile is {side}, which cuts {picture_size} pixels into over {MOST_TILES:,}"
        raise SettingError(message, remedy="Give larger tiles, or a smaller --tile-overlap")
    columns, rows = (
        [round(index * (length - side) / max(number, 1)) for index in range(number + 1)]
        for length, number in zip(picture_size, steps, strict=True)
    )
    width, height = (min(side, length) for length in picture_size)
    return [
        (float(left), float(top), float(left + width), float(top + height))
        for top in rows
        for left in columns
    ]


def make_view(
    picture: Image.Image, view: View, preprocessing: Preprocessing
) -> tuple[Tensor, GridTransform]:
    """The network's input (3, H, W) and the way from the original image to it.

    Padding comes before the scale, as in training (Oquab et al.: to 500 pixels, padded to a
    square, and that to each size); a picture that is not padded comes in its full detail.
    """
    base = GridTransform.identity(picture.size)
    if view.tile is not None:
        left, top, right, bottom = (int(edge) for edge in view.tile)
        picture, base = picture.crop((left, top, right, bottom)), base.crop(view.tile)
    scales_canvas = view.scale != 1.0 and preprocessing.resize == "pad"
    if view.scale != 1.0 and not scales_canvas:
        preprocessing = scaled(preprocessing, view.scale, picture.size)
    images, transform = preprocessing.apply(picture, base=base)
    if scales_canvas:
        size = jittered_size(transform.grid_size, view.scale, multiple_of=preprocessing.multiple_of)
        images, transform = resize_images(images, size), transform.resize(size)
    if view.flip:
        return images.flip(-1), transform.flip_horizontal()
    return images, transform


def scaled(preprocessing: Preprocessing, factor: float, picture_size: PixelSize) -> Preprocessing:
    """The same preprocessing with another input size."""
    if preprocessing.resize == "none":
        preprocessing = replace(preprocessing, resize="warp", size=picture_size)
    if isinstance(preprocessing.size, int):
        return replace(preprocessing, size=max(round(preprocessing.size * factor), 1))
    width, height = (max(round(side * factor), 1) for side in preprocessing.size)
    return replace(preprocessing, size=(width, height))


Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Proposals:
    """Boxes that the cells of an image, or of several views of it, propose."""

    boxes: FloatArray  # (N, 4)
    scores: FloatArray  # (C, N) probability that the box holds an object


@dataclass(frozen=True)
class RawMaps:
    """A batch of answers as arrays."""

    scores: Floats  # (B, C) logits
    maps: Floats  # (B, C, rows, columns), or C + 1 where the last is the background's
    boxes: Floats | None = None  # (B, N, 4) of a detector, in pixels of the input
    votes: Floats | None = None  # (B, C, N) probability that each holds an object


class MapSource(Protocol):
    """A trained run, somebody's classifier or an ONNX file."""

    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    activation: Activation
    map_kind: MapKind
    geometry: CellGeometry  # of its maps

    def read(self, images: Tensor) -> RawMaps: ...


class NetworkSource:
    """Maps of a `LocalizationNetwork`, made fast for reading; what is passed in stays as it is.

    With a `reading` they are the heat of its cells. Every view is then seen twice: as it is for the
    scores, going on in the mirror for the cells, which with a detector also propose boxes.
    """

    def __init__(
        self,
        network: LocalizationNetwork,
        look: Look,
        *,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        activation: Activation,
        uses_bf16: bool,
        reading: CellReading | None = None,
    ) -> None:
        self.class_names = tuple(class_names)
        self.preprocessing = preprocessing
        self.activation: Activation = activation
        self.device = own_device()
        self.reading = reading and reading.to(self.device)
        self.map_kind: MapKind = "probability" if reading else "logit"
        self.geometry = reading.cells.cell_geometry if reading else network.backbone.geometry
        self.uses_bf16 = uses_bf16
        self._layout = torch.channels_last if look.channels_last else torch.contiguous_format
        folded = fold_batch_norms(network, side=network.backbone.probe_side)
        self.network = folded.to(self.device).to(memory_format=self._layout)
        self._forward: nn.Module = self.network
        if look.compile:
            self._forward = torch.compile(self.network)  # type: ignore[assignment]

    @torch.inference_mode()
    def read(self, images: Tensor) -> RawMaps:
        images = images.to(self.device, memory_format=self._layout)
        reading, fine = self.reading, {}
        levels = (reading.cells.common_level,) if reading else ()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.uses_bf16):
            output = self._forward(images, levels)
            if reading:
                fine = fine_features(self.network.backbone, images, reading.levels)
        answers: tuple[Tensor, ...] = (output.all_maps.float(),)
        if reading:
            answers = reading(fine, output, images.shape[2:])
        return RawMaps(*(part.cpu().numpy() for part in (output.scores.float(), *answers)))

    @torch.inference_mode()
    def read_features(self, images: Tensor) -> Tensor:
        """The backbone's last feature maps (B, D, rows, columns)."""
        images = images.to(self.device, memory_format=self._layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.uses_bf16):
            features: Tensor = self.network.backbone(images)
        return features.float()


@dataclass(frozen=True)
class ViewMaps:
    """What the source said of one view; `proposals` are in the image frame."""

    view: View
    logits: Floats  # (C,)
    maps: ScoreMaps
    proposals: Proposals | None


@dataclass(frozen=True)
class SeenImage:
    """One image with the maps of the views that are meant for maps, before any place is named.

    `only_scored` are the other views whose classes were scored, kept where the hottest cell of all
    may be one of theirs.
    """

    name: str
    picture: Image.Image
    views: tuple[ViewMaps, ...]
    logits: NDArray[np.float64]  # (C,) of all views together
    probabilities: NDArray[np.float64]  # (C,)
    only_scored: tuple[ViewMaps, ...] = ()

    @property
    def proposals(self) -> Proposals | None:
        """Those of all views together."""
        proposals = [view.proposals for view in self.views if view.proposals is not None]
        if not proposals:
            return None
        boxes = np.concatenate([part.boxes for part in proposals])
        return Proposals(boxes, np.concatenate([part.scores for part in proposals], axis=1))


def see_images(
    images: Iterable[ImageSource], source: MapSource, look: Look
) -> Iterator[SeenImage | BrokenImage]:
    """Every image in input order, or the record of why it could not be read."""
    pictures = _decoded(images, look)
    # One bounded group at a time: views of equal shape within it share network calls.
    while group := _next_group(pictures, look.batch_size):
        views = [
            (picture, view)
            for _, picture in group
            if isinstance(picture, Image.Image)
            for view in list_views(picture.size, look)
        ]
        starts = range(0, len(views), look.batch_size)
        chunks = (_read(views[start : start + look.batch_size], source) for start in starts)
        answers = itertools.chain.from_iterable(chunks)
        for name, picture in group:
            if isinstance(picture, Image.Image):
                num_views = len(list_views(picture.size, look))
                of_picture = [*itertools.islice(answers, num_views)]
                yield _summed_up(name, picture, of_picture, source, look)
            else:
                yield picture


REQUESTS = 32  # at once to an object store, which takes its time to answer each
MOST_PIXELS = 2**26  # of the pictures of one group, and of those decoded ahead: 256 MB
Decoded: TypeAlias = tuple[str, Image.Image | BrokenImage]


def _next_group(pictures: Iterator[Decoded], most: int) -> list[Decoded]:
    """The next pictures, fewer where they are large: one at least."""
    group: list[Decoded] = []
    pixels = 0
    while len(group) < most and pixels < MOST_PIXELS and (decoded := next(pictures, None)):
        group.append(decoded)
        pixels += _pixels_of(decoded[1])
    return group


def _pixels_of(picture: Image.Image | BrokenImage) -> int:
    return picture.width * picture.height if isinstance(picture, Image.Image) else 0


def _decoded(images: Iterable[ImageSource], look: Look) -> Iterator[Decoded]:
    """Pictures in input order, at most two batches ahead of whoever takes them.

    A thread decodes while there is room, or where its picture is the one that is waited for.
    """
    room, pixels, awaited = threading.Condition(), 0, 0.0

    def read(number: int, image: ImageSource, fetched: Future[ImageSource] | None) -> Decoded:
        nonlocal pixels
        image = fetched.result() if fetched else image
        with room:
            room.wait_for(lambda: pixels < MOST_PIXELS or number <= awaited)
        picture: Image.Image | BrokenImage = BrokenImage(image.name, image.flaw or "")
        if image.flaw is None:
            picture = read_or_record(image.name, image.content, max_pixels=look.max_pixels)
        with room:
            pixels += _pixels_of(picture)
        return image.name, picture

    def wait_for(number: float) -> None:
        nonlocal awaited
        with room:
            awaited = number
            room.notify_all()

    def taken(number: int, future: Future[Decoded]) -> Decoded:
        nonlocal pixels
        wait_for(number)
        decoded = future.result()
        with room:
            pixels -= _pixels_of(decoded[1])
        return decoded

    if look.workers == 0:
        yield from (read(0, image, None) for image in images)
        return
    waiting: deque[tuple[int, Future[Decoded]]] = deque()
    with ThreadPoolExecutor(look.workers) as pool, ThreadPoolExecutor(REQUESTS) as requests:
        try:
            for number, image in enumerate(images):
                fetched = requests.submit(image.fetched) if is_url(image.content) else None
                waiting.append((number, pool.submit(read, number, image, fetched)))
                if len(waiting) > 2 * look.batch_size:
                    yield taken(*waiting.popleft())
            while waiting:
                yield taken(*waiting.popleft())
        finally:
            wait_for(math.inf)


def _read(views: Sequence[tuple[Image.Image, View]], source: MapSource) -> list[ViewMaps]:
    """The answers to views of pictures, one network call for each input shape."""
    inputs = [make_view(picture, view, source.preprocessing) for picture, view in views]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, (images, _) in enumerate(inputs):
        by_shape.setdefault(tuple(images.shape), []).append(index)
    answers: dict[int, ViewMaps] = {}
    for indices in by_shape.values():
        raw = source.read(torch.stack([inputs[index][0] for index in indices]))
        for row, index in enumerate(indices):
            to_input, proposals = inputs[index][1], None
            transform = source.geometry.cell_transform(to_input, *raw.maps.shape[2:])
            if raw.boxes is not None and raw.votes is not None:
                boxes = map_boxes_to_image(raw.boxes[row].astype(np.float64), to_input)
                proposals = Proposals(boxes, raw.votes[row].astype(np.float64))
            maps = ScoreMaps(raw.maps[row], transform, source.map_kind)
            answers[index] = ViewMaps(views[index][1], raw.scores[row], maps, proposals)
    return [answers[index] for index in range(len(views))]


def _summed_up(
    name: str, picture: Image.Image, answers: Sequence[ViewMaps], source: MapSource, look: Look
) -> SeenImage:
    """Raw scores: the best tile of a scale, then one score from all scales and mirrored images.

    By default their mean, which alone becomes a probability (Oquab et al.: average the maxima,
    squash last).
    """
    of_scale: dict[tuple[float, bool], list[Floats]] = {}
    for answer in answers:
        if answer.view.scale in (look.scales or (1.0,)):
            of_scale.setdefault((answer.view.scale, answer.view.flip), []).append(answer.logits)
    best = np.stack([np.max(logits, axis=0) for logits in of_scale.values()]).astype(np.float64)
    logits = best.max(axis=0) if look.fuse_scores == "max" else best.mean(axis=0)
    if look.fuse_scores == "mean_probability":
        likely = probabilities(best, source.activation).mean(axis=0)
    else:
        likely = probabilities(logits, source.activation)
    views = tuple(answer for answer in answers if answer.view.scale in map_scales(look))
    others = (answer for answer in answers if answer.view.scale not in map_scales(look))
    only_scored = tuple(others) if look.fuse == "max" else ()
    return SeenImage(name, picture, views, logits, likely, only_scored)
