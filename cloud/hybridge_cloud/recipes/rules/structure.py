"""Rules of a recipe's outline: size, keys, names, versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from hybridge_cloud.recipes.document import Entry, Items, Node, Table, Text, tables
from hybridge_cloud.recipes.recipe import STEPS, Recipe
from hybridge_cloud.recipes.rule import Hit, Nucleus, Rule, Severity

LITE_BYTES = 8_196
NEAR_BYTES = 8_000
CLOUD_BYTES = 16_000
DIGEST_BYTES = 110
"""What the cloud adds to an artifact: its SHA-256 in base64, and two keys."""
FORMAT_VERSION = "2020-01-25"
MAX_VERSION_LETTERS = 64
COMPONENT_TYPES = ("aws.greengrass.generic", "aws.greengrass.lambda", "aws.greengrass.nucleus", "aws.greengrass.plugin")
GDK_NAME = "{COMPONENT_NAME}"
GDK_VERSION = "{COMPONENT_VERSION}"
"""What the Greengrass Development Kit fills in when it builds."""
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,128}")
_NUMBER = r"(?:0|[1-9]\d{0,8})"
_SEMVER = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?(?:\+[0-9A-Za-z.-]+)?")

_TOP = ("RecipeFormatVersion", "ComponentName", "ComponentVersion", "ComponentType", "ComponentDescription",
        "ComponentPublisher", "ComponentSource", "ComponentConfiguration", "ComponentDependencies", "Manifests",
        "Lifecycle")  # fmt: skip
_REQUIRED = ("RecipeFormatVersion", "ComponentName", "ComponentVersion", "Manifests")
_MANIFEST = ("Name", "Platform", "Lifecycle", "Artifacts", "Selections")
_PLATFORM = ("os", "architecture", "architecture.detail", "runtime")
_ARTIFACT = ("Uri", "Unarchive", "Permission", "Digest", "Algorithm")
_PERMISSION = ("Read", "Execute")
_STEP = ("Script", "Setenv", "Timeout", "RequiresPrivilege", "Skipif")
_BOOTSTRAP = (*_STEP, "BootstrapOnRollback")
_DEPENDENCY = ("VersionRequirement", "DependencyType")
_CONFIGURATION = ("DefaultConfiguration",)
_LISTS = ("Manifests", "Artifacts", "Selections")


def _objects(recipe: Recipe, linux_only: bool = False) -> Iterator[tuple[str, Table, tuple[str, ...]]]:
    """Every object of the recipe's format: what it is, the object, its known keys."""
    yield "a recipe", recipe.root, _TOP
    if (configuration := recipe.root.table("ComponentConfiguration")) is not None:
        yield "ComponentConfiguration", configuration, _CONFIGURATION
    for entry in recipe.dependencies:
        if isinstance(entry.value, Table):
            yield "a dependency", entry.value, _DEPENDENCY
    for manifest in recipe.manifests:
        if linux_only and not manifest.is_for_linux:
            continue
        yield "a manifest", manifest.table, _MANIFEST
        for artifact in manifest.artifacts:
            yield "an artifact", artifact, _ARTIFACT
            if (permission := artifact.table("Permission")) is not None:
                yield "Permission", permission, _PERMISSION
        for step in manifest.steps:
            if step.table is not None:
                yield "a step", step.table, _BOOTSTRAP if step.name == "bootstrap" else _STEP


def _canonical(key: str, known: tuple[str, ...]) -> str:
    """The known key that this one is, in its right case; "" where there is none."""
    return next((name for name in known if name.lower() == key.lower()), "")


def key_case(recipe: Recipe) -> Iterator[Hit]:
    for _, table, known in _objects(recipe, linux_only=True):
        yield from _wrong_case(table, known)
    for manifest in (manifest for manifest in recipe.manifests if manifest.is_for_linux):
        if manifest.platform is not None:
            yield from _wrong_case(manifest.platform, _PLATFORM)
        if manifest.lifecycle is not None:
            yield from _wrong_case(manifest.lifecycle, (*STEPS, "Setenv"))


def _wrong_case(table: Table, known: tuple[str, ...]) -> Iterator[Hit]:
    for entry in table.entries:
        right = _canonical(entry.key, known)
        if right and right != entry.key:
            yield Hit(entry.line, f"{entry.key!r} is written {right!r}")


