"""A disk that remembers what it was asked, and every tree that a power cut may leave of it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridge_edge import durable

MAX_WINDOW = 16
"""Changes of names that one crash may find undecided; all their subsets are made."""


@dataclass
class File:
    data: bytes = b""
    durable: int = 0
    """How many bytes of it are on the disk for sure."""


@dataclass
class Folder:
    names: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    """The names that are on the disk for sure."""


@dataclass(eq=False)
class Change:
    """Of one name; ``needs`` is the change without which it cannot be seen."""

    folder: Folder
    name: str
    node: Any
    needs: Any = None


class Recorder(durable.Disk):
    """Does the work in a folder and writes down what it was asked; ``forgets`` leaves a kind of request undone."""

    def __init__(self, root: Path, forgets: str = "") -> None:
        self.root, self.forgets = root, forgets
        self.events: list[tuple[Any, ...]] = []
        self._files: dict[int, str] = {}

    def create(self, path: Path, mode: int) -> int:
        descriptor = super().create(path, mode)
        self._files[descriptor] = self._name(path)
        self.events.append(("create", self._name(path)))
        return descriptor

    def append(self, descriptor: int, data: memoryview) -> None:
        self.events.append(("append", self._files[descriptor], bytes(data)))
        super().append(descriptor, data)

    def sync(self, descriptor: int) -> None:
        if self.forgets != "sync":
            self.events.append(("sync", self._files[descriptor]))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.events.append(("rename", self._name(source), self._name(target)))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.events.append(("unlink", self._name(path)))

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self.events.append(("make_folder", self._name(path)))

    def remove_folder(self, path: Path) -> None:
        super().remove_folder(path)
        self.events.append(("remove_folder", self._name(path)))

    def sync_folder(self, path: Path) -> None:
        if self.forgets != "sync_folder" and path.is_relative_to(self.root):
            self.events.append(("sync_folder", self._name(path)))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


class Unsynced(durable.Disk):
    """For restarts, which are not what is judged: as fast as memory."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


class Model:
    """A file system's memory and disk, event by event."""

    def __init__(self, start: Path) -> None:
        self.root = self._read(start)
        self.undecided: list[Change] = []

    def _read(self, path: Path) -> Any:
        if path.is_file():
            data = path.read_bytes()
            return File(data, len(data))
        found = {one.name: self._read(one) for one in path.iterdir()}
        return Folder(dict(found), dict(found))

    def apply(self, event: tuple[Any, ...]) -> None:
        kind, name, *more = event
        folder, last = self._at(name)
        if kind == "create":
            self._change(folder, last, File())
        elif kind == "append":
            folder.names[last].data += more[0]
        elif kind == "sync":
            folder.names[last].durable = len(folder.names[last].data)
        elif kind == "rename":
            target, target_name = self._at(more[0])
            node = folder.names[last]
            there = self._change(target, target_name, node)
            self._change(folder, last, None, there)
        elif kind in ("unlink", "remove_folder"):
            self._change(folder, last, None)
        elif kind == "make_folder":
            self._change(folder, last, Folder())
        elif kind == "sync_folder":
            synced = folder.names[last] if last != "." else self.root
            for change in [one for one in self.undecided if one.folder is synced]:
                self.undecided.remove(change)
                _set(change.folder.kept, change)
                if change.needs in self.undecided:
                    # The old name is gone for sure, so the new one is there for sure: a rename is one transaction.
                    self.undecided.remove(change.needs)
                    _set(change.needs.folder.kept, change.needs)

            self._forget_the_dead()

    def _forget_the_dead(self) -> None:
        """Changes in folders that no tree can hold any more say nothing."""
        alive: set[int] = set()
        waiting = [self.root, *(one.node for one in self.undecided if isinstance(one.node, Folder))]
        while waiting:
            folder = waiting.pop()
            if id(folder) not in alive:
                alive.add(id(folder))
                waiting += [
                    node for node in (*folder.names.values(), *folder.kept.values()) if isinstance(node, Folder)
                ]
        self.undecided = [one for one in self.undecided if id(one.folder) in alive]

    def _at(self, name: str) -> tuple[Folder, str]:
        folder, parts = self.root, name.split("/")
        for part in parts[:-1]:
            folder = folder.names[part]
        return folder, parts[-1]

    def _change(self, folder: Folder, name: str, node: Any, needs: Any = None) -> Change:
        change = Change(folder, name, node, needs)
        self.undecided.append(change)
        _set(folder.names, change)
        return change

    def trees(self, *, exhaustive: bool) -> Iterator[dict[str, bytes | None]]:
        """Every tree that may be found now: content by path, None for a folder."""
        for kept in self._subsets(exhaustive):
            names: dict[int, dict[str, Any]] = {}
            for change in kept:
                _set(names.setdefault(id(change.folder), dict(change.folder.kept)), change)
            yield from _variants(self._walk(self.root, names, ""), exhaustive=exhaustive)

    def _subsets(self, exhaustive: bool) -> Iterator[tuple[Change, ...]]:
        changes = self.undecided
        if exhaustive:
            assert len(changes) <= MAX_WINDOW, "too many for all their subsets"
            choices = itertools.product((False, True), repeat=len(changes))
            chosen = (tuple(itertools.compress(changes, choice)) for choice in choices)
        else:
            several = [tuple(changes[:end]) for end in range(len(changes) + 1)]
            several += [tuple(changes[:out] + changes[out + 1 :]) for out in range(len(changes))]
            chosen = iter(several)
        for kept in chosen:
            if all(change.needs is None or change.needs not in changes or change.needs in kept for change in kept):
                yield kept

    def _walk(self, folder: Folder, names: dict[int, dict[str, Any]], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, node in names.get(id(folder), folder.kept).items():
            yield prefix + name, node
            if isinstance(node, Folder):
                yield from self._walk(node, names, f"{prefix}{name}/")


def _set(names: dict[str, Any], change: Change) -> None:
    if change.node is None:
        names.pop(change.name, None)
    else:
        names[change.name] = change.node


def _variants(found: Iterator[tuple[str, Any]], *, exhaustive: bool) -> Iterator[dict[str, bytes | None]]:
    """None, half or all of what was not synced, of each file."""
    nodes = list(found)
    ends = []
    for _, node in nodes:
        whole = len(node.data) if isinstance(node, File) else 0
        sure = node.durable if isinstance(node, File) else 0
        ends.append(sorted({sure, (sure + whole) // 2, whole}))
    # Where nothing is synced there are too many: all files alike then.
    alike = (tuple(end[min(place, len(end) - 1)] for end in ends) for place in range(3))
    for chosen in itertools.product(*ends) if exhaustive else alike:
        yield {
            path: node.data[:end] if isinstance(node, File) else None
            for (path, node), end in zip(nodes, chosen, strict=True)
        }


def essence(tree: dict[str, bytes | None]) -> str:
    """Equal for trees that a start cannot tell apart: what lies in a folder under way is removed unread."""
    told = hashlib.sha256()
    for path, content in sorted(tree.items()):
        parts = path.split("/")
        if len(parts) > 2 and parts[1].startswith(".incoming-"):
            continue
        told.update(repr((path, content)).encode())
    return told.hexdigest()
