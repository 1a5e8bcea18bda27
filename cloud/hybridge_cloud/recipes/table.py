"""All rules, in the order in which documentation and findings list them."""

from __future__ import annotations

from hybridge_cloud.recipes.rule import Nucleus, Rule, Severity
from hybridge_cloud.recipes.rules import access, artifacts, dependencies, lifecycle, platforms, scripts, structure

UNREADABLE = "unreadable"
GROUPS: tuple[tuple[str, tuple[Rule, ...]], ...] = (
    ("The recipe itself", structure.RULES),
    ("Platform", platforms.RULES),
    ("Lifecycle", lifecycle.RULES),
    ("Scripts, environment and configuration", scripts.RULES),
    ("Dependencies", dependencies.RULES),
    ("Artifacts", artifacts.RULES),
    ("Permissions", access.RULES),
)
RULES: tuple[Rule, ...] = tuple(rule for _, rules in GROUPS for rule in rules)
READING = Rule(
    UNREADABLE,
    Nucleus.BOTH,
    Severity.ERROR,
    "What cannot be read is no recipe; nothing else in it was checked.",
    "Correct it: a recipe is one YAML or JSON document in UTF-8, a mapping on its outermost level.",
    lambda _: iter(()),
)
"""The rule that files keep before there is a recipe to check."""


def markdown() -> str:
    """The rules as the tables of docs/recipes.md."""
    parts = ["", _row("rule", "nucleus", "severity", "what happens", "instead"), _row(*["---"] * 5), _line(READING)]
    for title, rules in GROUPS:
        parts += ["", f"### {title}", "", _row("rule", "nucleus", "severity", "what happens", "instead")]
        parts += [_row(*["---"] * 5), *(_line(rule) for rule in rules)]
    return "\n".join(parts[1:]) + "\n"


def _line(rule: Rule) -> str:
    return _row(f"`{rule.name}`", rule.nucleus, rule.severity, rule.why, rule.mend)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
