"""Rules of ComponentDependencies."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hybridge_cloud.recipes.document import Table, texts
from hybridge_cloud.recipes.recipe import Recipe
from hybridge_cloud.recipes.rule import Hit, Nucleus, Rule, Severity

TOKEN_EXCHANGE = "aws.greengrass.TokenExchangeService"  # noqa: S105  a component's name
_VERSION = r"\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?"
_COMPARISONS = re.compile(rf"(?:>=|<=|=|>|<){_VERSION}(?: +(?:>=|<=|=|>|<){_VERSION})*")
_NPM = re.compile(r"[\^~]|\|\||[*xX]|\s-\s|,|[<>=]\s|^\s*\d|\s\d|\.\s*$|^\s*[<>=]*\d+(\.\d+)?(\s|$)")
_NEEDS_CREDENTIALS = re.compile(
    r"\bs3://|\bboto3\b|\bAWS_CONTAINER_(?:CREDENTIALS_FULL_URI|AUTHORIZATION_TOKEN)\b|(?:^|[\s;&|(])aws\s+[a-z]"
)


def _is_other(wanted: str) -> bool:
    """Whether a requirement is something else than comparisons; an empty one is a missing one."""
    return bool(wanted) and _COMPARISONS.fullmatch(wanted.strip()) is None


def requirement(recipe: Recipe) -> Iterator[Hit]:
    for entry in recipe.dependencies:
        found = entry.value.text("VersionRequirement") if isinstance(entry.value, Table) else None
        if found is not None and _is_other(found.value) and _NPM.search(found.value):
            yield Hit(found.line, f"the VersionRequirement of {entry.key[:60]!r} is {found.value[:60]!r}")


def requirement_syntax(recipe: Recipe) -> Iterator[Hit]:
    for entry in recipe.dependencies:
        found = entry.value.text("VersionRequirement") if isinstance(entry.value, Table) else None
        if found is not None and _is_other(found.value) and not _NPM.search(found.value):
            yield Hit(found.line, f"the VersionRequirement of {entry.key[:60]!r} is {found.value[:60]!r}")


def kind_missing(recipe: Recipe) -> Iterator[Hit]:
    for entry in recipe.dependencies:
        if isinstance(entry.value, Table) and entry.value.find("DependencyType") is None:
            yield Hit(entry.line, f"the dependency {entry.key[:60]!r} has no DependencyType")


def kind_value(recipe: Recipe) -> Iterator[Hit]:
    for entry in recipe.dependencies:
        found = entry.value.text("DependencyType") if isinstance(entry.value, Table) else None
        if found is not None and found.value not in ("HARD", "SOFT"):
            yield Hit(found.line, f"the DependencyType of {entry.key[:60]!r} is {found.value[:40]!r}")


def on_itself(recipe: Recipe) -> Iterator[Hit]:
    for entry in recipe.dependencies:
        if entry.key == recipe.name:
            yield Hit(entry.line, "the component depends on itself")


def token_exchange(recipe: Recipe) -> Iterator[Hit]:
    if recipe.dependency(TOKEN_EXCHANGE) is not None:
        return
    for shell in recipe.shells:
        found = _NEEDS_CREDENTIALS.search(shell.text.value)
        if found:
            line = recipe.line_of(shell.text, found.start() + len(found[0]) - len(found[0].lstrip()))
            yield Hit(line, f"the {shell.step or 'Setenv'} text uses S3 or credentials ({found[0].strip()})")
            return
    for entry in recipe.defaults.entries:
        for path, text in texts(entry.value, (entry.key,)):
            if path[0] != "accessControl" and text.value.startswith("s3://"):
                yield Hit(text.line, f"the configuration names {text.value[:60]!r}")
                return


def token_exchange_soft(recipe: Recipe) -> Iterator[Hit]:
    found = recipe.dependency(TOKEN_EXCHANGE)
    kind = found.text("DependencyType") if found is not None else None
    if kind is not None and kind.value == "SOFT":
        yield Hit(kind.line, f"{TOKEN_EXCHANGE} is a SOFT dependency")


_LITE, _BOTH = Nucleus.LITE, Nucleus.BOTH
_ERROR, _WARNING = Severity.ERROR, Severity.WARNING

RULES = (
    Rule("version-requirement", _LITE, _ERROR,
         "Nucleus lite reads = > >= < <= right before three numbers, and a space for AND; nothing else.",
         "Write such as >=1.0.0 <2.0.0.", requirement),
    Rule("version-requirement-syntax", _BOTH, _ERROR, "No nucleus reads this as a range of versions.",
         "Write such as >=1.0.0 <2.0.0.", requirement_syntax),
    Rule("dependency-type", _LITE, _ERROR,
         "Omitted, nucleus lite orders nothing while classic takes it for HARD: the component may start first.",
         "Write DependencyType: HARD, which stops this component when the dependency stops, or SOFT.", kind_missing),
    Rule("dependency-type-value", _BOTH, _ERROR, "A dependency is HARD or SOFT.",
         "Write HARD, which stops this component when the dependency stops, or SOFT.", kind_value),
    Rule("dependency-on-itself", _BOTH, _ERROR, "No order of starting fits it.", "Leave it out.", on_itself),
    Rule("token-exchange", _BOTH, _WARNING,
         "A component gets AWS credentials from the token exchange service; nucleus lite gives its address only to "
         "those that depend on it.",
         f'Depend on {TOKEN_EXCHANGE} with VersionRequirement ">=2.0.0" and DependencyType HARD.', token_exchange),
    Rule("token-exchange-soft", _BOTH, _WARNING,
         "With SOFT the component starts where the service is absent or down, and has no credentials.",
         "Write DependencyType: HARD.", token_exchange_soft),
)  # fmt: skip
