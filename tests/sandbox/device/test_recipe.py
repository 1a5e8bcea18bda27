"""What each nucleus makes of a recipe. Cases marked "seen" were observed on nucleus lite 2.6."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from hybridge_cloud.sandbox.device.mode import Mode, limits_of
from hybridge_cloud.sandbox.device.recipe import Recipe, architecture, parse
from hybridge_edge.contract.errors import HybridgeError, InvalidDocument, Refused

HEAD = 'RecipeFormatVersion: "2020-01-25"\nComponentName: T.One\nComponentVersion: "1.0.0"\n'
PLATFORM = 'Platform: {os: linux, runtime: "*"}'


def read(body: str, mode: Mode) -> Recipe:
    return parse((HEAD + body).encode(), mode, limits_of(mode))


def manifest(lifecycle: str, platform: str = PLATFORM) -> str:
    return f"Manifests:\n  - {platform}\n    Lifecycle:\n" + "\n".join(
        "      " + line for line in lifecycle.split("\n")
    )


@pytest.mark.parametrize("mode", Mode)
def test_a_recipe_right_for_both_reads_the_same(mode: Mode) -> None:
    body = """
ComponentConfiguration:
  DefaultConfiguration: {port: "8001"}
ComponentDependencies:
  Base.One: {VersionRequirement: ">=1.0.0 <2.0.0", DependencyType: HARD}
  Base.Two: {VersionRequirement: ">=1.0.0", DependencyType: SOFT}
Manifests:
  - Platform: {os: linux, runtime: "*"}
    Artifacts:
      - {Uri: "s3://b/k/app.v1.zip", Unarchive: ZIP, Digest: abc=, Algorithm: SHA-256, Permission: {Execute: OWNER}}
    Lifecycle:
      Setenv: {A: "1"}
      install: {Timeout: 240, Script: "echo one"}
      run: echo two
"""
    recipe = read(body, mode)
    assert (recipe.name, recipe.version, recipe.configuration) == ("T.One", "1.0.0", {"port": "8001"})
    assert [(item.name, item.kind) for item in recipe.dependencies] == [("Base.One", "HARD"), ("Base.Two", "SOFT")]
    assert recipe.environment == (("A", "1"),)
    assert recipe.steps["install"].timeout == 240
    assert recipe.steps["run"].script == "echo two"
    (artifact,) = recipe.artifacts
    assert (artifact.file_name, artifact.stem, artifact.executable) == ("app.v1.zip", "app.v1", True)


@pytest.mark.parametrize(
    ("body", "lite", "classic"),
    [
        (manifest("run: echo hi", "Platform: {os: linux}"), "no manifest fits", "ok"),  # seen
        ("Manifests:\n  - Lifecycle: {run: echo hi}", "Platform not provided", "ok"),  # seen
        (manifest("run:\n  script: echo lower"), "no Script", "ok"),  # seen
        (manifest("Run: echo case"), "no lifecycle step", "ok"),
        (manifest("run: echo gpu", 'Platform: {os: linux, runtime: "*", gpu: orin}'), "ok", "no manifest fits"),  # seen
        (manifest("run: echo re", 'Platform: {os: /lin.*/, runtime: "*"}'), "no manifest fits", "ok"),
        (manifest("startup: echo up"), "ok", "ok"),
        (manifest("bootstrap: echo b\nrun: echo r"), "restarts the device", "restarts the device"),
        (manifest("run:\n  Timeout: soon\n  Script: echo"), "not a time", "not a time"),
        (manifest("run: echo x", "Platform: {os: windows, runtime: '*'}"), "no manifest fits", "no manifest fits"),
    ],
)
def test_recipes_only_one_nucleus_takes(body: str, lite: str, classic: str) -> None:
    for mode, wanted in ((Mode.LITE, lite), (Mode.CLASSIC, classic)):
        if wanted == "ok":
            assert read(body, mode).steps
        else:
            with pytest.raises(Refused, match=wanted):
                read(body, mode)


def test_lite_refuses_a_recipe_over_its_size() -> None:  # seen
    body = manifest("run: |\n  echo start\n" + "  # padding padding padding padding\n" * 240 + "  echo end")
    with pytest.raises(InvalidDocument, match="8196"):
        read(body, Mode.LITE)
    assert read(body, Mode.CLASSIC).steps


@pytest.mark.parametrize("requirement", ["^1.0.0", "~1.2.0", "1.0.0 || 2.0.0", ">=1.0"])
def test_lite_cannot_read_npm_ranges(requirement: str) -> None:
    body = f"ComponentDependencies:\n  Base: {{VersionRequirement: '{requirement}'}}\n" + manifest("run: echo x")
    with pytest.raises(InvalidDocument, match="VersionRequirement"):
        read(body, Mode.LITE)
    assert read(body, Mode.CLASSIC).dependencies[0].kind == "HARD"


def test_lite_orders_nothing_without_a_dependency_type() -> None:
    body = "ComponentDependencies:\n  Base: {VersionRequirement: '>=1.0.0'}\n" + manifest("run: echo x")
    assert read(body, Mode.LITE).dependencies[0].kind == ""


def test_lite_keeps_yaml_scalars_as_text_and_json_types_as_they_are() -> None:
    body = "ComponentConfiguration:\n  DefaultConfiguration: {i: 3, f: 0.25, b: true}\n" + manifest("run: echo x")
    assert read(body, Mode.LITE).configuration == {"i": "3", "f": "0.25", "b": "true"}
    assert read(body, Mode.CLASSIC).configuration == {"i": 3, "f": 0.25, "b": True}
    fields: dict[str, Any] = {
        "ComponentName": "T.One",
        "ComponentVersion": "1.0.0",
        "ComponentConfiguration": {"DefaultConfiguration": {"i": 3}},
        "Manifests": [{"Platform": {"os": "linux", "runtime": "*"}, "Lifecycle": {"run": "echo"}}],
    }
    assert parse(json.dumps(fields).encode(), Mode.LITE, limits_of(Mode.LITE)).configuration == {"i": 3}


def test_lite_ignores_what_it_does_not_run() -> None:  # Skipif: seen
    body = manifest("install:\n  Skipif: onpath sh\n  Script: echo install\nshutdown: echo down\nrun: echo run")
    lite, classic = read(body, Mode.LITE), read(body, Mode.CLASSIC)
    assert lite.steps["install"].skip_if == ""
    assert "shutdown" not in lite.steps
    assert classic.steps["install"].skip_if == "onpath sh"
    assert classic.steps["shutdown"].script == "echo down"


def test_the_first_manifest_for_this_machine_is_picked() -> None:
    other = "aarch64" if architecture() == "amd64" else "amd64"
    body = f"""Manifests:
  - Platform: {{os: linux, runtime: "*", architecture: {other}}}
    Lifecycle: {{run: echo other}}
  - Platform: {{os: linux, runtime: "*", architecture: {architecture()}}}
    Lifecycle: {{run: echo ours}}
  - Platform: {{os: linux, runtime: "*"}}
    Lifecycle: {{run: echo any}}
