"""A stand-in for Label Studio on a free port: what of its API `weakloc push` asks.

Written after the answers of 1.23.2, which tests/end_to_end/test_label_studio.py asks where it is
installed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

LEGACY, PERSONAL = "0123456789abcdef" * 2 + "01234567", "header.payload.signature"


@dataclass
class Studio:
    """One project of the number 7, and how it behaves."""

    label_config: str
    takes_legacy: bool = False
    tasks: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    model_version: str = ""
    access: int = 0  # the token that is good now; a new one is given whenever one asks
    num_requests: int = 0
    dies_after: int | None = None  # requests with predictions
    loses_answers: bool = False  # of the request after which it dies
    address: str = ""

    def create(self, image: str) -> int:
        self.tasks.append({"id": 100 + len(self.tasks), "data": {"photo": image}})
        return 100 + len(self.tasks) - 1

    def knows(self, result: list[dict[str, Any]]) -> bool:
        return all(f'name="{region["from_name"]}"' in self.label_config for region in result)

    def add(self, items: list[dict[str, Any]]) -> int:
        """None of them where one does not fit, which it does not say."""
        if not all(self.knows(item["result"]) for item in items):
            return 0
        self.predictions += items
        return len(items)


class _Answering(BaseHTTPRequestHandler):
    studio: Studio

    def answer(self, document: object, status: int = 200) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def refuse(self, status: int, detail: str) -> None:
        self.answer({"status_code": status, "version": "1.23.2", "detail": detail}, status)

    def do_GET(self) -> None:
        studio, url = self.studio, urlsplit(self.path)
        if not self.is_allowed():
            return
        if url.path == "/api/projects/7":
            facts = {"id": 7, "label_config": studio.label_config}
            self.answer({**facts, "model_version": studio.model_version})
        elif url.path == "/api/tasks":
            asked = {name: values[0] for name, values in parse_qs(url.query).items()}
            assert (asked["project"], asked["resolve_uri"]) == ("7", "false")
            tasks = studio.tasks
            for item in json.loads(asked["query"])["filters"]["items"]:
                chosen = {
                    each["task"]
                    for each in studio.predictions
                    if any(value in each["model_version"] for value in item["value"])
                }
                tasks = [task for task in tasks if task["id"] in chosen]
            size, page = int(asked["page_size"]), int(asked["page"])
            shown = tasks[size * (page - 1) : size * page]
            if not shown and page > 1:
                self.refuse(404, "Invalid page.")
            else:
                self.answer({"tasks": shown, "total": len(tasks)})
        else:
            self.refuse(404, "No Project matches the given query.")

    def is_allowed(self) -> bool:
        given, studio = self.headers.get("Authorization"), self.studio
        if given == f"Token {LEGACY}" and not studio.takes_legacy:
            self.refuse(
                401, "Authentication token no longer valid: legacy token authentication ..."
            )
        elif given not in (f"Token {LEGACY}", f"Bearer {studio.access}"):
            self.refuse(401, "Authentication credentials were not provided.")
        else:
            return True
        return False

    def do_PATCH(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.is_allowed():
            assert asked["model_version"] in {p["model_version"] for p in self.studio.predictions}
            self.studio.model_version = asked["model_version"]
            self.answer({})

    def do_POST(self) -> None:
        studio = self.studio
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/token/refresh/":
            if asked["refresh"] != PERSONAL:
                self.refuse(401, "Token is invalid")
                return
            studio.access += 1
            self.answer({"access": str(studio.access)})
            return
        if not self.is_allowed():
            return
        studio.num_requests += 1
        is_last = studio.num_requests == studio.dies_after
        if is_last and not studio.loses_answers:
            self.connection.close()
            return
        if self.path == "/api/projects/7/import/predictions":
            answer = {"created": studio.add(asked)}
        else:
            assert self.path == "/api/projects/7/import"
            for task in asked:
                number = studio.create(task["data"]["photo"])
                studio.add([{"task": number, **said} for said in task["predictions"]])
            answer = {"task_count": len(asked), "prediction_count": len(asked)}
        if is_last:
            self.connection.close()
        else:
            self.answer(answer, 201)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running_studio(label_config: str) -> Iterator[Studio]:
    studio = Studio(label_config)
    handler = type("OfThisStudio", (_Answering,), {"studio": studio})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        studio.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield studio
        server.shutdown()
