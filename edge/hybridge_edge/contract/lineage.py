"""Where a package comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

from hybridge_edge.contract.document import Reader


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a package comes from.

    Attributes:
        run: name of the training run. data_digest, code_digest: sha256 of the data read and of the project's files.
        dataset: S3 key of the numbered dataset that made it, "" for a first training.
        parent: digest of the package it was retrained from, "" for a first training.
        created_at: UTC, ISO 8601. versions: libraries by name.
    """

    run: str
    data_digest: str
    code_digest: str
    created_at: str
    dataset: str = ""
    parent: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, reader: Reader) -> Lineage:
        return cls(
            reader.text("run"),
            reader.text("data_digest"),
            reader.text("code_digest"),
            reader.text("created_at"),
            reader.text("dataset", ""),
            reader.text("parent", ""),
            reader.strings_by_name("versions"),
        )

    def to_json(self) -> dict[str, object]:
        return {
            "run": self.run,
            "data_digest": self.data_digest,
            "code_digest": self.code_digest,
            "created_at": self.created_at,
            "dataset": self.dataset,
            "parent": self.parent,
            "versions": self.versions,
        }
