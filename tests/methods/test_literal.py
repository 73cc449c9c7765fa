"""The literal presets hold the papers' numbers, field by field, and a run says places by them.

The tables are written out from the papers' texts and, where a paper is silent, from its released
code (WILDCAT) or the customs of its time (BEAM's momentum and weight decay).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.ndimage import label

from tests.training.small_data import make_data_set, settings
from weakloc.api.runs import TrainedRun, load_folder
from weakloc.api.training import train
from weakloc.data.images import open_image
from weakloc.data.sources import ImageSource
from weakloc.errors import SettingError
from weakloc.localize.calibration import Calibration
from weakloc.methods import METHODS
from weakloc.methods.method import LEARNED, RULES, Looking, PlaceRules, settled
from weakloc.methods.settings import from_settings, to_settings
from weakloc.predictor.predictor import Located
from weakloc.settings import Look, Places
from weakloc.structures import BrokenImage, DataSet

# What no paper says anything of is the same for all: rates that do not fall, no rules but those
# of score maps.
OPTIMISATION = {
    "kind": "sgd",
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0,
    "decayed": "all",
    "backbone_factor": "auto",
    "schedule": "constant",
    "warm_up_epochs": 0.0,
    "num_stages": 6,
    "steps_per_drop": 20_000,
    "drop_factor": 0.1,
    "max_steps": None,
}
RULES_OF_MAPS = {
    "point_method": "arg_max",
    "threshold": 0.3,
    "threshold_mode": "minmax",
    "boxes": "all",
    "min_share": 0.0,
    "box_score": "mean",
    "box_times_class": True,
    "background": "threshold",
    "crf_unary": "shares",
    "average_precision": "voc12",
    "box_edges": "half-open",
}
COMMON = {
    "trains_backbone": True,
    "normalisation": "backbone",
    "resize": "warp",
    "balance": False,
    "score_scales": [1.0],
    "map_scales": [1.0],
    "map_fuse": "mean",
    "map_normalisation": "none",
}

MAX_MIL = {
    **COMMON,
    "backbone": "alexnet",  # read as convolutions up to FC7, and frozen
    "trains_backbone": False,
    "hidden": 2048,  # Ca; Cb is the class layer
    "dropout": 0.5,  # of whole maps
    "sharpness": None,  # the maximum
    "loss": "logistic_sum",
    "side": 500,
    "resize": "pad",
    "flip": False,
    "scale_jitter": [0.7, 1.4],
    "optimisation": {
        **OPTIMISATION,
        "kind": "adagrad",
        "learning_rate": 0.01,
        "epochs": 30,
        "batch_size": 16,
    },
    "score_scales": [round(0.5 + 0.05 * step, 2) for step in range(65)],
    "map_scales": [1.0, 1.3, 1.6, 1.9, 2.2, 2.5],
    "map_fuse": "max",
    "map_normalisation": "sigmoid",
    "rules": RULES_OF_MAPS,
}
BEAM = {
    **COMMON,
    "backbone": "vgg16",  # with FC6 and FC7
    "reduced_channels": None,
    "hidden": [2048],  # Fa; Fb is the class layer
    "dropout": 0.5,
    "loss": "beam_sigmoid",
    "side": 224,
    "flip": True,
    "balance": True,
    "noise": 10 / 255,
    "rotation": 30.0,
    "optimisation": {
        **OPTIMISATION,
        "learning_rate": 0.01,  # of the new layers, ten times the 0.001 of all others
        "backbone_factor": 0.1,
        "weight_decay": 5e-4,
        "schedule": "steps",  # a tenth after every 20,000 batches
        "max_steps": 80_000,
        "epochs": 1000,
        "batch_size": 50,
    },
    "search": {
        "beam_width": 8,  # M
        "num_levels": 10,  # H
        "recrop_every": 1.0,
        "search": "beam",
        "children": "one_side",
        "diverse_iou": 1.0,
        "interpolation": "half_pixel",
    },
    "rules": {
        **RULES_OF_MAPS,
        "point_method": "plateau",  # "the centre of the maximal response"
        "threshold": 0.5,
        "threshold_mode": "relu_max",  # heat over its maximum
        "box_score": "raw_mean",
        "box_times_class": False,
    },
}
WILDCAT = {
    **COMMON,
    "backbone": "resnet101.tv_in1k",
    "maps_per_class": 8,
    "class_pool": "mean",
    "class_pool_gradient": "mean",
    "k_max": 0.2,
    "k_min": 0.2,
    "alpha": 0.7,
    "halve": False,
    "order": "head_then_pool",
    "loss": "auto",  # soft margin of many labels, cross-entropy of one
    "side": 448,
    "flip": True,
    "optimisation": {
        **OPTIMISATION,
        "learning_rate": 0.01,
        "backbone_factor": 0.1,
        "weight_decay": 1e-4,
        "epochs": 20,
        "batch_size": 16,
    },
    "map_normalisation": "zscore",
    "rules": {
        **RULES_OF_MAPS,
        "crf_unary": "softmax",  # -log softmax of the maps
        "average_precision": "nonint",
    },
}
CAM = {
    **COMMON,
    "backbone": "preact18",
    "normalisation": "training_images",
    "augment": "gr",
    "smallest_crop": 0.08,
    "patch_sizes": [0, 4, 8, 16],
    "loss": "softmax",
    "side": 64,
    "flip": False,
    "optimisation": {
        **OPTIMISATION,
        "learning_rate": 0.1,
        "backbone_factor": 1.0,
        "nesterov": True,
        "weight_decay": 1e-4,
        "decayed": "kernels",
        "schedule": "stages",  # six: a tenth after every 250 of 1500 epochs
        "epochs": 1500,
        "batch_size": 256,
    },
    "rules": {**RULES_OF_MAPS, "threshold": 0.2, "boxes": "largest"},
}
PAPERS = {"max_mil": MAX_MIL, "beam": BEAM, "wildcat": WILDCAT, "cam": CAM}


@pytest.mark.parametrize("name", METHODS)
def test_the_literal_preset_is_the_paper(name: str) -> None:
    assert to_settings(METHODS[name].literal()) == PAPERS[name]


def test_practical_presets_differ_from_each_other_in_the_beams_rules_alone() -> None:
    for name, kind in METHODS.items():
        plateau = {"point_method": "plateau", "threshold": 0.5} if name == "beam" else {}
        assert to_settings(kind.practical().rules) == RULES_OF_MAPS | plateau


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return make_data_set(tmp_path_factory.mktemp("images"), num_train=8, num_val=4)


@pytest.fixture(scope="module")
def runs(data_set: DataSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainedRun]:
    """Each literal preset, with a network and an epoch that a test has time for."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: train(
            data_set, method=name, preset="literal", out=folder / name, settings=settings(epochs=1)
        )
        for name in METHODS
    }


