"""A package as an installer leaves it: its modules, and a dist-info folder with entry points."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path


def lay_out(project: Path, site: Path) -> Path:
    """What installing the project (pyproject.toml and modules) puts into a folder of the path."""
    described = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    name, version = described["name"], described["version"]
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in described["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for module in project.glob("*.py"):
        shutil.copy(module, site)
    return site
