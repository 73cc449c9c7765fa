"""The steps of the Dockerfile without a container engine.

    python -m tests.container RUN IMAGE [--site-packages FOLDER]

Takes them in a temporary folder in place of the root: the copied files alone, the installations,
then the entry point with RUN in place of /run/weakloc, which is asked for its health and for what
is in IMAGE, with the token and without. With `--site-packages` torch and all else that is needed
come from there, and only weakloc is installed. Accounts, ports and the base image are not tried.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
PORT, TOKEN, PATIENCE = 9179, "a secret", 180
NOT_TRIED = ("useradd",)


def steps() -> list[tuple[str, str]]:
    """(instruction, what follows it), with the build arguments' defaults put in."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    found = re.findall(r"^([A-Z]+) (.+)$", text, re.M)
    defaults = dict(value.split("=", 1) for name, value in found if name == "ARG")
    for argument, value in defaults.items():
        found = [(name, rest.replace(f"${{{argument}}}", value)) for name, rest in found]
    return found


def build(root: Path, site_packages: Path | None) -> dict[str, str]:
    """Takes the steps up to the entry point; gives the environment that it runs in."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    for name, rest in steps():
        if name == "COPY":
            *sources, target = rest.split()
            place = root / target.lstrip("/")
            place.mkdir(parents=True, exist_ok=True)
            for source in sources:
                copied = f"{ROOT / source}/." if (ROOT / source).is_dir() else ROOT / source
                subprocess.run(["cp", "-r", copied, place], check=True)
        elif name == "ENV":
            variable, _, value = rest.partition("=")
            value = value.replace("/opt", f"{root}/opt")
            environment[variable] = value.replace(f"${variable}", environment.get(variable, ""))
        elif name == "RUN" and not rest.startswith(NOT_TRIED):
            command = rest.replace("/opt", f"{root}/opt").replace('"/src', f'"{root}/src')
            if site_packages is not None and "torch" in command:
                continue
            if site_packages is not None:
                command = command.replace("install", "install --no-deps")
                environment["PYTHONPATH"] = str(site_packages)
            print(f"RUN {command}", flush=True)
            subprocess.run(command, shell=True, check=True, env=environment)
    return environment


def entry_point(run: Path, images: Path) -> list[str]:
    last = dict(steps())
    words = [*json.loads(last["ENTRYPOINT"]), *json.loads(last["CMD"])]
    places = {"/images": str(images), "/run/weakloc": str(run)}
    return [*(places.get(word, word) for word in words), "--port", str(PORT)]


def asked(path: str, content: bytes | None, *, token: str | None) -> tuple[int, dict[str, object]]:
    headers = {"Content-Type": "image/jpeg"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", content, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def wait_for_server(server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            asked("/health", None, token=TOKEN)
            return
        except urllib.error.URLError:
            time.sleep(0.5)
    sys.exit("the server does not answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--site-packages", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = build(Path(folder), given.site_packages)
        environment["WEAKLOC_TOKEN"] = TOKEN
        image = given.image.resolve()
        command = entry_point(given.run.resolve(), image.parent)
        print(shlex.join(command), flush=True)
        program = Path(folder, "opt/weakloc/bin", command[0])
        server = subprocess.Popen([program, *command[1:]], cwd=folder, env=environment)
        try:
            wait_for_server(server)
            print("health:", asked("/health", None, token=TOKEN))
            print("without the token:", asked("/predict", image.read_bytes(), token=None))
            status, found = asked("/predict", image.read_bytes(), token=TOKEN)
            print("predict:", status, json.dumps(found)[:300])
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(30)
        print("ended with", code)
        sys.exit(status != 200 or code)


if __name__ == "__main__":
    main()
