"""Results of the benchmarks -> docs/performance.md: ours, the best peer, the limit, the ratio.

Each line takes its figures from a row of `benchmarks/results/TOPIC.json`; where that is missing the
page says so with the command that would make it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A figure of a result: the row that has all values of `row`, and its column."""

    column: str
    row: Mapping[str, Any] = field(default_factory=dict)
    unit: str = ""

    def value(self, rows: Sequence[Row]) -> float:
        matching = [row for row in rows if self.row.items() <= row.items()]
        if len(matching) != 1 or not isinstance(matching[0].get(self.column), int | float):
            raise LookupError(f"{len(matching)} rows {dict(self.row)} with {self.column!r}")
        return float(matching[0][self.column])

    def shown(self, rows: Sequence[Row]) -> str:
        value = self.value(rows)
        return f"{value:{',.0f' if value >= 100 else '.3g'}} {self.unit}".strip()


@dataclass(frozen=True)
class Line:
    """One comparison. The ratio is as the result has it, or 1 / that where `is_inverse`.

    A goal is at least so much, or at most where it `is_most`; `why` is said where it is missed.
    """

    what: str
    topic: str
    command: str
    ours: Cell
    peer_name: str
    peer: Cell | None = None
    ratio: Cell | None = None
    is_inverse: bool = False
    goal: float | None = None
    is_most: bool = False
    limit: str = ""
    why: str = ""

    def times(self, rows: Sequence[Row]) -> float | None:
        if self.ratio is None:
            return None
        value = self.ratio.value(rows)
        return 1 / value if self.is_inverse else value

    def is_met(self, rows: Sequence[Row]) -> bool:
        reached = self.times(rows)
        if self.goal is None:
            return True
        reached = self.ours.value(rows) if reached is None else reached
        return reached <= self.goal if self.is_most else reached >= self.goal


def _peers(way: str, unit: str = "ms of CPU") -> Cell:
    return Cell("CPU ms an image", {"way": way}, unit)


def _metric(what: str) -> dict[str, Cell]:
    row = {"what": what}
    return {
        "ours": Cell("ours ms", row, "ms"),
        "peer": Cell("peer ms", row, "ms"),
        "ratio": Cell("peer / ours", row),
    }


def _training(case: str, variant: str, ratio: str) -> dict[str, Cell]:
    row = {"case": case, "variant": variant}
    return {"ours": Cell("images/s", row, "images/s"), "ratio": Cell(ratio, row)}


def _pooling(maps: str, ours: str) -> dict[str, Cell]:
    row = {"maps": maps}
    return {
        "ours": Cell(f"{ours} ms", row, "ms"),
        "peer": Cell("sort ms", row, "ms"),
        "ratio": Cell(f"sort / {ours}", row),
    }


def _commands(name: str) -> dict[str, Cell]:
    row = {"command": name}
    return {
        "ours": Cell("CPU ms an image", row, "ms of CPU"),
        "ratio": Cell("times the network", row),
    }


RUN, RUN_AUTO = "weakloc, a run", "weakloc, a run, --precision auto"
TORCH_CAM, GRAD_CAM = "torch-cam, CAM", "pytorch-grad-cam, GradCAM"
LIGHTNING = "Lightning, its defaults"
RN18, RN50 = "resnet18, 64 px, batch 32", "resnet50, 224 px, batch 16"
_PEERS, _METRICS = "bench_peers", "bench_metrics --public-evaluator WSOLEVALUATION"
_FORWARD = "one forward pass at the rate of a matrix product: 86 ms"
_WHY_FP32 = "fp32 is the default since cells differ in bfloat16 (scaling-out.md)"
_FORWARD_BF16 = "the same in bfloat16: 39 ms"

