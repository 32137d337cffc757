"""Finds the messages in the source: every text that people may read, with its holes named.

A text is a constant or an f-string of two words or more, wherever it stands (an error's cause, a check's remedy, a
step's title, a table's head, a command's help), and a single word where a place is for people's eyes alone. What is
logged, matched, asked of a database or written for programmers is none.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from homeport.domain.checks.check import Severity
from homeport.domain.choice import PointKind
from homeport.domain.health import Health
from homeport.domain.job_types import STATUS
from homeport.domain.machines import Power
from homeport.domain.operations import Operation
from homeport.domain.points import Consistency
from homeport.domain.states import Direction, State
from homeport.language.template import Template, escaped
from homeport.language.translator import OWN

HOUSE = Path(__file__).parents[2] / "src" / "homeport"

VOCABULARIES: dict[str, tuple[str, ...] | type[StrEnum]] = {
    "state": State,
    "direction": Direction,
    "health": Health,
    "severity": Severity,
    "consistency": Consistency,
    "power": Power,
    "kind": PointKind,
    "operation": Operation,
    "job": tuple(STATUS),
    "phase": ("starting", "seeding", "reading", "replicating", "resyncing", "stopped"),
    "role": ("vault", "configuration-server", "process-server", "master-target", "mobility-service"),
    "server": ("joining", "joined", "revoked"),
    "action": ("auto-commit", "auto-rollback"),
    "unit": ("d", "h", "min", "s"),
    "fact": ("Cpus", "Clock", "Free disk", "Free memory", "Host", "Received", "Total memory"),
    "field": ("error", "warning", "note", "none", "any", "yes", "no", "off", "never"),
    "change": ("name", "power", "memory", "cpus", "firmware", "guest agent", "disks", "nics", "obstacles"),
    "term": (
        "vault",
        "replicated item",
        "configuration server",
        "process server",
        "master target server",
        "retention drive",
        "recovery plan",
        "recovery point",
        "reprotect",
        "failback",
        "commit",
        "planned failover",
        "unplanned failover",
        "test failover",
        "test failover cleanup",
        "latest processed",
        "latest app-consistent",
        "crash-consistent",
        "app-consistent",
        "replication policy",
        "passphrase",
        "guest agent",
        "recovery machine",
        "test machine",
        "recovery store",
    ),
}
"""Words by context: what an item's state, an operation … is called; ``term``: the glossary."""

FOREIGN = (
    *("Usage:", "Arguments", "Options", "Commands", "Error", "Aborted.", "Show this message and exit.", "[required]"),
    *("[default: {{}}]", "[env var: {{}}]", "Try [blue]'{{command_path}} {{help_option}}'[/] for help."),
    *("Missing argument {name}.", "Missing option {name}.", "Missing command.", "No such command {name}."),
    *("Did you mean {command}?", "(Possible options: {options})"),
    *("No such option: {option}", "No such option: {option} (Possible options: {options})"),
    *("Option {option} requires an argument.", "Option {option} does not take a value."),
    *("Got unexpected extra argument ({arguments})", "Got unexpected extra arguments ({arguments})"),
    *("Invalid value for {name}: {message}", "Invalid value: {message}", "{text} is not a valid integer."),
    *("{text} is not one of {choices}.", "{text} is not in the range {range}."),
)
"""What Typer says."""

UNREAD = ("vault/migrations", "language/", "servers/serve/ports.py")
"""Where nobody but programmers reads, or a page of docs/ is made."""
NAMES = {"cli/lessons.py"}
"""Where all that is written is shown."""
_LOGGERS = {"log", "_log", "logger", "logging", "warnings"}
_NOT_FOR_PEOPLE = {
    "compile",
    "sub",
    "fullmatch",
    "match",
    "search",
    "finditer",
    "text",
    "strftime",
    "getLogger",
    "encode",
}
_FAULTS = {"AssertionError", "TypeError", "RuntimeError", "KeyError", "NotImplementedError", "AttributeError"}
_FOR_PROGRAMMERS = {"description", "summary", "metavar", "pattern", "envvar", "default_factory"}
_EYES_ONLY = {"group", "JobType", "label", "print", "note", "BadParameter"}
"""Calls whose texts are messages even where they are one word."""
_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]+")
_SPACED = re.compile(r"[A-Za-z',)] [a-zA-Z'(]")
"""Words one after the other."""
_MARKUP = re.compile(r"\[/?[a-z ]+\]")
_PROGRAMS = re.compile(
    r"PRAGMA |SELECT |INSERT |UPDATE |DELETE FROM|CREATE |NOTIFY |LISTEN |BEGIN |LOCK TABLE|SET LOCAL|ATTACH |VACUUM |"
    r"SET |READ COMMITTED|REPEATABLE READ|application/|no-cache|%Y|yyyy|^-|^# |LISTEN_PID|^[0-9a-f ]{60}|"
    r"^qemu-(img|io) |^[A-Z][A-Za-z]+\(|^\| |^#+ |^(GET|POST|PUT) [{/]|^Authorization: |^[A-Z]\w+=|\.(service|target) "
)
_COMMANDS = re.compile(r"(`?homeport( [\w…{}<>'\"/=+:?-]*[\w…}>'\"](\.\w+)?)+`?)|(`[a-z]+ [a-z]+ \{\w+\}`)")
"""Nothing but something to type."""
LEAST_LETTERS = 4
"""Of a message with holes; fewer would be seen everywhere."""
_INDENTED = re.compile(r"(?<=\S)\n {8,}(?=\S)")
"""Lines of one paragraph, as they stand in the source."""
IGNORED = {
    *("Cannot open root device", "No working init found", "Unable to mount root fs"),  # what a Linux guest says
    "homeport vault",  # in a file's head
}
MOST_VARIANTS = 16