def unknown_key(recipe: Recipe) -> Iterator[Hit]:
    for what, table, known in _objects(recipe):
        for entry in table.entries:
            if not _canonical(entry.key, known):
                yield Hit(entry.line, f"{what} has no {entry.key[:60]!r}")


def unknown_step(recipe: Recipe) -> Iterator[Hit]:
    for manifest in recipe.manifests:
        for entry in manifest.lifecycle.entries if manifest.lifecycle is not None else ():
            if not _canonical(entry.key, (*STEPS, "Setenv")):
                yield Hit(entry.line, f"a lifecycle has no step {entry.key[:60]!r}")


def required_key(recipe: Recipe) -> Iterator[Hit]:
    for key in _REQUIRED:
        found = recipe.root.find(key)
        if found is None or _is_empty(found.value):
            yield Hit(found.line if found else recipe.root.line, f"{key} is missing or empty")
    for entry in recipe.dependencies:
        if not isinstance(entry.value, Table) or not entry.value.word("VersionRequirement"):
            yield Hit(entry.line, f"the dependency {entry.key[:60]!r} has no VersionRequirement")
    for _, artifact in recipe.artifacts:
        if not artifact.word("Uri"):
            yield Hit(artifact.line, "an artifact has no Uri")


def _is_empty(node: Node) -> bool:
    if isinstance(node, Text):
        return not node.value or node.kind == "null"
    return isinstance(node, Items) and not node.values


def value_kind(recipe: Recipe) -> Iterator[Hit]:
    tables_here = {"ComponentConfiguration", "DefaultConfiguration", "ComponentDependencies", "Platform", "Lifecycle",
                   "Setenv", "Permission"}  # fmt: skip
    for _, table, known in _objects(recipe):
        for entry in table.entries:
            key = _canonical(entry.key, known)
            if key:
                yield from _kind(entry, key, tables_here)
    for manifest in recipe.manifests:
        for step in manifest.steps:
            if step.table is None and step.script is None:
                yield Hit(step.line, f"{step.name} must be a script or a mapping")


def _kind(entry: Entry, key: str, table_keys: set[str]) -> Iterator[Hit]:
    if key in _LISTS:
        if not isinstance(entry.value, Items) and not _is_empty(entry.value):
            yield Hit(entry.line, f"{key} must be a list")
        elif (
            isinstance(entry.value, Items)
            and key != "Selections"
            and not all(isinstance(item, Table) for item in entry.value.values)
        ):
            yield Hit(entry.line, f"{key} must be a list of mappings")
    elif key in table_keys:
        if not isinstance(entry.value, Table) and not _is_empty(entry.value):
            yield Hit(entry.line, f"{key} must be a mapping")
    elif key not in ("Skipif", "ComponentSource") and not isinstance(entry.value, Text):
        yield Hit(entry.line, f"{key} must be a text")


def duplicate_key(recipe: Recipe) -> Iterator[Hit]:
    told: set[tuple[int, str]] = set()
    for table in tables(recipe.root):
        seen: dict[str, int] = {}
        for entry in table.entries:
            first = seen.setdefault(entry.key, entry.line)
            # An alias shows the same mapping at several places: one breach all the same.
            if first != entry.line and (entry.line, entry.key) not in told:
                told.add((entry.line, entry.key))
                yield Hit(entry.line, f"{entry.key[:60]!r} stands on line {first} already")


def alias(recipe: Recipe) -> Iterator[Hit]:
    for line in recipe.document.aliases:
        yield Hit(line, "an alias stands here")


def size_over(limit: int) -> Callable[[Recipe], Iterator[Hit]]:
    """A rule of recipes of more bytes than that."""

    def check(recipe: Recipe) -> Iterator[Hit]:
        if recipe.size > limit:
            yield Hit(1, f"the recipe is {recipe.size} bytes")

    return check


def size_near(recipe: Recipe) -> Iterator[Hit]:
    grown = recipe.size + DIGEST_BYTES * sum(artifact.find("Digest") is None for _, artifact in recipe.artifacts)
    if recipe.size <= LITE_BYTES and (recipe.size > NEAR_BYTES or grown > LITE_BYTES):
        yield Hit(1, f"the recipe is {recipe.size} bytes, about {grown} with what the cloud adds to its artifacts")


