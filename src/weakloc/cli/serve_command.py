"""`weakloc serve`."""

from __future__ import annotations

import logging
import signal
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from weakloc.cli.memory_allocator import keep_freed_memory
from weakloc.cli.terminal import Terminal
from weakloc.config import PredictSettings
from weakloc.errors import MissingPackageError
from weakloc.serving.settings import ServeSettings, require_token_beyond_this_machine

if TYPE_CHECKING:
    from starlette.applications import Starlette


def serve(
    run: str,
    /,
    *,
    also: tuple[str, ...] = (),
    token: Annotated[str | None, Parameter(env_var="WEAKLOC_TOKEN")] = None,
    serving: Annotated[ServeSettings, Parameter(name="*")] = ServeSettings(),
    settings: Annotated[PredictSettings, Parameter(name="*")] = PredictSettings(),
    terminal: Terminal = Terminal(),
) -> None:
    """Answer requests for predictions over HTTP, such as those of Label Studio.

    Parameters
    ----------
    run
        Folder of a run, a file of `weakloc export`, or a trained classifier: timm:NAME or
        timm:NAME:WEIGHTS.
    also
        Further runs on the same classes; all their maps and scores become one. May be repeated.
    token
        Secret that requests must bring: as Bearer token, or as password in Label Studio.
    """
    require_token_beyond_this_machine(serving.host, token)
    try:
        from weakloc.serving.server import bound_socket, server_of, url_of
    except ImportError as error:
        raise MissingPackageError(
            f"serving needs the package {error.name}",
            remedy='Install it: pip install "weakloc[label-studio]"',
        ) from error
    with bound_socket(serving.host, serving.port) as listening:
        app = _app((run, *also), token, serving, settings)
        terminal.say(f"Answering at {url_of(listening)} (Ctrl-C ends it)")
        terminal.give({"url": url_of(listening)})
        sys.stdout.flush()
        _log_to_standard_error(logging.WARNING if terminal.quiet else logging.INFO)
        # Without this, the process would end by the signal itself after the last answer.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        server_of(app).run(sockets=[listening])


def _app(
    runs: tuple[str, ...], token: str | None, serving: ServeSettings, settings: PredictSettings
) -> Starlette:
    from weakloc.api.any_run import predictor_of, version_of
    from weakloc.serving.allowed_images import allowed_images
    from weakloc.serving.app import build_app

    images = allowed_images(serving.root, serving.allow_url, max_bytes=serving.max_bytes)
    keep_freed_memory()
    predictor, _ = predictor_of(runs[0], runs[1:], settings)
    version = version_of(predictor, runs)
    return build_app(predictor, images, serving, model_version=version, token=token)


def _log_to_standard_error(level: int) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("weakloc").setLevel(level)