def predicted(
    run: TrainedRun, data_set: DataSet, look: Look | None = None, places: Places | None = None
) -> list[Located]:
    predictor = run.predictor(look or Look(workers=0), places or Places(top=2))
    sources = [ImageSource(sample.name, sample.path) for sample in data_set.splits["val"]]
    located = list(predictor.predict_with_heat(sources))
    assert not any(isinstance(image, BrokenImage) for image in located)
    return [image for image in located if isinstance(image, Located)]


LOOKS: dict[str, dict[str, Any]] = {
    "max_mil": {"fuse": "max", "normalise": "sigmoid", "localiser": "score_map"},
    "beam": {"scales": (1.0,), "map_scales": (1.0,), "localiser": "beam_search"},
    "wildcat": {"scales": (1.0,), "fuse": "mean", "normalise": "zscore"},
    "cam": {"scales": (1.0,), "map_scales": (1.0,), "localiser": "score_map"},
}


@pytest.mark.parametrize("name", METHODS)
def test_a_literal_run_resolves_all_that_is_left_open_to_the_papers(
    runs: dict[str, TrainedRun], name: str
) -> None:
    rules, predictor = dict(PAPERS[name]["rules"]), runs[name].predictor()  # type: ignore[call-overload]
    for judged in ("average_precision", "box_edges"):
        assert getattr(runs[name].facts.looking.rules, judged) == rules.pop(judged)
    threshold = rules.pop("threshold")
    kept = predictor.settings
    shared = {field: value for field, value in rules.items() if field in kept}
    assert {field: kept[field] for field in shared} == shared
    assert predictor.thresholds == (threshold, threshold)
    assert {field: kept[field] for field in LOOKS[name]} == LOOKS[name]
    if name == "max_mil":
        assert (len(kept["scales"]), kept["scales"][-1]) == (65, 3.7)
        assert kept["map_scales"] == (1.0, 1.3, 1.6, 1.9, 2.2, 2.5)


