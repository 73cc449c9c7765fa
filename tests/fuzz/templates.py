"""A small run as files: made once a process, and mutated from then on."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from tests.fuzz.grammars import CLASSES, GRAMMARS, Draft, picture
from tests.fuzz.parts import Part
from weakloc.api.runs import TrainedRun, describe
from weakloc.data.augmentation import Augmentation
from weakloc.data.transforms import Preprocessing
from weakloc.methods.settings import to_settings
from weakloc.methods.wildcat import Wildcat
from weakloc.model.backbones import build_backbone
from weakloc.model.fine_layers import CellClassifier, fine_features, fine_levels
from weakloc.model.trunk import BackboneSpec
from weakloc.predictor.onnx_file import ExportedGraph
from weakloc.settings import Look, RefineSettings, TrainSettings
from weakloc.structures import LabelStatistics
from weakloc.training.plan import Division, TrainingPlan, chosen_hardware
from weakloc.training.run_folder import (
    CELLS_NAME,
    MODEL_NAME,
    RECORD_NAME,
    load_run,
    publish,
    save_learned,
)

SIDE = 32


@dataclass(frozen=True)
class Template:
    """The files of a run and of its export."""

    record: dict[str, Any]
    model: dict[str, Any]  # as `parts.safetensors` writes it
    cells: dict[str, Any]
    weights: bytes  # of a .pt file
    network: bytes  # an ONNX file without metadata
    onnx_record: dict[str, Any]


@cache
def template() -> Template:
    method = Wildcat.practical()
    backbone = build_backbone(BackboneSpec.parse("tiny[width=4]", weights="none"))
    network = method.build_network(backbone, len(CLASSES)).eval()
    settings = TrainSettings(backbone="tiny[width=4]", image_size=SIDE)
    plan = TrainingPlan(
        network=network,
        loss=method.build_loss(num_classes=len(CLASSES), single_label=False),
        augmentation=Augmentation(),
        division=Division((), (), "val"),
        hardware=chosen_hardware(settings),
        method=method,
        settings=settings,
        preprocessing=Preprocessing(size=(SIDE, SIDE)),
        class_names=CLASSES,
        labels=LabelStatistics(6, [2] * 3, [2] * 3, [2] * 3, np.diag([2] * 3).tolist()),
        notes=("a note",),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        publish(folder, plan, network.state_dict(), (), 1)
        levels = fine_levels(backbone.level_strides)
        features = fine_features(backbone, torch.zeros(1, 3, 64, 64), levels)
        channels = {stride: values.shape[1] for stride, values in features.items()}
        save_learned(folder, CellClassifier(channels, len(CLASSES)), backbone, RefineSettings())
        run = load_run(folder)
        torch.save(network.state_dict(), folder / "weights.pt")
        record = json.loads((folder / RECORD_NAME).read_text())
        record["thresholds"] = {
            "thresholds": [0.3, 0.4, 0.5],
            "threshold_mode": "minmax",
            "method": "boxes",
            "num_boxes_used": 5,
            "intervals": [[0.2, 0.4]] * 3,
            "confidence": 0.9,
        }
        record["rescoring"] = {"alpha": 0.2, "by": "tags", "mean_average_precision": 0.5}
        trained, graph = TrainedRun(run), ExportedGraph(run.network, None)
        described = describe(trained, trained.predictor(Look(localiser="score_map")), graph)
        return Template(
            record=record,
            model=_tree_of((folder / MODEL_NAME).read_bytes()),
            cells=_tree_of((folder / CELLS_NAME).read_bytes()),
            weights=(folder / "weights.pt").read_bytes(),
            network=_network(),
            onnx_record=to_settings(described),
        )


def _tree_of(content: bytes) -> dict[str, Any]:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    return {"length": None, "header": header, "data": content[8 + size :]}


def _network() -> bytes:
    """Class maps by one convolution of 8 x 8 pixels, their maxima as scores."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.linspace(-1, 1, len(CLASSES) * 3 * 64, dtype=np.float32)
    weights = numpy_helper.from_array(kernel.reshape(len(CLASSES), 3, 8, 8), "weights")
    nodes = [
        helper.make_node("Conv", ["images", "weights"], ["maps"], strides=[8, 8]),
        helper.make_node("GlobalMaxPool", ["maps"], ["highest"]),
        helper.make_node("Flatten", ["highest"], ["scores"]),
    ]
    batch, sides = "batch", ("height", "width")
    graph = helper.make_graph(
        nodes,
        "maps",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, *sides])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, len(CLASSES)]),
            helper.make_tensor_value_info(
                "maps", TensorProto.FLOAT, [batch, len(CLASSES), "rows", "columns"]
            ),
        ],
        [weights],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def runs(random: Random) -> Draft:
    """A run folder and an image to see with it."""
    made = template()
    draft: Draft = {
        "run/run.json": Part("json", made.record),
        "run/model.safetensors": Part("safetensors", made.model),
        "image.png": Part("raw", picture()),
    }
    if random.random() < 0.3:
        draft["run/cells.safetensors"] = Part("safetensors", made.cells)
    return draft


