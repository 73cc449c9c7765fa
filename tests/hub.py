"""A stand-in for the Hugging Face Hub: as much of its protocol as pushing and loading meet."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Files = dict[str, bytes]


@dataclass
class Repository:
    is_private: bool
    commits: dict[str, Files] = field(default_factory=lambda: {"0" * 40: {".gitattributes": b"x"}})

    @property
    def files(self) -> Files:
        return [*self.commits.values()][-1]

    def commit(self, files: Files) -> str:
        digest = hashlib.sha1(repr((len(self.commits), files)).encode()).hexdigest()
        self.commits[digest] = files
        return digest

    def named(self, revision: str) -> str | None:
        """The commit of a revision; there is one branch."""
        return (
            [*self.commits][-1]
            if revision == "main"
            else {c: c for c in self.commits}.get(revision)
        )


@dataclass
class Hub:
    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)  # of large files, by their digest
    sent: list[str] = field(default_factory=list)  # digests, in the order in which they came
    downloads: list[str] = field(default_factory=list)  # names of files
    refuses_commits: bool = False


def digest_in_git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def digest_of(name: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if is_large(name) else digest_in_git(content)


class Answering(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        pass

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.strip("/").split("/")
        if path == [""]:
            self.answer({})
        elif path[:2] == ["api", "models"]:
            self.describe("/".join(path[2:4]), path[4] if path[4:] else "", *path[5:6])
        elif path[2:3] == ["resolve"]:
            user, name, _, revision, file = path
            self.give(f"{user}/{name}", revision, file)
        else:
            self.answer({}, 404)

    def repository(self, name: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        is_hidden = repository and repository.is_private and "Authorization" not in self.headers
        return None if is_hidden else repository

    def describe(self, name: str, kind: str, revision: str = "main") -> None:
        if (repository := self.repository(name)) is None:
            self.answer({}, 404, X_Error_Code="RepoNotFound")
        elif (commit := repository.named(revision)) is None:
            self.answer({}, 404, X_Error_Code="RevisionNotFound")
        elif kind == "tree":
            files = repository.commits[commit].items()
            self.answer(
                [
                    {"type": "file", "path": file, "size": len(c), "oid": digest_in_git(c)}
                    for file, c in files
                ]
            )
        else:
            siblings = [{"rfilename": file} for file in repository.commits[commit]]
            facts = {"id": name, "sha": commit, "private": repository.is_private}
            self.answer({**facts, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def give(self, name: str, revision: str, file: str) -> None:
        repository = self.repository(name)
        commit = repository and repository.named(revision)
        if repository is None or commit is None:
            self.answer({}, 404, X_Error_Code="RepoNotFound")
            return
        content = repository.commits[commit][file]
        if self.command == "GET":
            self.hub.downloads.append(file)
        self.answer(content, ETag=f'"{digest_of(file, content)}"', X_Repo_Commit=commit)

    def do_PUT(self) -> None:
        digest, content = self.path.rpartition("/")[2], self.body()
        assert hashlib.sha256(content).hexdigest() == digest
        self.hub.blobs[digest] = content
        self.hub.sent.append(digest)
        self.answer({})

    def do_POST(self) -> None:
        content = self.body()
        path = urlsplit(self.path).path.strip("/").split("/")
        if "Authorization" not in self.headers:
            self.answer({"error": "Invalid username or password."}, 401)
        elif path == ["api", "validate-yaml"]:
            self.answer({"errors": [], "warnings": []})
        elif path == ["api", "repos", "create"]:
            self.create(json.loads(content))
        elif path[-1] == "batch":
            self.take_large([part["oid"] for part in json.loads(content)["objects"]])
        elif path[4] == "preupload":
            self.sort_files("/".join(path[2:4]), json.loads(content)["files"])
        elif self.hub.refuses_commits:
            self.answer({"error": "the hub is being mended"}, 500)
        else:
            self.commit("/".join(path[2:4]), [json.loads(line) for line in content.splitlines()])

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.hub.address}/{name}"}
        if name in self.hub.repositories:
            self.answer(url, 409)
            return
        is_private = asked.get("private") is True or asked.get("visibility") == "private"
        self.hub.repositories[name] = Repository(is_private)
        self.answer(url)

    def sort_files(self, name: str, files: list[dict[str, Any]]) -> None:
        there = self.hub.repositories[name].files
        sorted_files = []
        for path in (file["path"] for file in files):
            kind = "lfs" if is_large(path) else "regular"
            known = digest_of(path, there[path]) if path in there else None
            sorted_files.append(
                {"path": path, "uploadMode": kind, "shouldIgnore": False, "oid": known}
            )
        self.answer({"files": sorted_files})

    def take_large(self, digests: list[str]) -> None:
        objects = []
        for digest in digests:
            upload = {"upload": {"href": f"{self.hub.address}/blobs/{digest}"}}
            actions = {} if digest in self.hub.blobs else {"actions": upload}
            objects.append({"oid": digest, "size": 1, **actions})
        self.answer({"objects": objects, "transfer": "basic"})

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        repository = self.hub.repositories[name]
        files = dict(repository.files)
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.blobs[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        commit = repository.commit(files)
        address = f"{self.hub.address}/{name}/commit/{commit}"
        self.answer({"commitUrl": address, "commitOid": commit})


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    handler = type("OfThisHub", (Answering,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield hub
        server.shutdown()
