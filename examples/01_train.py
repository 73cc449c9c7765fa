"""Learn from tags alone, then measure the places against boxes that training never saw.

python examples/01_train.py                                 # draws its own scenes
python examples/01_train.py --data PHOTOS --backbone resnet50 --image-size 448
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import weakloc
from weakloc.api.evaluation import Evaluated


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    if given.data is None:
        given.data = given.out / "scenes"
        weakloc.scenes(given.data, num_train=given.num_train, num_val=given.num_train // 4)
    data_set = weakloc.read(given.data)
    settings = weakloc.TrainSettings(
        image_size=given.image_size, epochs=given.epochs, workers=given.workers
    )
    run = weakloc.train(
        data_set,
        method="wildcat",
        backbone=given.backbone,
        out=given.out / "run",
        settings=settings,
    )
    print(f"{run.path} knows {', '.join(run.class_names)}")
    if "val" in data_set.splits:
        show(weakloc.evaluate(run, data_set))


def show(evaluated: Evaluated) -> None:
    """Every number beside the best of the trivial answers, which also knew the class scores."""
    for result in evaluated.metrics:
        if result.value is not None:
            trivial = max(result.baselines.values(), default=float("nan"))
            print(f"{result.name:24}{result.value:8.3f}   trivial {trivial:.3f}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a data set with tags; not given: scenes")
    parser.add_argument("--out", type=Path, default=Path("example"))
    parser.add_argument("--backbone", default="tiny", help="tiny learns from scratch")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--num-train", type=int, default=400, help="of scenes")
    parser.add_argument("--workers", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
