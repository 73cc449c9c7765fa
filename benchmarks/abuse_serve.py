"""`weakloc serve` under clients that mean harm, and what an honest one meets meanwhile.

    python -m benchmarks.abuse_serve [--clients 64] [--peers 1] [--seconds 20] [--overload 60]
        [--kinds ...] [--name abuse_serve] [--results FOLDER]

For each kind of hostile client, and for all mixed, a server is started on this machine. One honest
client posts a JPEG of 500 x 375 pixels, waits for the answer and asks again: first alone, then
beside the hostile ones; their ratio is told, as other work may disturb both. At the end the server
gets SIGTERM while they go on. The honest client has the address 127.0.0.1; the hostile ones share
127.0.0.2 and, of several --peers, those after it.

partial   2 of 1,000 bytes of a body, then nothing
drip      a byte of a body a second
idle      a connection without a request, or with half a header
gone      half a body, then the connection is cut
bomb      PNGs of 15,000 x 15,000 pixels in 640 KB
large     PNGs of as many pixels as are allowed, 8,192 x 8,192
overload  good images, as fast as they are answered or refused
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import itertools
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from benchmarks.measure import RESULTS, write_results

PATIENCE = 60.0  # seconds that an honest client waits before it gives up
ALLOWED = frozenset({200, 400, 408, 413, 422, 429, 503})
NETWORK, SIDE = "tiny[width=16]", 224


def serve(port_file: Path) -> None:
    """The server, in a process of its own, with random weights."""
    from benchmarks.bench_serve import predictor_of
    from weakloc.cli.options import ServedLook
    from weakloc.output.settings import ServeSettings
    from weakloc.serving.allowed_images import allowed_images
    from weakloc.serving.app import bound_socket, build_app, server_of

    predictor = predictor_of(NETWORK, SIDE, max_pixels=ServedLook().max_pixels)
    settings = ServeSettings()
    images = allowed_images([], [], max_bytes=settings.max_bytes)
    app = build_app(predictor, images, settings, model_version="abused")
    listening = bound_socket("127.0.0.1", 0)
    port_file.write_text(str(listening.getsockname()[1]))
    server_of(app).run(sockets=[listening])


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    """Its port and its process."""
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.abuse_serve", "--serve", str(port_file)]
    process = psutil.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not (port_file.is_file() and port_file.read_text()):
            time.sleep(0.1)
        yield int(port_file.read_text()), process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        process.wait()


def photograph() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (47, 63, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).resize((500, 375)).save(content, "JPEG")
    return content.getvalue()


def pixel_bomb(side: int) -> bytes:
    """Black, so that a thousandth of its pixels' size holds it."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * side)
    packed = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


