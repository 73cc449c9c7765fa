"""The installed packages that weakloc needs, with their versions and licences.

`python -m tests.dependencies` prints them as .ci/dependencies.txt keeps them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

LIST = Path(__file__).parents[1] / ".ci" / "dependencies.txt"
EXTRAS = ("label-studio", "onnx", "parquet")
# Words of licences that ask for no more than a notice.
PERMISSIVE = re.compile(
    r"0BSD|apache|\bbsd|freebsd|BSL-1\.0|CC0|ISC|\bmit|Python Software Foundation|PSF|zlib", re.I
)
# What is not: why it may be there all the same.
EXCEPTIONS = {
    "efficientnet": "its metadata says nothing; its repository says Apache-2.0",
    "tqdm": "MPL-2.0 for some of its files, which are used as they are",
    **dict.fromkeys(("nvidia", "cuda"), "libraries that torch brings for NVIDIA's GPUs"),
}


@dataclass(frozen=True)
class Dependency:
    name: str
    version: str
    licence: str

    @property
    def is_permissive(self) -> bool:
        parts = re.split(r" AND |; ", self.licence)
        family = self.name.partition("-")[0]
        return all(map(PERMISSIVE.search, parts)) or family in EXCEPTIONS


def installed() -> Iterator[Dependency]:
    """Everything that weakloc and its extras need, directly or not, as far as it is here."""
    packages: dict[str, Distribution] = {}
    todo: list[tuple[str, tuple[str, ...]]] = [("weakloc", EXTRAS)]
    visited = set(todo)
    while todo:
        name, extras = todo.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        packages[re.sub(r"[-_.]+", "-", name).lower()] = package
        for line in package.requires or ():
            needed = Requirement(line)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                entry = (needed.name, tuple(sorted(needed.extras)))
                todo += [entry] if entry not in visited else []
                visited.add(entry)
    for name in sorted(packages.keys() - {"weakloc"}):
        yield Dependency(name, packages[name].version, _licence_of(packages[name]))


def _licence_of(package: Distribution) -> str:
    expression = package.metadata.get("License-Expression")
    listed = [line for line in package.metadata.get_all("Classifier") or () if "License ::" in line]
    named = "; ".join(line.rpartition(" :: ")[2] for line in listed)
    text = (package.metadata.get("License") or "").strip()
    return expression or named or text.partition("\n")[0][:60] or "not said"


def main() -> None:
    print(f"# {time.strftime('%Y-%m-%d')}: what the tests ran with; python -m tests.dependencies")
    for dependency in installed():
        print(f"{dependency.name}=={dependency.version}  # {dependency.licence}")


if __name__ == "__main__":
    main()
