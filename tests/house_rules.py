"""What a machine can check of the rules in CONTRIBUTING: sources in, what breaks a rule out.

`python -m tests.house_rules [PACKAGE]` lists everything that breaks one.
"""

from __future__ import annotations

import ast
import collections
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "weakloc"
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
SMALL = 5  # lines of a body that is no reason for a function of its own

# Words that say nothing of what they name; each has been a list, a file and a number in one hour.
PRONOUNS = {"found", "each", "place", "where", "seen", "wanted", "thing", "things", "how"} | {
    *("told", "said", "own")
}
# Called by users of the Python interface, or by the engine, with more than we give.
SET_BY_USERS = {
    "calibrate",
    "demo",
    "evaluate",
    "label",
    "localize",
    "oracle",
    "predict",
    "report",
} | {*("create", "label", "predict_to_folder", "train", "load_checkpoint", "save_checkpoint")}
Function = ast.FunctionDef | ast.AsyncFunctionDef
Sources = Mapping[str, ast.Module]


def read_sources(folder: Path = SOURCE) -> dict[str, ast.Module]:
    """Every module by its path below the package."""
    return {
        path.relative_to(folder).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.py"))
    }


def glossary_words(text: str | None = None) -> set[str]:
    """The words that CONTRIBUTING's glossary explains."""
    text = CONTRIBUTING.read_text(encoding="utf-8") if text is None else text
    table = text.split("## Glossary", maxsplit=1)[-1].split("\n## ", maxsplit=1)[0]
    terms = re.findall(r"^\| \*\*(.+?)\*\*", table, flags=re.MULTILINE)
    return {word for term in terms for word in re.findall(r"[a-z]+", term.lower())}


def names_twice(sources: Sources) -> Iterator[str]:
    """Public classes and type aliases whose name stands in two modules."""
    modules = collections.defaultdict(list)
    for module, tree in sources.items():
        for node in tree.body:
            if name := _public_type(node):
                modules[name].append(module)
    for name, places in modules.items():
        if len(places) > 1:
            yield f"{name}: {', '.join(places)}"


def _public_type(node: ast.stmt) -> str | None:
    match node:
        case ast.ClassDef(name=name):
            pass
        case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(id="TypeAlias")):
            pass
        case ast.Assign(targets=[ast.Name(id=name)]) if re.match(r"[A-Z][a-z]\w+$", name):
            pass
        case _:
            return None
    return None if name.startswith("_") else name


def lonely_helpers(sources: Sources, glossary: set[str]) -> Iterator[str]:
    """Private functions of few lines that one place calls and that name no concept.

    A function that is handed on, to be called elsewhere, is none of them.
    """
    uses = collections.Counter(name for tree in sources.values() for name in _names_in(tree))
    called = {name for name, _, _ in _calls(sources)}
    for module, function in _functions(sources):
        name = function.name
        is_helper = name.startswith("_") and not name.startswith("__")
        if not is_helper or function.decorator_list or uses[name] != 1 or name not in called:
            continue
        words = name.strip("_").split("_")
        singular = {word.removesuffix(ending) for word in words for ending in ("", "s", "es")}
        if _num_lines(function) <= SMALL and not singular & glossary:
            yield f"{module}:{function.lineno} {name}"


def _names_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                yield name
            case ast.Constant(value=str(text)) if text.isidentifier():
                yield text


def _num_lines(function: Function) -> int:
    """Lines of the body without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def unset_defaults(sources: Sources, set_by_users: set[str]) -> Iterator[str]:
    """Parameters with a default that no call in the package ever gives a value.

    Commands are called by the command line, `forward` through its module, and the functions
    `set_by_users` are what others call: their parameters are not counted.
    """
    keywords: dict[str, set[str]] = collections.defaultdict(set)
    num_positional: dict[str, int] = collections.defaultdict(int)
    spread = set()
    for call in _calls(sources):
        name, arguments, named = call
        keywords[name] |= {keyword.arg for keyword in named if keyword.arg}
        num_positional[name] = max(num_positional[name], len(arguments))
        if any(keyword.arg is None for keyword in named) or any(
            isinstance(argument, ast.Starred) for argument in arguments
        ):
            spread.add(name)
    for module, function in _functions(sources):
        called_from_outside = {"__init__", "forward", *set_by_users, *spread}
        if module.startswith("cli/") or function.name in called_from_outside:
            continue
        for parameter, position in _defaults(function):
            by_position = position is not None and num_positional[function.name] > position
            if parameter not in keywords[function.name] and not by_position:
                yield f"{module}:{function.name}({parameter})"


def _calls(sources: Sources) -> Iterator[tuple[str, list[ast.expr], list[ast.keyword]]]:
    """Name of the callee, positional and named arguments; `partial` is a call of its first."""
    for tree in sources.values():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name, arguments = _callee(node.func), node.args
            if name == "partial" and arguments:
                name, arguments = _callee(arguments[0]), arguments[1:]
            if name:
                yield name, arguments, node.keywords


def _callee(expression: ast.expr) -> str | None:
    match expression:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return None


def _defaults(function: Function) -> Iterator[tuple[str, int | None]]:
    """Parameters with a default, and where they stand when given without their name."""
    given = function.args
    positional = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    bound = 1 if positional and positional[0] in {"self", "cls"} else 0
    first = len(positional) - len(given.defaults)
    for position, name in enumerate(positional[first:], start=first - bound):
        yield name, position
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        if default is not None:
            yield argument.arg, None


def pronouns(sources: Sources) -> Iterator[str]:
    """Variables and parameters named by a word that does not say what they are."""
    for module, tree in sources.items():
        for node in ast.walk(tree):
            match node:
                case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) if name in PRONOUNS:
                    yield f"{module}:{node.lineno} {name}"


def _functions(sources: Sources) -> Iterator[tuple[str, Function]]:
    for module, tree in sources.items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield module, node


def main(package: str = "") -> None:
    sources = read_sources()
    rules = {
        "name twice": names_twice(sources),
        "lonely helper": lonely_helpers(sources, glossary_words()),
        "unset default": unset_defaults(sources, SET_BY_USERS),
        "pronoun": pronouns(sources),
    }
    for rule, breaches in rules.items():
        for breach in breaches:
            if package in breach:
                print(f"{rule}: {breach}")


if __name__ == "__main__":
    main(*sys.argv[1:])
