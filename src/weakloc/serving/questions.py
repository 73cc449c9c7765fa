"""The body of a request for predictions -> what is asked; the content type tells which it is.

image/*, application/octet-stream   the image itself, named by `?name=`
multipart/form-data                 the image as the file `image`
application/json                    {"image": NAME}, or {"tasks": [...]} from Label Studio
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from weakloc.predictor.sources import ImageSource

UNNAMED = "image"


@dataclass(frozen=True)
class NamedImage:
    """An image that lies somewhere else, which may be forbidden."""

    name: str


@dataclass(frozen=True)
class Tasks:
    """Label Studio's question: tasks, and its labelling interface."""

    tasks: list[dict[str, Any]]
    interface: object


async def read_question(request: Request) -> ImageSource | NamedImage | Tasks:
    """HTTPException where the body is none of the three."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        return _from_json(await read_json(request))
    if content_type == "multipart/form-data":
        return await _from_form(request)
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        name = request.query_params.get("name", UNNAMED)
        return ImageSource(name, await request.body())
    raise HTTPException(
        415,
        f"the content type is {content_type!r}; send an image (image/jpeg or the like), "
        "multipart/form-data with the file 'image', or application/json",
    )


async def read_json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON ({error})") from error
    if not isinstance(body, dict):
        raise HTTPException(400, "the body is no JSON object")
    return body


def _from_json(body: dict[str, Any]) -> NamedImage | Tasks:
    tasks, image = body.get("tasks"), body.get("image")
    if isinstance(tasks, list) and all(isinstance(task, dict) for task in tasks):
        return Tasks(tasks, body.get("label_config"))
    if isinstance(image, str):
        return NamedImage(image)
    raise HTTPException(400, "the body has neither 'image', a text, nor 'tasks', a list of objects")


async def _from_form(request: Request) -> ImageSource:
    async with request.form(max_files=1, max_fields=1) as form:
        image = form.get("image")
        if not isinstance(image, UploadFile):
            raise HTTPException(400, "the form has no file 'image'")
        return ImageSource(image.filename or UNNAMED, await image.read())
