"""A YAML or JSON text as a tree that knows its lines. Whatever the text, reading it is bounded and never deep."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import yaml

MAX_DEPTH = 40
MAX_NODES = 20_000
"""With every alias counted as often as it is used: a text of a few hundred bytes can stand for billions."""
_KINDS = ("int", "float", "bool", "null")


@dataclass(frozen=True, slots=True)
class Text:
    """A scalar. ``line`` is where it starts, ``last`` where it ends, both from 1.

    Attributes:
        kind: "text", or what a typed reader makes of it: "int", "float", "bool", "null".
        style: "" plain, ``"`` or ``'`` quoted, ``|`` literal, ``>`` folded.
    """

    value: str
    line: int
    last: int
    kind: str = "text"
    style: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and what stands under it."""

    key: str
    line: int
    value: Node


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping, in the order and with the repetitions it was written in."""

    entries: tuple[Entry, ...]
    line: int

    def find(self, key: str) -> Entry | None:
        """The entry of a key: as it is written, else in any case of letters, as classic reads it."""
        exact = next((entry for entry in self.entries if entry.key == key), None)
        return exact or next((entry for entry in self.entries if entry.key.lower() == key.lower()), None)

    def text(self, key: str) -> Text | None:
        found = self.find(key)
        return found.value if found is not None and isinstance(found.value, Text) else None

    def word(self, key: str) -> str:
        """The text of a key, "" where it is absent or no text."""
        found = self.text(key)
        return found.value if found is not None else ""

    def table(self, key: str) -> Table | None:
        found = self.find(key)
        return found.value if found is not None and isinstance(found.value, Table) else None

    def tables(self, key: str) -> tuple[Table, ...]:
        """The mappings in the list of a key."""
        found = self.find(key)
        if found is None or not isinstance(found.value, Items):
            return ()
        return tuple(value for value in found.value.values if isinstance(value, Table))


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    values: tuple[Node, ...]
    line: int


Node: TypeAlias = Text | Table | Items


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its root, its lines as written, and the lines on which aliases stand."""

    root: Node
    lines: tuple[str, ...]
    aliases: tuple[int, ...]
    is_json: bool


class Unreadable(Exception):
    """The text is no document: on which line, and why."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


def read(text: str) -> Document:
    """Read one YAML or JSON document.

    Raises:
        Unreadable: it is neither, holds no or several documents, nests deeper than MAX_DEPTH, or its aliases stand for
            more than MAX_NODES nodes.
    """
    is_json = text.lstrip().startswith("{") and _is_json(text)
    # JSON indented with tabs is no YAML; JSON has no tab inside a string, so lines and columns stay.
    builder = _Builder()
    root = builder.build(text.replace("\t", " ") if is_json else text)
    return Document(root, tuple(text.splitlines()), tuple(builder.aliases), is_json)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


class _Open:
    """A list or mapping that is not closed yet."""

    def __init__(self, is_table: bool, line: int, anchor: str | None) -> None:
        self.is_table = is_table
        self.line = line
        self.anchor = anchor
        self.key: Text | None = None
        self.entries: list[Entry] = []
        self.values: list[Node] = []
        self.size = 1


class _Builder:
    """Makes the tree from the parser's events, which come one after the other however deep the text nests."""

    def __init__(self) -> None:
        self.aliases: list[int] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._open: list[_Open] = []
        self._root: Node | None = None
        self._size = 0

    def build(self, text: str) -> Node:
        try:
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                self._take(event)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise Unreadable(mark.line + 1 if mark else 1, f"{error.problem or error.context}") from None
        except yaml.YAMLError as error:
            raise Unreadable(1, " ".join(str(error).split())) from None
        if self._root is None:
            raise Unreadable(1, "it holds nothing")
        return self._root

    def _take(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.ScalarEvent):
            self._add(_text(event, line), 1, event.anchor, line)
        elif isinstance(event, yaml.AliasEvent):
            self.aliases.append(line)
            if event.anchor not in self._anchors:
                raise Unreadable(line, f"the alias *{event.anchor} stands for nothing, or for what it stands in")
            node, size = self._anchors[event.anchor]
            self._add(node, size, None, line)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            if len(self._open) >= MAX_DEPTH:
                raise Unreadable(line, f"it nests deeper than {MAX_DEPTH} levels")
            self._open.append(_Open(isinstance(event, yaml.MappingStartEvent), line, event.anchor))
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            closed = self._open.pop()
            node = (
                Table(tuple(closed.entries), closed.line)
                if closed.is_table
                else Items(tuple(closed.values), closed.line)
            )
            self._add(node, closed.size, closed.anchor, closed.line)

    def _add(self, node: Node, size: int, anchor: str | None, line: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, size)
        if not self._open:
            if self._root is not None:
                raise Unreadable(line, "it holds more than one document")
            self._root = node
            return
        parent = self._open[-1]
        parent.size += size
        if parent.size > MAX_NODES:
            raise Unreadable(line, f"it stands for more than {MAX_NODES} values")
        if not parent.is_table:
            parent.values.append(node)
        elif parent.key is None:
            if not isinstance(node, Text):
                raise Unreadable(line, "a key is no text")
            parent.key = node
        else:
            parent.entries.append(Entry(parent.key.value, parent.key.line, node))
            parent.key = None


def _text(event: yaml.ScalarEvent, line: int) -> Text:
    kind = "text"
    if event.style is None and event.tag is None:
        resolver = yaml.SafeLoader("")
        tag = resolver.resolve(yaml.ScalarNode, event.value, (True, False))  # type: ignore[no-untyped-call]
        kind = next((known for known in _KINDS if tag == f"tag:yaml.org,2002:{known}"), "text")
    # JSON writes characters beyond the first plane as two halves.
    value = event.value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    end = event.end_mark
    last = end.line + (1 if end.column else 0) if end else line
    return Text(value, line, max(line, last), kind, event.style or "")


def texts(node: Node, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Text]]:
    """Every text below a node, with the keys that lead to it; a place in a list is its number."""
    if isinstance(node, Text):
        yield path, node
    elif isinstance(node, Table):
        for entry in node.entries:
            yield from texts(entry.value, (*path, entry.key))
    else:
        for index, value in enumerate(node.values):
            yield from texts(value, (*path, str(index)))


def tables(node: Node) -> Iterator[Table]:
    """Every mapping below a node, itself included."""
    if isinstance(node, Table):
        yield node
        for entry in node.entries:
            yield from tables(entry.value)
    elif isinstance(node, Items):
        for value in node.values:
            yield from tables(value)
