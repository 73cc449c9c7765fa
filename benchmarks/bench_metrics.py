r"""Evaluators side by side: MaxBoxAcc over all thresholds, VOC box AP, PxAP, and memory.

    python -m benchmarks.bench_metrics [--maps 20] [--rounds 7] [--images 50000]
    uv run --with faster-coco-eval --with munch python -m benchmarks.bench_metrics \
        --public-evaluator FOLDER

The box evaluator that ours is measured against is written from the public evaluator's definition
with OpenCV: one threshold and one contour search at a time, IoUs in NumPy. FOLDER is a checkout of
github.com/clovaai/wsolevaluation, whose own evaluator is then run beside ours too.

Detections are compared with faster-coco-eval's evaluate step where it is installed, at IoU 0.5
alone, and with a reading of VOC's definition in NumPy. Every pair must give equal results before it
is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import resource
import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Timing, paired_ratio, time_interleaved, write_results
from weakloc.geometry import FloatArray, box_ious
from weakloc.metrics.average_precision import ranked_precision
from weakloc.metrics.boxes import count_objects, match_boxes, rank_coco, rank_verdicts
from weakloc.metrics.case import (
    VOID,
    ClassIndex,
    ClassMap,
    DetectionArrays,
    ImageTruth,
    MetricSetup,
    TruthArrays,
)
from weakloc.metrics.max_box import MapConvention, MaxBoxAccuracy
from weakloc.metrics.pixels import EDGES, MeanIoU, PixelPrecision, count_pixels
from weakloc.metrics.uncertainty import draw_image
from weakloc.structures import Sample, Truth, TruthBox

SIDE = 224
IOUS = (0.3, 0.5, 0.7)
NUM_CLASSES = 20
PEER = "faster_coco_eval"


def smooth_map(random: np.random.Generator, cells: int) -> FloatArray:
    """A score map of cells x cells, upsampled and min-max normalised."""
    heat = cv2.resize(random.random((cells, cells)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    lifted = heat - heat.min()
    return np.asarray(lifted / lifted.max())


def contour_overlaps(
    heat: FloatArray, drawn: FloatArray, thresholds: FloatArray, contours: str
) -> FloatArray:
    """The greatest IoU at every threshold, one contour search a threshold."""
    levels = (heat * 255).astype(np.uint8)
    best = np.empty(thresholds.size)
    for k, threshold in enumerate(thresholds):
        cut = int(threshold * levels.max())
        _, binary = cv2.threshold(levels, cut, 255, cv2.THRESH_BINARY)
        found, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        boxes = [(0, 0, 0, 0)]
        if found:
            chosen = found if contours == "all" else [max(found, key=cv2.contourArea)]
            sides = [cv2.boundingRect(contour) for contour in chosen]
            boxes = [(x, y, min(x + w, SIDE - 1), min(y + h, SIDE - 1)) for x, y, w, h in sides]
        best[k] = box_ious(boxes, drawn, inclusive=True).max()
    return best


def bench_max_box_accuracy(
    num_maps: int, rounds: int, public_folder: str | None
) -> tuple[list[Any], dict[str, Timing]]:
    random = np.random.default_rng(0)
    rows, timings = [], {}
    for cells in (7, 14):
        maps = [smooth_map(random, cells) for _ in range(num_maps)]
        samples = [_drawn_sample(random, number) for number in range(num_maps)]
        for contours in ("all", "largest"):
            for step in (0.001, 0.01):
                name = f"{cells}x{cells}, {contours}, {round(1 / step)} thresholds"
                variants = _box_evaluators(maps, samples, contours, step, public_folder)
                times = time_interleaved(variants, rounds=rounds)
                for peer in set(variants) - {"ours"}:
                    row = _row(f"MaxBoxAcc {name}, {peer}", times, peer=peer, per=num_maps)
                    rows.append(row)
                timings |= {f"{name}, {variant}": each for variant, each in times.items()}
    return rows, timings


def _box_evaluators(
    maps: list[FloatArray],
    samples: list[Sample],
    contours: str,
    step: float,
    public_folder: str | None,
) -> dict[str, Callable[[], object]]:
    convention = MapConvention(contours, IOUS, "compatible", step=step)  # type: ignore[arg-type]

    def ours() -> list[float]:
        accuracy = MaxBoxAccuracy(convention)
        for sample, heat in zip(samples, maps, strict=True):
            draw = draw_image(sample.name, 0)
            class_map = ClassMap(0, heat)
            accuracy.add(draw, class_map, ImageTruth(sample).objects.boxes, (SIDE, SIDE))
        (result,) = accuracy.compute()
        return [value for iou in IOUS for value in result.curves[f"accuracy_{100 * iou:g}"].values]

    def peer() -> list[float]:
        overlaps = np.stack(
            [
                contour_overlaps(heat, _boxes_of(sample), convention.thresholds, contours)
                for sample, heat in zip(samples, maps, strict=True)
            ]
        )
        return [float(value) for iou in IOUS for value in (overlaps >= iou).mean(axis=0)]

    def public() -> list[float]:
        drawn = {sample.name: _boxes_of(sample).astype(int) for sample in samples}
        evaluator = public_evaluator(public_folder or "", drawn, convention)
        for sample, heat in zip(samples, maps, strict=True):
            evaluator.accumulate(heat, sample.name)
        return [
            float(hits / len(maps)) for iou in IOUS for hits in evaluator.num_correct[100 * iou]
        ]

    variants = {"ours": ours, "OpenCV": peer} | ({"public": public} if public_folder else {})
    for name, run in variants.items():
        if run() != ours():
            raise AssertionError(f"{name} disagrees")
    return variants


def public_evaluator(
    folder: str, drawn: dict[str, NDArray[np.int64]], convention: MapConvention
) -> Any:
    """The public code as it is, but for the numpy.float that NumPy dropped in 2023."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
        vars(np)["float"] = float
    from evaluation import BoxEvaluator  # type: ignore[import-not-found]

    evaluator = BoxEvaluator.__new__(BoxEvaluator)
    evaluator.cam_threshold_list = convention.thresholds.tolist()
    evaluator.iou_threshold_list = [100 * iou for iou in IOUS]
    evaluator.multi_contour_eval = convention.contours == "all"
    evaluator.gt_bboxes, evaluator.cnt = drawn, 0
    evaluator.num_correct = {100 * iou: np.zeros(convention.thresholds.size) for iou in IOUS}
    return evaluator


