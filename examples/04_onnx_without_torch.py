"""From a photograph to points and boxes with an exported run: numpy, pillow and onnxruntime alone.

    weakloc export RUN --out model.onnx
    python examples/04_onnx_without_torch.py model.onnx photo.jpg boxes.png

Says what `weakloc predict model.onnx photo.jpg` says, of one view of the photograph.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

LEAST_PROBABILITY, LEAST_AREA = 0.5, 0.001  # of a class; of a box, as a share of the image
LONG_SIDE = 224  # cells along the longer side of the image in which boxes are cut
REACH = 0.06  # of the longer side: how far around a point heat counts for it


def main(model, photo, drawn):
    session = onnxruntime.InferenceSession(model)
    about = json.loads(session.get_modelmeta().custom_metadata_map["weakloc"])
    rules = about["looking"]["rules"]
    assert not about["rescoring"], "classes that occur together are left to weakloc"
    picture = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
    size = np.array(picture.size)
    images, scale, corner = network_input(picture, about["preprocessing"])
    scores, maps, *proposed = session.run(None, {"images": images})
    likely = np.flatnonzero(probabilities(scores[0], about) >= LEAST_PROBABILITY)
    centres = cell_centres(maps.shape[:1:-1], images.shape[:1:-1], about["geometry"])
    centres = [
        (at - c) / s for at, c, s in zip(centres, corner, scale, strict=True)
    ]  # of the picture
    heats = [on_image_grid(maps[0, index], centres, size) for index in likely]
    if about["looking"]["localiser"] == "cells":
        heats = held_against_each_other(heats)
    for index, heat in zip(likely, heats, strict=True):
        probability = probabilities(scores[0], about)[index]
        weight = probability if rules["box_times_class"] else 1.0
        if proposed:  # a detector's boxes, and how likely each of them holds an object
            edges = (proposed[0][0].reshape(-1, 2, 2) - corner) / scale
            boxes = voted(edges.reshape(-1, 4), weight * proposed[1][0, index], size, rules)
            point = boxes[0][0].reshape(2, 2).mean(0) if boxes else size / 2
        else:
            threshold = about["thresholds"][index]
            mode = about["threshold_mode"] or rules["threshold_mode"]
            boxes = around_parts(NORMALISED[mode](heat), threshold, weight, size, rules)
            point = hottest(maps[0, index], heat, centres, size, rules["point_method"])
        name = about["class_names"][index]
        print(json.dumps({"class": name, "score": float(probability), "point": point.tolist()}))
        for box, score in boxes:
            print(json.dumps({"class": name, "score": float(score), "box": box.tolist()}))
            ImageDraw.Draw(picture).rectangle(box.tolist(), outline="red", width=3)
    picture.save(drawn)


def probabilities(logits, about):
    logits = logits.astype(float)
    if about["activation"] == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def network_input(picture, how):
    """(1, 3, height, width), and the way there: pixel * scale + corner, in x and y."""
    assert how["resize"] in ("warp", "pad"), f"{how['resize']} is left to weakloc"
    sides = np.ceil(np.broadcast_to(how["size"], 2) / how["multiple_of"]) * how["multiple_of"]
    content = sides  # (width, height); "pad" keeps the proportions, "warp" does not
    if how["resize"] == "pad":
        content = np.round(np.multiply(picture.size, (sides / picture.size).min()))
        content = np.clip(content, 1, sides)
    corner = (sides - content) // 2 if how["pad_position"] == "center" else np.zeros(2)
    (width, height), (left, top) = sides.astype(int), corner.astype(int)
    pixels = np.asarray(picture.resize(tuple(content.astype(int)), Image.Resampling.BILINEAR))
    normalised = (pixels / 255 - how["mean"]) / how["std"]  # (rows, columns, 3)
    images = np.zeros((1, 3, height, width), np.float32)
    rows, columns = pixels.shape[:2]
    images[0, :, top : top + rows, left : left + columns] = normalised.transpose(2, 0, 1)
    return images, content / picture.size, corner


def cell_centres(counts, sides, geometry):
    """Of the columns and of the rows of a map, in pixels of the input."""
    numbers = [np.arange(count) for count in counts]
    if geometry["first_center"] == "uniform":
        return [(n + 0.5) * side / len(n) for n, side in zip(numbers, sides, strict=True)]
    return [n * geometry["stride"] + geometry["first_center"] for n in numbers]


def on_image_grid(values, centres, size):
    """Bilinear between the centres of cells (columns, rows), on a grid over the picture."""
    limit = min(LONG_SIDE, size.max())
    weights = []
    for at, side in zip(centres, size, strict=True):
        count = max(round(side * limit / size.max()), min(side, round(limit / 16)), 1)
        wanted = (np.arange(count) + 0.5) * side / count
        places = np.interp(wanted, at, np.arange(len(at)))
        weights.append(np.maximum(1 - abs(places[:, None] - np.arange(len(at))), 0))
    return (weights[1] @ values @ weights[0].T).astype(np.float32)


def held_against_each_other(heats):
    """Of probabilities against background those against background and the other classes."""
    odds = [heat / np.maximum(1 - heat, 1e-6) for heat in heats]
    return [each / (1 + sum(odds)) for each in odds]


def by_otsu(heat):
    """A half is where two groups of values differ most in their means."""
    heat = np.maximum(heat, 0)
    ordered = np.sort(heat, axis=None).astype(float)
    below = np.arange(1, ordered.size)
    sums = ordered.cumsum()
    apart = sums[:-1] / below - (sums[-1] - sums[:-1]) / (ordered.size - below)
    return heat / (heat + ordered[(below * (ordered.size - below) * apart**2).argmax()])


NORMALISED = {
    "minmax": lambda heat: (heat - heat.min()) / (heat.max() - heat.min()),
    "relu_max": lambda heat: np.maximum(heat, 0) / heat.max(),
    "otsu": by_otsu,
}
BOX_SCORES = {
    "mean": lambda heat, box: heat[box].mean(dtype=float),
    "share": lambda heat, box: heat[box].sum(dtype=float) / heat.sum(dtype=float),
}


def around_parts(heat, threshold, weight, size, rules):
    """A box around each connected part that is hotter, and its score; the best first."""
    cell = size / heat.shape[::-1]
    boxes = []
    for part in parts(heat > np.float32(threshold)):
        is_large = len(part) >= LEAST_AREA * heat.size
        if is_large and heat[tuple(part.T)].sum() >= rules["min_share"] * heat.sum():
            (top, left), (bottom, right) = part.min(0), part.max(0) + 1
            score = BOX_SCORES[rules["box_score"]](heat, np.s_[top:bottom, left:right])
            box = np.array([left, top, right, bottom]) * np.tile(cell, 2)
            boxes.append((weight * score, len(part), box))
    key = (lambda found: found[1]) if rules["boxes"] == "largest" else (lambda found: found[0])
    ordered = sorted(boxes, key=key, reverse=True)[: None if rules["boxes"] == "all" else 1]
    return [(box, score) for score, _, box in ordered]


def parts(is_hot):
    """The cells (row, column) of each 8-connected part."""
    left = {(int(row), int(column)) for row, column in np.argwhere(is_hot)}
    while left:
        part = [left.pop()]
        for row, column in part:  # grows while it is read
            around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            part.extend(around)
        yield np.array(part)


def hottest(values, heat, centres, size, method):
    """The hottest cell, or the place with the most heat around it; between the outermost cells."""
    if method == "densest":
        reach = REACH * size.max() * np.array(heat.shape) / size[::-1]  # in rows and columns
        down, across = (
            np.exp(-0.5 * (np.subtract.outer(np.arange(n), np.arange(n)) / r) ** 2)
            for n, r in zip(heat.shape, reach, strict=True)
        )
        place = np.unravel_index((down @ (heat - heat.min()) @ across).argmax(), heat.shape)
        point = (np.array(place[::-1]) + 0.5) * size / heat.shape[::-1]
    else:
        assert method == "arg_max", f"{method} is left to weakloc"
        row, column = np.unravel_index(values.argmax(), values.shape)
        point = np.array([centres[0][column], centres[1][row]])
    low, high = ([at[end] for at in centres] for end in (0, -1))
    return np.clip(point, np.clip(low, 0.5, size - 0.5), np.clip(high, 0.5, size - 0.5))


def voted(boxes, scores, size, rules):
    """What boxes (N, 4) agree on: the best with all that are like it, then the best of the rest."""
    boxes = np.clip(boxes.astype(float), 0, np.tile(size, 2))
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order = np.argsort(-scores, kind="stable")
    order = order[(areas[order] > 0) & (scores[order] >= rules["min_share"] * scores.max())]
    found = []
    while len(order):
        best = boxes[order[0]]
        corners = np.maximum(best[:2], boxes[order, :2]), np.minimum(best[2:], boxes[order, 2:])
        shared = np.maximum(corners[1] - corners[0], 0).prod(1)
        overlaps = shared / (areas[order[0]] + areas[order] - shared)
        like = order[overlaps > 0.6]
        box = np.average(boxes[like], axis=0, weights=scores[like])
        if (box[2:] - box[:2]).prod() >= LEAST_AREA * size.prod():
            found.append((box, scores[order[0]]))
        order = order[1:][overlaps[1:] < 0.5]
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