def onnx_files(_: Random) -> Draft:
    made = template()
    tree = {"network": made.network, "metadata": {"weakloc": made.onnx_record}}
    return {"model.onnx": Part("onnx", tree), "image.png": Part("raw", picture())}


def weights(random: Random) -> Draft:
    made = template()
    if random.random() < 0.6:
        return {"weights.safetensors": Part("safetensors", made.model)}
    return {"weights.pt": Part("raw", made.weights)}


def calibrations(_: Random) -> Draft:
    """The record of a run's thresholds alone."""
    return {"thresholds.json": Part("json", template().record["thresholds"])}


def interface(random: Random) -> list[Any]:
    """A labelling interface of Label Studio."""
    labels = [["Label", {"value": name}, []] for name in CLASSES]
    controls = [
        [tag, {"name": f"c{number}", "toName": "image"}, labels]
        for number, tag in enumerate(("RectangleLabels", "KeyPointLabels", "BrushLabels"))
    ]
    choices = ["Choices", {"name": "k", "toName": "image", "choice": "multiple"}, []]
    choices[2] = [["Choice", {"value": name, "alias": "x"}, []] for name in CLASSES]
    shown = ["Image", {"name": "image", "value": "$image"}, []]
    return ["View", {}, [shown, random.choice(controls), choices]]


def requests(random: Random) -> Draft:
    """An HTTP request: its first line, its headers, its body."""
    kind = random.choice(("image", "image", "name", "form", "tasks", "setup", "other"))
    draft: Draft = {"root/a.png": Part("raw", picture())}
    path, content_type, body = "/predict", "application/json", Part("raw", b"")
    query = ""
    if kind == "image":
        content_type, query = random.choice(("image/png", "application/octet-stream")), "name=a.png"
        body = next(iter(GRAMMARS["images"](random).values()))
    elif kind == "name":
        names = ("a.png", "/data/local-files/?d=a.png", "/data/upload/1/a.png", "http://h/a.png")
        body = Part("json", {"image": random.choice(names)})
    elif kind == "form":
        content_type = "multipart/form-data; boundary=x"
        head = 'Content-Disposition: form-data; name="image"; filename="a.png"'
        lines = [b"--x\r\n", head, b"\r\n\r\n", picture(), b"\r\n--x--\r\n"]
        body = Part("numbers", lines)
    elif kind == "tasks":
        url = "/data/local-files/?d=a.png"
        tasks = [{"id": n, "data": {"image": url}} for n in range(random.randint(1, 3))]
        written = {"@xml": interface(random)}
        body = Part("json", {"tasks": tasks, "label_config": written, "params": {"context": None}})
    elif kind == "setup":
        path, body = "/setup", Part("json", {"schema": {"@xml": interface(random)}})
    else:
        path = random.choice(("/", "/health", "/versions", "/webhook", "/train", "/nothing"))
    method = "GET" if kind == "other" and random.random() < 0.7 else "POST"
    headers = [["content-type", content_type], ["accept", "*/*"], ["host", "127.0.0.1"]]
    draft["request"] = Part("tabs", [[method, path, query]])
    draft["headers"] = Part("tabs", headers)
    draft["body"] = body
    return draft


ALL_GRAMMARS: Mapping[str, Callable[[Random], Draft]] = {
    **GRAMMARS,
    "runs": runs,
    "onnx": onnx_files,
    "weights": weights,
    "calibrations": calibrations,
    "exports": GRAMMARS["predictions"],
    "report": GRAMMARS["predictions"],
    "requests": requests,
}