def _boxes_of(sample: Sample) -> FloatArray:
    assert sample.truth is not None
    return np.trunc(np.array([each.box for each in sample.truth.boxes]))


def _drawn_sample(random: np.random.Generator, number: int) -> Sample:
    left, top = random.uniform(0, 120, 2)
    width, height = random.uniform(30, 100, 2)
    box = TruthBox(0, (left, top, left + width, top + height))
    return Sample(f"{number}.jpg", "", np.array([1], dtype=np.int8), Truth(boxes=(box,)))


def crowded_detections(num_images: int) -> tuple[DetectionArrays, TruthArrays]:
    """About three objects and seventeen detections an image, most of them near an object."""
    random = np.random.default_rng(0)
    num_objects, num_detections = 3 * num_images, 17 * num_images
    corners = random.uniform(0, 300, (num_objects, 2)).round(1)
    sides = random.uniform(20, 200, (num_objects, 2)).round(1)
    no_flags = np.zeros(num_objects, dtype=bool)
    drawn = TruthArrays(
        random.integers(0, NUM_CLASSES, num_objects),
        random.integers(0, num_images, num_objects),
        np.concatenate([corners, corners + sides], axis=1),
        no_flags,
        no_flags,
    )
    near = random.integers(0, num_objects, num_detections)
    moved = (drawn.boxes[near] + random.normal(0, 15, (num_detections, 4))).round(1)
    classes = np.where(
        random.random(num_detections) < 0.7,
        drawn.classes[near],
        random.integers(0, NUM_CLASSES, num_detections),
    )
    in_order = np.argsort(drawn.images[near], kind="stable")
    in_order = in_order[(moved[in_order, 2:] > moved[in_order, :2] + 1).all(axis=1)]  # upright
    found = DetectionArrays(
        classes[in_order],
        drawn.images[near][in_order],
        moved[in_order],
        random.random(in_order.size),
        np.ones(in_order.size, dtype=bool),
    )
    return found, drawn


def our_precisions(detections: DetectionArrays, truth: TruthArrays, num_images: int) -> list[float]:
    order, verdicts, _ = match_boxes(detections, truth)
    rankings = rank_verdicts(detections, order, verdicts, NUM_CLASSES, "stable")
    objects = count_objects(truth, num_images=num_images, num_classes=NUM_CLASSES).sum(axis=0)
    return [
        float(ranked_precision(ranking, np.array([float(number)]))[0])
        for ranking, number in zip(rankings, objects, strict=True)
    ]


