"""Rules of Platform: which device picks which manifest."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hybridge_cloud.recipes.recipe import ANY, Manifest, Recipe, file_name, is_expression
from hybridge_cloud.recipes.rule import Hit, Nucleus, Rule, Severity

LITE_RUNTIMES = (ANY, "aws_nucleus_lite")
RUNTIMES = (*LITE_RUNTIMES, "aws_nucleus_classic")
ARCHITECTURES = ("amd64", "aarch64", "x86", "arm")
_OTHER_WORDS = {"x86_64": "amd64", "x86-64": "amd64", "x64": "amd64", "arm64": "aarch64", "armv8": "aarch64",
                "armv7l": "arm", "armv7": "arm", "i386": "x86", "i686": "x86"}  # fmt: skip
_ATTRIBUTES = ("os", "architecture", "runtime")
_MACHINE = re.compile(
    r"(?<![A-Za-z0-9])(x86_64|amd64|aarch64|arm64|armv7l|i686)(?![A-Za-z0-9])|\.so(?![A-Za-z])|\.whl\b"
)


def _taken_by_lite(manifest: Manifest) -> bool:
    return manifest.wants("os") in ("linux", ANY) and manifest.wants("runtime") in LITE_RUNTIMES


def _for_linux(recipe: Recipe) -> Iterator[Manifest]:
    """Manifests that are meant for Linux devices of either nucleus."""
    for manifest in recipe.manifests:
        if manifest.is_for_linux and manifest.wants("runtime") != "aws_nucleus_classic":
            yield manifest


def missing(recipe: Recipe) -> Iterator[Hit]:
    for manifest in recipe.manifests:
        if manifest.platform is None or not manifest.platform.entries:
            yield Hit(manifest.line, "a manifest has no Platform")


def system(recipe: Recipe) -> Iterator[Hit]:
    for manifest in _for_linux(recipe):
        if manifest.platform is not None and manifest.platform.entries and not manifest.wants("os"):
            yield Hit(manifest.platform.line, "Platform has no os")


def runtime(recipe: Recipe) -> Iterator[Hit]:
    for manifest in recipe.manifests:
        platform = manifest.platform
        wanted = manifest.wants("runtime")
        if platform is not None and wanted and wanted not in RUNTIMES and not is_expression(wanted):
            found = platform.text("runtime")
            yield Hit(found.line if found else platform.line, f"there is no runtime {wanted[:40]!r}")
    if any(_taken_by_lite(manifest) for manifest in recipe.manifests):
        return  # a manifest without a runtime beside it is for classic alone
    for manifest in recipe.manifests:
        platform = manifest.platform
        if not manifest.is_for_linux or platform is None or not platform.entries:
            continue
        if not manifest.wants("runtime"):
            yield Hit(platform.line, "Platform has no runtime, so nucleus lite passes this manifest by")
        elif manifest.wants("runtime") == "aws_nucleus_classic":
            yield Hit(platform.line, "every manifest is for classic, so nucleus lite finds none")


def expression(recipe: Recipe) -> Iterator[Hit]:
    for manifest in recipe.manifests:
        for entry in manifest.platform.entries if manifest.platform is not None else ():
            if is_expression(manifest.wants(entry.key)):
                yield Hit(entry.line, f"{entry.key} is the expression {manifest.wants(entry.key)[:60]}")


def custom(recipe: Recipe) -> Iterator[Hit]:
    for manifest in recipe.manifests:
        if not manifest.is_for_linux or manifest.wants("runtime") == "aws_nucleus_classic":
            continue
        for entry in manifest.platform.entries if manifest.platform is not None else ():
            if entry.key.lower() not in _ATTRIBUTES:
                yield Hit(entry.line, f"{entry.key[:60]!r} is an attribute that nucleus lite does not look at")


def architecture_word(recipe: Recipe) -> Iterator[Hit]:
    for manifest in recipe.manifests:
        wanted = manifest.wants("architecture")
        if manifest.platform is None or not wanted or wanted == ANY or is_expression(wanted):
            continue
        if wanted not in ARCHITECTURES:
            found = manifest.platform.text("architecture")
            right = _OTHER_WORDS.get(wanted.lower())
            said = f": Greengrass says {right}" if right else f"; there are {', '.join(ARCHITECTURES)}"
            yield Hit(found.line if found else manifest.line, f"no device has the architecture {wanted[:40]!r}{said}")


def architecture_unnamed(recipe: Recipe) -> Iterator[Hit]:
    for manifest in recipe.manifests:
        if not manifest.is_for_linux or manifest.wants("architecture") not in ("", ANY):
            continue
        for artifact in manifest.artifacts:
            found = _MACHINE.search(file_name(artifact))
            uri = artifact.text("Uri")
            if found and uri is not None and found[0] != ".whl":
                yield Hit(uri.line, f"{file_name(artifact)[:80]!r} is for one architecture, and Platform names none")
        for shell in recipe.scripts:
            if shell.manifest is not manifest or "uname" in shell.text.value:
                continue
            found = _MACHINE.search(shell.text.value)
            if found and found[1]:
                line = recipe.line_of(shell.text, found.start(), len(found[0]))
                yield Hit(line, f"the {shell.step} script names {found[0]}, and Platform names no architecture")


def unreachable(recipe: Recipe) -> Iterator[Hit]:
    for index, manifest in enumerate(recipe.manifests):
        for earlier in recipe.manifests[:index]:
            if _covers(earlier, manifest):
                yield Hit(manifest.line, f"the manifest on line {earlier.line} comes first and takes all its devices")
                break


def _covers(wide: Manifest, narrow: Manifest) -> bool:
    """Whether every device that takes ``narrow`` takes ``wide`` too, by plain words only."""
    if wide.platform is None:
        return True
    for entry in wide.platform.entries:
        wanted = wide.wants(entry.key)
        if wanted in (ANY, "all"):
            continue
        if is_expression(wanted) or wanted != narrow.wants(entry.key):
            return False
    return True


_LITE, _BOTH = Nucleus.LITE, Nucleus.BOTH
_ERROR, _WARNING = Severity.ERROR, Severity.WARNING

RULES = (
    Rule("platform-missing", _LITE, _ERROR, "Nucleus lite refuses a recipe with a manifest without Platform.",
         'Write Platform: {os: linux, runtime: "*"}, and the architecture where it matters.', missing),
    Rule("platform-os", _LITE, _ERROR, "Nucleus lite takes no manifest whose Platform names no os.",
         "Write os: linux.", system),
    Rule("platform-runtime", _LITE, _ERROR,
         "Nucleus lite takes only manifests that say runtime * or aws_nucleus_lite.", 'Write runtime: "*".', runtime),
    Rule("platform-regex", _LITE, _ERROR, "Nucleus lite compares words and knows no expressions.",
         "Write one manifest for each value, in plain words.", expression),
    Rule("platform-custom", _LITE, _ERROR,
         "Nucleus lite picks the manifest whether the device has the attribute or not.",
         "Find out in the install script what the device is, or write a component for each kind.", custom),
    Rule("platform-architecture-word", _BOTH, _ERROR, "The manifest fits no device.",
         "Write amd64 or aarch64.", architecture_word),
    Rule("platform-architecture", _BOTH, _WARNING, "Devices of another architecture take this manifest too.",
         "Write one manifest for amd64 and one for aarch64.", architecture_unnamed),
    Rule("manifest-unreachable", _BOTH, _WARNING, "A device takes the first manifest that fits, so this is never used.",
         "Put the narrower manifest first, or leave it out.", unreachable),
)  # fmt: skip
