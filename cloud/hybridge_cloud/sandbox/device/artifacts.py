"""Artifacts from S3: fetched with resume, checked against their digest, unpacked without trust.

A file or folder under its final name is whole and checked; everything unfinished has another name.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from hybridge_cloud.sandbox.device import failpoint
from hybridge_cloud.sandbox.device.layout import Layout
from hybridge_cloud.sandbox.device.mode import MEBIBYTE, Limits, Mode
from hybridge_cloud.sandbox.device.recipe import Artifact, Recipe
from hybridge_edge import durable
from hybridge_edge.contract.errors import Refused, Unavailable

_CHUNK = MEBIBYTE
_ATTEMPTS = 4
_CONNECT_SECONDS = 5
_READ_SECONDS = 30
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression we do not have
    RuntimeError,  # encrypted
    FileExistsError,  # an entry inside another that is a file
    NotADirectoryError,
)


def place(recipe: Recipe, layout: Layout, limits: Limits, mode: Mode) -> None:
    """Make what a local deployment brought ready: classic checks and unpacks it, lite leaves it as it is.

    Raises:
        Refused: classic misses an artifact, or finds it altered or no archive.
    """
    folder, unarchived = layout.artifacts(recipe.name, recipe.version), layout.unarchived(recipe.name, recipe.version)
    folder.mkdir(parents=True, exist_ok=True)
    unarchived.mkdir(parents=True, exist_ok=True)
    for artifact in recipe.artifacts if mode is Mode.CLASSIC else ():
        file, target = folder / artifact.file_name, unarchived / artifact.stem
        if not file.is_file():
            raise Refused(f"{recipe.name}: the local deployment brought no {artifact.file_name}.", "Add it.")
        if artifact.digest and _digest(file) != artifact.digest:
            raise Refused(f"{artifact.uri} does not have the SHA-256 digest of its recipe.", "Correct the recipe.")
        file.chmod(0o755 if artifact.executable else 0o644)
        if artifact.unarchive == "ZIP":
            shutil.rmtree(target, ignore_errors=True)
            _unpack(file, target, artifact, limits)


def fetch(recipe: Recipe, layout: Layout, limits: Limits) -> None:
    """Bring all artifacts of a component into place; what is there already and right is left.

    Raises:
        Refused: an artifact is missing, altered, too large or an unsafe archive. Unavailable: S3 does not answer.
    """
    folder = layout.artifacts(recipe.name, recipe.version)
    unarchived = layout.unarchived(recipe.name, recipe.version)
    folder.mkdir(parents=True, exist_ok=True)
    unarchived.mkdir(parents=True, exist_ok=True)
    left = limits.artifact_bytes
    client: Any = None
    for artifact in recipe.artifacts:
        file = folder / artifact.file_name
        if not file.is_file() or _digest(file) != artifact.digest:
            client = client or _client()
            _download(client, artifact, file, left)
            file.chmod(0o755 if artifact.executable else 0o644)
        left -= file.stat().st_size
        target = unarchived / artifact.stem
        if artifact.unarchive == "ZIP" and not target.is_dir():
            _unpack(file, target, artifact, limits)


def remove_others(layout: Layout, keep: dict[str, set[str]]) -> None:
    """Delete the artifacts and recipes of every component version that is not in ``keep`` (name to versions)."""
    for base in (layout.root / "packages" / "artifacts", layout.root / "packages" / "artifacts-unarchived"):
        for component in base.iterdir() if base.is_dir() else ():
            for version in component.iterdir():
                if version.name not in keep.get(component.name, ()):
                    shutil.rmtree(version)
                    failpoint.reach("artifacts.removed")
            if not any(component.iterdir()):
                component.rmdir()
    wanted = {f"{name}-{version}" for name, versions in keep.items() for version in versions}
    for recipe in layout.recipes.iterdir():
        if recipe.stem not in wanted:
            recipe.unlink()


def _client() -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        s3={"addressing_style": "path"},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
    )
    return boto3.session.Session().client("s3", config=config)


def _download(client: Any, artifact: Artifact, file: Path, left: int) -> None:
    part = file.with_name(f".{file.name}.part")
    for attempt in range(_ATTEMPTS):
        try:
            _receive(client, artifact, part, left)
            break
        except Unavailable:
            # What has arrived stays in the part file, and the next attempt asks for the rest.
            if attempt == _ATTEMPTS - 1:
                raise
    if _digest(part) != artifact.digest:
        part.unlink()
        raise Refused(
            f"{artifact.uri} does not have the SHA-256 digest of its recipe.",
            "Somebody replaced the object: publish a new version of the component.",
        )
    failpoint.reach("artifact.checked")
    durable.rename(part, file)
    failpoint.reach("artifact.placed")


def _receive(client: Any, artifact: Artifact, part: Path, left: int) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    address = urlsplit(artifact.uri)
    bucket, key = address.netloc, address.path.lstrip("/")
    have = part.stat().st_size if part.exists() else 0
    try:
        size = int(client.head_object(Bucket=bucket, Key=key)["ContentLength"])
        if size > left:
            raise Refused(f"{artifact.uri} is larger than a component's artifacts may be.", "Make it smaller.")
        if have > size:
            part.unlink()
            have = 0
        if have == size:
            part.touch()
            return
        extra = {"Range": f"bytes={have}-"} if have else {}
        body = client.get_object(Bucket=bucket, Key=key, **extra)["Body"]
        with part.open("ab") as file:
            for chunk in body.iter_chunks(_CHUNK):
                have += len(chunk)
                if have > size:
                    raise Refused(f"{artifact.uri} changed while it was read.", "Deploy again.")
                file.write(chunk)
                file.flush()
                failpoint.reach("artifact.part-written")
            file.flush()
            os.fsync(file.fileno())
        if have < size:
            raise Unavailable(f"S3 ended {artifact.uri} after {have} of {size} bytes.", "Deploy again.")
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise Refused(f"S3 refuses {artifact.uri}: {code}.", "Check that the object exists and may be read.") from None
    except BotoCoreError as error:
        raise Unavailable(f"S3 does not give {artifact.uri}: {error}.", "Check that the account runs.") from None


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
    return base64.b64encode(digest.digest()).decode()


def _unpack(file: Path, target: Path, artifact: Artifact, limits: Limits) -> None:
    work = target.with_name(f".{target.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check(members, artifact, limits)
            for member in members:
                _extract(archive, member, work, artifact)
                failpoint.reach("archive.entry-written")
    except _UNREADABLE as error:
        shutil.rmtree(work)
        raise Refused(f"{artifact.uri} is not a ZIP archive that can be read: {error}.", "Build it again.") from None
    except BaseException:
        shutil.rmtree(work)
        raise
    durable.rename(work, target)
    failpoint.reach("archive.placed")


def _check(members: list[zipfile.ZipInfo], artifact: Artifact, limits: Limits) -> None:
    if len(members) > limits.archive_entries or sum(item.file_size for item in members) > limits.artifact_bytes:
        raise Refused(f"{artifact.uri} holds too many files or bytes.", "Make it smaller.")
    seen: set[PurePosixPath] = set()
    for member in members:
        path = PurePosixPath(member.filename)
        kind = stat.S_IFMT(member.external_attr >> 16)
        plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename or not plain or path in seen:
            raise Refused(f"{artifact.uri} holds the unsafe entry {member.filename[:80]!r}.", "Build it again.")
        seen.add(path)


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, work: Path, artifact: Artifact) -> None:
    path = work / member.filename
    if member.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    left = member.file_size
    with archive.open(member) as source, path.open("xb") as target:
        while chunk := source.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise Refused(f"{artifact.uri}: {member.filename[:80]!r} is longer than it says.", "Build it again.")
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
    path.chmod(0o755 if artifact.executable else 0o644)