LINES: Mapping[str, Sequence[Line]] = {
    "Folder of photographs to boxes, ResNet-50 at 224": [
        *(
            Line(what, "peers", _PEERS, _peers(ours), peer, _peers(peer),
                 Cell(ratio, {"way": peer}), goal=goal, limit=limit, why=why)
            for what, ours, ratio, limit in (
                ("boxes, as it is by default", RUN, "CPU time / ours", _FORWARD),
                ("boxes, --precision auto", RUN_AUTO, "CPU time / ours with auto", _FORWARD_BF16),
            )
            for peer, goal, why in (
                (TORCH_CAM, 2, f"nearly all of both is one forward pass; {_WHY_FP32}"),
                (GRAD_CAM, 5, "it goes backwards, too; ours is nearly all one forward pass"),
            )
        ),
        Line("maps alone, float32", "heat_maps", "bench_heat_maps",
             Cell("images a second", {"variant": "weakloc"}, "images/s"), "bare forward loop",
             Cell("images a second", {"variant": "bare loop"}, "images/s"),
             Cell("time / bare loop", {"variant": "weakloc"}), is_inverse=True, goal=1 / 0.9,
             limit=_FORWARD),
        Line("maps alone, bfloat16", "heat_maps", "bench_heat_maps",
             Cell("images a second", {"variant": "weakloc, bf16"}, "images/s"),
             "bare forward loop, float32",
             Cell("images a second", {"variant": "bare loop"}, "images/s"),
             Cell("time / bare loop", {"variant": "weakloc, bf16"}), is_inverse=True, goal=2.4,
             limit=_FORWARD_BF16),
    ],
    "Evaluating boxes and maps": [
        *(
            Line(f"MaxBoxAccV2, maps of {cells}, {count} thresholds", "metrics", _METRICS,
                 peer_name="wsolevaluation", goal=goal, limit="1 to 1.5 ms in C++, not built",
                 why=why, **_metric(f"MaxBoxAcc {cells}, all, {count} thresholds, public"))
            for cells, count, goal, why in (
                ("7x7", 100, 1.5, ""),
                ("14x14", 100, 2.5, ""),
                ("7x7", 1000, 30, "the peer took 122 ms where the goal was set, ours 3.5"),
                ("14x14", 1000, 30, "the peer took 332 ms where the goal was set, ours 3.7"),
            )
        ),
        Line("pixel histograms, 1,000 bins", "metrics", _METRICS, peer_name="numpy.histogram twice",
             goal=15, limit="0.05 ms: 50,000 pixels read once",
             why="NumPy 2 sorts with AVX-512 where the processor has it: the peer took 1.8 ms "
             "where the goal was set, ours a tenth of one as here",
             **_metric("PxAP histograms, 1000 bins, two numpy.histogram")),
        Line("box AP of 83,000 boxes", "metrics", _METRICS, peer_name="faster-coco-eval, evaluate",
             goal=30, limit="10 ms: sorting the scores", why="within a hundredth of the goal",
             **_metric("box AP, 5000 images, 82966 detections, faster-coco-eval evaluate")),
        Line("box AP of 83,000 boxes", "metrics", _METRICS, peer_name="voc_eval in NumPy",
             goal=40, limit="10 ms: sorting the scores",
             **_metric("box AP, 5000 images, 82966 detections, VOC in NumPy")),
        Line("boxes of all thresholds, smooth maps of 14x14, 1,000 thresholds", "component_tree",
             "bench_component_tree",
             Cell("tree ms", {"map": "smooth 14x14", "thresholds": 1000}, "ms"), "OpenCV",
             Cell("contours ms", {"map": "smooth 14x14", "thresholds": 1000}, "ms"),
             Cell("contours / tree", {"map": "smooth 14x14", "thresholds": 1000}), goal=30,
             why="as for MaxBoxAccV2"),
    ],
    "Searching and refining": [
        *(
            Line(f"beam search, {network}, {count} class{'es' * (count > 1)}, {numbers}",
                 "beam_search", "bench_beam_search --network resnet50 --network vgg16",
                 Cell("cpu s", row | {"variant": f"weakloc {numbers}"}, "s of CPU"),
                 "one candidate at a time",
                 Cell("cpu s", row | {"variant": "one candidate at a time"}, "s of CPU"),
                 Cell("speed-up (cpu)", row | {"variant": f"weakloc {numbers}"}), goal=goal,
                 limit="distinct crops times one forward pass",
                 why="ours is within 1.02 of its limit; the plain loop took 10 s where the goal "
                 "was set")
            for network, count, numbers, goal in (
                ("resnet50", 1, "float32", 2.3), ("resnet50", 1, "bfloat16", 4.5),
                ("resnet50", 3, "float32", 1.6), ("vgg16", 1, "float32", 3.0),
                ("vgg16", 1, "bfloat16", 7.0),
            )
            for row in ({"network": network, "classes": count},)
        ),
        Line("dense CRF, 500 x 375, 21 labels", "crf", "bench_crf",
             Cell("cpu s", {"variant": "dense CRF"}, "s of CPU"), "pydensecrf",
             Cell("cpu s", {"variant": "pydensecrf2"}, "s of CPU"),
             Cell("times as fast (cpu)", {"variant": "dense CRF"}), goal=0.95,
             limit="0.15 to 0.2 s: gathering from a table larger than the cache"),
    ],
    "Training steps": [
        Line(f"{case}, our defaults", "training", "bench_training --skip-frozen",
             peer_name=LIGHTNING,
             peer=Cell("images/s", {"case": case, "variant": LIGHTNING}, "images/s"),
             goal=goal, limit="the bare loop in the same numbers", why=why,
             **_training(case, "ours, our defaults", "x Lightning (cpu)"))
        for case, goal, why in (
            (RN18, 1.7, "at the limit: the bare loop in the same numbers is no faster"),
            (RN50, 2.5, ""),
        )
    ] + [
        Line(f"{case}, our defaults", "training", "bench_training --skip-frozen",
             peer_name="bare loop, the same numbers",
             peer=Cell("images/s", {"case": case, "variant": "bare, our format"}, "images/s"),
             goal=0.97, limit="1", **_training(case, "ours, our defaults", "x bare loop (cpu)"))
        for case in (RN18, RN50)
    ],
    "Pooling, forward and backward": [
        *(
            Line(f"{maps}, torch alone", "pooling", "bench_pooling", peer_name="torch.sort",
                 goal=1.6, limit="the mean", **_pooling(maps, "torch"))
            for maps in ("20 classes, 14x14, k=39", "1000 classes, 14x14, k=39")
        ),
        *(
            Line(f"{maps}, compiled", "pooling", "bench_pooling", peer_name="torch.sort",
                 goal=goal, limit="the mean", why=why, **_pooling(maps, "kernel"))
            for maps, goal, why in (
                ("20 classes, 14x14, k=39", 6, "within a fiftieth of the goal"),
                ("20 classes, 28x28, k=157", 12, ""), ("20 classes, 58x58, k=673", 12, ""),
            )
        ),
    ],
    "Reading data": [
        Line("decoding and resizing, this process", "loading", "bench_loading",
             Cell("images/s", {"what": "loader, this process"}, "images/s"), "bare Pillow loop",
             Cell("images/s", {"what": "bare decode + resize, 1 process"}, "images/s"),
             Cell("ratio", {"what": "loader, this process"}), goal=0.9, limit="1"),
        Line("decoding and resizing, all cores", "loading", "bench_loading",
             Cell("images/s", {"what": "loader, all workers"}, "images/s"), "bare Pillow loops",
             Cell("images/s", {"what": "bare decode + resize, all"}, "images/s"),
             Cell("ratio", {"what": "loader, all workers"}), goal=0.9, limit="1",
             why="two processes that read and the one that takes their batches share two cores"),
        Line("listing 110,000 images of Tiny ImageNet", "indexing", "bench_indexing",
             Cell("seconds", {"work": "tiny_imagenet"}, "s"), "6 s", goal=6, is_most=True,
             limit="listing alone: 0.04 s"),
        Line("decoding all to check them", "checking", "bench_indexing",
             Cell("check_images, images/s", {"work": "decode 8000 JPEG of 500 x 375"}, "images/s"),
             "bare Pillow loop times the cores",
             ratio=Cell("check_images / (cores x bare)", {"work": "decode 8000 JPEG of 500 x 375"}),
             goal=0.9, limit="1",
             why="the start of the two processes is in it, and by CPU time it is 0.87"),
    ],
    "Commands": [
        *(
            Line(name, "commands", "bench_commands --data CALTECH-3", peer_name="the network alone",
                 peer=Cell("CPU ms an image", {"command": "network"}, "ms of CPU"),
                 limit="passes of the network that cannot be left out", **_commands(name))
            for name in ("predict", "evaluate", "calibrate", "report", "train", "refine", "label")
        ),
        *(
            Line(name, "start", "bench_start", Cell("CPU s", {"start": name}, "s of CPU"), base,
                 Cell("CPU s", {"start": base}, "s of CPU"), goal=goal, is_most=True, why=why)
            for name, base, goal, why in (
                ("import weakloc", "python -c pass", 0.05, ""),
                ("weakloc --help", "import cyclopts, rich", 0.4, ""),
                ("weakloc predict, one image", "import torch, timm, PIL; weights, one pass", 4.0,
                 "imports, weights and one pass alone are beyond it"),
            )
        ),
        Line("report of 500 photographs", "report", "bench_report",
             Cell("measured", {"what": "write, s"}, "s"), "30 s", goal=30, is_most=True),
        Line("COCO of 100,000 images, boxes and masks", "exporters_coco", "bench_exporters",
             Cell("weakloc s", {"COCO of": "100,000 images, boxes and masks"}, "s"), "json.dumps",
             Cell("json.dumps s", {"COCO of": "100,000 images, boxes and masks"}, "s"),
             Cell("speed / json.dumps", {"COCO of": "100,000 images, boxes and masks"}), goal=0.5,
             limit="1"),
        Line("serving 8 clients", "serve", "bench_serve --network mobilenetv2_100",
             Cell("images/s", {"variant": "weakloc serve"}, "images/s"), "the predictor in batches",
             Cell("images/s", {"variant": "batch predictor"}, "images/s"),
             Cell("share of the batch", {"variant": "weakloc serve"}), goal=0.8, limit="1"),
        *(
            Line(f"scores of 65 sizes, {numbers}", "scales", "bench_scales",
                 Cell("seconds an image", {"variant": variant}, "s"), "plain loop, float32",
                 Cell("seconds an image", {"variant": "one size after another"}, "s"),
                 Cell("times faster", {"variant": variant}), goal=goal,
                 limit=f"a matrix product's rate: {limit} s")
            for variant, numbers, goal, limit in (
                ("weakloc", "float32", 1.7, 150), ("weakloc, bf16", "bfloat16", 3.8, 68),
            )
        ),
    ],
    "Predicting with an exported file, on the processor": [
        Line(f"{network}, {numbers}", "engine_speed", "bench_engine_speed",
             Cell("CPU ms an image", {"network": network, "way": way}, "ms of CPU"), engine,
             Cell("CPU ms an image", {"network": network, "way": engine}, "ms of CPU"),
             Cell(ratio, {"network": network, "way": engine}))
        for network in ("mobilenetv2_100", "resnet50", "vit_small_patch16_224")
        for way, numbers, engine, ratio in (
            ("a run", "float32", "ONNX Runtime", "CPU time / a run"),
            ("a run", "float32", "OpenVINO", "CPU time / a run"),
            ("a run, --precision auto", "--precision auto", "ONNX Runtime",
             "CPU time / a run with auto"),
            ("a run, --precision auto", "--precision auto", "OpenVINO, its precision",
             "CPU time / a run with auto"),
        )
    ],
}  # fmt: skip

