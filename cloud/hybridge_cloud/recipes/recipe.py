"""A recipe as rules see it: manifests, steps, scripts, dependencies and artifacts, with their lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from hybridge_cloud.recipes.document import Document, Entry, Node, Table, Text, texts

STEPS = ("bootstrap", "install", "run", "startup", "shutdown", "recover")
ANY = "*"
_LINUX = ("", ANY, "all", "linux")


@dataclass(frozen=True, slots=True)
class Step:
    """One lifecycle step; ``table`` is None where its script stands right under its name."""

    name: str
    line: int
    table: Table | None
    script: Text | None


@dataclass(frozen=True, slots=True)
class Shell:
    """A text in which variables are replaced: a step's script, or a value of Setenv.

    Attributes:
        step: the step's name, "" for a Setenv of the whole lifecycle. is_script: False for a value of Setenv.
    """

    manifest: Manifest
    step: str
    text: Text
    is_script: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """One manifest."""

    table: Table

    @property
    def line(self) -> int:
        return self.table.line

    @property
    def platform(self) -> Table | None:
        return self.table.table("Platform")

    def wants(self, attribute: str) -> str:
        """What its Platform says of an attribute; "" where it says nothing."""
        return self.platform.word(attribute) if self.platform is not None else ""

    @property
    def is_for_linux(self) -> bool:
        wanted = self.wants("os")
        return wanted in _LINUX or is_expression(wanted)

    @property
    def lifecycle(self) -> Table | None:
        return self.table.table("Lifecycle")

    @property
    def artifacts(self) -> tuple[Table, ...]:
        return self.table.tables("Artifacts")

    @property
    def steps(self) -> tuple[Step, ...]:
        if self.lifecycle is None:
            return ()
        return tuple(_step(entry) for entry in self.lifecycle.entries if entry.key.lower() in STEPS)

    @property
    def unpacked(self) -> frozenset[str]:
        """Names of the folders that its ZIP artifacts are unpacked to."""
        return frozenset(
            file_name(artifact).rpartition(".")[0] or file_name(artifact)
            for artifact in self.artifacts
            if artifact.word("Unarchive").upper() == "ZIP"
        )


def _step(entry: Entry) -> Step:
    value = entry.value
    if isinstance(value, Table):
        return Step(entry.key.lower(), entry.line, value, value.text("Script"))
    return Step(entry.key.lower(), entry.line, None, value if isinstance(value, Text) else None)


def is_expression(wanted: str) -> bool:
    """Whether a platform value is a regular expression, which classic alone reads."""
    return len(wanted) > 1 and wanted.startswith("/") and wanted.endswith("/")


def file_name(artifact: Table) -> str:
    """The name of the file that an artifact is on the device."""
    return artifact.word("Uri").split("?")[0].rpartition("/")[2]


def _environment(holder: Table) -> Iterator[Text]:
    """The values of a Setenv."""
    table = holder.table("Setenv")
    for entry in table.entries if table is not None else ():
        if isinstance(entry.value, Text):
            yield entry.value


@dataclass(frozen=True)  # without slots, for the cached properties
class Recipe:
    """A recipe and where its parts stand.

    Args:
        root: its outermost mapping. size: of the file, in bytes.
    """

    root: Table
    document: Document
    size: int

    @cached_property
    def manifests(self) -> tuple[Manifest, ...]:
        return tuple(Manifest(table) for table in self.root.tables("Manifests"))

    @cached_property
    def steps(self) -> tuple[tuple[Manifest, Step], ...]:
        """Steps of manifests that a Linux device may pick."""
        return tuple((item, step) for item in self.manifests if item.is_for_linux for step in item.steps)

    def step(self, name: str) -> Iterator[tuple[Manifest, Step, str]]:
        """Manifest, step and script of the steps of one name that have a script."""
        for manifest, step in self.steps:
            if step.name == name and step.script is not None:
                yield manifest, step, step.script.value

    @cached_property
    def shells(self) -> tuple[Shell, ...]:
        """Scripts and Setenv values of manifests that a Linux device may pick."""
        found: list[Shell] = []
        for manifest in self.manifests:
            if manifest.is_for_linux and manifest.lifecycle is not None:
                found += (Shell(manifest, "", text, False) for text in _environment(manifest.lifecycle))
                for step in manifest.steps:
                    if step.table is not None:
                        found += (Shell(manifest, step.name, text, False) for text in _environment(step.table))
                    if step.script is not None:
                        found.append(Shell(manifest, step.name, step.script, True))
        return tuple(found)

    @cached_property
    def scripts(self) -> tuple[Shell, ...]:
        return tuple(shell for shell in self.shells if shell.is_script)

    @cached_property
    def dependencies(self) -> tuple[Entry, ...]:
        table = self.root.table("ComponentDependencies")
        return table.entries if table is not None else ()

    def dependency(self, name: str) -> Table | None:
        found = next((entry.value for entry in self.dependencies if entry.key == name), None)
        return found if isinstance(found, Table) else None

    @cached_property
    def defaults(self) -> Table:
        """DefaultConfiguration, empty where there is none."""
        found = (self.root.table("ComponentConfiguration") or Table((), 1)).table("DefaultConfiguration")
        return found if found is not None else Table((), 1)

    def default(self, pointer: str) -> Node | None:
        """What stands at a JSON pointer (RFC 6901) in DefaultConfiguration."""
        node: Node | None = self.defaults
        for part in pointer.strip("/").split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            entries = node.entries if isinstance(node, Table) else ()
            node = next((entry.value for entry in entries if entry.key == key), None)
        return node

    @cached_property
    def access(self) -> Table | None:
        """accessControl of DefaultConfiguration."""
        return self.defaults.table("accessControl")

    @cached_property
    def artifacts(self) -> tuple[tuple[Manifest, Table], ...]:
        return tuple((manifest, artifact) for manifest in self.manifests for artifact in manifest.artifacts)

    @property
    def name(self) -> str:
        return self.root.word("ComponentName")

    def line_of(self, text: Text, offset: int, length: int = 1) -> int:
        """The line of the file on which a piece of a text stands."""
        if text.style == "|":
            return min(text.last, text.line + 1 + text.value.count("\n", 0, offset))
        piece = text.value[offset : offset + max(1, length)].split("\n")[0]
        seen = text.value.count(piece, 0, offset)
        for number in range(text.line, min(text.last, len(self.document.lines)) + 1):
            here = self.document.lines[number - 1].count(piece)
            if seen < here:
                return number
            seen -= here
        return text.line

    def configured(self) -> Iterator[tuple[tuple[str, ...], Text]]:
        """Keys and text of every value of DefaultConfiguration but accessControl."""
        for entry in self.defaults.entries:
            if entry.key != "accessControl":
                yield from texts(entry.value, (entry.key,))
