"""Networks of several input sizes as one: whose maps and scores are averaged, and how."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
from PIL import Image

from tests.predictor.dot_source import DotSource
from weakloc.data.sources import ImageSource
from weakloc.data.transforms import Preprocessing
from weakloc.localize.maps import image_grid, resample, zscore
from weakloc.predictor.predictor import Predictor, fused_maps
from weakloc.predictor.score_fusion import joint_look, mean_scores, see_with_all
from weakloc.predictor.views import SeenImage
from weakloc.settings import Look, Places
from weakloc.structures import BrokenImage, ScoreMaps


def member(size: tuple[int, int], **settings: object) -> Predictor:
    preprocessing = Preprocessing(size=size, mean=(0.4,) * 3, std=(0.1,) * 3)
    look = Look(**{"workers": 0, "map_side": 30, **settings})  # type: ignore[arg-type]
    return Predictor(DotSource(preprocessing), look, Places(), thresholds=(0.5,) * 3)


def photographs(random: np.random.Generator, count: int) -> list[ImageSource]:
    images = []
    for index in range(count):
        buffer = io.BytesIO()
        pixels = random.integers(0, 255, (7, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((90, 70)).save(buffer, "PNG")
        images.append(ImageSource(f"{index}.png", buffer.getvalue()))
    return images


def alone(own: Predictor, image: ImageSource) -> SeenImage:
    (seen,) = own.see([image])
    assert isinstance(seen, SeenImage)
    return seen


def test_maps_are_averaged_after_each_has_mean_0_and_deviation_1(
    random: np.random.Generator,
) -> None:
    members = [member((48, 40)), member((96, 72)), member((64, 64), scales=(0.5, 1.0))]
    members[2] = member((64, 64), scales=(0.5, 1.0), map_scales=(0.5,))
    (image,) = photographs(random, 1)
    (joined,) = see_with_all([image], members, mean_scores("sigmoid"))
    assert isinstance(joined, SeenImage)
    grid = image_grid(joined.picture.size, long_side=30)
    expected = []
    for own in members:
        view = next(
            v for v in alone(own, image).views if v.view.scale == (own.look.map_scales or (1.0,))[0]
        )
        standard = ScoreMaps(zscore(view.maps.values), view.maps.transform, "cam")
        expected.append(resample(standard, grid).values)
    fused = fused_maps(joined, range(3), joint_look(members))
    np.testing.assert_allclose(fused.values, np.mean(expected, axis=0), atol=1e-5)


def test_scores_are_averaged_before_they_are_squashed(random: np.random.Generator) -> None:
    members = [member((48, 40)), member((96, 72), scales=(1.0, 1.5))]
    images = photographs(random, 7)
    together = list(see_with_all(iter(images), members, mean_scores("sigmoid")))
    for image, joined in zip(images, together, strict=True):
        assert isinstance(joined, SeenImage)
        logits = np.mean([alone(own, image).logits for own in members], axis=0)
        np.testing.assert_allclose(joined.logits, logits)
        np.testing.assert_allclose(joined.probabilities, 1 / (1 + np.exp(-logits)))
        assert joined.name == image.name


def test_a_broken_image_is_broken_for_all_and_the_rest_go_on(random: np.random.Generator) -> None:
    images = photographs(random, 3)
    images[1] = ImageSource("1.png", b"")
    members = [member((48, 40)), member((96, 72))]
    seer = partial(see_with_all, members=members, fuse_scores=mean_scores("softmax"))
    own = Predictor(
        members[0].source, joint_look(members), Places(), thresholds=(0.5,) * 3, seer=seer
    )
    found = list(own.predict(images))
    assert [isinstance(each, BrokenImage) for each in found] == [False, True, False]
