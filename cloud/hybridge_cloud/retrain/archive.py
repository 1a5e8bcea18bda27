"""A project as a zip in S3, named by its content: what the pipeline's builds train with."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from hybridge_cloud.training.project import SOURCE_TYPES, Project
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.errors import Conflict, Refused, UsageError

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

MAX_PROJECT_BYTES = 16 * 1024**2
MAX_PROJECT_FILES = 256
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment a zip can tell: the same files give the same bytes
_KEY = re.compile(r"projects/[a-z0-9-]{1,64}/([0-9a-f]{64})\.zip")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


def pack(project: Project) -> bytes:
    """The project's own files as a zip that depends on nothing but their names and contents."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(project.sources().items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return stream.getvalue()


def upload(bucket: Bucket, project: Project) -> str:
    """Store the project and return its key, ``projects/NAME/SHA256.zip``."""
    data = pack(project)
    key = f"projects/{project.name}/{sha256(data).removeprefix('sha256:')}.zip"
    try:
        bucket.put(key, data, only_if_absent=True)
    except Conflict:
        pass  # the same name is the same content
    return key


def fetch(bucket: Bucket, key: str, folder: Path) -> None:
    """Fetch a project into ``folder``, which is empty: plain files only, each directly in it.

    Raises:
        UsageError: ``key`` is not a project's. Refused: the archive is not what its name says.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise UsageError(
            f"{key[:200]!r} is not the key of a project.", "Make one with hybridge retrain pipeline create."
        )
    data = bucket.get(key)
    if sha256(data) != f"sha256:{match[1]}":
        raise Refused(f"The project {key} was altered.", "Store it again with hybridge retrain pipeline create.")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_PROJECT_FILES or sum(entry.file_size for entry in entries) > MAX_PROJECT_BYTES:
                raise Refused(f"The project {key} is larger than {MAX_PROJECT_BYTES} bytes.")
            for entry in entries:
                plain = _NAME.fullmatch(entry.filename) and Path(entry.filename).suffix in SOURCE_TYPES
                if not plain:
                    raise Refused(f"The project {key} holds {entry.filename[:80]!r}, which no project has.")
                with (folder / entry.filename).open("xb") as file:
                    file.write(archive.read(entry))
    except (zipfile.BadZipFile, FileExistsError, NotImplementedError, RuntimeError) as error:
        raise Refused(f"The project {key} cannot be unpacked: {error}.") from None
