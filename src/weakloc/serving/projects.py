"""Predictions -> the tasks of a project of Label Studio, through its API and each once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from weakloc.errors import FailureError, PredictionsError, SettingError
from weakloc.files import digest_of_file, parse_foreign_json
from weakloc.output.exporters.jsonl import read_predictions
from weakloc.output.exporters.label_studio import image_prefix, pre_annotation
from weakloc.output.settings import ExportOptions
from weakloc.serving.allowed_images import UPLOADS, path_in
from weakloc.serving.labelling_interface import LabellingInterface, read_interface
from weakloc.work import Progress

POSTED, MADE, KEPT = "/import/predictions", "/import", ""
COUNTED = {POSTED: "created", MADE: "prediction_count"}  # where an answer says how many it took
BATCH = 100  # predictions in a request
PAGE = 500  # tasks in an answer
ANSWER_SECONDS = 120


class _NoRedirect(HTTPRedirectHandler):
    """A redirect is an error: whoever it leads to would be sent the token."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass
class Project:
    """A project of Label Studio, asked with a personal token, or with a legacy one."""

    host: str
    number: str
    token: str
    authorization: str = ""

    def ask(self, path: str, body: object = None, method: str | None = None) -> Any:
        """The answer; what is sent is a POST unless `method` says otherwise."""
        try:
            try:
                return self._answer(path, body, method)
            except HTTPError as error:
                if error.code != 401:
                    raise
            self.authorization = f"Token {self.token}"
            if self.token.count(".") == 2:  # personal, to be changed for one of five minutes
                access = self._answer("/api/token/refresh/", {"refresh": self.token})["access"]
                self.authorization = f"Bearer {access}"
            return self._answer(path, body, method)
        except (OSError, HTTPException, ValueError) as error:
            text = error.read(5000).decode(errors="replace") if isinstance(error, HTTPError) else ""
            detail = re.search(r'"detail": ?"([^"]*)"', text)
            reason = f"Label Studio says: {detail[1]}" if detail else f"no answer ({error})"
            remedy = "Check address and LABEL_STUDIO_API_KEY; the same command goes on from here"
            raise FailureError(reason, location=self.host, remedy=remedy) from error

    def _answer(self, path: str, body: object, method: str | None = None) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": self.authorization}
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        request = Request(self.host + path, content, headers, method=method)
        with build_opener(_NoRedirect).open(request, timeout=ANSWER_SECONDS) as answer:
            return parse_foreign_json(answer.read())

    def tasks(self, filters: object) -> Iterator[dict[str, Any]]:
        query = quote(json.dumps({"filters": {"conjunction": "and", "items": filters}}))
        path = f"/api/tasks?project={self.number}&resolve_uri=false&query={query}"
        page, total = 0, 1
        while PAGE * page < total:
            page += 1
            answer = self.ask(f"{path}&page_size={PAGE}&page={page}")
            total = answer["total"]
            yield from answer["tasks"]

    def post(self, path: str, items: Sequence[object]) -> None:
        """All that is sent has to be taken: what does not fit is left out without a word."""
        taken = self.ask(f"/api/projects/{self.number}{path}", items).get(COUNTED[path])
        if taken != len(items):
            reason = f"Label Studio took {taken} of {len(items)} predictions"
            remedy = "Check the labelling interface; Label Studio's log may say more"
            raise FailureError(reason, location=self.host, remedy=remedy)


