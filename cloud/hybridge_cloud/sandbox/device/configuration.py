"""The configuration of one component: JSON values, and what a deployment or the component itself does to them.

Values are what json.loads gives. Nothing here changes its arguments.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

Value = Any
"""None, bool, int, float, str, a list of these, or a dict of str to these."""
Tree = dict[str, Any]


def merge(base: Value, change: Value) -> Value:
    """``change`` laid over ``base``: objects are merged key by key, everything else is replaced."""
    if not isinstance(base, Mapping) or not isinstance(change, Mapping):
        return copy.deepcopy(change)
    merged = copy.deepcopy(dict(base))
    for key, value in change.items():
        merged[key] = merge(merged[key], value) if key in merged else copy.deepcopy(value)
    return merged


def find(tree: Value, path: Sequence[str]) -> tuple[bool, Value]:
    """``(True, value)`` of the value at ``path``, or ``(False, None)``; a number names an item of a list."""
    for part in path:
        if isinstance(tree, Mapping) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return False, None
    return True, tree


def pointer(text: str) -> tuple[str, ...]:
    """The keys of a JSON pointer (RFC 6901); "" and "/" name the whole."""
    if text in ("", "/"):
        return ()
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text.lstrip("/").split("/"))


def reset(tree: Tree, default: Tree, path: Sequence[str]) -> Tree:
    """``tree`` with the value at ``path`` as in ``default``, or without it where the default has none."""
    if not path:
        return copy.deepcopy(default)
    changed = copy.deepcopy(tree)
    parent: Value = changed
    for part in path[:-1]:
        if not isinstance(parent, dict) or part not in parent:
            parent = None
            break
        parent = parent[part]
    present, value = find(default, path)
    if present:
        return put(changed, path, value)
    if isinstance(parent, dict):
        parent.pop(path[-1], None)
    return changed


def put(tree: Tree, path: Sequence[str], value: Value) -> Tree:
    """``tree`` with ``value`` merged in at ``path``, whose missing parents are made."""
    nested = copy.deepcopy(value)
    for part in reversed(path):
        nested = {part: nested}
    merged: Tree = merge(tree, nested)
    return merged


def apply(current: Tree | None, default: Tree, change: Value, resets: Sequence[str], *, fill: bool) -> Tree:
    """The configuration after a deployment: the current one or the default, then reset, then merge.

    Args:
        current: None for a component that is new on the device.
        default: the recipe's DefaultConfiguration.
        change: the deployment's ``merge``, or None.
        resets: JSON pointers; "" resets everything.
        fill: whether keys that are new in the default are added to a current configuration (lite does, classic
            keeps the current one as it is).
    """
    running = default if current is None else current
    tree: Tree = merge(default, running) if fill else copy.deepcopy(running)
    for item in resets:
        tree = reset(tree, default, pointer(item))
    return tree if change is None else merge(tree, change)


def changed_paths(before: Value, after: Value, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths whose values differ, at most down to values that are not objects."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        paths: list[tuple[str, ...]] = []
        for key in sorted({*before, *after}):
            if key not in before or key not in after:
                paths.append((*path, key))
            else:
                paths.extend(changed_paths(before[key], after[key], (*path, key)))
        return paths
    return [] if before == after and type(before) is type(after) else [path]
