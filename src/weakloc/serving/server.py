"""An application -> a server on a port, until it is told to stop."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

from weakloc.errors import SettingError


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; SettingError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise SettingError(
            f"cannot listen on --host {host} --port {port} ({error.strerror})",
            remedy="Give another --port; 0 takes a free one",
        ) from error


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_of(app: ASGIApp) -> uvicorn.Server:
    """A server that, told to stop, answers what it has taken on; logging is the caller's."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",  # the same on every machine, whatever else is installed
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    return uvicorn.Server(config)
