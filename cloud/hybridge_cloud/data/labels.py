"""Labels in S3: parts of JSON lines named by their digest, then the manifest that commits them. Format 1.

    labels/MODEL/data/SHA256.jsonl      one part; never changed
    labels/MODEL/imports/SHA256.json    the parts of one import, written last and once; named by what it lists
    labels/MODEL/rule.json              which labels count

The time of an import is no part of its name, so importing the same lines again finds the manifest there and changes
nothing; the first time stays. A part that no manifest lists was left by an import that died, and is never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from hybridge_cloud.data.join import LabelSet
from hybridge_cloud.data.label import Label
from hybridge_cloud.data.label_rule import LabelRule
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse, sha256
from hybridge_edge.contract.errors import Conflict, InvalidDocument, Refused

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

FORMAT = 1
PART_LABELS = 50_000
"""Labels in one part."""
MAX_PARTS = 4096
MAX_IMPORTS = 4096
"""Imports of one model: a dataset names each."""
MAX_LABELS = 2_000_000
"""Labels of one model that are joined, in 1 GB of memory or so."""
_PREFIX = "sha256:"
_OLD = re.compile(r"labels/[a-z0-9-]{1,64}/[0-9a-f]{64}\.jsonl")
"""Labels from before there were manifests: the object is its own."""


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """One import as a dataset names it: its manifest's key, and the digest of its bytes."""

    key: str
    sha256: str

    @classmethod
    def read(cls, reader: Reader) -> LabelEntry:
        return cls(reader.text("key"), reader.text("sha256", check=names.digest))

    @classmethod
    def old(cls, key: str) -> LabelEntry:
        """The entry of an object from before there were manifests, which its name digests."""
        return cls(key, names.digest(_PREFIX + PurePosixPath(key).stem))

    def to_json(self) -> dict[str, object]:
        return {"key": self.key, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Part:
    """Lines that came together.

    Attributes:
        thing: the device they were said on, "" where they were said to the cloud.
        origins: keys of the objects that device wrote, which are not taken in again.
    """

    key: str
    sha256: str
    size: int
    count: int
    thing: str = ""
    origins: tuple[str, ...] = ()

    @classmethod
    def read(cls, reader: Reader) -> Part:
        return cls(
            reader.text("key"),
            reader.text("sha256", check=names.digest),
            reader.integer("size"),
            reader.integer("count"),
            reader.text("thing"),
            reader.strings("origins"),
        )

    def to_json(self) -> dict[str, object]:
        fields: dict[str, object] = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "origins": list(self.origins)}


@dataclass(frozen=True, slots=True)
class LabelManifest:
    """One import. ``imported_at_ms``: the importer's clock, milliseconds since 1970."""

    model: str
    parts: tuple[Part, ...]
    imported_at_ms: int

    @property
    def contents(self) -> str:
        """The digest of what it lists, whenever it was imported."""
        return sha256(canonical([self.model, [part.to_json() for part in self.parts]]))

    @property
    def key(self) -> str:
        return names.label_manifest_key(self.model, self.contents.removeprefix(_PREFIX))

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)

    def to_bytes(self) -> bytes:
        parts = [part.to_json() for part in self.parts]
        return canonical({"format": FORMAT, "model": self.model, "parts": parts, "imported_at_ms": self.imported_at_ms})

    @classmethod
    def from_bytes(cls, data: bytes, key: str) -> LabelManifest:
        """Read the manifest that lies at ``key``. Raises InvalidDocument where it is not what its name says."""
        reader = parse(data, "manifest of labels")
        reader.format(FORMAT)
        manifest = cls(
            reader.text("model", check=names.model_name),
            reader.objects("parts", Part.read),
            reader.integer("imported_at_ms"),
        )
        reader.close()
        if manifest.key != key:
            raise InvalidDocument(f"The manifest of labels {key} lists other labels than its name says.")
        return manifest


def check_room(model: str, count: int) -> None:
    """Make sure that a model may have ``count`` labels. Raises Refused."""
    if count > MAX_LABELS:
        raise Refused(
            f"{model} would have more than {MAX_LABELS} labels.", "Label fewer samples, or begin a new model."
        )


def put_part(
    bucket: Bucket, model: str, labels: Iterable[Label], thing: str = "", origins: tuple[str, ...] = ()
) -> Part:
    """Write lines as one part, each once and sorted; nobody reads it before a manifest lists it."""
    lines = sorted({label.to_line() for label in labels})
    data = b"".join(lines)
    digest = sha256(data)
    key = names.label_data_key(model, digest.removeprefix(_PREFIX))
    try:
        bucket.put(key, data, only_if_absent=True)
    except Conflict:
        pass  # the same name is the same content
    return Part(key, digest, len(data), len(lines), thing, origins)


