"""What the pages say must be so: commands parse, links lead somewhere, tables name all there is."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

import weakloc
from weakloc.cli import app
from weakloc.data.readers import READERS
from weakloc.metrics.baselines import BASELINES
from weakloc.metrics.evaluation import METRICS
from weakloc.output.exporters import EXPORTERS
from weakloc.output.settings import ExportOptions
from weakloc.settings import flag_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [ROOT / "README.md", *PAGES]
METHODS = ("max_mil", "beam", "wildcat", "cam")
BEFORE = re.compile(
    r"^(\$ |uv run |(torchrun|python) .*-m (?=weakloc\.cli))*(weakloc\.cli|weakloc) "
)
SHELL = re.compile(r"\s*(?:&&|\|\||[|;])\s*(?=(?:uv run )?weakloc\b)")
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _code_lines(text: str) -> Iterator[str]:
    """The lines of fenced and of indented code, joined where they end in a backslash."""
    is_fenced = False
    for line in text.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith("    "):
            yield line.strip()


def commands_of(text: str) -> Iterator[str]:
    """Everything after `weakloc` in the commands of code blocks."""
    for line in _code_lines(text):
        for part in SHELL.split(line):
            if BEFORE.match(part):
                yield BEFORE.sub("", part)


def inline_commands_of(text: str) -> Iterator[str]:
    """Everything after `weakloc` in code within sentences, where arguments may be left out."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    yield from re.findall(r"`weakloc ([a-z][^`]*)`", prose)


COMMANDS = sorted({(_name(page), each) for page in TEXTS for each in commands_of(page.read_text())})
INLINE = sorted(
    {(_name(page), each) for page in TEXTS for each in inline_commands_of(page.read_text())}
)


def test_commands_are_found_in_every_form() -> None:
    text = (
        "    pip install uv && uv run weakloc demo\n\n```\nfind . | weakloc predict run - \\\n"
        "  --out x\ntorchrun --nnodes 2 -m weakloc.cli train D\n# weakloc is\n```\nweakloc learns\n"
    )
    found = [" ".join(each.split()) for each in commands_of(text)]
    assert found == ["demo", "predict run - --out x", "train D"]
    assert list(inline_commands_of("as `weakloc data --check` says")) == ["data --check"]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_of_code_blocks_are_understood(page: str, command: str) -> None:
    parsed = app.parse_args(shlex.split(command), exit_on_error=False, print_error=False)
    assert parsed[0] is not None


@pytest.mark.parametrize(("page", "command"), INLINE)
def test_commands_within_sentences_name_what_exists(page: str, command: str) -> None:
    name, *words = shlex.split(command)
    flags = [
        flag for argument in app[name].assemble_argument_collection() for flag in argument.names
    ]
    unknown = [word for word in words if word.startswith("--") and word not in flags]
    assert not unknown


@pytest.mark.parametrize("page", TEXTS, ids=_name)
def test_links_lead_to_what_is_there(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), target
        if anchor:
            assert anchor in _anchors(place), target


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


def test_every_page_is_in_the_navigation_and_nothing_else_is() -> None:
    listed = list(_paths(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(listed) == [page.relative_to(DOCS).as_posix() for page in PAGES]


def _paths(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    for part in entry.values() if isinstance(entry, dict) else entry:
        if not isinstance(entry, str):
            yield from _paths(part)


def test_the_pages_name_every_metric_format_filter_layout_and_public_name() -> None:
    headlines = {name for metric in METRICS.values() for name in metric.headlines}
    assert headlines | set(BASELINES) <= _rows(DOCS / "metrics.md") | _derived_map_names()
    filters = {flag_of(field.name) for field in fields(ExportOptions)}
    rows = _rows(DOCS / "exporting.md")
    assert set(EXPORTERS) | filters == {row.split()[0] for row in rows}
    titles = re.findall(r"^### .*`(.+)`$", (DOCS / "your-data.md").read_text(), flags=re.MULTILINE)
    assert set(titles) == set(READERS)
    described = re.findall(r"^::: weakloc\.(\w+)$", (DOCS / "python.md").read_text(), re.MULTILINE)
    assert sorted(described) == sorted(weakloc.__all__)


def test_the_tests_that_integrations_name_are_there() -> None:
    table = (DOCS / "integrations.md").read_text().partition("\n## ")[0]
    rows = re.findall(r"^\| .+ \|$", table, flags=re.MULTILINE)[1:]
    assert all("::test_" in row for row in rows)
    for module, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", "\n".join(rows)):
        assert f"\ndef {test}(" in (ROOT / module).read_text(), f"{module}::{test}"


def _derived_map_names() -> set[str]:
    return {f"{name}_compatible" for name in ("max_box_acc", "max_box_acc_v2")}


def _rows(page: Path) -> set[str]:
    """The names in the first column of the tables."""
    return set(re.findall(r"^\| `([^`]+)` \|", page.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_s_page_names_its_choices_with_their_defaults(method: str) -> None:
    fields = _fields(ROOT / "src" / "weakloc" / "methods" / f"{method}.py")
    shared = _rows(DOCS / "methods" / "index.md") & fields.keys()
    page = (DOCS / "methods" / f"{method}.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, flags=re.MULTILINE))
    assert shared | table.keys() == fields.keys()
    for name, written in table.items():
        if written != "see below":
            assert _value(written) == fields[name], name


def test_all_methods_share_the_choices_that_are_said_to_be_shared() -> None:
    shared = _rows(DOCS / "methods" / "index.md")
    for method in METHODS:
        assert shared <= _fields(ROOT / "src" / "weakloc" / "methods" / f"{method}.py").keys()


def _fields(path: Path) -> dict[str, Any]:
    """The fields of the method's dataclass and their defaults, read without importing torch."""
    tree = ast.parse(path.read_text())
    *_others, body = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    inherited = {} if path.stem == "method" else _fields(path.with_name("method.py"))
    return inherited | {
        node.target.id: _value(ast.unparse(node.value))
        for node in body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.value is not None
        and "ClassVar" not in ast.unparse(node.annotation)
    }


def _value(written: str) -> Any:
    """A default, however it is spelt: `10/255` or `10 / 255`, `null` or `None`, `[1]` or `(1,)`."""
    text = {"null": "None", "true": "True", "false": "False"}.get(written, written)
    try:
        value = ast.literal_eval(text)
    except ValueError:
        return text.replace(" ", "")
    return list(value) if isinstance(value, tuple) else value


def test_results_name_no_place_of_the_machine_that_made_them() -> None:
    results = sorted((ROOT / "benchmarks/results").glob("*.md"))
    commands = [re.findall(r"`(python -m benchmarks[^`]*)`", path.read_text()) for path in results]
    assert results
    assert not [text for found in commands for text in found if re.search(r"[ =]/", text)]
