"""A component's recipe, as each nucleus reads it.

Source: the AWS IoT Greengrass component recipe reference, and what nucleus lite 2.6 was observed to accept and refuse.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from hybridge_cloud.sandbox.device.configuration import Tree
from hybridge_cloud.sandbox.device.mode import Limits, Mode
from hybridge_edge.contract.errors import InvalidDocument, Refused

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "aarch64", "arm64": "aarch64"}
STEPS = ("install", "startup", "run", "shutdown", "recover")
_NOT_RUN = {"bootstrap": "restarts the device"}
_INSTEAD = "Use install and run."
_LITE_RANGE = re.compile(r"(=|>=|<=|>|<)?\d+\.\d+\.\d+([ ]+(=|>=|<=|>|<)?\d+\.\d+\.\d+)*")


@dataclass(frozen=True, slots=True)
class Step:
    """One lifecycle step; ``timeout`` in seconds, None for the nucleus' default."""

    script: str
    environment: tuple[tuple[str, str], ...] = ()
    timeout: float | None = None
    privileged: bool = False
    skip_if: str = ""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a component.

    Args:
        digest: base64 of its SHA-256; "" in a recipe of a local deployment, which brings its files itself.
        unarchive: ZIP or NONE.
    """

    uri: str
    digest: str
    unarchive: str
    executable: bool

    @property
    def file_name(self) -> str:
        return urlsplit(self.uri).path.rsplit("/", 1)[-1]

    @property
    def stem(self) -> str:
        return self.file_name.rsplit(".", 1)[0]


@dataclass(frozen=True, slots=True)
class Dependency:
    name: str
    requirement: str
    kind: str
    """HARD or SOFT; "" where the recipe says nothing and the nucleus (lite) orders nothing."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one nucleus makes of a recipe on this machine's platform."""

    name: str
    version: str
    configuration: Tree
    dependencies: tuple[Dependency, ...]
    environment: tuple[tuple[str, str], ...]
    steps: Mapping[str, Step]
    artifacts: tuple[Artifact, ...]


