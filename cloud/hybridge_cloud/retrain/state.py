"""What stages leave for each other in S3: folders and documents below ``runs/MODEL/dataset-NNNNNN/``.

A folder counts only once its index is there, which is written last and names every file's digest; a stage that died
half-way left nothing, and one that is repeated finds what it did.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hybridge_cloud.retrain.claim import record_key
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse, sha256
from hybridge_edge.contract.errors import Refused

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

FORMAT = 1
MAX_FILES = 1024


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    sha256: str

    @classmethod
    def read(cls, reader: Reader) -> _File:
        return cls(reader.text("path"), reader.text("sha256", check=names.digest))


def upload(bucket: Bucket, dataset_key: str, name: str, folder: Path) -> None:
    """Store a folder as ``name``; its index goes last."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        relative = path.relative_to(folder).as_posix()
        bucket.put(record_key(dataset_key, f"{name}/{relative}"), data)
        files.append({"path": relative, "sha256": sha256(data)})
    bucket.put(_index_key(dataset_key, name), canonical({"format": FORMAT, "files": files}))


def stored(bucket: Bucket, dataset_key: str, name: str) -> bool:
    """Whether a folder was stored whole."""
    return bucket.exists(_index_key(dataset_key, name))


def download(bucket: Bucket, dataset_key: str, name: str, folder: Path) -> Path:
    """Fetch a folder to ``folder``, which is not there yet, and return it. Raises Refused where it is not whole."""
    if not stored(bucket, dataset_key, name):
        raise Refused(f"The run of {dataset_key} has no {name!r}.", "Run the stage before this one.")
    reader = parse(bucket.get(_index_key(dataset_key, name)), f"index of {name}")
    reader.format(FORMAT)
    files = reader.objects("files", _File.read)
    reader.close()
    if len(files) > MAX_FILES:
        raise Refused(f"The {name!r} of {dataset_key} has more than {MAX_FILES} files.")
    folder.mkdir(parents=True)
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts:
            raise Refused(f"The {name!r} of {dataset_key} names {file.path[:80]!r}, outside itself.")
        data = bucket.get(record_key(dataset_key, f"{name}/{file.path}"))
        if sha256(data) != file.sha256:
            raise Refused(f"{file.path} of {name!r} of {dataset_key} is not what was stored.", "Run its stage again.")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder


def _index_key(dataset_key: str, name: str) -> str:
    return record_key(dataset_key, f"{name}.files.json")
