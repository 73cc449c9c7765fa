"""The installed package, without its repository: every command that a newcomer meets, once.

    uv build
    uv venv fresh && uv pip install --python fresh/bin/python "$(ls dist/*.whl)[label-studio,onnx]"
    cp tests/installed.py /tmp && cd /tmp && REPOSITORY/fresh/bin/python installed.py

Says each command with the seconds it took, and ends with 1 where one fails. `--demo` takes the
whole tour as well, some minutes. Nothing but the standard library is imported here.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

SMALL = "--backbone tiny[width=8] --image-size 96 --epochs 1"
COMMANDS = (
    "scenes scenes --train 24 --val 8",
    "data scenes --check",
    f"train scenes --out run {SMALL} --workers 0",
    "refine run scenes --images 12 --epochs 1",
    "distil run scenes --boxes 6 --folds 0 --epochs 1 --out better",
    "evaluate run scenes --resamples 10",
    "predict run scenes/JPEGImages --out found --format coco --format yolo --masks threshold",
    "export better --out model.onnx",
    "predict model.onnx scenes/JPEGImages --out again",
    "report found --data scenes --out report.html",
    "label scenes/JPEGImages --tags scenes/tags.csv --out labelled --images 24",
)
PORT = 9178
PATIENCE = 120  # seconds for the server to come up


def weakloc(command: str, folder: Path) -> None:
    start = time.monotonic()
    arguments = [sys.executable, "-m", "weakloc.cli", *command.split()]
    answer = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    print(f"{time.monotonic() - start:6.1f} s  weakloc {command}", flush=True)
    if answer.returncode:
        sys.exit(f"{answer.stdout}\n{answer.stderr}\nended with {answer.returncode}")


def serve(folder: Path) -> None:
    """A run answers over HTTP, and ends when it is asked to."""
    command = [sys.executable, "-m", "weakloc.cli", "serve", "better", "--port", str(PORT)]
    image = next((folder / "scenes/JPEGImages").iterdir()).read_bytes()
    server = subprocess.Popen(command, cwd=folder)
    try:
        answer = asked(image)
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(30)
    assert code == 0, code
    assert answer["boxes"] is not None, answer
    print("          weakloc serve better", flush=True)


def asked(image: bytes) -> dict[str, object]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/predict", image, {"Content-Type": "image/jpeg"}
    )
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(request) as answer:
                found: dict[str, object] = json.load(answer)
                return found
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", action="store_true")
    arguments = parser.parse_args()
    packages = ("weakloc", "torch", "numpy", "pillow", "timm", "onnxruntime")
    named = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"Python {platform.python_version()}, {named}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for command in (*COMMANDS, *(["demo"] if arguments.demo else [])):
            weakloc(command, Path(folder))
        serve(Path(folder))


if __name__ == "__main__":
    main()
