"""The documents say what the code says: error codes, command lines, links between them."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from homeport.cli.app import build

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src" / "homeport"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
LINKING = sorted([*PAGES, *ROOT.glob("CHANGELOG.md")])

# ── error codes ─────────────────────────────────────────────────────────────────────────────────────────────────────


def texts(value: ast.expr) -> Iterator[str]:
    """The strings that an expression can be: literals, either side of an ``or`` or an ``if``; what an f-string fills
    in becomes ``*``."""
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.BoolOp(values=values):
            for one in values:
                yield from texts(one)
        case ast.IfExp(body=body, orelse=orelse):
            yield from texts(body)
            yield from texts(orelse)
        case ast.JoinedStr(values=parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in parts)


def errors_of(trees: list[ast.Module]) -> set[str]:
    """Names of the classes that derive from HomeportError."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {"HomeportError"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return found


def codes_within(tree: ast.Module, errors: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name, body=body) if name in errors:
                for line in body:
                    match line:
                        case ast.Assign(targets=[ast.Name(id="code")], value=value):
                            yield from texts(value)
            case ast.keyword(arg="code", value=value):
                yield from texts(value)
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                for target, value in zip(names, values, strict=False):
                    if isinstance(target, ast.Name) and target.id == "code":
                        yield from texts(value)
            case ast.Dict(keys=keys, values=values):  # an error as it goes over the wire
                pairs = zip(keys, values, strict=True)
                said = {key.value: value for key, value in pairs if isinstance(key, ast.Constant)}
                if {"code", "cause", "remedy"} <= said.keys():
                    yield from texts(said["code"])


def codes_in_the_source() -> set[str]:
    trees = [ast.parse(path.read_text(), str(path)) for path in sorted(SOURCES.rglob("*.py"))]
    errors = errors_of(trees)
    return {code for tree in trees for code in codes_within(tree, errors)}


def codes_in_the_document() -> list[str]:
    """The first cells of the tables of docs/errors.md."""
    return re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)


def test_the_collector_sees_every_form_in_which_a_code_is_written() -> None:
    tree = ast.parse(
        """
class HomeportError(Exception):
    code = "a"
class B(HomeportError):
    code = "b"
class C(B):
    code = "c"
class Other:
    code = "not an error"
raise B("…", code="d")
raise B("…", code=f"e.{number}")
cause, code = "…", "f"
cause, code = x or "…", y or "g"
answer = {"code": "h", "cause": "…", "remedy": "…"}
other = {"code": "no error either"}
"""
    )
    found = set(codes_within(tree, errors_of([tree])))
    assert found == {"a", "b", "c", "d", "e.*", "f", "g", "h"}


def test_every_error_code_is_documented() -> None:
    documented, raised = codes_in_the_document(), codes_in_the_source()
    assert len(raised) > 50, "the collector found next to nothing"
    assert len(documented) == len(set(documented)), "a code has two rows"
    assert {"missing from docs/errors.md": sorted(raised - set(documented))} == {"missing from docs/errors.md": []}
    assert {"documented but gone": sorted(set(documented) - raised)} == {"documented but gone": []}


def test_every_row_of_the_error_table_says_when_and_what_to_do() -> None:
    rows = [line for line in (ROOT / "docs" / "errors.md").read_text().splitlines() if line.startswith("| `")]
    bad = [row for row in rows if len(cells := row.strip("| ").split(" | ")) != 3 or not all(map(str.strip, cells))]
    assert bad == []


# ── command lines ───────────────────────────────────────────────────────────────────────────────────────────────────

ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "2>", "2>&1"}
"""Words after which another command, or none, goes on."""


LABEL = re.compile(r"homeport [a-z ]+ 1")
"""What docs/store-format.md derives keys with: it looks like a command, and is none."""


class NotACommand(AssertionError):
    pass


@cache
def homeport() -> Any:
    return typer.main.get_command(build())


def fenced_and_inline(page: str) -> tuple[list[str], list[str]]:
    """Lines of code blocks (continued ones joined), and code within the text."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```[^\n]*\n.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    codes = (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", rest))
    return lines, [code for code in codes if not LABEL.fullmatch(code)]


def commands_of(line: str) -> Iterator[list[str]]:
    """The words after each `homeport` that is a command of this shell line: at its beginning, after `$ `, within
    `$(…)`."""
    for match in re.finditer(r"(?:^|^\$ |\$\()homeport(?= )", line):
        words: list[str] = []
        rest = line[match.end() :]
        if match[0].startswith("$("):
            rest = rest.split(")", maxsplit=1)[0]
        for word in shlex.split(rest, comments=True):
            if word in ENDS:
                break
            words.append(word)
        yield words


def check(words: list[str], *, whole: bool) -> None:
    """Raises :class:`NotACommand` where a word names no command or option. ``whole``: it is meant to be run as it
    stands, so that nothing required may be missing and no word be left over."""
    command, path, given, places = homeport(), ["homeport"], set(), 0
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "…":
            return
        options = {name: param for param in command.params for name in (*param.opts, *param.secondary_opts)}
        if word == "--help":
            return
        if word.startswith("-"):
            name, has_value, _ = word.partition("=")
            if name not in options:
                raise NotACommand(f"{' '.join(path)} has no option {name}: homeport {shlex.join(words)}")
            given.add(options[name].name)
            if not options[name].is_flag and not has_value:
                if not rest:
                    raise NotACommand(f"{name} has no value: homeport {shlex.join(words)}")
                rest.pop(0)
        elif hasattr(command, "commands"):
            if word not in command.commands:
                raise NotACommand(f"{' '.join(path)} has no command {word}: homeport {shlex.join(words)}")
            command, given, places = command.commands[word], set(), 0
            path.append(word)
        else:
            places += 1
    if not whole:
        return
    if hasattr(command, "commands"):
        raise NotACommand(f"a command is missing after {' '.join(path)}")
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    missing = [p.name for p in command.params if p.param_type_name == "option" and p.required and p.name not in given]
    needed = sum(1 for param in arguments if param.required)
    most = places if any(param.nargs == -1 for param in arguments) else len(arguments)
    if missing or not needed <= places <= most:
        raise NotACommand(f"{missing or 'arguments'}: {' '.join(path)} can't be run as homeport {shlex.join(words)}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_in_the_documents_is_one(page: Path) -> None:
    blocks, inline = fenced_and_inline(page.read_text())
    for line in blocks:
        for words in commands_of(line):
            check(words, whole=True)
    for code in inline:
        for words in commands_of(re.sub(r"[\[\]]", "", code)):
            check(words, whole=False)


def test_the_documents_show_most_commands() -> None:
    """Else the test above looks at nothing."""
    shown = {
        tuple(words[: 2 if words[0] in ("vault", "site", "machine", "policy", "job", "store") else 1])
        for page in PAGES
        for lines in fenced_and_inline(page.read_text())
        for line in lines
        for words in commands_of(line)
        if words and not words[0].startswith(("-", "…"))
    }
    assert len(shown) > 20, shown


@pytest.mark.parametrize(
    "line",
    [
        "undo",
        "failover web --shutdown",
        "fail-over web",
        "store",
        "store points",
        "site add oslo --provider qemu",
        "commit web now",
        "failover web --point",
    ],
)
def test_a_wrong_command_line_is_noticed(line: str) -> None:
    with pytest.raises(NotACommand):
        check(line.split(), whole=True)


# ── links ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def anchors(page: str) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", page.read_text())
    broken = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        if not other.exists() or (anchor and anchor not in anchors(other.read_text())):
            broken.append(target)
    assert broken == []
