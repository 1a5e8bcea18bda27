"""``hybridge recipes``: what a nucleus will make of a Greengrass recipe, before a device does."""

from __future__ import annotations

import enum
import json
import os
from pathlib import Path
from typing import Annotated

import typer

from hybridge_cloud.recipes.rule import Finding, Nucleus

app = typer.Typer(help="Check Greengrass recipes against nucleus lite and nucleus classic.", no_args_is_help=True)
FORMAT = 1
"""Of the JSON output."""


class Output(enum.StrEnum):
    TEXT = "text"
    JSON = "json"


_Output = Annotated[Output, typer.Option("--output", help="For people, or for programs.")]


@app.command("lint")
def lint(
    paths: Annotated[list[Path], typer.Argument(help="Recipes in YAML or JSON, or folders that hold some.")],
    nucleus: Annotated[Nucleus, typer.Option("--nucleus", help="Whose devices they are for.")] = Nucleus.BOTH,
    output: _Output = Output.TEXT,
) -> None:
    """Say what is wrong with recipes: line, rule, reason and mend. Exit code 1 where an error is among it."""
    from hybridge_cloud.recipes.lint import lint as check
    from hybridge_cloud.recipes.rule import Severity

    report = check(paths, nucleus)
    errors, warnings = report.count(Severity.ERROR), report.count(Severity.WARNING)
    if output is Output.JSON:
        found = [_fields(finding) for finding in report.findings]
        fields = {"format": FORMAT, "files": report.files, "errors": errors, "warnings": warnings, "findings": found}
        typer.echo(json.dumps(fields, indent=2))
    else:
        for finding in report.findings:
            where = f"{_shown(finding.file)}:{finding.line}"
            typer.echo(
                f"{where}: {finding.severity} {finding.rule} ({finding.nucleus}): {finding.reason} {finding.mend}"
            )
        counted = f"{report.files} recipe{'s' * (report.files != 1)}"
        typer.echo(f"{counted}: {errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}")
    raise typer.Exit(1 if errors else 0)


def _shown(path: Path) -> str:
    """A file's name may be no text at all."""
    return os.fsencode(path).decode(errors="replace")


def _fields(finding: Finding) -> dict[str, object]:
    return {
        "file": _shown(finding.file),
        "line": finding.line,
        "rule": finding.rule,
        "nucleus": str(finding.nucleus),
        "severity": str(finding.severity),
        "reason": finding.reason,
        "mend": finding.mend,
    }


@app.command("rules")
def rules(output: _Output = Output.TEXT) -> None:
    """List every rule that lint knows, with what happens and what to write instead."""
    from hybridge_cloud.recipes.table import READING, RULES

    known = (READING, *RULES)
    if output is Output.JSON:
        found = [
            {"rule": rule.name, "nucleus": str(rule.nucleus), "severity": str(rule.severity), "reason": rule.why,
             "mend": rule.mend}
            for rule in known
        ]  # fmt: skip
        typer.echo(json.dumps({"format": FORMAT, "rules": found}, indent=2))
        return
    for rule in known:
        typer.echo(f"{rule.name} ({rule.nucleus}, {rule.severity}): {rule.why} {rule.mend}")