def numpy_precisions(detections: DetectionArrays, truth: TruthArrays) -> list[float]:
    """Detection by detection over NumPy rows, in the manner of the public VOC evaluators."""
    precisions = []
    for c in range(NUM_CLASSES):
        mine = np.flatnonzero(detections.classes == c)
        mine = mine[np.argsort(-detections.scores[mine], kind="stable")]
        objects: dict[int, FloatArray] = {}
        drawn = np.flatnonzero(truth.classes == c)
        for image in np.unique(truth.images[drawn]).tolist():
            objects[image] = truth.boxes[drawn[truth.images[drawn] == image]]
        taken = {image: np.zeros(len(boxes), dtype=bool) for image, boxes in objects.items()}
        hit = np.zeros(mine.size)
        for place, d in enumerate(mine):
            image = int(detections.images[d])
            if image not in objects:
                continue
            ious = box_ious(detections.boxes[d], objects[image])[0]
            nearest = ious.argmax()
            if ious[nearest] >= 0.5 and not taken[image][nearest]:
                taken[image][nearest] = hit[place] = True
        recall = np.cumsum(hit) / drawn.size
        precision = np.cumsum(hit) / np.arange(1, mine.size + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        precisions.append(float((np.diff(recall, prepend=0.0) * envelope).sum()))
    return precisions


def bench_box_precision(num_images: int, rounds: int) -> tuple[list[Any], dict[str, Timing]]:
    detections, truth = crowded_detections(num_images)
    variants: dict[str, Callable[[], object]] = {
        "ours": lambda: our_precisions(detections, truth, num_images)
    }
    expected = numpy_precisions(detections, truth)
    np.testing.assert_allclose(our_precisions(detections, truth, num_images), expected, atol=1e-12)
    name = f"box AP, {num_images} images, {len(detections.scores)} detections"
    readable = {**variants, "peer": lambda: numpy_precisions(detections, truth)}
    times = time_interleaved(readable, rounds=min(rounds, 3))
    rows = [_row(f"{name}, VOC in NumPy", times)]
    timings = {f"{name}, NumPy, {variant}": each for variant, each in times.items()}
    if importlib.util.find_spec(PEER) is not None:
        evaluation = _coco_peer(detections, truth, num_images)
        _check_coco_peer(evaluation, detections, truth, num_images)
        times = time_interleaved({**variants, "peer": evaluation.evaluate}, rounds=rounds)
        rows.append(_row(f"{name}, faster-coco-eval evaluate", times))
        timings |= {f"{name}, {PEER}, {variant}": each for variant, each in times.items()}
    return rows, timings


def _coco_peer(detections: DetectionArrays, truth: TruthArrays, num_images: int) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster

    annotations = [
        {**each, "id": number + 1, "area": each["bbox"][2] * each["bbox"][3], "iscrowd": 0}
        for number, each in enumerate(_records(truth))
    ]
    results = [
        {**each, "score": float(score)}
        for each, score in zip(_records(detections), detections.scores, strict=True)
    ]
    reference = COCO()
    reference.dataset = {
        "images": [{"id": number, "width": 600, "height": 600} for number in range(num_images)],
        "categories": [{"id": c, "name": str(c)} for c in range(NUM_CLASSES)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
        found = reference.loadRes(results)
        evaluation = COCOeval_faster(reference, found, "bbox", print_function=lambda *_: None)
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [100]
    return evaluation


def _records(placed: DetectionArrays | TruthArrays) -> list[dict[str, Any]]:
    sides = np.concatenate(
        [placed.boxes[:, :2], placed.boxes[:, 2:] - placed.boxes[:, :2]], axis=1
    ).tolist()
    rows = zip(placed.images.tolist(), placed.classes.tolist(), sides, strict=True)
    return [{"image_id": image, "category_id": c, "bbox": box} for image, c, box in rows]


def _check_coco_peer(
    evaluation: Any, detections: DetectionArrays, truth: TruthArrays, num_images: int
) -> None:
    """COCO's number differs from VOC's by definition; our COCO reading must give the same."""
    evaluation.evaluate()
    evaluation.accumulate()
    theirs = evaluation.eval["precision"][0, :, :, 0, 0].mean(axis=0)
    rankings = rank_coco(detections, truth, NUM_CLASSES)[0]
    objects = count_objects(truth, num_images=num_images, num_classes=NUM_CLASSES)
    positives = objects.sum(axis=0).astype(float)
    ours = [
        ranked_precision(ranking, positives[c : c + 1], definition="coco")[0]
        for c, ranking in enumerate(rankings)
    ]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def bench_pixel_precision(num_maps: int, rounds: int) -> tuple[list[Any], dict[str, Timing]]:
    random = np.random.default_rng(0)
    maps = [smooth_map(random, 14) for _ in range(num_maps)]
    masks = [_random_mask(random) for _ in range(num_maps)]

    def ours() -> list[NDArray[np.int64]]:
        return [count_pixels(*pair) for pair in zip(maps, masks, strict=True)]

    def peer() -> list[NDArray[np.int64]]:
        return [
            np.stack([np.histogram(heat[mask == k], bins=EDGES)[0] for k in (0, 1)])
            for heat, mask in zip(maps, masks, strict=True)
        ]

    np.testing.assert_array_equal(ours(), peer())
    times = time_interleaved({"ours": ours, "peer": peer}, rounds=rounds)
    name = f"PxAP histograms, {EDGES.size - 3} bins"
    rows = [_row(f"{name}, two numpy.histogram", times, per=num_maps)]
    timings = {f"{name}, {variant}": each for variant, each in times.items()}
    return rows, timings


def _random_mask(random: np.random.Generator) -> NDArray[np.uint8]:
    mask = (smooth_map(random, 5) > 0.6).astype(np.uint8)
    mask[:8] = VOID
    return mask


def memory_note(num_images: int) -> str:
    """Peak growth of the process over many images with PxAP and mIoU, intervals included."""
    random = np.random.default_rng(0)
    maps = [smooth_map(random, 7) for _ in range(8)]
    masks = [_random_mask(random) for _ in range(8)]
    # Compiles the code, which is not counted.
    _feed(PixelPrecision(), MeanIoU(MetricSetup(ClassIndex(["a"]))), maps, masks, 65)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels, ious = (
        PixelPrecision(),
        MeanIoU(MetricSetup(ClassIndex([str(c) for c in range(NUM_CLASSES)]))),
    )
    _feed(pixels, ious, maps, masks, num_images)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    what = f"PxAP and mIoU of {num_images} images of {SIDE}x{SIDE}"
    return f"{what}: {grown:.0f} MiB more at the peak, intervals included"


def _feed(
    pixels: PixelPrecision,
    ious: MeanIoU,
    maps: list[FloatArray],
    masks: list[NDArray[np.uint8]],
    num_images: int,
) -> None:
    for number in range(num_images):
        draw = draw_image(str(number), 1000)
        pixels.add(draw, maps[number % 8], masks[number % 8])
        ious.add(draw, masks[(number + 1) % 8] & 1, masks[number % 8])
    pixels.compute()
    ious.compute()


def _row(
    name: str, times: dict[str, Timing], *, peer: str = "peer", per: int = 1
) -> dict[str, Any]:
    return {
        "what": name,
        "peer ms": 1e3 * times[peer].wall / per,
        "ours ms": 1e3 * times["ours"].wall / per,
        "peer / ours": paired_ratio(times[peer], times["ours"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=50_000, help="of the memory test")
    parser.add_argument("--detection-images", type=int, default=5_000)
    parser.add_argument("--public-evaluator", metavar="FOLDER")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    memory = memory_note(options.images)  # first, while the peak is its own
    rows: list[Any] = []
    timings: dict[str, Timing] = {}
    for part in (
        bench_max_box_accuracy(options.maps, options.rounds, options.public_evaluator),
        bench_box_precision(options.detection_images, options.rounds),
        bench_pixel_precision(options.maps, options.rounds),
    ):
        rows += part[0]
        timings |= part[1]
    notes = [
        "wall milliseconds a map, or for the whole set of detections; results equal in every row",
        memory,
        "numpy.histogram sorts; NumPy 2 does so with AVX-512 where the processor has it",
    ]
    if importlib.util.find_spec(PEER) is None:
        notes.append("faster-coco-eval is not installed: its row was left out")
    write_results("metrics", rows, title="Evaluators", notes=notes, timings=timings)


if __name__ == "__main__":
    main()