Key = tuple[str, str | None]
"""Message and context."""


@dataclass
class Messages:
    """``places``: by message, the files (and lines) where it stands."""

    places: dict[Key, list[tuple[str, int]]] = field(default_factory=dict)
    _known: dict[object, Key] = field(default_factory=dict)

    def add(self, message: str, context: str | None, file: str, line: int) -> None:
        """Messages that differ in their holes' names only are one, by the first's names."""
        template = Template(message)
        shape = (context, *template.literals, *(template.holes.index(hole) for hole in template.holes))
        known = self._known.setdefault(message if context else shape, (message, context))
        where = self.places.setdefault(known, [])
        if (file, line) not in where:
            where.append((file, line))


def messages(house: Path = HOUSE) -> Messages:
    found = Messages()
    for path in sorted(house.rglob("*.py")):
        place = path.relative_to(house).as_posix()
        if place.startswith(UNREAD):
            continue
        for message, context, line in of_source(path.read_text(), words=place in NAMES):
            found.add(message, context, place, line)
    return found


def of_source(source: str, *, words: bool = False) -> list[tuple[str, str | None, int]]:
    """(message, context, line) of each in a module's source. ``words``: single ones are messages too."""
    finder = _Finder(words)
    finder.visit(ast.parse(source))
    return finder.found


@dataclass(frozen=True)
class _Hole:
    """``expression``: the same stands for the same value."""

    name: str
    expression: str = ""


_Parts = tuple["str | _Hole", ...]


class _Finder(ast.NodeVisitor):
    def __init__(self, words: bool) -> None:
        self.found: list[tuple[str, str | None, int]] = []
        self._single = words

    # -- what is no message ----------------------------------------------------------------------------------------

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None: ...

    def visit_Compare(self, node: ast.Compare) -> None:
        for part in (node.left, *node.comparators):
            if not isinstance(part, ast.Constant):
                self.visit(part)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        if not isinstance(node.slice, ast.Constant):
            self.visit(node.slice)

    def visit_Dict(self, node: ast.Dict) -> None:
        for value in node.values:
            self.visit(value)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        if names in (["STEPS"], ["UNDO"], ["PLANNED"]) and isinstance(node.value, ast.Dict):
            self._in(node.value, single=True)
        elif names != ["__all__"]:
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        if isinstance(node.exc, ast.Call) and _called(node.exc) in _FAULTS:
            return
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = _called(node)
        if isinstance(node.func, ast.Attribute) and _root(node.func) in _LOGGERS:
            return
        if name in _NOT_FOR_PEOPLE:
            return
        if isinstance(node.func, ast.Attribute):
            self.visit(node.func.value)
        arguments = node.args
        if name == "fill":
            if (
                node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
            ):  # the message itself, holes and all
                self.found.append((node.args[0].value, OWN, node.lineno))
            for word in node.keywords:
                self.visit(word.value)
            return
        if name == "lesson":
            for argument in [*arguments[:2], *(word.value for word in node.keywords)]:
                self._lesson(argument)
            return
        if name == "JobType":
            arguments = arguments[1:]
        if name in ("add_row", "row") and arguments:
            self._in(arguments[0], single=True)
            arguments = arguments[1:]
        for argument in arguments:
            self._in(argument, single=name in _EYES_ONLY or (name == "table" and _is_head(argument)))
        for word in node.keywords:
            if word.arg not in _FOR_PROGRAMMERS:
                self._in(word.value, single=word.arg in ("title", "help", "remedy", "rich_help_panel"))

    # -- what is one -----------------------------------------------------------------------------------------------

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self._take(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self._take(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.Add) and _is_text(node):
            self._take(node)
        else:
            self.generic_visit(node)

    def _in(self, node: ast.AST, *, single: bool) -> None:
        before, self._single = self._single, single
        self.visit(node)
        self._single = before

    def _lesson(self, node: ast.expr) -> None:
        for parts in _variants(node):
            self._keep(tuple(" ".join(p.split()) if isinstance(p, str) else p for p in parts), node.lineno, single=True)

    def _take(self, node: ast.expr) -> None:
        variants = _variants(node)
        for parts in variants:
            self._keep(parts, node.lineno, single=self._single)
        inside = ast.walk(node)
        single, self._single = self._single, False
        for part in inside:  # texts in the holes' expressions that no variant holds
            if isinstance(part, ast.FormattedValue) and not (
                isinstance(part.value, ast.IfExp) and _is_text(part.value)
            ):
                self.visit(part.value)
        if isinstance(node, ast.BinOp):
            for side in _sides(node):
                if not _is_text(side):
                    self.visit(side)
        self._single = single

    def _keep(self, parts: _Parts, line: int, *, single: bool) -> None:
        message = _message(parts)
        shown = "".join(part for part in parts if isinstance(part, str))
        words = _WORD.findall(_MARKUP.sub("", shown))
        if not words or _PROGRAMS.search(message) or _COMMANDS.fullmatch(message) or message in IGNORED:
            return
        if len(shown) != len(message) and sum(map(len, words)) < LEAST_LETTERS:
            return
        spaced = _SPACED.search("".join(part if isinstance(part, str) else "x" for part in parts))
        if (single and any(len(word) > 1 for word in words)) or (len(words) > 1 and spaced):
            self.found.append((message, None, line))


def _message(parts: _Parts) -> str:
    """Holes that follow each other are one; names that stand twice are numbered."""
    told: list[str] = []
    names: dict[_Hole, str] = {}
    after_hole = False
    for part in parts:
        if isinstance(part, str):
            if part:
                told.append(escaped(part))
                after_hole = False
        elif not after_hole:
            if part not in names:
                alike = sum(hole.name == part.name for hole in names)
                names[part] = f"{part.name}{alike + 1 if alike else ''}"
            told.append(f"{{{names[part]}}}")
            after_hole = True
    return _INDENTED.sub(" ", "".join(told).strip())


def _variants(node: ast.expr) -> list[_Parts]:
    """What a text may be: a choice between texts makes two of it."""
    match node:
        case ast.Constant(value=str() as text):
            return [(text,)]
        case ast.JoinedStr(values=values):
            return _joined([_variants(value) for value in values])
        case ast.FormattedValue(value=ast.Constant(value=value)):
            return [(str(value),)]
        case ast.FormattedValue(value=ast.IfExp() as choice, format_spec=None) if _is_text(choice):
            return _variants(choice)
        case ast.FormattedValue(value=value):
            return [(_Hole(_name(value), ast.unparse(value)),)]
        case ast.IfExp(body=first, orelse=second) if _is_text(first) and _is_text(second):
            return [*_variants(first), *_variants(second)]
        case ast.BinOp(op=ast.Add(), left=left, right=right) if _is_text(node):
            return _joined([_variants(left), _variants(right)])
        case _:
            return [(_Hole(_name(node), ast.unparse(node)),)]


def _joined(choices: list[list[_Parts]]) -> list[_Parts]:
    while len(list(itertools.islice(itertools.product(*choices), MOST_VARIANTS + 1))) > MOST_VARIANTS:
        widest = max(range(len(choices)), key=lambda index: len(choices[index]))
        choices[widest] = [(_Hole("more"),)]
    return [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*choices)]


