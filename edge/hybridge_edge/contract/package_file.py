"""One file of a package: where it lies and what it must be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import InvalidDocument

MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "signature.json"
FILE_TYPES = frozenset({".onnx", ".npy", ".json", ".txt"})
MAX_PACKAGE_BYTES = 8 * 1024**3


def relative_path(text: str) -> str:
    """Return ``text`` if it is a plain relative path of an allowed type, else raise InvalidDocument."""
    path = PurePosixPath(text)
    plain = (
        text == str(path)
        and not path.is_absolute()
        and 1 <= len(path.parts) <= 4
        and all(part not in ("..", ".") and part.isprintable() and "\\" not in part for part in path.parts)
        and len(text) <= 200
    )
    if not plain or path.suffix not in FILE_TYPES or text in (MANIFEST_FILE, SIGNATURE_FILE):
        raise InvalidDocument(
            f"{text[:80]!r} may not be a file of a package.", "Use plain relative paths of onnx, npy, json, txt."
        )
    return text


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the package: its path below the folder, digest and size in bytes."""

    path: str
    sha256: str
    size: int

    @classmethod
    def read(cls, reader: Reader) -> FileEntry:
        return cls(
            reader.text("path", check=relative_path),
            reader.text("sha256", check=names.digest),
            reader.integer("size", maximum=MAX_PACKAGE_BYTES),
        )

    def to_json(self) -> dict[str, object]:
        return {"path": self.path, "sha256": self.sha256, "size": self.size}