@dataclass
class Push:
    """How predictions become posts; the version is that of the options."""

    interface: LabellingInterface
    image_root: Path | None
    options: ExportOptions
    done: set[int]  # tasks that have the version
    tasks: dict[str, dict[str, list[int]]] = field(default_factory=dict)  # by last part and path
    images: dict[str, str] = field(default_factory=dict)  # path -> what was predicted of it

    def meet(self, tasks: Iterable[dict[str, Any]]) -> None:
        for task in tasks:
            name = self.interface.image_of(task)
            path = unquote(urlsplit(name).path) if "://" in name else path_in(name)
            if name.startswith(UPLOADS):
                path = re.sub(r".*/([0-9a-f]{8}-)?", "", path)
            paths = self.tasks.setdefault(path.rpartition("/")[2], {})
            paths.setdefault(path, []).append(task["id"])

    def posts(self, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is to be done, and with what."""
        for prediction in read_predictions(file):
            regions = self.interface.regions(prediction, self.options)
            score = 1.0 - prediction.doubt
            annotation = pre_annotation(regions, score=score, options=self.options)
            tasks = self._tasks_of(prediction.image)
            for task in tasks:
                yield KEPT if task in self.done else POSTED, {"task": task, **annotation}
            if not tasks:
                prefix = image_prefix(self.options, self.image_root)
                data = {self.interface.data_key: prefix + quote(prediction.image)}
                yield MADE, {"data": data, "predictions": [annotation]}

    def _tasks_of(self, image: str) -> list[int]:
        """Of an image, of whose path the prediction or the task may know the end alone."""
        last = image.rpartition("/")[2]
        uploaded = re.sub(r"[^-\w.]", "", last.replace(" ", "_"))  # as such files are named
        tasks = {
            path: numbers
            for name in (last, uploaded)
            for path, numbers in self.tasks.get(name, {}).items()
            if f"/{path}".endswith(f"/{image}")
            or f"/{image}".endswith(f"/{path}")
            or path == uploaded
        }
        if len(tasks) > 1 or any(self.images.setdefault(p, image) != image for p in tasks):
            reason = f"another image of the project, or of the predictions, may be {min(tasks)}"
            remedy = "Predict in a folder further up, so that names differ"
            raise PredictionsError(reason, location=image, remedy=remedy)
        return [number for numbers in tasks.values() for number in numbers]


def push_predictions(
    file: Path,
    address: str,
    token: str,
    *,
    class_names: Sequence[str],
    image_root: Path | None,
    options: ExportOptions,
    on_progress: Progress,
) -> dict[str, Any]:
    """Each prediction to the tasks of its image, or with a new one, unless they have it already.

    A digest of the predictions, and of the labelling interface by which they are said, is added to
    the version of the options. Gives back the version, and how many came how.
    """
    parts = re.fullmatch(r"(https?://.+?)/projects/(\d+)(?:[/?#].*)?", address)
    if parts is None or not token:
        reason = f"the project is {address!r}" if token else "LABEL_STUDIO_API_KEY is not set"
        remedy = "Give http://HOST/projects/NUMBER, and the token of Account & Settings in it"
        raise SettingError(reason, remedy=remedy)
    project, path = Project(parts[1], parts[2], token), f"/api/projects/{parts[2]}"
    config = project.ask(path)["label_config"]
    digest = sha256(f"{digest_of_file(file)} {config}".encode()).hexdigest()[:8]
    options = replace(options, model_version=f"{options.model_version}-{digest}")
    of_version = {"filter": "filter:tasks:predictions_model_versions", "operator": "contains"}
    filters = [{**of_version, "type": "List", "value": [options.model_version]}]
    done = {task["id"] for task in project.tasks(filters)}
    push = Push(read_interface(config, class_names), image_root, options, done)
    push.meet(project.tasks([]))
    batches: dict[str, list[dict[str, Any]]] = {POSTED: [], MADE: []}
    counts = Counter[str]()
    for kind, item in push.posts(file):
        counts[kind] += 1
        batch = batches.get(kind, [])
        batch.append(item)
        if len(batch) == BATCH:
            project.post(kind, batch)
            batch.clear()
        on_progress(counts.total(), None)
    for kind in filter(batches.get, batches):
        project.post(kind, batches[kind])
    project.ask(path, {"model_version": options.model_version}, "PATCH")
    named = {"posted": counts[POSTED], "with_new_task": counts[MADE], "there": counts[KEPT]}
    return {"model_version": options.model_version, **named}