def test_a_literal_cam_gives_the_largest_part_above_a_fifth_of_the_range(
    runs: dict[str, TrainedRun], data_set: DataSet
) -> None:
    num_compared = 0
    for located in predicted(runs["cam"], data_set, places=Places(top=2, min_area=0.0)):
        for row, index in enumerate(located.classes):
            heat = located.heat.values[row].astype(np.float64)
            if heat.min() == heat.max():
                continue
            share = (heat - heat.min()) / (heat.max() - heat.min())
            parts, _ = label(share > 0.2, np.ones((3, 3)))
            largest = int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
            rows, columns = np.nonzero(parts == largest)
            width, height = located.image.picture.size
            across, down = width / heat.shape[1], height / heat.shape[0]
            expected = [
                columns.min() * across,
                rows.min() * down,
                (columns.max() + 1) * across,
                (rows.max() + 1) * down,
            ]
            name = runs["cam"].class_names[index]
            (box,) = [box for box in located.prediction.boxes if box.class_name == name]
            np.testing.assert_allclose(box.box, expected, atol=1e-3)
            num_compared += 1
    assert num_compared > 0


def test_a_literal_beam_scores_a_box_by_the_mean_of_its_raw_heat_and_points_at_the_plateau(
    runs: dict[str, TrainedRun], data_set: DataSet
) -> None:
    num_boxes = 0
    for located in predicted(runs["beam"], data_set):
        for row, index in enumerate(located.classes):
            heat, name = located.heat.values[row], runs["beam"].class_names[index]
            across, down = (
                side / cells
                for side, cells in zip(
                    located.image.picture.size, (heat.shape[1], heat.shape[0]), strict=True
                )
            )
            for box in located.prediction.boxes:
                if box.class_name != name:
                    continue
                left, top, right, bottom = box.box
                window = heat[
                    round(top / down) : round(bottom / down),
                    round(left / across) : round(right / across),
                ]
                assert box.score == pytest.approx(window.mean(dtype=np.float64), rel=1e-5)
                num_boxes += 1
            rows, columns = np.nonzero(heat == heat.max())
            (point,) = [point for point in located.prediction.points if point.class_name == name]
            # A rectangle of equal heat: its middle, not its first cell.
            if len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1):
                assert point.x == pytest.approx((columns.mean() + 0.5) * across)
                assert point.y == pytest.approx((rows.mean() + 0.5) * down)
    assert num_boxes > 0


def test_what_is_set_wins_over_the_method(runs: dict[str, TrainedRun]) -> None:
    places = Places(
        point_method="sub_cell",
        threshold=0.6,
        threshold_mode="minmax",
        boxes="best",
        box_score="max",
        box_times_class=True,
        min_share=0.1,
    )
    predictor = runs["beam"].predictor(Look(workers=0), places)
    assert predictor.rules == PlaceRules(
        point_method="sub_cell", threshold=0.6, boxes="best", box_score="max", min_share=0.1
    )
    assert predictor.thresholds == (0.6, 0.6)
    kept = predictor.settings
    assert (kept["boxes"], kept["box_times_class"], kept["threshold"]) == ("best", True, 0.6)


def test_calibrated_thresholds_keep_what_they_are_a_share_of(runs: dict[str, TrainedRun]) -> None:
    tuned = Calibration((0.25, 0.75), "relu_max", "by hand", num_boxes_used=4)
    run = TrainedRun(replace(runs["cam"].run, thresholds=msgspec.to_builtins(tuned)))
    predictor = run.predictor(Look(workers=0))
    assert predictor.thresholds == (0.25, 0.75)
    assert predictor.rules == PlaceRules(threshold=0.2, threshold_mode="relu_max", boxes="largest")
    with pytest.raises(SettingError, match="--threshold-mode is 'minmax'") as caught:
        run.predictor(places=Places(threshold_mode="minmax"))
    assert "tuned for relu_max" in str(caught.value)
    apart = run.predictor(Look(workers=0), Places(threshold=0.4))
    assert apart.thresholds == (0.4, 0.4)
    assert apart.rules.threshold_mode == "minmax"  # the method's again


