"""Shared by the fleet's tests: an evaluator of policies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Evaluator:
    """Whether a policy allows an action on a resource: Deny wins, then Allow, else no (IAM, policy evaluation logic).

    ``*`` and ``?`` are wildcards in actions and resources; ``+`` and ``#`` of MQTT are letters like any other (AWS IoT
    Core, wildcards in policies). ``variables`` replace ``${...}``; one that is not known matches nothing.
    """

    document: Mapping[str, Any]
    variables: Mapping[str, str]

    def allows(self, action: str, resource: str) -> bool:
        effects = {
            statement["Effect"]
            for statement in self.document["Statement"]
            if any(self._matches(pattern, action, fold=True) for pattern in listed(statement["Action"]))
            and any(self._matches(pattern, resource) for pattern in listed(statement["Resource"]))
        }
        return effects == {"Allow"}

    def _matches(self, pattern: str, text: str, fold: bool = False) -> bool:
        pieces = []
        for piece in re.split(r"(\$\{[^}]+\}|\*|\?)", pattern):
            if piece in ("*", "?"):
                pieces.append(".*" if piece == "*" else ".")
            elif piece.startswith("${"):
                if piece[2:-1] not in self.variables:
                    return False
                pieces.append(re.escape(self.variables[piece[2:-1]]))
            else:
                pieces.append(re.escape(piece))
        return re.fullmatch("".join(pieces), text, re.IGNORECASE if fold else 0) is not None


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@pytest.fixture(scope="session")
def evaluator() -> Callable[..., Evaluator]:
    return lambda document, **variables: Evaluator(
        document, {name.replace("__", ":"): value for name, value in variables.items()}
    )