BEFORE = """\
# Performance

Every figure here comes from a command of the repository, as do its versions, date and load, which \
`benchmarks/results/` keeps; the page itself is written by `python -m benchmarks.all --page`. \
Ratios say more than seconds: both sides were measured in turn in one run. A ratio above 1 is how \
many times as fast ours is, under *Commands* how many times what the network alone takes.

```
python -m benchmarks.all           # what has its data and its peers here, then this page
python -m benchmarks.all --list    # what there is, how long it takes, what it needs
```
"""

GPU = """\
## On a GPU

What needs a GPU is one script of at most ten minutes, `benchmarks/gpu.sh [DATA]`: the tests that \
need one; training and prediction of ResNet-50 and ViT-S against the same network on random \
tensors; boxes and CRF beside the network; and, where DATA is Tiny ImageNet, the crops of Choe et \
al. A step whose result is there is passed over, `--skip STEP` leaves one out, and `--tiny` tries \
the script out on any machine. It takes the Python that `PYTHON` names, fetches nothing, and \
installs packages that are missing from `--wheels FOLDER`. It has not been run on a GPU yet.
"""


def kept(topic: str) -> dict[str, Any] | None:
    path = RESULTS / f"{topic}.json"
    return json.loads(path.read_text()) if path.exists() else None