def test_heat_that_is_not_the_methods_own_goes_by_rules_for_its_kind(
    runs: dict[str, TrainedRun],
) -> None:
    by_maps = runs["beam"].predictor(Look(localiser="score_map", workers=0))
    assert by_maps.rules == PlaceRules()
    by_search = runs["wildcat"].predictor(Look(localiser="beam_search", workers=0))
    assert by_search.rules == RULES["beam_search"]
    look, rules = settled(Look(), LEARNED["cells"])
    assert (look.localiser, look.fuse, look.normalise, look.scales) == (
        "cells",
        "mean",
        "none",
        (1.0,),
    )
    assert (rules.point_method, rules.box_score) == ("densest", "share")
    assert (rules.threshold, rules.threshold_mode, rules.min_share) == (0.5, "otsu", 0.02)


def test_a_method_looks_as_its_fields_say() -> None:
    method = replace(METHODS["wildcat"].literal(), map_fuse="max", map_scales=(0.5, 1.0))
    assert method.looking == Looking(
        score_scales=(1.0,),
        map_scales=(0.5, 1.0),
        map_fuse="max",
        map_normalisation="zscore",
        rules=PlaceRules(average_precision="nonint", crf_unary="softmax"),
    )


@pytest.mark.parametrize(("name", "value"), [("threshold", 1.0), ("min_share", -0.1)])
def test_a_rule_that_cannot_work_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"{name} is {value}"):
        from_settings(METHODS["cam"], {"rules": {name: value}})


def without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


def test_a_run_from_before_the_rules_opens_with_what_was_done_then(
    runs: dict[str, TrainedRun], data_set: DataSet
) -> None:
    """All but BEAM's point, which was the first cell of the plateau."""
    path = runs["cam"].path / "run.json"
    text = path.read_text()
    record = json.loads(text)
    method = without(record["method"]["settings"], "rules", "normalisation")
    record["method"]["settings"] = method
    record["backbone"] = without(record["backbone"], "loaded")
    path.write_text(json.dumps(record))
    try:
        run = load_folder(runs["cam"].path)
        assert run.facts.looking.rules == PlaceRules()
        assert run.predictor().thresholds == (0.3, 0.3)
        assert len(predicted(run, data_set)) == 4
    finally:
        path.write_text(text)


def test_a_literal_cam_takes_out_the_mean_and_spread_of_its_training_images(
    runs: dict[str, TrainedRun], data_set: DataSet, tmp_path: Path
) -> None:
    pictures = [np.asarray(open_image(sample.path)) for sample in data_set.splits["train"]]
    pixels = np.concatenate([picture.reshape(-1, 3) / 255 for picture in pictures])
    kept = json.loads((runs["cam"].path / "run.json").read_text())["preprocessing"]
    np.testing.assert_allclose(kept["mean"], pixels.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(kept["std"], pixels.std(axis=0), rtol=1e-9)
    assert runs["cam"].run.preprocessing.mean == tuple(kept["mean"])
    # Other methods, and whoever says a mean, are left alone.
    assert runs["wildcat"].run.preprocessing.mean == (0.5, 0.5, 0.5)
    told = train(
        data_set,
        method="cam",
        preset="literal",
        out=tmp_path / "run",
        settings=settings(epochs=1, backbone="tiny[width=4,mean=0.4,std=0.2]"),
    )
    assert told.run.preprocessing.mean == (0.4, 0.4, 0.4)


def test_a_network_trained_with_a_softmax_predicts_with_one(
    data_set: DataSet, tmp_path: Path
) -> None:
    run = train(
        data_set,
        method="beam",
        choices={"loss": "beam_softmax"},
        out=tmp_path / "run",
        settings=settings(epochs=1),
    )
    assert run.predictor().source.activation == "softmax"
    for located in predicted(run, data_set):
        raised = np.exp(located.image.logits - located.image.logits.max())
        np.testing.assert_allclose(located.image.probabilities, raised / raised.sum(), rtol=1e-6)
        assert sum(located.prediction.scores.values()) == pytest.approx(1.0)