def worded(key: str, is_right: Callable[[str], bool]) -> Callable[[Recipe], Iterator[Hit]]:
    """A rule of the text of a key on the recipe's outermost level."""

    def check(recipe: Recipe) -> Iterator[Hit]:
        found = recipe.root.text(key)
        if found is not None and not is_right(found.value):
            yield Hit(found.line, f"{key} is {found.value[:140]!r}")

    return check


def _is_format(text: str) -> bool:
    return text in ("", FORMAT_VERSION)  # required-key tells of an empty one


def _is_name(text: str) -> bool:
    return text in ("", GDK_NAME) or _NAME.fullmatch(text) is not None


def _is_version(text: str) -> bool:
    return text in ("", GDK_VERSION) or (_SEMVER.fullmatch(text) is not None and len(text) <= MAX_VERSION_LETTERS)


def lifecycle_outside(recipe: Recipe) -> Iterator[Hit]:
    if (found := recipe.root.find("Lifecycle")) is not None:
        yield Hit(found.line, "a Lifecycle stands outside Manifests")


_LITE, _BOTH = Nucleus.LITE, Nucleus.BOTH
_ERROR, _WARNING = Severity.ERROR, Severity.WARNING

RULES = (
    Rule("recipe-size-lite", _LITE, _ERROR, f"Nucleus lite reads no recipe over {LITE_BYTES:,} bytes.",
         "Move scripts and comments into files of an artifact.", size_over(LITE_BYTES)),
    Rule("recipe-size-near", _LITE, _WARNING,
         f"Nucleus lite reads {LITE_BYTES:,} bytes, and the cloud adds a digest to each artifact.",
         f"Stay below {NEAR_BYTES:,} bytes: move scripts and comments into files of an artifact.", size_near),
    Rule("recipe-size-cloud", _BOTH, _ERROR, f"The cloud takes no recipe over {CLOUD_BYTES:,} bytes.",
         "Move scripts and comments into files of an artifact.", size_over(CLOUD_BYTES)),
    Rule("key-case", _LITE, _ERROR, "Nucleus lite reads keys in one case only and does not see this one.",
         "Write keys in their canonical case; steps are lower case.", key_case),
    Rule("unknown-key", _BOTH, _ERROR, "No nucleus reads this key, so what it was meant for does not happen.",
         "Correct its spelling, its place or its indentation, or leave it out.", unknown_key),
    Rule("unknown-step", _BOTH, _ERROR, "No nucleus runs this step.",
         f"Use one of {', '.join(STEPS)}; install and run are right on both nuclei.", unknown_step),
    Rule("required-key", _BOTH, _ERROR, "A recipe without it is refused.", "Write it.", required_key),
    Rule("value-kind", _BOTH, _ERROR, "The nucleus expects another kind of value here.",
         "Correct the value or its indentation.", value_kind),
    Rule("duplicate-key", _BOTH, _ERROR, "One of the two is dropped without a word, and readers differ in which.",
         "Leave one of them out.", duplicate_key),
    Rule("yaml-alias", _LITE, _WARNING, "Aliases were never seen to work on nucleus lite.",
         "Write the value out.", alias),
    Rule("format-version", _BOTH, _ERROR, f"The only version of the recipe format is {FORMAT_VERSION}.",
         f'Write RecipeFormatVersion: "{FORMAT_VERSION}".',
         worded("RecipeFormatVersion", _is_format)),
    Rule("component-name", _BOTH, _ERROR, "A name has 1 to 128 letters, digits, '.', '_' and '-'.",
         "Choose such a name, such as com.example.Camera.",
         worded("ComponentName", _is_name)),
    Rule("component-version", _BOTH, _ERROR,
         f"A version is a semantic one of at most {MAX_VERSION_LETTERS} letters; Greengrass orders versions by it.",
         'Write MAJOR.MINOR.PATCH in quotes, such as "1.0.0".',
         worded("ComponentVersion", _is_version)),
    Rule("component-type", _BOTH, _ERROR, "There is no such type of component.",
         "Leave ComponentType out, or write aws.greengrass.generic.",
         worded("ComponentType", lambda text: text in COMPONENT_TYPES)),
    Rule("lifecycle-outside", _BOTH, _WARNING,
         "A Lifecycle beside Manifests is an old form that was never seen to work on nucleus lite; nothing in it is "
         "checked here.",
         "Write the Lifecycle inside each manifest.", lifecycle_outside),
)  # fmt: skip