@dataclass
class Hostile:
    """Clients of one kind; `statuses` counts what they were answered."""

    port: int
    num_peers: int = 1
    statuses: Counter[str] = field(default_factory=Counter)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._count = getattr(self, "_count", 0) + 1
        address = f"127.0.0.{2 + self._count % self.num_peers}"
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))

    @staticmethod
    def _head(size: int, kind: str = "image/jpeg") -> bytes:
        lines = ("POST /predict HTTP/1.1", "Host: x", f"Content-Type: {kind}")
        return "\r\n".join((*lines, f"Content-Length: {size}", "", "")).encode()

    async def _answer(self, reader: asyncio.StreamReader) -> None:
        line = await reader.readline()
        self.statuses[line.split()[1].decode() if line.count(b" ") >= 1 else "closed"] += 1

    async def partial(self) -> None:
        reader, writer = await self._open()
        writer.write(self._head(1000) + b"\xff\xd8")
        await self._answer(reader)
        writer.close()

    async def drip(self) -> None:
        reader, writer = await self._open()
        writer.write(self._head(1000))
        answer = asyncio.create_task(self._answer(reader))
        while not answer.done():
            writer.write(b"\xff")
            await asyncio.sleep(1)
        writer.close()

    async def idle(self) -> None:
        reader, writer = await self._open()
        if random.random() < 0.5:
            writer.write(b"POST /predict HTTP/1.1\r\nHost: ")
        await self._answer(reader)
        writer.close()

    async def gone(self) -> None:
        _, writer = await self._open()
        writer.write(self._head(100_000) + bytes(50_000))
        await asyncio.sleep(1)
        writer.transport.abort()
        self.statuses["cut by the client"] += 1

    async def _post(self, content: bytes, kind: str) -> None:
        reader, writer = await self._open()
        writer.write(self._head(len(content), kind) + content)
        await self._answer(reader)
        writer.close()

    async def bomb(self) -> None:
        await self._post(BOMBS[15_000], "image/png")

    async def large(self) -> None:
        await self._post(BOMBS[8_192], "image/png")

    async def overload(self) -> None:
        await self._post(PHOTOGRAPH, "image/jpeg")

    async def again_and_again(self, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await act()
            except OSError as error:
                self.statuses[type(error).__name__] += 1
                await asyncio.sleep(0.25)


KINDS = ("partial", "drip", "idle", "gone", "bomb", "large", "overload")
PHOTOGRAPH = photograph()
BOMBS: dict[int, bytes] = {}  # by side; made where they are needed


class Siege:
    """Hostile clients in a thread of their own, from the beginning of the block to its end."""

    def __init__(
        self, port: int, kinds: tuple[str, ...], *, num_clients: int, num_peers: int
    ) -> None:
        self._hostile = Hostile(port, num_peers)
        self._loop = asyncio.new_event_loop()
        self._acts = [
            getattr(self._hostile, kind)
            for kind in itertools.islice(itertools.cycle(kinds or ("",)), num_clients)
            if kind
        ]
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def statuses(self) -> Counter[str]:
        return self._hostile.statuses

    def _run(self) -> None:
        tasks = [self._hostile.again_and_again(act) for act in self._acts]
        with contextlib.suppress(RuntimeError, asyncio.CancelledError):
            self._loop.run_until_complete(asyncio.wait_for(_all_of(tasks), None))

    def __enter__(self) -> Siege:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


async def _all_of(tasks: list[Awaitable[None]]) -> None:
    await asyncio.gather(asyncio.sleep(0), *tasks)


@dataclass
class Honest:
    """The waits for answers, in seconds; refusals are asked again, as `Retry-After` says."""

    waits: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    def ask(self, port: int, seconds: float) -> None:
        import http.client

        until = time.monotonic() + seconds
        while time.monotonic() < until:
            start = time.monotonic()
            while time.monotonic() - start < PATIENCE:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
                try:
                    headers = {"Content-Type": "image/jpeg"}
                    connection.request("POST", "/predict", PHOTOGRAPH, headers)
                    response = connection.getresponse()
                    response.read()
                    self.statuses[str(response.status)] += 1
                    if response.status == 200:
                        break
                    time.sleep(float(response.headers.get("Retry-After", "1")))
                except (OSError, http.client.HTTPException) as error:
                    self.statuses[type(error).__name__] += 1
                    time.sleep(0.2)
                finally:
                    connection.close()
            self.waits.append(time.monotonic() - start)
            time.sleep(0.02)

    @property
    def p95(self) -> float:
        return statistics.quantiles(self.waits, n=20)[-1] if len(self.waits) > 1 else PATIENCE


class Memory:
    """The greatest resident set of a process while the block runs, in MiB."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._is_over = threading.Event()
        self.most = 0.0
        self.now = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._is_over.wait(0.05):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.now = self._process.memory_info().rss / 2**20
                self.most = max(self.most, self.now)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def besieged(
    folder: Path, kinds: tuple[str, ...], *, num_clients: int, num_peers: int, seconds: float
) -> dict[str, object]:
    """What an honest client meets beside these; then SIGTERM, while they go on."""
    quiet, honest = Honest(), Honest()
    with running(folder) as (port, process), Memory(process) as memory:
        Honest().ask(port, 2.0)  # the first answers take longer
        quiet.ask(port, seconds)
        before, memory.most = memory.most, 0.0
        with Siege(port, kinds, num_clients=num_clients, num_peers=num_peers) as siege:
            time.sleep(1.0)
            honest.ask(port, seconds)
            hostile = siege.statuses.copy()
            start = time.monotonic()
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(90)
            ending = time.monotonic() - start
    return {
        "beside": f"{num_clients} x {', '.join(kinds)}",
        "answers": honest.statuses["200"],
        "quiet p95 ms": 1000 * quiet.p95,
        "p95 ms": 1000 * honest.p95,
        "p95 ratio": honest.p95 / quiet.p95,
        "quiet MiB": before,
        "MiB more": memory.most - before,
        "SIGTERM s": ending,
        "honest by status": _shown(honest.statuses),
        "hostile by status": _shown(hostile),
    }


def overloaded(
    folder: Path, *, num_clients: int, num_peers: int, seconds: float
) -> dict[str, object]:
    """Ten times as many as it answers: by status, and the memory at the quarters."""
    with running(folder) as (port, process), Memory(process) as memory:
        with Siege(port, ("overload",), num_clients=num_clients, num_peers=num_peers) as siege:
            at = []
            for _ in range(10):
                time.sleep(seconds / 10)
                at.append(memory.now)
        statuses = siege.statuses
    odd = {name for name in statuses if not name.isdigit() or int(name) not in ALLOWED}
    return {
        "beside": f"{seconds:g} s of {num_clients} x overload",
        "answers": statuses["200"],
        "most MiB": memory.most,
        "honest by status": "unexpected: " + ", ".join(sorted(odd)) if odd else "none unexpected",
        "hostile by status": _shown(statuses)
        + "; MiB at the tenths: "
        + ", ".join(f"{value:.0f}" for value in at),
    }


def _shown(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in sorted(statuses.items())) or "-"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--peers", type=int, default=1, help="addresses of the hostile clients")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--overload", type=float, default=60.0, help="seconds of it alone")
    parser.add_argument("--kinds", nargs="*", default=[*KINDS, "all"])
    parser.add_argument("--name", default="abuse_serve")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    if chosen.serve is not None:
        serve(chosen.serve)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    BOMBS.update({side: pixel_bomb(side) for side in (8_192, 15_000)})
    siege = {"num_clients": chosen.clients, "num_peers": chosen.peers}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in chosen.kinds:
            kinds = KINDS if kind == "all" else (kind,)
            rows.append(besieged(folder, kinds, **siege, seconds=chosen.seconds))
            print(rows[-1], flush=True)
        if chosen.overload:
            rows.append(overloaded(folder, **siege, seconds=chosen.overload))
    write_results(
        chosen.name,
        rows,
        title=f"Serving beside {chosen.clients} hostile clients",
        notes=[
            f"the hostile clients have {chosen.peers} addresses, the honest one another",
            f"{NETWORK} at {SIDE} pixels, random weights; {chosen.seconds:g} s a row",
            "goals: p95 ratio <= 3, 1,024 MiB more, 10 s; of an overload 200, 413, 422, 429, 503",
            f"a wait ends with an answer of 200, after refusals too, or after {PATIENCE:g} s",
        ],
        folder=chosen.results,
    )


if __name__ == "__main__":
    main()
