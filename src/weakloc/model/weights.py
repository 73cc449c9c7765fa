"""Files of weights -> networks, with clear words when they do not fit.

safetensors, or a state dict that torch loads with `weights_only`: nothing is ever unpickled.
"""

from __future__ import annotations

import pickle
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from weakloc.errors import WeightsError

_WRAPPERS = ("state_dict", "model", "model_state_dict", "teacher", "state_dict_ema")
_PREFIX = re.compile(r"^(module|model|backbone|encoder|_orig_mod|trunk)\.")
_MOST_PREFIXES = 3  # "module.model.backbone."
_NUM_SHOWN = 4
_SECONDS_TO_CONNECT = 3.0


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a torch state dict."""
    if not path.is_file():
        raise WeightsError(
            "no such file of weights",
            location=str(path),
            remedy="Give an existing .safetensors or .pt file (`--weights none` starts without)",
        )
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        return _tensors(torch.load(path, map_location="cpu", weights_only=True), path)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(
            f"the weights cannot be read ({str(error).splitlines()[0]})",
            location=str(path),
            remedy="It must be safetensors or a plain state dict of tensors",
        ) from error


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        wrapped = [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        if not wrapped:
            return {str(k): value for k, value in content.items() if isinstance(value, Tensor)}
        content = content[wrapped[0]]
    raise WeightsError("there is no state dict in this file", location=str(path))


def load_file_into(module: nn.Module, file: str, *, ignored: Sequence[str] = ()) -> None:
    """Copy a file into a module; every weight must be given, `ignored` prefixes may be left over.

    As many prefixes such as `module.` and `backbone.` are taken off as makes most names fit; half
    precision is widened.
    """
    needed = module.state_dict()
    candidates: list[Mapping[str, Tensor]] = [read_weights(Path(file))]
    for _ in range(_MOST_PREFIXES):
        candidates.append({_PREFIX.sub("", key): value for key, value in candidates[-1].items()})
    given = max(candidates, key=lambda candidate: sum(key in needed for key in candidate))
    counters = [key for key in needed if key.endswith("num_batches_tracked")]
    complaints = {
        "missing": [key for key in needed if key not in given and key not in counters],
        "not of this network": [
            key for key in given if key not in needed and not key.startswith(tuple(ignored))
        ],
        "of another shape": [
            f"{key} is {_shape(given[key])} in the file and {_shape(needed[key])} in the network"
            for key in needed
            if key in given and given[key].shape != needed[key].shape
        ],
    }
    if any(complaints.values()):
        parts = (
            f"{len(keys)} {reason} ({', '.join(keys[:_NUM_SHOWN])}"
            + (", ...)" if len(keys) > _NUM_SHOWN else ")")
            for reason, keys in complaints.items()
            if keys
        )
        raise WeightsError(
            "the weights do not fit: " + "; ".join(parts),
            location=file,
            remedy="Name the architecture that they were made for, with its arguments",
        )
    kept = {key: given[key].to(needed[key].dtype) for key in needed if key in given}
    module.load_state_dict(kept, strict=False)


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "a single number"


@contextmanager
def hub_cache_when_unreachable() -> Iterator[None]:
    """Without a way to the hub, answer from its cache at once instead of trying for a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _is_reachable(endpoint: str) -> bool:
    address = urlsplit(endpoint)
    if getproxies().get(address.scheme):
        return True  # a direct connection would say nothing
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection(
            (address.hostname or "", port), timeout=_SECONDS_TO_CONNECT
        ).close()
    except OSError:
        return False
    return True


def weights_not_at_hand(name: str, error: Exception) -> WeightsError:
    """Published weights that could not be fetched: no network and not in the cache."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120].rstrip(". ")
    return WeightsError(
        f"the published weights of {name} are neither cached nor reachable ({reason})",
        location="--weights",
        remedy="Pass `--weights FILE`, or `--weights none` to start from random weights",
    )
