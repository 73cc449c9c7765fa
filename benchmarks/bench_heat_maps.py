"""A class activation map for every JPEG of a folder, against the bare forward loop and others.

    python -m benchmarks.bench_heat_maps [--images 64] [--rounds 5] [--compile] [--network resnet50]

Every variant decodes 500 x 375 JPEGs, resizes to 224 and reads ResNet-50 with 1,000 classes; the
bare loop stops at the logits, the others give the map of the best class on a 224-cell grid.
torch-cam and pytorch-grad-cam take part where they are installed. Weights are random.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.measure import paired_ratio, time_interleaved, write_results
from benchmarks.own_processes import Prepare, own_processes
from weakloc.data.sources import find_images
from weakloc.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from weakloc.methods.cam import Cam
from weakloc.model.backbones import build_backbone
from weakloc.model.trunk import BackboneSpec
from weakloc.predictor.predictor import Predictor
from weakloc.predictor.views import NetworkSource
from weakloc.settings import Look, Places
from weakloc.structures import BrokenImage
from weakloc.work import keep_freed_memory

NUM_CLASSES = 1000
SIDE = 224
BARE_BATCH = 8


def write_photographs(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> None:
    """Noise with a spectrum like a photograph's (1/f), as JPEGs of quality 92."""
    random = np.random.default_rng(0)
    width, height = size
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(width), np.fft.fftfreq(height)))
    frequency[0, 0] = 1.0
    for index in range(count):
        planes = []
        for _ in range(3):
            phases = np.exp(2j * np.pi * random.random((height, width)))
            plane = np.fft.ifft2(phases / frequency).real
            planes.append((plane - plane.min()) / np.ptp(plane))
        pixels = (np.stack(planes, axis=2) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:04}.jpg", quality=92)


def cam_source(network: str, look: Look, *, in_bf16: bool) -> NetworkSource:
    """A CAM of random weights."""
    backbone = build_backbone(BackboneSpec.parse(network, weights="none"))
    return NetworkSource(
        Cam().build_network(backbone, NUM_CLASSES),
        look,
        class_names=[str(index) for index in range(NUM_CLASSES)],
        preprocessing=Preprocessing(size=(SIDE, SIDE)),
        activation="softmax",
        uses_bf16=in_bf16,
    )


def weakloc_maps(
    folder: str, network: str, precision: str, compiled: bool, workers: int
) -> Callable[[], int]:
    """What `weakloc predict` does up to the map of the best class."""
    keep_freed_memory()
    look = Look(workers=workers, map_side=SIDE, compile=compiled)
    source = cam_source(network, look, in_bf16=precision == "bf16")
    predictor = Predictor(source, look, Places(), thresholds=(0.2,) * NUM_CLASSES)

    def work() -> int:
        count = 0
        for seen in predictor.see(find_images(folder)):
            assert not isinstance(seen, BrokenImage)
            predictor.heat(seen, [int(seen.probabilities.argmax())], look)
            count += 1
        return count

    return work


def bare_loop(folder: str, network: str, precision: str) -> Callable[[], int]:
    """Eager torchvision, batches in a plain loop, logits only."""
    model = torchvision_network(network)
    number_format = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")

    @torch.inference_mode()
    def work() -> int:
        count = 0
        for batch in batches_of(folder, BARE_BATCH):
            with number_format:
                count += len(model(batch))
        return count

    return work


def torch_cam(folder: str, network: str) -> Callable[[], int]:
    from torchcam.methods import CAM  # type: ignore[import-not-found]

    model = torchvision_network(network)
    extractor = CAM(model)

    def work() -> int:
        count = 0
        for image in batches_of(folder, 1):
            scores = model(image)
            (found,) = extractor(int(scores.argmax()), scores)
            enlarged(found)
            count += 1
        return count

    return work


def pytorch_grad_cam(folder: str, network: str) -> Callable[[], int]:
    from pytorch_grad_cam import GradCAM  # type: ignore[import-not-found]

    model = torchvision_network(network)
    extractor = GradCAM(model=model, target_layers=[model.layer4[-1]])

    def work() -> int:
        return sum(len(extractor(image, targets=None)) for image in batches_of(folder, 1))

    return work


def torchvision_network(network: str) -> nn.Module:
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.get_model(network, weights=None).eval()


def batches_of(folder: str, size: int) -> Iterator[Tensor]:
    paths = sorted(Path(folder).iterdir())
    mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
    std = torch.tensor(IMAGENET_STD)[:, None, None]
    for start in range(0, len(paths), size):
        images = []
        for path in paths[start : start + size]:
            with Image.open(path) as opened:
                picture = opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255
            images.append((pixels - mean) / std)
        yield torch.stack(images)


def enlarged(found: Tensor) -> Tensor:
    return nn.functional.interpolate(found[None], (SIDE, SIDE), mode="bilinear")


def variants_of(
    folder: str, network: str, workers: int, *, compiled: bool
) -> dict[str, tuple[Prepare, tuple[object, ...]]]:
    found: dict[str, tuple[Prepare, tuple[object, ...]]] = {
        "bare loop": (bare_loop, (folder, network, "fp32")),
        "weakloc": (weakloc_maps, (folder, network, "fp32", False, workers)),
        "bare loop, bf16": (bare_loop, (folder, network, "bf16")),
        "weakloc, bf16": (weakloc_maps, (folder, network, "bf16", False, workers)),
    }
    if compiled:
        found["weakloc, compiled"] = (weakloc_maps, (folder, network, "fp32", True, workers))
    if importlib.util.find_spec("torchcam"):
        found["torch-cam, CAM"] = (torch_cam, (folder, network))
    if importlib.util.find_spec("pytorch_grad_cam"):
        found["pytorch-grad-cam, GradCAM"] = (pytorch_grad_cam, (folder, network))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), arguments.images)
        variants = variants_of(
            folder, arguments.network, arguments.workers, compiled=arguments.compile
        )
        with own_processes(variants) as prepared:
            timings = time_interleaved(prepared, rounds=arguments.rounds)
            peaks = {name: variant.peak_mebibytes() for name, variant in prepared.items()}
    bare = timings["bare loop"]
    rows = [
        {
            "variant": name,
            "images a second": arguments.images / timing.wall,
            "time / bare loop": paired_ratio(timing, bare),
            "peak MiB": peaks[name],
            "peak / bare loop": peaks[name] / peaks["bare loop"],
        }
        for name, timing in timings.items()
    ]
    write_results(
        "heat_maps",
        rows,
        title="Class activation maps of a folder of photographs",
        notes=[
            (
                f"{arguments.images} JPEGs of 500 x 375, {arguments.network} at {SIDE}, from "
                "decoding to the map of the best class; the bare loop stops at the logits"
            ),
            "wall time, medians of paired rounds; each variant in a process of its own",
        ],
        timings=timings,
    )


if __name__ == "__main__":
    main()
