"""Where the server listens, what it may read, and whom it answers."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from weakloc.errors import SettingError
from weakloc.settings import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Where the server listens, what it may read, and how much it takes on at once."""

    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach needs --token."""

    port: int = 9090
    """Port to listen on; 0 takes a free one."""

    root: tuple[Path, ...] = ()
    """Folder whose images requests may name; may be repeated. Not given: no image on disk."""

    allow_url: tuple[str, ...] = ()
    """Address below which images may be fetched, such as http://images.lan/photos/; may be
    repeated. Not given: nothing is fetched."""

    queue: int = 32
    """Requests taken on at once; further ones are told to come back."""

    max_megabytes: int = 32
    """Largest request, and largest image that is fetched."""

    score_threshold: float = 0.0
    """Least score of a point, box or mask in answers to Label Studio."""

    best_per_class: int | None = None
    """Most points, boxes and masks of a class in answers to Label Studio. Not given: all."""

    def __post_init__(self) -> None:
        require(0 <= self.port <= 65535, "port", self.port, "Give 0 to 65535")
        require_at_least(self, 1, "queue", "max_megabytes", "best_per_class")

    @property
    def max_bytes(self) -> int:
        return self.max_megabytes * 2**20


def require_token_beyond_this_machine(host: str, token: str | None) -> None:
    """SettingError where anybody on the network could ask for predictions."""
    require(token != "", "token", token, "Give a secret, or leave it out")
    try:
        only_here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        only_here = host == "localhost"
    if token is None and not only_here:
        raise SettingError(
            f"--host is {host!r}, which other machines can reach, and there is no token",
            remedy="Set WEAKLOC_TOKEN (or --token) to a secret, or leave out --host",
        )
