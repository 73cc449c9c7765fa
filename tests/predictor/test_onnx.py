"""What an ONNX file says of itself, and what is refused; the network's own answers are in
`end_to_end`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save
from onnx import load as load_model
from PIL import Image
from timm.layers import Conv2dSame
from torch import Tensor

from weakloc.api.runs import ExportedNetwork
from weakloc.data.transforms import Preprocessing
from weakloc.errors import FailureError, MissingPackageError, RunError, SettingError
from weakloc.geometry import GridTransform, cell_center_in_image
from weakloc.methods.beam import Beam
from weakloc.methods.method import LEARNED, Looking, PlaceRules
from weakloc.model.backbones import Backbone, build_backbone
from weakloc.model.network import ClassPool, LocalizationNetwork, TransferHead
from weakloc.model.pooling import KMaxKMin
from weakloc.model.trunk import BackboneSpec, CellGeometry, TinyTrunk
from weakloc.predictor.onnx_file import (
    KEY,
    ExportedGraph,
    OnnxRecord,
    OnnxSource,
    Together,
    pairs_of,
    read_record,
    write_onnx,
)
from weakloc.settings import Look, Places
from weakloc.structures import Prediction

EXAMPLE = Path(__file__).parents[2] / "examples" / "04_onnx_without_torch.py"
RECORD = OnnxRecord(
    class_names=('a "b"', "ü/ß", "<i>"),
    activation="sigmoid",
    method="wildcat",
    preprocessing=Preprocessing(size=(48, 40), mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0)),
    geometry=CellGeometry(8, 4.0, 8.0),
    looking=Looking((0.5, 1.0), (1.0,), "max", "relu_max", "score_map"),
    thresholds=(0.25, 0.5, 0.75),
    threshold_mode="relu_max",
    thresholds_from="12 drawn boxes",
    smallest_side=8,
    version="1.2.3",
)


def brightness_file(
    path: Path, record: OnnxRecord | None, *, cell: int = 1, proposed: int = 0
) -> Path:
    """A network by hand: its maps are the mean colours of squares of `cell` pixels, its scores
    those of the brightest squares; some boxes are proposed whatever the image."""
    random = np.random.default_rng(3)
    corners = random.uniform(0, 60, (1, proposed, 2))
    boxes = np.concatenate([corners, corners + random.uniform(10, 40, corners.shape)], axis=2)
    always = {"boxes": boxes, "votes": random.uniform(0.1, 1, (1, 3, proposed))}
    constants = {name: values.astype(np.float32) for name, values in always.items() if proposed}
    sides = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        [
            helper.make_node(
                "AveragePool", ["images"], ["maps"], kernel_shape=[cell] * 2, strides=[cell] * 2
            ),
            helper.make_node("GlobalMaxPool", ["maps"], ["brightest"]),
            helper.make_node("Flatten", ["brightest"], ["scores"]),
            *(
                helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values))
                for name, values in constants.items()
            ),
        ],
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, sides)],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["batch", 3, None, None]),
            *(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape)
                for name, values in constants.items()
            ),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if record is not None:
        helper.set_model_props(model, {KEY: record.to_json()})
    save(model, path)
    return path


def test_a_record_is_read_back_as_it_was() -> None:
    together = pairs_of(np.array([[5, 2, 0], [2, 4, 0], [0, 0, 1]]))
    record = replace(RECORD, rescoring=0.5, together=together, fixed_size=(48, 40))
    assert read_record(record.to_json(), location="a.onnx") == record
    np.testing.assert_array_equal(record.co_occurrence(), [[5, 2, 0], [2, 4, 0], [0, 0, 1]])


def test_a_record_from_before_the_rules_names_places_as_was_done_then() -> None:
    values = json.loads(RECORD.to_json())
    del values["looking"]["rules"]
    assert read_record(json.dumps(values), location="a.onnx").looking.rules == PlaceRules()


def test_a_file_names_places_by_the_rules_of_its_method(tmp_path: Path) -> None:
    rules = PlaceRules(point_method="plateau", boxes="largest", average_precision="nonint")
    record = replace(RECORD, looking=replace(RECORD.looking, rules=rules))
    network = ExportedNetwork(OnnxSource(brightness_file(tmp_path / "a.onnx", record)))
    predictor = network.predictor()
    assert predictor.rules == replace(rules, threshold_mode="relu_max")  # that of its thresholds
    assert network.facts.looking.rules.average_precision == "nonint"
    with pytest.raises(SettingError, match="--threshold-mode is 'minmax'") as caught:
        network.predictor(places=Places(threshold_mode="minmax"))
    assert "tuned for relu_max" in str(caught.value)
    alone = network.predictor(places=Places(threshold_mode="minmax", threshold=0.4))
    assert (alone.rules.threshold_mode, set(alone.thresholds)) == ("minmax", {0.4})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "not of weakloc"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": "weakloc.onnx/9"}', "Update weakloc"),
        ('{"format": "weakloc.onnx/1", "class_names": 3}', "class_names"),
    ],
)
def test_a_record_that_cannot_be_read_says_why(text: str | None, said: str) -> None:
    with pytest.raises(RunError, match=said) as caught:
        read_record(text, location="a.onnx")
    assert caught.value.location == "a.onnx"


@pytest.mark.parametrize(
    "change",
    [
        {"thresholds": (0.5,)},
        {"together": (Together(0, 3, 1),)},
        {"together": (Together(-1, 0, 1),)},
        {"together": (Together(0, 1, -1),)},
        {"together": (Together(0, 1, 2**63),)},
        {"thresholds": ("inf", 0.5, 0.5)},
        {"rescoring": 10**400},
        {"smallest_side": 10**9},
        {"fixed_size": (10**9, 8)},
        {"fixed_size": (0, 8)},
    ],
)
def test_a_record_of_wrong_counts_is_refused(change: dict[str, Any]) -> None:
    values = json.loads(RECORD.to_json())
    if "together" in change:
        change = {"together": [asdict(pair) for pair in change["together"]]}
    with pytest.raises(RunError, match="its metadata is damaged"):
        read_record(json.dumps(values | change), location="a.onnx")


@pytest.mark.parametrize("operation", ["Loop", "Scan", "SequenceMap"])
def test_a_file_with_a_loop_is_refused(tmp_path: Path, operation: str) -> None:
    path = brightness_file(tmp_path / "a.onnx", RECORD)
    model = load_model(path)
    model.graph.node[1].op_type = operation
    save(model, path)
    with pytest.raises(RunError, match="it holds a loop"):
        OnnxSource(path)
    size, name, content = len(operation), operation.encode(), path.read_bytes()
    for written in ([0xA2, 0x00, size], [0x22, 0x80 | size, 0x00], [0x22, 0x80 | size, 0x80, 0x00]):
        path.write_bytes(content.replace(bytes([0x22, size]) + name, bytes(written) + name))
        with pytest.raises(RunError, match="it holds a loop"):
            OnnxSource(path)


def test_openvino_answers_as_onnxruntime_does(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from benchmarks.bench_engines import OpenVinoSource

    path = brightness_file(tmp_path / "a.onnx", RECORD, cell=8, proposed=5)
    images = torch.randn(2, 3, 40, 48)
    own, other = OnnxSource(path).read(images), OpenVinoSource(path).read(images)
    np.testing.assert_allclose(own.maps, other.maps, atol=1e-5)
    np.testing.assert_allclose(own.scores, other.scores, atol=1e-5)
    for name in ("boxes", "scores"):
        assert getattr(own.proposals[0], name) == pytest.approx(getattr(other.proposals[0], name))


def test_a_file_whose_answers_are_of_other_classes_says_so(tmp_path: Path) -> None:
    names = RECORD.class_names[:2]
    record = replace(RECORD, class_names=names, thresholds=RECORD.thresholds[:2])
    source = OnnxSource(brightness_file(tmp_path / "a.onnx", record))
    with pytest.raises(RunError, match="for 2 images of 2 classes"):
        source.read(torch.zeros(2, 3, 40, 48))
    with pytest.raises(RunError, match="onnxruntime cannot use it"):
        source.read(torch.zeros(2, 4, 40, 48))


def test_a_file_is_read_as_its_record_says(tmp_path: Path, random: np.random.Generator) -> None:
    source = OnnxSource(brightness_file(tmp_path / "a.onnx", RECORD))
    assert source.record == RECORD
    images = random.normal(size=(2, 3, 40, 48)).astype(np.float32)
    answer = source.read(torch.from_numpy(images))
    np.testing.assert_array_equal(answer.maps, images)
    np.testing.assert_array_equal(answer.scores, images.max(axis=(2, 3)))
    predictor = ExportedNetwork(source).predictor()
    look = predictor.look
    assert (look.scales, look.map_scales) == ((0.5, 1.0), (1.0,))
    assert (look.fuse, look.normalise) == ("max", "relu_max")
    assert (predictor.rules.threshold_mode, predictor.thresholds) == ("relu_max", (0.25, 0.5, 0.75))


@pytest.mark.parametrize(
    ("geometry", "center"),
    [
        # 48 x 40 of an image of 96 x 160; cell (2, 1) of 5 x 6 is centred at (12, 20) of it.
        (CellGeometry(8, "uniform", 8.0), (24.0, 80.0)),
        (CellGeometry(8, 4.0, 8.0), (24.0, 80.0)),
        (CellGeometry(16, 15.5, 16.0), (63.0, 190.0)),
    ],
)
def test_cells_lie_where_the_record_says(
    geometry: CellGeometry, center: tuple[float, float]
) -> None:
    placed = GridTransform.identity((96.0, 160.0)).resize((48.0, 40.0))
    cells = geometry.cell_transform(placed, 5, 6)
    assert cell_center_in_image(2, 1, cells) == pytest.approx(center)


def test_a_file_of_one_size_refuses_others(tmp_path: Path) -> None:
    record = replace(RECORD, fixed_size=(48, 40), fixed_because="it is so")
    source = OnnxSource(brightness_file(tmp_path / "a.onnx", record))
    assert source.read(torch.zeros(3, 3, 40, 48)).scores.shape == (3, 3)
    with pytest.raises(SettingError, match="48 x 40 pixels only, not 40 x 48: it is so"):
        source.read(torch.zeros(1, 3, 48, 40))


@pytest.mark.parametrize(
    "setting",
    [{"localiser": "beam_search", "scales": (1.0,)}, {"compile": True}, {"precision": "bf16"}],
)
def test_what_a_file_cannot_do_is_refused(tmp_path: Path, setting: dict[str, object]) -> None:
    exported = ExportedNetwork(OnnxSource(brightness_file(tmp_path / "a.onnx", RECORD)))
    with pytest.raises(SettingError, match=f"--{next(iter(setting))}"):
        exported.predictor(Look(**setting))  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [None, b"", b"not a network"])
def test_a_file_that_is_no_network_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        RunError, match="no such file" if content is None else "cannot read"
    ) as caught:
        OnnxSource(path)
    assert caught.value.location == str(path)


def test_a_network_of_somebody_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not of weakloc"):
        OnnxSource(brightness_file(tmp_path / "a.onnx", None))


class _OneSizeTrunk(TinyTrunk):
    """Its depth follows from the height, which no graph for all sizes can say."""

    def forward(self, images: Tensor, levels: tuple[int, ...] = ()) -> dict[int, Tensor]:
        repeats = int(images.shape[2]) // 40
        features = super().forward(images, levels)
        for _ in range(repeats):
            features = {stride: values * 2 for stride, values in features.items()}
        return features


def network(kind: type[TinyTrunk] = TinyTrunk) -> LocalizationNetwork:
    torch.manual_seed(0)
    backbone = Backbone(kind(width=4), BackboneSpec("tiny"))
    head = TransferHead(backbone.out_channels, 3, maps_per_class=2)
    torch.nn.init.normal_(head.transfer.weight)
    pools = ClassPool(2, "max"), KMaxKMin(3, 0.2, alpha=0.7)
    return LocalizationNetwork(backbone, head, *pools).eval()


def test_a_network_that_cannot_be_recorded_for_all_sizes_is_exported_at_one(tmp_path: Path) -> None:
    own = network(_OneSizeTrunk)
    written = write_onnx(ExportedGraph(own), tmp_path / "a.onnx", RECORD)
    assert written.record.fixed_size == (48, 40)
    assert {(each.width, each.height) for each in written.parity} == {(48, 40)}
    source = OnnxSource(written.path)
    assert source.record == written.record
    assert (source.record.looking.score_scales, source.record.looking.map_scales) == (
        (1.0,),
        (1.0,),
    )
    images = torch.randn(5, 3, 40, 48)
    with torch.inference_mode():
        expected = own(images)
    np.testing.assert_allclose(source.read(images).scores, expected.scores.numpy(), atol=1e-4)


def test_a_fixed_grid_head_is_exported_at_its_own_size(tmp_path: Path) -> None:
    method = Beam(side=56, hidden=(6,), reduced_channels=5)
    backbone = build_backbone(BackboneSpec.parse("tiny[width=4]", weights="none"))
    own = method.build_network(backbone, 3).eval()
    looking = replace(RECORD.looking, score_scales=(1.0,), localiser="beam_search")
    preprocessing = Preprocessing(size=56)
    record = replace(RECORD, looking=looking, preprocessing=preprocessing)
    written = write_onnx(ExportedGraph(own), tmp_path / "a.onnx", record)
    assert written.record.fixed_size == (56, 56)
    assert "fixed grid" in written.record.fixed_because
    exported = ExportedNetwork(OnnxSource(written.path))
    images = torch.randn(5, 3, 56, 56)
    with torch.inference_mode():
        expected = own(images)
    answer = exported.source.read(images)
    np.testing.assert_allclose(answer.scores, expected.scores.numpy(), atol=1e-4)
    np.testing.assert_allclose(answer.maps, expected.maps.numpy(), atol=1e-4)
    with pytest.raises(SettingError, match="knows score_map alone"):
        exported.predictor()
    assert exported.predictor(Look(localiser="score_map")).source is exported.source


def test_a_network_that_pads_by_the_size_of_the_image_is_exported_at_its_own_size(
    tmp_path: Path,
) -> None:
    own = network()
    first = own.backbone.trunk.stages["2"]  # type: ignore[index,union-attr]
    first[0] = Conv2dSame(3, first[0].out_channels, 4, stride=2, bias=False)
    written = write_onnx(ExportedGraph(own), tmp_path / "a.onnx", RECORD)
    assert written.record.fixed_size == (48, 40)
    assert "padding" in written.record.fixed_because


def test_a_file_that_answers_otherwise_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"what was here before")

    def with_another_bias(given: LocalizationNetwork, *, side: int) -> LocalizationNetwork:
        other = network()
        torch.nn.init.constant_(other.head.transfer.bias, 0.001)  # type: ignore[union-attr,arg-type]
        return other

    monkeypatch.setattr("weakloc.predictor.onnx_file.fold_batch_norms", with_another_bias)
    with pytest.raises(FailureError, match=r"differs from the network by 0\.001"):
        write_onnx(ExportedGraph(network()), path, replace(RECORD, fixed_size=(48, 40)))
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]
    assert path.read_bytes() == b"what was here before"


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_what_installs_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError) as caught:
        write_onnx(ExportedGraph(network()), tmp_path / "a.onnx", RECORD)
    assert package in caught.value.message
    assert 'pip install "weakloc[onnx]"' in str(caught.value)


CELLS = {"looking": LEARNED["cells"], "thresholds": (0.5, 0.5, 0.5), "threshold_mode": None}


@pytest.mark.parametrize(
    ("changes", "proposed"),
    [
        ({}, 0),
        (
            {
                "activation": "softmax",
                "geometry": CellGeometry(8, "uniform", 8.0),
                "threshold_mode": "minmax",
            },
            0,
        ),
        ({"threshold_mode": None, "geometry": CellGeometry(8, 5.5, 8.0)}, 0),
        (CELLS, 0),
        ({**CELLS, "looking": LEARNED["detector"]}, 9),
    ],
)
def test_the_example_says_what_predict_says_without_torch_and_weakloc(
    tmp_path: Path, random: np.random.Generator, changes: dict[str, Any], proposed: int
) -> None:
    """A picture that fits the network's canvas unresized: decoders and resizing have no say."""
    statistics = {"mean": (0.3, 0.2, 0.4), "std": (0.1, 1.0, 1.0)}  # red is sure to be there
    preprocessing = Preprocessing(size=(100, 84), resize="pad", **statistics)
    record = replace(RECORD, **{"looking": Looking(), "preprocessing": preprocessing, **changes})
    model, photo = tmp_path / "a.onnx", tmp_path / "photo.png"
    brightness_file(model, record, cell=8, proposed=proposed)
    colours = random.integers(0, 255, (6, 13, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((100, 46), Image.Resampling.BICUBIC).save(photo)
    blocked = (
        "import runpy, sys; sys.modules.update(torch=None, weakloc=None); "
        "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    command = [sys.executable, "-c", blocked, EXAMPLE, model, photo, tmp_path / "boxes.png"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    (own,) = ExportedNetwork(OnnxSource(model)).predict([photo], look=Look(workers=0))
    assert isinstance(own, Prediction)
    points = {line["class"]: line["point"] for line in lines if "point" in line}
    assert points.keys() == {point.class_name for point in own.points}
    for point in own.points:
        assert points[point.class_name] == pytest.approx([point.x, point.y])
    found = sorted((line["class"], *line["box"], line["score"]) for line in lines if "box" in line)
    expected = sorted((box.class_name, *box.box, box.score) for box in own.boxes)
    assert len(found) == len(expected) >= 1
    for one, other in zip(found, expected, strict=True):
        assert one[0] == other[0]
        assert one[1:] == pytest.approx(other[1:], rel=1e-5)
    with Image.open(tmp_path / "boxes.png") as drawn:
        assert drawn.size == (100, 46)