def commit(bucket: Bucket, model: str, parts: Iterable[Part], now_ms: int) -> tuple[LabelEntry, bool]:
    """Write the manifest of these parts, and return its entry and whether it is new.

    Raises:
        Refused: it would have more than MAX_PARTS parts, or there are MAX_IMPORTS imports of the model.
    """
    manifest = LabelManifest(model, tuple(parts), now_ms)
    if len(manifest.parts) > MAX_PARTS:
        raise Refused(
            f"{len(manifest.parts)} parts are more than the {MAX_PARTS} of one import.", "Import fewer at once."
        )
    if sum(1 for _ in bucket.list(_imports(model))) >= MAX_IMPORTS and not bucket.exists(manifest.key):
        raise Refused(f"{model} has {MAX_IMPORTS} imports of labels, the most there may be.", "Import less often.")
    data = manifest.to_bytes()
    try:
        bucket.put(manifest.key, data, only_if_absent=True)
    except Conflict:
        return LabelEntry(manifest.key, sha256(bucket.get(manifest.key))), False
    return LabelEntry(manifest.key, sha256(data)), True


def store(bucket: Bucket, model: str, labels: Iterable[Label], now_ms: int) -> tuple[LabelEntry, bool]:
    """Write labels as one import of one part. Returns as ``commit`` does."""
    return commit(bucket, model, (put_part(bucket, model, labels),), now_ms)


def load(bucket: Bucket, entries: Iterable[LabelEntry]) -> Iterator[Label]:
    """The labels of these imports.

    Raises:
        Refused: an object is not what its name or its entry says.
    """
    for entry in entries:
        yield from _of(bucket, entry)


def _of(bucket: Bucket, entry: LabelEntry) -> Iterator[Label]:
    data = bucket.get(entry.key)
    if sha256(data) != entry.sha256:
        raise _altered(entry.key)
    if _OLD.fullmatch(entry.key):
        yield from (Label.from_line(line) for line in data.splitlines())
        return
    manifest = LabelManifest.from_bytes(data, entry.key)
    for part in manifest.parts:
        yield from _lines(bucket, part, manifest.imported_at_ms)


def _lines(bucket: Bucket, part: Part, imported_at_ms: int) -> Iterator[Label]:
    data = bucket.get(part.key)
    if sha256(data) != part.sha256:
        raise _altered(part.key)
    for line in data.splitlines():
        yield Label.from_line(line, part.thing, imported_at_ms)


def _altered(key: str) -> Refused:
    return Refused(f"The labels {key} were altered after they were imported.", "Remove them and import again.")


def _imports(model: str) -> str:
    return names.label_manifest_key(model, "").removesuffix(".json")


class LabelShelf:
    """All labels of a model, each import fetched once, for it never changes. Used by one thread."""

    __slots__ = ("_bucket", "_entries", "_labels", "_origins", "_set", "model")

    def __init__(self, bucket: Bucket, model: str) -> None:
        self._bucket = bucket
        self.model = names.model_name(model)
        self._entries: dict[str, LabelEntry] = {}
        self._labels: dict[str, tuple[Label, ...]] = {}
        self._origins: set[str] = set()
        self._set = LabelSet((), LabelRule())

    @property
    def entries(self) -> tuple[LabelEntry, ...]:
        """The imports of the last ``refresh``, by key."""
        return tuple(self._entries[key] for key in sorted(self._entries))

    @property
    def origins(self) -> frozenset[str]:
        """The objects of devices whose labels were taken in."""
        return frozenset(self._origins)

    def refresh(self, rule: LabelRule) -> LabelSet:
        """Every label there is now, under ``rule``.

        Raises:
            Refused: an object is not what its name says, or there are more than MAX_LABELS labels.
        """
        listed = {key for key, _, _ in self._bucket.list(names.labels_prefix(self.model)) if self._committed(key)}
        changed = rule != self._set.rule or listed != self._entries.keys()
        for key in listed - self._entries.keys():
            self._fetch(key)
        for key in self._entries.keys() - listed:
            del self._entries[key], self._labels[key]
        check_room(self.model, sum(map(len, self._labels.values())) - MAX_LABELS)  # importers at once may pass it
        if changed:
            self._set = LabelSet((label for key in sorted(self._labels) for label in self._labels[key]), rule)
        return self._set

    def _committed(self, key: str) -> bool:
        return key.startswith(_imports(self.model)) or _OLD.fullmatch(key) is not None

    def _fetch(self, key: str) -> None:
        if _OLD.fullmatch(key):
            entry = LabelEntry.old(key)
        else:
            data = self._bucket.get(key)
            entry = LabelEntry(key, sha256(data))
            self._origins |= {name for part in LabelManifest.from_bytes(data, key).parts for name in part.origins}
        self._labels[key] = tuple(_of(self._bucket, entry))
        self._entries[key] = entry