def architecture() -> str:
    """This machine's architecture in Greengrass's words."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def name_and_version(text: bytes) -> tuple[str, str]:
    """What a recipe calls itself. Raises InvalidDocument."""
    reader = _Reader(_load(text, Mode.CLASSIC), Mode.CLASSIC)
    return _identity(reader)


def _identity(reader: _Reader) -> tuple[str, str]:
    name, version = reader.text("ComponentName"), reader.text("ComponentVersion")
    if not name or not version:
        raise InvalidDocument("A recipe names no component or no version.", "Write ComponentName and ComponentVersion.")
    return name, version


def parse(text: bytes, mode: Mode, limits: Limits, *, local: bool = False) -> Recipe:
    """Read a YAML or JSON recipe as the given nucleus does, and pick the manifest for this machine.

    Args:
        local: it came with a local deployment: its artifacts need no digest.

    Raises:
        InvalidDocument: the nucleus would refuse it. Refused: the local core device cannot follow it.
    """
    if len(text) > limits.recipe_bytes:
        raise InvalidDocument(
            f"A recipe of {len(text)} bytes is over the {limits.recipe_bytes} of nucleus {mode}.", "Shorten it."
        )
    reader = _Reader(_load(text, mode), mode)
    name, version = _identity(reader)
    if reader.get("Lifecycle") is not None:
        raise Refused(f"{name}: a Lifecycle outside Manifests is not run here.", "Write it inside each manifest.")
    default = reader.below("ComponentConfiguration").get("DefaultConfiguration")
    manifest = _manifest(reader, name, mode, limits)
    lifecycle = manifest.below("Lifecycle")
    return Recipe(
        name,
        version,
        dict(default) if isinstance(default, Mapping) else {},
        tuple(_dependencies(reader, name, mode)),
        _environment(lifecycle),
        _steps(lifecycle, name, mode),
        tuple(_artifacts(manifest, name, local)),
    )


class _Reader:
    """Keys of one object: as written for lite, in any case for classic."""

    def __init__(self, fields: object, mode: Mode) -> None:
        self.fields: Mapping[str, Any] = fields if isinstance(fields, Mapping) else {}
        self.mode = mode

    def get(self, key: str) -> Any:
        if self.mode is Mode.LITE or key in self.fields:
            return self.fields.get(key)
        return next((value for name, value in self.fields.items() if str(name).lower() == key.lower()), None)

    def text(self, key: str, default: str = "") -> str:
        value = self.get(key)
        return default if value is None else _word(value)

    def below(self, key: str) -> _Reader:
        return _Reader(self.get(key), self.mode)

    def many(self, key: str) -> list[_Reader]:
        value = self.get(key)
        return [_Reader(item, self.mode) for item in value] if isinstance(value, list) else []


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _load(text: bytes, mode: Mode) -> object:
    import yaml

    if text.lstrip().startswith(b"{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise InvalidDocument(f"A JSON recipe cannot be read: {error}.", "Correct it.") from None
    try:
        # Lite keeps every YAML scalar as the text it was written with.
        loader = yaml.BaseLoader if mode is Mode.LITE else yaml.SafeLoader
        return yaml.load(text, Loader=loader)  # noqa: S506  both loaders are safe ones
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidDocument(f"A YAML recipe cannot be read: {' '.join(str(error).split())}.", "Correct it.") from None


def _manifest(reader: _Reader, name: str, mode: Mode, limits: Limits) -> _Reader:
    here = {"os": "linux", "architecture": architecture(), "runtime": limits.runtime}
    for manifest in reader.many("Manifests"):
        wanted = manifest.below("Platform").fields
        if mode is Mode.LITE:
            if not wanted:
                raise InvalidDocument(f"{name}: Platform not provided.", "Nucleus lite needs os and runtime there.")
            if _fits_lite(wanted, here):
                return manifest
        elif all(_fits_classic(str(value), here.get(str(key).lower())) for key, value in wanted.items()):
            return manifest
    raise InvalidDocument(
        f"{name}: no manifest fits {', '.join(f'{key}: {value}' for key, value in here.items())}.",
        'Write Platform: {os: linux, runtime: "*"} and the architecture, if it matters.',
    )


def _fits_lite(wanted: Mapping[str, Any], here: Mapping[str, str]) -> bool:
    """Lite needs os and runtime, compares plain words, and looks at no other attribute."""
    return (
        wanted.get("os") in (here["os"], "*")
        and wanted.get("runtime") in (here["runtime"], "*")
        and wanted.get("architecture", "*") in (here["architecture"], "*")
    )


def _fits_classic(wanted: str, found: str | None) -> bool:
    """Classic takes ``*``, a word, or ``/REGEX/``, for each attribute the manifest names."""
    if wanted == "*":
        return True
    if len(wanted) > 1 and wanted.startswith("/") and wanted.endswith("/"):
        try:
            return found is not None and re.fullmatch(wanted[1:-1], found) is not None
        except re.error as error:
            raise InvalidDocument(f"The Platform {wanted!r} is no expression: {error}.", "Correct it.") from None
    return wanted == found


def _dependencies(reader: _Reader, name: str, mode: Mode) -> list[Dependency]:
    found = []
    fields = reader.below("ComponentDependencies").fields
    for dependency, value in fields.items():
        item = _Reader(value, mode)
        requirement = item.text("VersionRequirement", ">=0.0.0")
        if mode is Mode.LITE and _LITE_RANGE.fullmatch(requirement.strip()) is None:
            raise InvalidDocument(
                f"{name}: nucleus lite cannot read the VersionRequirement {requirement!r} of {dependency}.",
                "Use only = > >= < <= with a space for AND, such as >=1.0.0 <2.0.0.",
            )
        kind = item.text("DependencyType", "" if mode is Mode.LITE else "HARD").upper()
        if kind not in ("", "HARD", "SOFT"):
            raise InvalidDocument(f"{name}: {kind!r} is not a DependencyType.", "Write HARD or SOFT.")
        found.append(Dependency(str(dependency), requirement, kind))
    return found


def _environment(reader: _Reader) -> tuple[tuple[str, str], ...]:
    return tuple((str(key), _word(value)) for key, value in reader.below("Setenv").fields.items())


def _steps(lifecycle: _Reader, name: str, mode: Mode) -> Mapping[str, Step]:
    for key, why in _NOT_RUN.items():
        if lifecycle.get(key) is not None:
            raise Refused(f"{name}: a {key} step {why}; the local core device does not run it.", _INSTEAD)
    steps: dict[str, Step] = {}
    for key in STEPS:
        value = lifecycle.get(key)
        if value is None or (mode is Mode.LITE and key in ("shutdown", "recover")):
            continue
        reader = _Reader({"Script": value} if isinstance(value, str) else value, mode)
        script = reader.get("Script")
        if not isinstance(script, str):
            raise InvalidDocument(f"{name}: the {key} step has no Script.", "Write Script, with a capital S.")
        steps[key] = Step(
            script,
            _environment(reader),
            _seconds(reader.get("Timeout"), name, key),
            reader.text("RequiresPrivilege").lower() == "true",
            "" if mode is Mode.LITE else reader.text("Skipif"),
        )
    if not steps:
        raise InvalidDocument(f"{name}: the recipe has no lifecycle step.", "Write at least a run or install step.")
    return steps


def _seconds(value: object, name: str, step: str) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 86_400:
        raise InvalidDocument(f"{name}: the Timeout {value!r} of {step} is not a time.", "Write seconds, under a day.")
    return seconds


def _artifacts(manifest: _Reader, name: str, local: bool) -> list[Artifact]:
    found = []
    for item in manifest.many("Artifacts"):
        uri, unarchive = item.text("Uri"), item.text("Unarchive", "NONE").upper()
        try:
            address = urlsplit(uri)
        except ValueError as error:
            raise InvalidDocument(f"{name}: the artifact {uri!r} is no address: {error}.", "Correct it.") from None
        if address.scheme != "s3" or not address.netloc or not address.path.strip("/"):
            raise Refused(f"{name}: the artifact {uri!r} is not s3://BUCKET/KEY.", "Store artifacts in S3.")
        if address.path.endswith("/") or address.path.rsplit("/", 1)[-1] in (".", ".."):
            raise InvalidDocument(f"{name}: the artifact {uri!r} names no file.", "Name a file.")
        if unarchive not in ("ZIP", "NONE"):
            raise Refused(f"{name}: Unarchive {unarchive} is not known here.", "Use ZIP or NONE.")
        algorithm = item.text("Algorithm", "SHA-256").upper()
        if algorithm != "SHA-256" or not (item.text("Digest") or local):
            raise InvalidDocument(f"{name}: the artifact {uri!r} has no SHA-256 digest.", "Create the version again.")
        executable = item.below("Permission").text("Execute", "NONE").upper() != "NONE"
        found.append(Artifact(uri, item.text("Digest"), unarchive, executable))
    names = [artifact.file_name for artifact in found]
    if len(set(names)) != len(names):
        raise InvalidDocument(f"{name}: two artifacts have one file name.", "Give each its own.")
    return found
