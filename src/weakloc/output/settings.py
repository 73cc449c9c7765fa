"""What of the predictions goes into other formats, and whom the server gives them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from weakloc.errors import SettingError
from weakloc.settings import ONE_OR_MORE, PART, SHARE, Checked, limit, require


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Checked):
    """What of the predictions goes into other formats, and how; each uses what it has a place for.

    The best few are counted for points, boxes and masks apart.
    """

    score_threshold: float = 0.0
    """Least score of a point, box or mask in --format's files."""

    best_per_class: int | None = field(default=None, metadata=ONE_OR_MORE)
    """Most points, boxes and masks of a class in an image, the best ones. Not given: all."""

    best_per_image: int | None = field(default=None, metadata=ONE_OR_MORE)
    """Most points, boxes and masks of an image, the best ones. Not given: all."""

    tagged_only: bool = False
    """Only what is tagged; needs predictions that were made with --tags."""

    tag_threshold: float = field(default=0.5, metadata=SHARE)
    """Probability from which a format with image tags says that a class is there."""

    mask_form: Literal["rle", "polygon"] = field(
        default="rle", metadata=limit(("rle", "polygon").__contains__, "Give rle or polygon")
    )
    """Masks as run lengths or as polygons, in formats that know both."""

    model_version: str = "weakloc"
    """What Label Studio shows as the version of the model."""

    image_prefix: str | None = None
    """What goes before the path of an image in Label Studio's tasks. Not given: its local files,
    where the document root is the folder above the images."""

    voc_challenge: str = "VOC2012"
    """Folder that voc-results are written for, as VOC's development kit names its data."""

    voc_split: str = "test"
    """Split that voc-results are named after."""

    voc_training: Literal["own", "external"] = "own"
    """What voc-results say was learned from: VOC's own images (competitions 1, 3 and 5), or others
    too, such as ImageNet's (2, 4 and 6)."""

    val_share: float = field(default=0.1, metadata=PART)
    """Share of the images that yolo and coco-splits keep back to watch, of each class alike, where
    the data has no split for it; 0 watches what is learned from."""

    group_by: str | None = None
    """Images that stay on one side together: folder, or a column of the table of tags, such as the
    patient or the camera. Not given: each image stands alone."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings(Checked):
    """Where the server listens, what it may read, and how much it takes on at once."""

    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach needs --token."""

    port: int = field(
        default=9090, metadata=limit(lambda port: 0 <= port <= 65535, "Give 0 to 65535")
    )
    """Port to listen on; 0 takes a free one."""

    root: tuple[Path, ...] = ()
    """Folder whose images requests may name; may be repeated. Not given: no image on disk."""

    allow_url: tuple[str, ...] = ()
    """Address below which images may be fetched, such as http://images.lan/photos/; may be
    repeated. Not given: nothing is fetched."""

    learn: Path | None = None
    """Folder that keeps what people correct in Label Studio, and the versions of the run that learn
    from it when they are asked to. Not given: corrections are ignored."""

    queue: int = field(default=32, metadata=ONE_OR_MORE)
    """Requests taken on at once; further ones are told to come back."""

    max_megabytes: int = field(default=32, metadata=ONE_OR_MORE)
    """Largest request, and largest image that is fetched or read."""

    score_threshold: float = 0.0
    """Least score of a point, box or mask in answers to Label Studio."""

    best_per_class: int | None = field(default=None, metadata=ONE_OR_MORE)
    """Most points, boxes and masks of a class in answers to Label Studio. Not given: all."""

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
