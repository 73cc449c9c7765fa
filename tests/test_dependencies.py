"""What weakloc needs may be given on: permissive licences, all of them looked at."""

from __future__ import annotations

import re

import pytest

from tests.dependencies import LIST, Dependency, installed


def test_every_package_that_weakloc_needs_has_a_permissive_licence() -> None:
    packages = list(installed())
    assert {"torch", "numpy", "starlette", "onnxruntime"} <= {package.name for package in packages}
    assert [str(package) for package in packages if not package.is_permissive] == []


@pytest.mark.parametrize(
    ("licence", "is_permissive"),
    [
        ("Apache-2.0 AND MIT", True),
        ("BSD License", True),
        ("MIT AND GPL-3.0-only", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("not said", False),
        ("MPL-2.0", False),
    ],
)
def test_a_licence_that_asks_for_more_is_met(licence: str, is_permissive: bool) -> None:
    assert Dependency("some", "1", licence).is_permissive is is_permissive


def test_the_list_of_versions_is_dated_and_names_what_is_declared() -> None:
    first, *lines = LIST.read_text().splitlines()
    assert re.match(r"# \d{4}-\d\d-\d\d: ", first)
    assert {"torch", "pillow", "defusedxml", "msgspec"} <= {
        line.partition("==")[0] for line in lines
    }
