"""Recipe variables in scripts and environment values, as each nucleus replaces them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hybridge_cloud.sandbox.device.configuration import Tree, Value, find, pointer
from hybridge_cloud.sandbox.device.mode import Mode
from hybridge_edge.contract.errors import Refused

_CLASSIC = re.compile(r"\{(?:([\w.-]+):)?([\w]+):([^:}\s]+)\}")


@dataclass(frozen=True, slots=True)
class Scope:
    """What one component's variables mean."""

    component: str
    artifacts: Path
    unarchived: Path
    work: Path
    root: Path
    thing: str
    configuration: Tree


class Cut(Refused):
    """Nucleus lite would cut a text at a brace; ``kept`` is what it would leave."""

    code = "REFUSED"

    def __init__(self, message: str, remedy: str, kept: str) -> None:
        super().__init__(message, remedy)
        self.kept = kept


def interpolate(text: str, scope: Scope, mode: Mode, dependencies: Mapping[str, Scope]) -> str:
    """``text`` with its variables replaced.

    Args:
        dependencies: the scopes of direct dependencies, which classic alone lets a recipe name.

    Raises:
        Cut: nucleus lite would cut the text at a brace and execute what is left.
    """
    return _lite(text, scope) if mode is Mode.LITE else _classic(text, scope, dependencies)


def cut_script(variables: Iterable[tuple[str, str]], script: str, scope: Scope) -> str:
    """What nucleus lite executes of a step that it cuts: one line of its own, an export each, then the script."""
    parts = [f"cd {shlex.quote(str(scope.work))}\n"]
    try:
        for key, value in variables:
            parts.append(f'export {key}="')
            parts.append(_lite(value, scope) + '"\n')
        parts.append(_lite(script, scope))
    except Cut as cut:
        parts.append(cut.kept)
    return "".join(parts)


def _lite(text: str, scope: Scope) -> str:
    parts: list[str] = []
    rest = text
    while True:
        before, brace, after = rest.partition("{")
        parts.append(before)
        if not brace:
            return "".join(parts)
        variable, closed, rest = after.partition("}")
        namespace, colon, key = variable.partition(":")
        value = _value(namespace, key, scope, Mode.LITE) if closed and colon else None
        if value is None:
            shown = (brace + variable[:30] + closed).split("\n")[0]
            raise Cut(
                f"{scope.component}: nucleus lite would cut a script at {shown!r} and execute the cut script.",
                "Write no brace but known recipe variables: $VAR instead of ${VAR}, and logic in a file.",
                "".join(parts),
            )
        parts.append(value)


def _classic(text: str, scope: Scope, dependencies: Mapping[str, Scope]) -> str:
    def replace(match: re.Match[str]) -> str:
        component, namespace, key = match.groups()
        chosen = scope if component in (None, scope.component) else dependencies.get(component)
        value = None if chosen is None else _value(namespace, key, chosen, Mode.CLASSIC)
        return match.group(0) if value is None else value

    return _CLASSIC.sub(replace, text)


def _value(namespace: str, key: str, scope: Scope, mode: Mode) -> str | None:
    end = "/" if mode is Mode.LITE else ""
    match namespace, key:
        case "artifacts", "path":
            return f"{scope.artifacts}{end}"
        case "artifacts", "decompressedPath":
            return f"{scope.unarchived}{end}"
        case "work", "path":
            return f"{scope.work}{end}"
        case "kernel", "rootPath":
            return str(scope.root)
        case "iot", "thingName":
            return scope.thing
        case "configuration", _:
            present, value = find(scope.configuration, pointer(key))
            return _text(value, mode) if present else None
    return None


def _text(value: Value, mode: Mode) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and mode is Mode.LITE:
        return f"{value:.17f}"
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
