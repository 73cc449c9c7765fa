"""An object store of this machine that S3's clients can ask, each answer late by some time.

Needs `moto[server]` and `s3fs`, which no environment of the project has: a caller skips.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
REGION = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
BUCKET = "bucket"
ASKED = "/asked"


@dataclass(frozen=True)
class SlowBucket:
    """Where it answers, and how often it was asked what since `asked` was last called."""

    url: str
    latency: Any  # the seconds that it waits, as a shared value

    def put(self, key: str, content: bytes) -> None:
        kind = {"Content-Type": "application/octet-stream"}
        request = Request(f"{self.url}/{BUCKET}/{key}", content, kind, method="PUT")
        urlopen(request, timeout=20).close()

    def put_folder(self, folder: Path) -> None:
        """All files below a folder, under its name."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{folder.name}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def asked(self) -> dict[str, int]:
        with urlopen(f"{self.url}{ASKED}") as answer:
            counts: dict[str, int] = json.load(answer)
        return counts


@contextmanager
def slow_bucket() -> Iterator[SlowBucket]:
    """A process of its own answers; this one's environment leads clients there meanwhile."""
    context = multiprocessing.get_context("spawn")
    before = dict(os.environ)
    latency, ports = context.Value("d", 0.0), context.Queue()
    server = context.Process(target=_serve, args=(latency, ports), daemon=True)
    server.start()
    try:
        url = f"http://127.0.0.1:{ports.get(timeout=60)}"
        urlopen(Request(f"{url}/{BUCKET}", method="PUT")).close()
        os.environ |= {**CREDENTIALS, **REGION, "AWS_ENDPOINT_URL": url}
        yield SlowBucket(url, latency)
    finally:
        server.kill()
        server.join()
        os.environ.clear()
        os.environ.update(before)


def _serve(latency: Any, ports: Any) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    answer: Any = DomainDispatcherApplication(create_backend_app)
    counts, counting = Counter[str](), threading.Lock()

    def late(environ: Mapping[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with counting:
            if environ["PATH_INFO"] == ASKED:
                content = json.dumps(counts).encode()
                counts.clear()
                start("200 OK", [("Content-Length", str(len(content)))])
                return [content]
            is_list = "list-type" in environ["QUERY_STRING"]
            counts["list" if is_list else environ["REQUEST_METHOD"]] += 1
        time.sleep(latency.value)
        found: Iterable[bytes] = answer(environ, start)
        return found

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, late, threaded=True)
    ports.put(server.server_port)
    server.serve_forever()
