"""Say where the tagged classes are in new images, most doubtful first.

    python examples/02_predict.py RUN IMAGES --tags tags.csv --out found

Writes found/predictions.jsonl, found/coco and a picture of the most doubtful image.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import weakloc
from weakloc.data.images import open_image
from weakloc.output.drawing import draw_prediction
from weakloc.output.exporters import ExportOptions, export_all, write_predictions


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    run = weakloc.load(given.run)
    look = weakloc.Look(flip=True, workers=given.workers)
    predictions = []
    for found in run.predict(given.images, tags=given.tags, look=look):
        if isinstance(found, weakloc.Prediction):
            predictions.append(found)
        else:
            print(f"{found.name} cannot be read: {found.reason}")
    predictions.sort(key=lambda prediction: -prediction.doubt)
    for prediction in predictions[:5]:
        describe(prediction)
    path = given.out / "predictions.jsonl"
    write_predictions(path, predictions)
    options = ExportOptions(best_per_class=1)
    export_all(path, ["coco"], given.out, class_names=run.class_names, options=options)
    if predictions:
        picture = open_image(given.images / predictions[0].image)
        draw_prediction(picture, predictions[0]).save(given.out / "most_doubtful.png")


def describe(prediction: weakloc.Prediction) -> None:
    """Coordinates are pixels of the image; right and bottom are the first ones outside."""
    print(f"{prediction.image} ({prediction.width} x {prediction.height}): {prediction.doubt:.2f}")
    for box in prediction.boxes:
        left, top, right, bottom = (round(side) for side in box.box)
        print(f"  {box.class_name} from ({left}, {top}) to ({right}, {bottom})")
    for odd in prediction.disagreements:
        print(f"  {odd.class_name} is {odd.kind}: the model says {odd.score:.2f}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path, help="a folder")
    parser.add_argument("--tags", type=Path, help="a table of what is in the images")
    parser.add_argument("--out", type=Path, default=Path("found"))
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