def cells_of(line: Line, record: Mapping[str, Any] | None) -> list[str]:
    """The cells of a table's row."""
    command = f"`{line.command.split()[0]}`"
    rows = record["rows"] if record else ()
    try:
        ours = line.ours.shown(rows)
        peer = f"{line.peer_name}: {line.peer.shown(rows)}" if line.peer else line.peer_name
        times, is_met = line.times(rows), line.is_met(rows)
    except LookupError:
        return [line.what, "not measured yet", line.peer_name, line.limit, "", "", command]
    goal = ""
    if line.goal is not None:
        sign = "<=" if line.is_most else ">="
        goal = f"{sign} {line.goal:.3g}: {'yes' if is_met else 'no'}"
    ratio = "" if times is None else f"{times:.3g}"
    return [line.what, ours, peer, line.limit, ratio, goal, command]


def reasons(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        record = kept(line.topic)
        try:
            is_met = record is None or line.is_met(record["rows"])
        except LookupError:
            continue
        if not is_met:
            yield f"- {line.what}, beside {line.peer_name}: {line.why}."


def growth_table(record: Mapping[str, Any]) -> Iterator[str]:
    """Exponents and memory of `bench_growth`."""
    yield "| cost of | amounts | CPU s | exponent | MiB at the peak |"
    yield "|---|---|---|---|---|"
    for row in record["rows"]:
        figures = (row["work"], row["amounts"], row["CPU s"], row["exponent, last two"], row["MiB"])
        yield "| " + " | ".join(map(str, figures)) + " |"


def page() -> str:
    parts = [BEFORE]
    header = ["what", "ours", "best peer", "limit", "ratio", "goal", "measured by"]
    for title, lines in LINES.items():
        rows = [cells_of(line, kept(line.topic)) for line in lines]
        table = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
        table.insert(1, "|" + "---|" * len(header))
        why = [*dict.fromkeys(reasons(lines))]
        parts.append("\n".join([f"## {title}", "", *table, *(["", *why] if why else [])]) + "\n")
    if record := kept("growth"):
        about = (
            "What each work costs as there is more of something, with a network as small as can "
            "be: a cost that grows as n^k has the exponent k, here between the two largest "
            "amounts. In images nothing may grow faster than n^1.1 (`bench_growth`)."
        )
        parts.append("\n".join(["## Growth", "", about, "", *growth_table(record)]) + "\n")
    parts += [GPU, "\n".join(circumstances()) + "\n"]
    return "\n".join(parts)


def circumstances() -> Iterator[str]:
    """Where and when each topic of the page was measured."""
    topics = [line.topic for lines in LINES.values() for line in lines] + ["growth"]
    yield "## Measured on\n"
    yield "| result | command | date | machine | load | torch |"
    yield "|---|---|---|---|---|---|"
    for topic in dict.fromkeys(topics):
        record = kept(topic)
        if record is not None:
            torch = record["versions"].get("torch", "")
            figures = (record["date"], record["machine"], record["load"], torch)
            command = f"`{record['command']}`"
            yield "| " + " | ".join(map(str, (topic, command, *figures))) + " |"
    about = "A load well above the number of cores means that other work ran beside it: ratios of"
    yield f"\n{about} such a run hold within a quarter, its seconds do not."