def _is_text(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=str()) | ast.JoinedStr():
            return True
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _is_text(left) or _is_text(right)
        case ast.IfExp(body=first, orelse=second):
            return _is_text(first) and _is_text(second)
    return False


def _sides(node: ast.BinOp) -> Iterator[ast.expr]:
    for side in (node.left, node.right):
        if isinstance(side, ast.BinOp) and isinstance(side.op, ast.Add):
            yield from _sides(side)
        else:
            yield side


_PLAIN = {"self", "cls", "facts", "error", "row", "one", "found", "seen", "item", "spec"}


def _name(node: ast.expr) -> str:
    """A hole's name: what its expression is about."""
    match node:
        case ast.Name(id=name):
            return name.strip("_") or "value"
        case ast.Attribute(value=ast.Name(id=owner), attr="name") if owner not in _PLAIN:
            return owner.strip("_")
        case ast.Attribute(value=ast.Attribute(attr=owner), attr="name"):
            return owner.strip("_")
        case ast.Attribute(attr=name):
            return name.strip("_")
        case ast.Subscript(slice=ast.Constant(value=str() as name)) if name.isidentifier():
            return name
        case ast.Subscript(value=value):
            return _name(value)
        case ast.Call(func=ast.Attribute(value=ast.Constant()), args=[argument, *_]):
            return _name(argument)
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str() as name), *_]) if (
            name.isidentifier()
        ):
            return name
        case ast.Call(func=ast.Name(), args=[argument, *_]):
            return _name(argument)
        case ast.Call(func=function):
            return _name(function)
        case ast.BoolOp(values=[first, *_]):
            return _name(first)
        case ast.BinOp(left=left):
            return _name(left)
        case ast.GeneratorExp(elt=value) | ast.ListComp(elt=value) | ast.Starred(value=value):
            return _name(value)
        case ast.IfExp(body=body):
            return _name(body)
    return "value"


def _is_head(node: ast.expr) -> bool:
    """Of a table: a column's name; keys of TOML tables are written small."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value[:1].isupper()


def _called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _root(node: ast.Attribute) -> str:
    value = node.value
    while isinstance(value, ast.Attribute | ast.Call):
        value = value.value if isinstance(value, ast.Attribute) else value.func
    return value.id if isinstance(value, ast.Name) else ""
