"""`weakloc serve` under eight clients, against the predictor that has all images before it.

    python -m benchmarks.bench_serve [--images 64] [--rounds 5] [--requests 2000] [--side 224]
        [--network resnet50] [--clients 8] [--results FOLDER]

Both decode the same 500 x 375 JPEGs and give the same lines of predictions.jsonl. The clients post
the files from another process, which has to share the processor; each waits for its answer before
it asks again. Memory is the resident set of the server while --requests pass. Weights are random.
"""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.bench_heat_maps import write_photographs
from benchmarks.measure import RESULTS, Timing, paired_ratio, time_interleaved, write_results
from benchmarks.own_processes import own_processes
from weakloc.data.sources import find_images
from weakloc.data.transforms import Preprocessing
from weakloc.methods.wildcat import Wildcat
from weakloc.model.backbones import build_backbone
from weakloc.model.trunk import BackboneSpec
from weakloc.output.exporters.jsonl import prediction_line
from weakloc.output.settings import ServeSettings
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import NetworkSource
from weakloc.serving.allowed_images import allowed_images
from weakloc.serving.app import bound_socket, build_app, server_of
from weakloc.settings import Look, Places
from weakloc.structures import BrokenImage
from weakloc.work import keep_freed_memory

NUM_CLASSES = 20
GOAL = 0.8
BATCH, SERVER = "batch predictor", "weakloc serve"


def batch_predictor(folder: str, network: str, side: int) -> Callable[[], int]:
    predictor = predictor_of(network, side)

    def work() -> int:
        lines = []
        for found in predictor.predict(find_images(folder)):
            assert not isinstance(found, BrokenImage)
            lines.append(prediction_line(found))
        return len(lines)

    return work


def server(network: str, side: int) -> Callable[[], tuple[int, int]]:
    """Its port and its process; it runs until the process ends."""
    app = build_app(
        predictor_of(network, side),
        allowed_images([], [], max_bytes=2**20),
        ServeSettings(),
        model_version="benchmark",
    )
    listening = bound_socket("127.0.0.1", 0)
    port = listening.getsockname()[1]
    running = {"sockets": [listening]}
    threading.Thread(target=server_of(app).run, kwargs=running, daemon=True).start()
    return lambda: (port, os.getpid())


def predictor_of(network: str, side: int, **looked: Any) -> Predictor:
    keep_freed_memory()
    torch.manual_seed(0)
    look = Look(batch_size=8, **looked)
    backbone = build_backbone(BackboneSpec.parse(network, weights="none"))
    source = NetworkSource(
        Wildcat.practical().build_network(backbone, NUM_CLASSES).eval(),
        look,
        class_names=[str(index) for index in range(NUM_CLASSES)],
        preprocessing=Preprocessing(size=(side, side)),
        activation="sigmoid",
        uses_bf16=False,
    )
    return Predictor(source, look, Places(top=1), thresholds=(0.3,) * NUM_CLASSES)


def ask(port: int, photographs: Sequence[bytes], num_clients: int) -> list[float]:
    """The seconds that each photograph waited for its answer."""

    def client(number: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        waits = []
        for content in photographs[number::num_clients]:
            start = time.perf_counter()
            connection.request("POST", "/predict", content, {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            waits.append(time.perf_counter() - start)
        connection.close()
        return waits

    with ThreadPoolExecutor(num_clients) as pool:
        return [wait for waits in pool.map(client, range(num_clients)) for wait in waits]


def memory_over(
    num_requests: int, port: int, process: int, photographs: Sequence[bytes], num_clients: int
) -> dict[str, float]:
    """Mebibytes of the server before and after every quarter of the requests."""
    found = {"MiB at 0": psutil.Process(process).memory_info().rss / 2**20}
    quarter = num_requests // 4
    repeated = [photographs[index % len(photographs)] for index in range(quarter)]
    for done in range(quarter, 4 * quarter + 1, quarter):
        ask(port, repeated, num_clients)
        found[f"at {done:,}"] = psutil.Process(process).memory_info().rss / 2**20
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    clients = arguments.clients
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), arguments.images)
        photographs = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
        variants = {
            BATCH: (batch_predictor, (folder, arguments.network, arguments.side)),
            SERVER: (server, (arguments.network, arguments.side)),
        }
        with own_processes(variants) as prepared:
            port, process = prepared[SERVER]()
            waits: list[float] = []
            timings = time_interleaved(
                {
                    BATCH: prepared[BATCH],
                    SERVER: lambda: waits.extend(ask(port, photographs, clients)),
                },
                rounds=arguments.rounds,
            )
            measured = waits[arguments.images :]  # without the round that warms up
            memory = memory_over(arguments.requests, port, process, photographs, clients)
    write_results(
        "serve",
        _rows(arguments.images, timings, measured, memory),
        title=f"Serving {clients} clients",
        notes=[
            (
                f"{arguments.network} at {arguments.side} pixels, batches of 8, "
                f"{arguments.images} images a round, medians of {arguments.rounds} rounds"
            ),
            "waits are from sending a photograph to the end of its answer, over all rounds",
        ],
        timings=timings,
        folder=arguments.results,
    )


def _rows(
    num_images: int, timings: dict[str, Timing], waits: list[float], memory: dict[str, float]
) -> list[dict[str, object]]:
    share = paired_ratio(timings[BATCH], timings[SERVER])
    percentiles = statistics.quantiles(waits, n=20)
    measured: dict[str, object] = {
        "share of the batch": share,
        "goal": GOAL,
        "met": "yes" if share >= GOAL else "no",
        "median wait ms": 1000 * statistics.median(waits),
        "p95 ms": 1000 * percentiles[-1],
        **memory,
    }
    nothing = dict.fromkeys(measured)
    return [
        {"variant": name, "images/s": num_images / timings[name].wall, **more}
        for name, more in ((BATCH, nothing), (SERVER, measured))
    ]


if __name__ == "__main__":
    main()
