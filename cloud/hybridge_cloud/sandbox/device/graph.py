"""The order in which components start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hybridge_edge.contract.errors import InvalidDocument


def start_order(dependencies: Mapping[str, Iterable[str]]) -> list[str]:
    """Names with each after all it depends on; names that are not keys are left out (absent SOFT dependencies).

    Raises:
        InvalidDocument: components depend on each other in a circle.
    """
    order: list[str] = []
    done: set[str] = set()
    for first in sorted(dependencies):
        path: list[str] = []
        pending = [(first, False)]
        while pending:
            name, left = pending.pop()
            if left:
                path.pop()
                done.add(name)
                order.append(name)
            elif name in path:
                circle = " -> ".join([*path[path.index(name) :], name])
                raise InvalidDocument(f"Components depend on each other in a circle: {circle}.", "Break the circle.")
            elif name not in done:
                path.append(name)
                pending.append((name, True))
                pending.extend((needed, False) for needed in sorted(dependencies[name]) if needed in dependencies)
    return order
