"""Maps weighed by what stands out in features, whatever its class, and by the image's middle."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from tests.predictor.dot_source import DotSource
from weakloc.data.sources import ImageSource
from weakloc.data.transforms import Preprocessing
from weakloc.localize.maps import minmax
from weakloc.predictor.network_source import RawMaps
from weakloc.predictor.predictor import Predictor, joined_maps
from weakloc.predictor.views import SeenImage
from weakloc.settings import Look, Places


class ColorFeatures(DotSource):
    """The features of stride 4 are the colours themselves."""

    def read(self, images: Tensor) -> RawMaps:
        raw = super().read(images)
        return RawMaps(raw.scores, raw.maps, {4: avg_pool2d(images, 4).numpy()})


def see(source: DotSource, look: Look) -> tuple[Predictor, SeenImage]:
    """A purple square, off the middle, on a wall that grows lighter to the right."""
    ramp = np.linspace(60, 180, 96).astype(np.uint8)
    pixels = np.broadcast_to(ramp[None, :, None], (72, 96, 3)).copy()
    pixels[16:40, 48:80] = (250, 30, 200)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    predictor = Predictor(source, look, Places(), thresholds=(0.5,) * 3)
    (seen,) = predictor.see([ImageSource("a.png", buffer.getvalue())])
    assert isinstance(seen, SeenImage)
    return predictor, seen


PREPROCESSING = Preprocessing(size=(96, 72), mean=(0.0,) * 3, std=(1.0,) * 3)
INSIDE = np.zeros((18, 24), dtype=bool)
INSIDE[4:10, 12:20] = True


@pytest.mark.parametrize("objectness", ["distance", "axis", "cut"])
@pytest.mark.parametrize("flip", [False, True])
def test_what_stands_out_in_the_features_weighs_the_map(objectness: str, flip: bool) -> None:
    how = Look(  # type: ignore[arg-type]
        workers=0, objectness=objectness, objectness_stride=4, map_side=24, flip=flip
    )
    predictor, seen = see(ColorFeatures(PREPROCESSING), how)
    plain = minmax(joined_maps(seen, [0], how).values)[0]
    heat = predictor.heat(seen, [0], how).values[0]
    assert heat[~INSIDE].mean() / heat[INSIDE].mean() < 0.8 * plain[~INSIDE].mean()
    assert (heat > 0.5)[INSIDE].mean() > 0.9
    assert 0 <= heat.min() <= heat.max() <= 1


def test_objectness_without_features_is_a_mistake_that_is_said() -> None:
    how = Look(workers=0, objectness="distance", objectness_stride=4)
    predictor, seen = see(DotSource(PREPROCESSING), how)
    with pytest.raises(ValueError, match="no features of stride 4"):
        predictor.heat(seen, [0], how)


def test_a_prior_on_the_middle_weighs_the_corners_least() -> None:
    how = Look(workers=0, center_prior=True, map_side=24)
    predictor, seen = see(DotSource(PREPROCESSING), how)
    plain = minmax(joined_maps(seen, [0], how).values)[0]
    heat = predictor.heat(seen, [0], how).values[0]
    kept = np.divide(heat, plain, out=np.zeros_like(heat), where=plain > 0.05)
    assert kept[8, 11] > 2 * kept[0, 23]
