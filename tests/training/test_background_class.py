"""A class that every image shows: learned beside the others, and painted against in masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.small_data import CLASSES, method, settings
from weakloc.api.runs import TrainedRun, load_folder
from weakloc.api.training import train
from weakloc.errors import SettingError
from weakloc.methods.beam import Beam
from weakloc.methods.cam import Cam
from weakloc.methods.method import PlaceRules
from weakloc.methods.settings import to_settings
from weakloc.model.losses import BackgroundLoss, LogisticLoss
from weakloc.rle import decode_mask
from weakloc.settings import Look, Places
from weakloc.structures import DataSet, Prediction
from weakloc.training.run_folder import Run

WITH_BACKGROUND = PlaceRules(background="class")


@pytest.fixture(scope="module")
def trained(data_set: DataSet, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    choices = {**to_settings(method()), "rules": {"background": "class"}}
    del choices["backbone"]
    folder = tmp_path_factory.mktemp("background") / "run"
    return train(
        data_set, choices=choices, out=folder, settings=settings(epochs=6, learning_rate=0.02)
    )


def test_the_loss_is_that_of_one_class_more_which_is_always_present() -> None:
    scores = torch.tensor([[0.3, -1.2, 0.7], [2.0, 0.1, -0.4]], dtype=torch.float64)
    labels = torch.tensor([[1, -1], [-1, 0]], dtype=torch.int8)
    terms = torch.log1p(torch.exp(-torch.tensor([[0.3, 1.2, 0.7], [-2.0, 0.0, -0.4]]).double()))
    terms[1, 1] = 0  # its tag is unknown
    loss = BackgroundLoss(LogisticLoss("mean"))
    torch.testing.assert_close(loss(scores, labels), terms.mean(dim=1).mean())


def test_scores_and_places_are_those_of_the_classes_alone(
    trained: TrainedRun, data_set: DataSet
) -> None:
    assert load_folder(trained.path).class_names == CLASSES
    paths = [sample.path for sample in data_set.splits["val"]]
    for found in trained.predict(paths, places=Places(masks="threshold", min_score=0.0)):
        assert isinstance(found, Prediction)
        assert set(found.scores) == {point.class_name for point in found.points} == set(CLASSES)
        assert {mask.class_name for mask in found.masks} <= set(CLASSES)


def test_a_pixel_is_a_class_where_its_score_exceeds_the_backgrounds(
    trained: TrainedRun, data_set: DataSet
) -> None:
    network = trained.run.network.eval()
    assert network.head.transfer.out_channels == 3 * 2  # classes and background, two maps each
    sample = data_set.splits["val"][0]
    with torch.inference_mode():
        predictor = trained.predictor(Look(map_side=36), Places(masks="threshold", min_score=0.0))
        (found,) = trained.predict([sample.path], look=Look(map_side=36), places=predictor.places)
        with Image.open(sample.path) as picture:
            images, _ = trained.run.preprocessing.apply(picture.convert("RGB"))
        maps = network.class_pool(network.head(network.backbone(images[None])))
    assert isinstance(found, Prediction)
    upsampled = torch.nn.functional.interpolate(
        maps, (found.height, found.width), mode="bilinear", align_corners=False
    )[0]
    winners = upsampled.argmax(dim=0).numpy()  # 2 is the background
    painted = np.full_like(winners, 2)
    for mask in found.masks:
        painted[decode_mask(mask.rle)] = CLASSES.index(mask.class_name)
    assert (painted == winners).mean() > 0.97  # less specks, which get no mask


def test_what_cannot_have_a_background_class_says_so() -> None:
    softmax = Cam(loss="softmax", rules=WITH_BACKGROUND)
    with pytest.raises(SettingError, match="beside every other"):
        softmax.build_loss(num_classes=3, single_label=True)
    auto = replace(softmax, loss="auto").build_loss(num_classes=3, single_label=True)
    assert auto == BackgroundLoss(LogisticLoss("mean"))
    with pytest.raises(SettingError, match="search"):
        Beam(rules=WITH_BACKGROUND)


def test_a_run_without_one_refuses_to_paint_against_it(data_set: DataSet, run: Run) -> None:
    plain = TrainedRun(run)
    places = Places(masks="threshold", background="class", min_score=0.0)
    with pytest.raises(SettingError, match="no map of a background class"):
        list(plain.predict([data_set.splits["val"][0].path], places=places))
