"""Every command of the pages is typed by a test: who asks for which block is read from the tests' source."""

from __future__ import annotations

import ast
import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.pages import ROOT, Page
from typer.main import get_command

from penstock.cli import arguments, commands

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TESTS = ROOT / "tests"
README = Page("../README.md")
PAGES = [README, *(Page(str(file.relative_to(ROOT / "docs"))) for file in sorted((ROOT / "docs").rglob("*.md")))]
ASKS = {"blocks", "commands", "all_blocks"}
Block = tuple[str, str]  # a page's name, and the kind
"""Every kind of a page, as `all_blocks` has them, is the kind `*`."""

FORMS = {
    # These show forms that commands have, and are no steps to follow: each line is one that the program takes.
    ("cli.md", ""),
    ("operations/agent.md", ""),
    ("operations/identity.md", ""),
    ("guides/workload-identity.md", "forms"),
}
INSTALLS_BY_NAME = re.compile(
    r"\b(?:pipx? install|pipx run|uv add|uv tool (?:install|run)|uvx)\b[^\n`]*?[\s'\"]penstock(?:\[|[=<>~!]=|['\"`\s]|$)",
    re.MULTILINE,
)
_COMMAND = re.compile(r"(?:\w+=\S+ )*(?:\w+=\$\()?penstock (.*?)\)?$")  # variables before it, or its answer in one


def typed() -> set[Block]:
    """What the tests ask pages for, by the names that pages are bound to in them."""
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in TESTS.rglob("*.py")}
    bound = {file: dict(_bound(tree)) for file, tree in trees.items()}
    for file, tree in trees.items():
        bound[file] |= {name: page for name, source in _imported(tree) if (page := bound.get(source[0], {}).get(source[1]))}
    return {ask for file, tree in trees.items() for ask in _asks(tree, bound[file])}


def _bound(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """`PAGE = Page("…")` at a module's top, or several at once."""
    for node in tree.body:
        match node:
            case ast.Assign([ast.Tuple(names)], ast.Tuple(values)):
                pairs = list(zip(names, values, strict=True))
            case ast.Assign([name], value):
                pairs = [(name, value)]
            case _:
                continue
        for name, value in pairs:
            match name, value:
                case ast.Name(bound), ast.Call(ast.Name("Page"), [ast.Constant(str(page))]):
                    yield bound, page
                case _:
                    pass


def _imported(tree: ast.Module) -> Iterator[tuple[str, tuple[Path, str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("tests."):
            source = ROOT / f"{node.module.replace('.', '/')}.py"
            yield from ((alias.asname or alias.name, (source, alias.name)) for alias in node.names)


def _asks(tree: ast.Module, bound: dict[str, str]) -> Iterator[Block]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(ast.Attribute(ast.Name(name), asked), given) if name in bound and asked in ASKS:
                kinds = [argument.value for argument in given if isinstance(argument, ast.Constant)]
                assert len(kinds) == len(given), (
                    f"{bound[name]}: which block is asked for is not to be seen in {ast.unparse(node)}"
                )
                yield from ((bound[name], kind) for kind in kinds or ["*" if asked == "all_blocks" else ""])
            case _:
                pass


TYPED = typed()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_typed_by_a_test(page: Page) -> None:
    kinds = {kind for language, kind, _ in page.all_blocks() if language in {"sh", "python", "ini"}}
    claimed = {kind for name, kind in TYPED | FORMS if name == page.name}
    if "*" not in claimed:
        assert kinds - claimed == set(), f"nobody types these blocks of {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_installs_penstock_by_name_for_the_index_has_somebody_elses(page: Page) -> None:
    assert INSTALLS_BY_NAME.search(page.text) is None


def test_an_install_by_name_is_found() -> None:
    for line in ("pip install 'penstock[up]'", "uv pip install -q penstock", 'pipx install "penstock==1.0"', "uvx penstock up"):
        assert INSTALLS_BY_NAME.search(line), line
    for line in (
        "pip install '.[up]'",
        "/opt/penstock/bin/pip install -q '.[agent]'",
        "pip install dist/penstock-1-py3-none-any.whl",
    ):
        assert not INSTALLS_BY_NAME.search(line), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_of_a_page_hides_in_a_language_that_is_not_looked_at(page: Page) -> None:
    opened = re.findall(r"^```(\S*)", page.text, re.MULTILINE)[::2]
    drawings = opened.count("") + opened.count("json")
    assert len(page.all_blocks()) + drawings == len(opened)


@pytest.mark.parametrize(("name", "kind"), sorted(FORMS))
def test_every_form_that_a_page_shows_is_one_of_the_program(name: str, kind: str) -> None:
    assert (name, kind) not in TYPED
    for line in Page(name).commands(kind).splitlines():
        command = _COMMAND.match(line.partition("#")[0].partition(">")[0].strip())
        assert command is not None, line
        is_taken(shlex.split(command[1]))


def is_taken(words: list[str]) -> None:
    """Or the program's own refusal of a word."""
    command: Any = get_command(commands.program())
    name, rest = "penstock", arguments.accept_published(words)
    while True:
        context = command.make_context(name, list(rest))
        if not hasattr(command, "resolve_command"):
            return
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])


def test_a_form_that_the_program_does_not_have_is_found() -> None:
    for words in (["tunnels", "create", "--no-such-flag"], ["tunnels", "conjure"]):
        with pytest.raises(Exception, match="No such"):
            is_taken(words)


def test_whoever_asks_for_a_block_is_found() -> None:
    assert {("guides/helm.md", "managed"), ("guides/by-hand.md", "make"), ("operations/roles.md", "*")} <= TYPED
    assert ("guides/helm.md", "no such kind") not in TYPED
