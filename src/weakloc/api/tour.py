"""The verbs of the command line as functions: wires the stages, holds no algorithm."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import softplus

from weakloc.data.scenes import CLUTTER_CLASSES as CLASSES
from weakloc.data.scenes import scene_samples
from weakloc.geometry import GridTransform, cell_center_in_image
from weakloc.model.backbone_spec import BackboneSpec
from weakloc.model.backbones import build_backbone
from weakloc.model.heads import TransferHead
from weakloc.model.network import LocalizationNetwork
from weakloc.model.pooling import ClassPool, MaxPool
from weakloc.output.report import write_report
from weakloc.structures import PRESENT, Point, Prediction, Sample

SIDE = 96


def demo(
    out: Path, *, num_train: int = 384, num_val: int = 96, epochs: int = 12
) -> dict[str, float]:
    """Scenes, a small network, metrics, predictions and a report page in one folder."""
    torch.manual_seed(0)
    train = scene_samples(count=num_train, seed=0)
    val = scene_samples(count=num_val, seed=1)
    network = _train(train, epochs=epochs)
    predictions = _predict(network, val)
    metrics = _evaluate(predictions, [sample for _, sample in val])
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"image": item.image, "scores": dict(item.scores)}) for item in predictions]
    (out / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    write_report(out / "report.html", [image for image, _ in val], predictions, metrics)
    return metrics


def _stack(images: list[Image.Image]) -> torch.Tensor:
    arrays = [
        np.asarray(image.resize((SIDE, SIDE)), dtype=np.float32) / 127.5 - 1 for image in images
    ]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def _train(scenes: list[tuple[Image.Image, Sample]], *, epochs: int) -> LocalizationNetwork:
    backbone = build_backbone(BackboneSpec.parse("tiny[width=16]"))
    head = TransferHead(backbone.out_channels, len(CLASSES))
    network = LocalizationNetwork(backbone, head, ClassPool(), MaxPool())
    images = _stack([image for image, _ in scenes])
    labels = torch.from_numpy(np.stack([sample.labels for _, sample in scenes])).float()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(32):
            loss = softplus(-labels[batch] * network(images[batch]).scores).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@torch.inference_mode()
def _predict(
    network: LocalizationNetwork, scenes: list[tuple[Image.Image, Sample]]
) -> list[Prediction]:
    output = network(_stack([image for image, _ in scenes]))
    probabilities, maps = output.scores.sigmoid().numpy(), output.maps.numpy()
    predictions = []
    for index, (image, sample) in enumerate(scenes):
        rows, columns = maps.shape[2:]
        transform = GridTransform.identity(image.size).resize((columns, rows))
        points = []
        for class_index, name in enumerate(CLASSES):
            row, column = np.unravel_index(int(maps[index, class_index].argmax()), (rows, columns))
            x, y = cell_center_in_image(int(row), int(column), transform)
            points.append(Point(name, x, y, float(probabilities[index, class_index])))
        scores = dict(zip(CLASSES, probabilities[index].tolist(), strict=True))
        predictions.append(Prediction(sample.name, *image.size, scores, tuple(points)))
    return predictions


def _evaluate(predictions: list[Prediction], samples: list[Sample]) -> dict[str, float]:
    """Share of right tags, and of present classes whose point lies in a true box."""
    right_tags, hits = [], []
    for prediction, sample in zip(predictions, samples, strict=True):
        for class_index, point in enumerate(prediction.points):
            present = bool(sample.labels[class_index] == PRESENT)
            right_tags.append((point.score > 0.5) == present)
            boxes = sample.truth.boxes if sample.truth else ()
            own = [truth.box for truth in boxes if truth.class_index == class_index]
            if own:
                hits.append(any(b[0] <= point.x < b[2] and b[1] <= point.y < b[3] for b in own))
    return {"tag_accuracy": float(np.mean(right_tags)), "pointing_accuracy": float(np.mean(hits))}