"""
    for mode in Mode:
        assert read(body, mode).steps["run"].script == "echo ours"


@pytest.mark.parametrize(
    "artifact",
    [
        "{Uri: 'https://h/x.zip', Digest: a}",
        "{Uri: 's3://b/x.zip'}",
        "{Uri: 's3://b/dir/', Digest: a}",
        "{Uri: 's3://b/..', Digest: a}",
        "{Uri: 's3://b/x.tar', Digest: a, Unarchive: TAR}",
        "{Uri: 's3://b/x.zip', Digest: a, Algorithm: MD5}",
    ],
)
def test_an_artifact_that_cannot_be_checked_is_refused(artifact: str) -> None:
    body = f"Manifests:\n  - {PLATFORM}\n    Artifacts: [{artifact}]\n    Lifecycle: {{run: echo}}"
    with pytest.raises(Refused):
        read(body, Mode.CLASSIC)


@pytest.mark.parametrize("text", [b"{", b"a: [", b"\xff\xfe", b"[]", b"null", b"{}"])
@pytest.mark.parametrize("mode", Mode)
def test_what_is_no_recipe_is_refused_in_a_sentence(text: bytes, mode: Mode) -> None:
    with pytest.raises(HybridgeError):
        parse(text, mode, limits_of(mode))


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("place", [("Platform", "os"), ("Artifacts", 0, "Uri"), ("Lifecycle",), ("Artifacts",)])
@pytest.mark.parametrize("value", ["/[/", "s3://[", 5, None, [1], {"a": [1]}, "1e999"])
def test_a_recipe_with_nonsense_in_it_is_read_or_refused_and_never_breaks_the_device(
    mode: Mode, place: tuple[Any, ...], value: Any
) -> None:
    artifact = {"Uri": "s3://bucket/key.zip", "Digest": "abc", "Algorithm": "SHA-256"}
    found: dict[str, Any] = {
        "Platform": {"os": "linux", "runtime": "*"},
        "Artifacts": [artifact],
        "Lifecycle": {"run": "echo"},
    }
    inner: Any = found
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    fields = {"ComponentName": "T.One", "ComponentVersion": "1.0.0", "Manifests": [found]}
    with contextlib.suppress(HybridgeError):
        parse(json.dumps(fields).encode(), mode, limits_of(mode))
