"""Recipes whose end on a real nucleus lite 2.6 is known, deployed here: they end the same.

Each case was deployed locally on a real core, alone, and its result, its unit's last state and what it said were
recorded. The recipes here are written anew for the same causes. A unit that failed is BROKEN here, one that is active
RUNNING, one that ended well FINISHED; one that never began has no entry, or is BROKEN in `install`.
"""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from hybridge_cloud.sandbox.device.hosted import HostedCore, quick
from hybridge_cloud.sandbox.device.mode import Mode
from hybridge_edge.contract.errors import Refused

PLATFORM = 'Platform: {os: linux, runtime: "*"}'
CUT = "Syntax error: Unterminated quoted string"
AT_ONCE = 6


@dataclass(frozen=True)
class Case:
    """A recipe, and what became of it.

    Args:
        lifecycle: YAML of the manifest's Lifecycle. status: "" for a component that is not on the device.
        said: what its processes said, and how many times. reason: a part of why the deployment failed.
    """

    lifecycle: str
    result: str
    status: str
    said: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    platform: str = PLATFORM
    head: str = ""
    manifest: str = ""
    never: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)


def zipped(name: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(name, "x")
    return data.getvalue()


def needs_base(kind: str) -> str:
    return f'ComponentDependencies:\n  Seen.Base: {{VersionRequirement: ">=1.0.0 <2.0.0"{kind}}}\n'


DEPENDENT = "run: echo up; exec sleep 600"
CASES = {
    "Base": Case("run: echo base; exec sleep 600", "SUCCEEDED", "RUNNING", {"base": 1}),
    "ShellBraces": Case(
        'run: |\n  echo "first"\n  NAME=1\n  echo "is ${NAME} so"\n  echo "last"',
        "FAILED", "BROKEN", {"first": 3, f"4: {CUT}": 3}, "BROKEN", never="last",
    ),
    "Awk": Case("run: echo one two | awk '{print $2}'; echo last", "FAILED", "BROKEN", {f"2: {CUT}": 3}, never="two"),
    "Padding": Case(
        "run: |\n  echo up\n" + "  # ........................................................\n" * 160,
        "FAILED", "", reason="8196",
    ),
    "UnknownVariable": Case(
        "run: echo kept {some:thing} lost {configuration:/none} lost",
        "SUCCEEDED", "FINISHED", {"kept": 1}, never="lost",
    ),
    "LowerCase": Case("run:\n  script: echo up", "FAILED", "", reason="Script"),
    "SkipIf": Case(
        "install:\n  Skipif: onpath sh\n  Script: echo not skipped\nrun: echo up; exec sleep 600",
        "SUCCEEDED", "RUNNING", {"not skipped": 1, "up": 1},
    ),
    "CustomAttribute": Case(
        "run: echo picked", "SUCCEEDED", "FINISHED", {"picked": 1},
        platform='Platform: {os: linux, runtime: "*", accelerator: "none-such"}',
    ),
    "NoRuntime": Case("run: echo up", "FAILED", "", reason="manifest", platform="Platform: {os: linux}"),
    "NoPlatform": Case("run: echo up", "FAILED", "", reason="Platform not provided", platform=""),
    "SetenvCut": Case(
        'Setenv: {PLACE: "{artifacts:decompressedPath}/x", LIMIT: "{configuration:/none}"}\n'
        'run:\n  Setenv: {OWN: "a b"}\n  Script: echo "$PLACE $LIMIT $OWN"; exec sleep 600',
        "FAILED", "BROKEN", {f"3: {CUT}": 3}, "BROKEN", never="a b",
    ),
    "NoType": Case(DEPENDENT, "FAILED", "", reason="no candidate", head=needs_base("")),
    "Hard": Case(DEPENDENT, "FAILED", "", reason="no candidate", head=needs_base(", DependencyType: HARD")),
    "Soft": Case(DEPENDENT, "FAILED", "", reason="no candidate", head=needs_base(", DependencyType: SOFT")),
    "Crash": Case("run: echo going down; exit 3", "FAILED", "BROKEN", {"going down": 3}, "BROKEN"),
    "Startup": Case(
        "startup: echo begun; echo done\nshutdown: echo never", "FAILED", "BROKEN",
        {"begun": 3, "done": 3, "unrecognized option '--stopping'": 3}, "BROKEN", never="never",
    ),
    "StartupReady": Case(
        "startup: |\n  nohup sleep 600 >/dev/null 2>&1 &\n  echo done\n  systemd-notify --ready\n  exit 0\n"
        "shutdown: echo never",
        "SUCCEEDED", "RUNNING", {"done": 1}, never="never",
    ),
    "Privileged": Case(
        "install: {RequiresPrivilege: true, Script: echo install uid=$(id -u)}\n"
        'run: {RequiresPrivilege: "true", Script: echo run uid=$(id -u)}',
        "SUCCEEDED", "FINISHED", {"install uid=0": 1, "run uid=0": 1},
    ),
    "BadInstall": Case(
        "install: echo trying; exit 4\nrun: echo never", "FAILED", "BROKEN", {"trying": 3}, never="never"
    ),
    "SlowInstall": Case(
        "install: {Timeout: 1, Script: echo trying; sleep 20}\nrun: echo never",
        "FAILED", "BROKEN", {"trying": 3}, "Timeout", never="never",
    ),
    "Unzip": Case(
        "run: ls -l {artifacts:path} {artifacts:decompressedPath}; exec sleep 600",
        "SUCCEEDED", "RUNNING", {"parcel.zip": 1, "total 0": 1}, never="inside",
        manifest='    Artifacts: [{Uri: "s3://any/parcel.zip", Unarchive: ZIP, Permission: {Execute: ALL}}]\n',
        files={"parcel.zip": zipped("inside.txt")},
    ),
}  # fmt: skip
HERE = {
    "Privileged": (os.geteuid() == 0, "a step with privilege runs as root, and this test does not"),
    "StartupReady": (shutil.which("systemd-notify") is not None, "this machine has no systemd-notify"),
}
"""Whether the cause of a case exists on this machine."""


def recipe(name: str, case: Case) -> str:
    lifecycle = "".join(f"      {line}\n" for line in case.lifecycle.splitlines())
    platform = f"  - {case.platform}\n    Lifecycle:\n" if case.platform else "  - Lifecycle:\n"
    if case.manifest:
        platform = f"  - {case.platform}\n{case.manifest}    Lifecycle:\n"
    return (
        'RecipeFormatVersion: "2020-01-25"\n'
        f'ComponentName: Seen.{name}\nComponentVersion: "1.0.0"\n{case.head}Manifests:\n{platform}{lifecycle}'
    )


@dataclass(frozen=True)
class End:
    result: str
    reason: str
    status: str
    said: str


def play(folder: Path, name: str) -> End:
    case = CASES[name]
    artifacts = folder / "artifacts"
    for file, data in case.files.items():
        path = artifacts / f"Seen.{name}" / "1.0.0" / file
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    core = HostedCore(folder / "r", Mode.LITE, limits=replace(quick(Mode.LITE), execute_cut=True, stop_within=1.0))
    try:
        deployed = core.deploy(recipe(name, case), artifacts=artifacts)
        component = f"Seen.{name}"
        there = component in core.core.installed()
        return End(
            "SUCCEEDED" if deployed.succeeded else "FAILED",
            deployed.reason,
            core.status(component) if there else "",
            core.log(component),
        )
    finally:
        core.close()


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, End]:
    """All cases, a device each, some at a time."""
    base = tmp_path_factory.mktemp("lite")
    possible = [name for name in CASES if HERE.get(name, (True, ""))[0]]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda name: play(base / name, name), possible)
        return dict(zip(possible, found, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_it_ends_as_it_did_on_the_real_nucleus(name: str, request: pytest.FixtureRequest) -> None:
    possible, why = HERE.get(name, (True, ""))
    if not possible:
        pytest.skip(why)
    end, case = request.getfixturevalue("ends")[name], CASES[name]
    assert (end.result, end.status) == (case.result, case.status), f"{end.reason}\n{end.said}"
    for line, times in case.said.items():
        assert end.said.count(line) == times, end.said
    assert case.reason in end.reason
    assert not case.never or case.never not in end.said


def test_what_restarts_the_machine_is_refused_here_and_named(tmp_path: Path) -> None:
    """The one recorded case whose cause a process cannot have: `bootstrap` restarted the real device."""
    core = HostedCore(tmp_path / "r", Mode.LITE)
    try:
        deployed = core.deploy(recipe("Boot", Case("bootstrap: echo boot; exit 0\nrun: echo up", "", "")))
        assert not deployed.succeeded
        assert "bootstrap" in deployed.reason
        assert core.log("Seen.Boot") == ""
    finally:
        core.close()


def test_by_default_a_script_that_lite_would_cut_is_refused_before_anything_runs(tmp_path: Path) -> None:
    core = HostedCore(tmp_path / "r", Mode.LITE)
    try:
        for name in ("ShellBraces", "Awk", "UnknownVariable", "SetenvCut"):
            deployed = core.deploy(recipe(name, CASES[name]))
            assert not deployed.succeeded
            assert "would cut a script" in deployed.reason
            assert core.log(f"Seen.{name}") == ""
    finally:
        core.close()


def test_the_comparison_sees_a_difference(tmp_path: Path) -> None:
    """The same crash on classic is a success: nobody waits for `run` there."""
    core = HostedCore(tmp_path / "r", Mode.CLASSIC)
    try:
        assert core.deploy(recipe("Crash", CASES["Crash"])).succeeded
    finally:
        core.close()


def test_a_recipe_without_a_name_is_refused_at_once(tmp_path: Path) -> None:
    core = HostedCore(tmp_path / "r", Mode.LITE)
    try:
        with pytest.raises(Refused, match="names no component"):
            core.deploy("Manifests: []")
    finally:
        core.close()
