"""Recipes that the real nucleus lite 2.6 was given: the linter says beforehand what the device then did.

Each case states what the nucleus did. Where it failed, or did something else than was written, the linter must have an
error for lite at that place; where all went well, none. What a script
does of its own, or a dependency that is nowhere, no recipe shows.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

import pytest

from hybridge_cloud.recipes.lint import check
from hybridge_cloud.recipes.rule import Nucleus, Severity


class Outcome(enum.Enum):
    """What the deployment came to."""

    AS_WRITTEN = "succeeded, and ran what is written"
    OTHERWISE = "succeeded, and ran something else"
    FAILED = "failed, by the recipe"
    ITS_OWN = "failed, by what the script or the rest of the device did"


@dataclass(frozen=True, slots=True)
class Case:
    """A recipe's parts, what the nucleus did, and the rules whose errors foretell it."""

    name: str
    outcome: Outcome
    steps: str
    rules: tuple[str, ...] = ()
    platform: str = 'os: linux, runtime: "*"'
    top: str = ""
    artifacts: str = ""

    @property
    def text(self) -> str:
        platform = f"Platform: {{{self.platform}}}\n    " if self.platform else ""
        steps = "".join(f"      {line}\n" for line in self.steps.splitlines())
        return (
            f'RecipeFormatVersion: "2020-01-25"\nComponentName: com.example.{self.name}\nComponentVersion: "1.0.0"\n'
            f"{self.top}Manifests:\n  - {platform}{self.artifacts}Lifecycle:\n{steps}"
        )


def depends(kind: str) -> str:
    return f'ComponentDependencies:\n  com.example.Other:\n    VersionRequirement: ">=1.0.0 <2.0.0"\n{kind}'


ZIP = "Artifacts:\n      - Uri: s3://some-bucket/pictures.zip\n        Unarchive: ZIP\n    "
CASES = (
    Case("Stays", Outcome.AS_WRITTEN, "run: exec sleep 1000"),
    Case("Braces", Outcome.FAILED, 'run: |\n  N=1\n  echo "n is ${N} now"\n  echo two', ("script-brace",)),
    Case("Awk", Outcome.FAILED, "run: echo one two | awk '{print $1}'; echo end", ("script-brace",)),
    Case("Long", Outcome.FAILED, "run: |\n" + f"  # {'-' * 90}\n" * 100 + "  exit 0", ("recipe-size-lite",)),
    Case("Unknown", Outcome.OTHERWISE, "run: echo one {some:thing} two", ("unknown-variable",)),
    Case("Unset", Outcome.OTHERWISE, "run: echo one '{configuration:/nothing}' two", ("configuration-default",)),
    Case("Boot", Outcome.OTHERWISE, "bootstrap: exit 0\nrun: exit 0", ("bootstrap",)),
    Case("Small", Outcome.FAILED, "run:\n  script: exit 0", ("key-case",)),
    Case("Skip", Outcome.OTHERWISE, "run:\n  Skipif: onpath sh\n  Script: echo ran", ("skipif-ignored",)),
    Case("Gpu", Outcome.OTHERWISE, "run: exit 0", ("platform-custom",), 'os: linux, runtime: "*", gpu: orin'),
    Case("Anywhere", Outcome.FAILED, "run: exit 0", ("platform-runtime",), "os: linux"),
    Case("Platformless", Outcome.FAILED, "run: exit 0", ("platform-missing",), ""),
    Case(
        "Environment",
        Outcome.FAILED,
        "Setenv:\n  LIMIT: '{configuration:/limit}'\nrun: echo $LIMIT",
        ("configuration-default",),
    ),
    Case("Started", Outcome.FAILED, "startup: sleep 1; echo started", ("startup",)),
    Case("Told", Outcome.AS_WRITTEN, "startup: |\n  echo started\n  systemd-notify --ready\n  exit 0"),
    Case("Root", Outcome.AS_WRITTEN, 'run:\n  RequiresPrivilege: "true"\n  Script: id -u'),
    Case("Crash", Outcome.ITS_OWN, "run: echo crash; exit 3"),
    Case("Refuses", Outcome.ITS_OWN, "install: exit 4\nrun: exit 0"),
    Case("Slow", Outcome.ITS_OWN, "install:\n  Timeout: 3\n  Script: sleep 20\nrun: exit 0"),
    Case("Typeless", Outcome.FAILED, "run: exit 0", ("dependency-type",), top=depends("")),
    Case("Hard", Outcome.ITS_OWN, "run: exit 0", top=depends("    DependencyType: HARD\n")),
    Case("Soft", Outcome.ITS_OWN, "run: exit 0", top=depends("    DependencyType: SOFT\n")),
    Case("Unzip", Outcome.AS_WRITTEN, "run: ls {artifacts:path} {artifacts:decompressedPath}; exit 0", artifacts=ZIP),
    Case(
        "Values",
        Outcome.AS_WRITTEN,
        "run: exec python3 -u {artifacts:path}/main.py",
        top="ComponentConfiguration:\n  DefaultConfiguration:\n    count: 3\n    share: 0.25\n    none: null\n",
        artifacts="Artifacts:\n      - Uri: s3://some-bucket/main.py\n    ",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_error_for_lite_is_found_where_the_real_nucleus_did_not_do_what_is_written(case: Case) -> None:
    findings = check(case.text.encode(), Path(case.name), Nucleus.LITE)
    errors = tuple(finding.rule for finding in findings if finding.severity is Severity.ERROR)
    assert errors == case.rules
    assert bool(errors) == (case.outcome in (Outcome.FAILED, Outcome.OTHERWISE))


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("Braces", "ends after 1 whole line, with 'echo \"n is $'"),
        ("Awk", "'{print $1}' is no variable: on nucleus lite what runs ends with \"echo one two | awk '\""),
        ("Unknown", "ends with 'echo one'"),
        ("Environment", "what is set ends with ''"),
    ],
)
def test_what_lite_would_leave_of_a_cut_text_is_said(name: str, left: str) -> None:
    (case,) = (case for case in CASES if case.name == name)
    assert left in check(case.text.encode(), Path(case.name), Nucleus.LITE)[0].reason
