"""Draw what an exported network finds in a picture; needs only numpy, pillow and onnxruntime.

    weakloc export RUN --out model.onnx
    python examples/04_onnx_without_torch.py model.onnx photo.jpg boxes.png

One box around all hot cells of each class; `weakloc predict model.onnx` tells objects apart.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps


def main(model: str, photo: str, drawn: str) -> None:
    session = onnxruntime.InferenceSession(model)
    about = json.loads(session.get_modelmeta().custom_metadata_map["weakloc"])
    how, cells = about["preprocessing"], about["geometry"]
    picture = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
    sides = np.ceil(np.broadcast_to(how["size"], 2) / how["multiple_of"]) * how["multiple_of"]
    content = sides  # (width, height); "pad" keeps the proportions, "warp" does not
    if how["resize"] == "pad":
        content = np.round(np.multiply(picture.size, (sides / picture.size).min()))
    left, top = corner = (sides - content) // 2
    (width, height), (right, bottom) = sides.astype(int), (corner + content).astype(int)
    resized = picture.resize(tuple(content.astype(int)), Image.Resampling.BILINEAR)
    normalised = (np.asarray(resized) / 255 - how["mean"]) / how["std"]  # (rows, columns, 3)
    images = np.zeros((1, 3, height, width), np.float32)
    images[0, :, int(top) : bottom, int(left) : right] = normalised.transpose(2, 0, 1)
    (scores,), (maps,) = session.run(["scores", "maps"], {"images": images})
    least = 0.0 if about["activation"] == "sigmoid" else scores.max()  # logit of 1/2, or the best
    for index in np.flatnonzero(scores >= least):
        lowest = 0.0 if about["threshold_mode"] == "relu_max" else maps[index].min()
        cut = lowest + about["thresholds"][index] * (maps[index].max() - lowest)
        hot = np.argwhere(maps[index] >= cut)[:, ::-1]  # (column, row) of each cell
        if len(hot) == 0:
            continue
        stride, first = cells["stride"], cells["first_center"]  # in pixels of the input
        if first == "uniform":
            stride = sides / maps.shape[:0:-1]
            first = stride / 2
        box = np.stack([hot.min(0) - 0.5, hot.max(0) + 0.5]) * stride + first
        box = np.clip((box - corner) / content, 0, 1) * picture.size
        print(about["class_names"][index], *box.ravel().round())
        ImageDraw.Draw(picture).rectangle(box.ravel().tolist(), outline="red", width=3)
    picture.save(drawn)


if __name__ == "__main__":
    main(*sys.argv[1:])
