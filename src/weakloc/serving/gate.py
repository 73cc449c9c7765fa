"""What every request passes: the token, the size of its body, and one line in the log."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import logging
import time

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOG = logging.getLogger(__name__)
REASON = "weakloc.reason"  # where an application notes in the scope why it refused


class Gate:
    """An ASGI application around another one.

    The token is a Bearer token, or the password of any user, which is all that Label Studio sends.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, max_bytes: int) -> None:
        self._app = app
        self._token = token
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._answer(scope, receive, noting)
        finally:
            asked = f"{scope['method']} {json.dumps(scope['path'])}"
            reason = f" error={json.dumps(scope[REASON])}" if REASON in scope else ""
            seconds = time.perf_counter() - start
            LOG.info("%s status=%d seconds=%.3f%s", asked, status, seconds, reason)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if self._token is not None and not is_token(headers.get("authorization"), self._token):
            asks = {"WWW-Authenticate": 'Basic realm="weakloc"'}
            refusal = JSONResponse({"error": "the token is missing or wrong"}, 401, headers=asks)
            await refusal(scope, receive, send)
            return
        await self._app(scope, bounded(receive, self._max_bytes), send)


def is_token(authorization: str | None, token: str) -> bool:
    """Whether the header holds the token; takes as long for any wrong one of its length."""
    scheme, _, given = (authorization or "").partition(" ")
    secret = given.strip().encode("latin-1")  # the very bytes that came
    if scheme.lower() == "basic":
        try:
            secret = base64.b64decode(secret, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(secret, token.encode())


def bounded(receive: Receive, max_bytes: int) -> Receive:
    """The same body, ended by HTTP 413 where it is larger: it is never all in memory."""
    num_bytes = 0

    async def counting() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > max_bytes:
            raise HTTPException(413, f"the request is larger than {max_bytes:,} bytes")
        return message

    return counting
