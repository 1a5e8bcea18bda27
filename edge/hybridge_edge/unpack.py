"""Unpacks a package from a zip that came from anywhere: the signed manifest says what is read, never the archive.

Nothing is written before the manifest is believed. Then each file that it lists is read by its exact name, at most one
byte beyond its size, into a fresh folder of ours; what the archive says of links, modes and paths is never looked at.
Format of the archive: PKWARE's APPNOTE 6.3, stored or deflated.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hybridge_edge import durable
from hybridge_edge.contract.errors import PackageRefused, SpoolFull, UsageError
from hybridge_edge.contract.manifest import MAX_MANIFEST_BYTES, Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE, SIGNATURE_FILE, FileEntry
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.package import Package
from hybridge_edge.trust import MAX_SIGNATURE_BYTES, open_package

MAX_DIRECTORY_BYTES = 1024 * 1024
"""Of a zip's central directory; that of 256 files with long names has 80 KB."""
RESERVE_BYTES = 64 * 1024 * 1024
"""What stays free on the disk."""
PREFIXES = ("", "package/")
"""Where a package lies in a zip: by itself, or as in the artifact of a model's component."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others may turn a few bytes into gigabytes in one step (zipfile decompresses their blocks whole)."""
_ENCRYPTED = 0x1
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError)
"""What zipfile raises at bytes that it does not expect: names that are no UTF-8, places before the file begins."""
_CHUNK_BYTES = 1024 * 1024
_END, _END_64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_BYTES, _END_64_BYTES, _LOCATOR_BYTES = 22, 56, 20
_MAX_COMMENT_BYTES = 65_535
_COPY_AGAIN = "Copy the file again from where it was made."


def unpack(path: Path, out: Path, trust: TrustDocument) -> Package:
    """Unpack the package in the zip ``path`` into the empty folder ``out``, believed and checked.

    Raises:
        UsageError: there is no such file. PackageRefused: it is no zip, holds no package, or not the one that was
            signed. SpoolFull: the disk has no room for it.
    """
    with _opened(path) as file:
        _check_directory(file)
        try:
            with zipfile.ZipFile(file) as archive:
                return _unpack(archive, out, trust)
        except _DAMAGED as error:
            raise PackageRefused(f"{path.name} is a damaged zip: {error}.", _COPY_AGAIN) from None
        except OSError as error:
            if error.errno in durable.DISK_FULL:
                raise SpoolFull(f"The disk of {out} is full.", "Make room, or name another with TMPDIR.") from None
            raise PackageRefused(f"{path.name} could not be unpacked: {error.strerror}.", _COPY_AGAIN) from None


def _opened(path: Path) -> BinaryIO:
    try:
        # O_NONBLOCK: opening a named pipe must not wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Name a package's zip or folder.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"{path} is neither a file nor a folder.", "Name a package's zip or folder.")
    return os.fdopen(descriptor, "rb")


def _check_directory(file: BinaryIO) -> None:
    """Refuse a directory that is too large before anything reads it: a million entries are gigabytes in memory."""
    end = file.seek(0, os.SEEK_END)
    tail_at = max(0, end - _END_BYTES - _MAX_COMMENT_BYTES - _LOCATOR_BYTES)
    file.seek(tail_at)
    tail = file.read()
    place = tail.rfind(_END)
    if place < 0 or len(tail) - place < _END_BYTES:
        raise PackageRefused("The file is no zip.", _COPY_AGAIN)
    (size,) = struct.unpack_from("<I", tail, place + 12)
    sizes = [size] if size != 0xFFFFFFFF else []
    locator = tail[max(0, place - _LOCATOR_BYTES) : place]
    if locator.startswith(_LOCATOR):
        (at,) = struct.unpack_from("<Q", locator, 8)
        # Where the locator leads, and where zipfile looks if something stands before the archive.
        for offset in (at, tail_at + place - _LOCATOR_BYTES - _END_64_BYTES):
            if 0 <= offset <= end - _END_64_BYTES:
                file.seek(offset)
                record = file.read(_END_64_BYTES)
                if record.startswith(_END_64):
                    sizes.append(struct.unpack_from("<Q", record, 40)[0])
    if not sizes or max(sizes) > MAX_DIRECTORY_BYTES:
        raise PackageRefused(
            f"The zip's directory is larger than {MAX_DIRECTORY_BYTES} bytes.", "Pack the package alone."
        )
    file.seek(0)


def _unpack(archive: zipfile.ZipFile, out: Path, trust: TrustDocument) -> Package:
    counted = Counter(entry.orig_filename for entry in archive.infolist())
    prefix = next((prefix for prefix in PREFIXES if prefix + MANIFEST_FILE in counted), None)
    if prefix is None:
        raise PackageRefused("The zip holds no package: it has no manifest.json.", "Name the zip of a package.")
    inside = {name.removeprefix(prefix): count for name, count in counted.items() if name.startswith(prefix)}
    twice = sorted(name for name, count in inside.items() if count > 1)
    if twice:
        raise PackageRefused(f"The zip holds {twice[0][:80]!r} twice.", _COPY_AGAIN)
    for name, limit in ((MANIFEST_FILE, MAX_MANIFEST_BYTES), (SIGNATURE_FILE, MAX_SIGNATURE_BYTES)):
        durable.create(out / name, [_small(archive, prefix, name, limit)])
    package = open_package(out, trust)
    _check_names(inside, package.manifest)
    _check_room(out, package.manifest)
    for entry in package.manifest.files:
        target = out / entry.path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.create(target, _checked(archive, prefix, entry))
    return package


def _check_names(inside: dict[str, int], manifest: Manifest) -> None:
    listed = {entry.path for entry in manifest.files} | {MANIFEST_FILE, SIGNATURE_FILE}
    found = {name for name in inside if not name.endswith("/")}
    if found != listed:
        extra, missing = sorted(found - listed), sorted(listed - found)
        what = f"holds {extra[0][:80]!r}, which its manifest does not list" if extra else f"lacks {missing[0]!r}"
        raise PackageRefused(f"The package {what}.", _COPY_AGAIN)


def _check_room(out: Path, manifest: Manifest) -> None:
    needed = sum(entry.size for entry in manifest.files) + RESERVE_BYTES
    free = shutil.disk_usage(out).free
    if free < needed:
        raise SpoolFull(
            f"{needed // 1_000_000} MB are needed in {out}, and {free // 1_000_000} MB are free.",
            "Make room, or name another folder with TMPDIR.",
        )


def _small(archive: zipfile.ZipFile, prefix: str, name: str, limit: int) -> bytes:
    data = b"".join(_pieces(archive, prefix, name, limit))
    if len(data) > limit:
        raise PackageRefused(f"{name!r} of the package is larger than {limit} bytes.", _COPY_AGAIN)
    return data


def _checked(archive: zipfile.ZipFile, prefix: str, entry: FileEntry) -> Iterator[bytes]:
    """A file's content, checked at its end or one byte beyond it."""
    digest, size = hashlib.sha256(), 0
    for piece in _pieces(archive, prefix, entry.path, entry.size):
        size += len(piece)
        if size > entry.size:
            break
        digest.update(piece)
        yield piece
    if size != entry.size or f"sha256:{digest.hexdigest()}" != entry.sha256:
        raise PackageRefused(f"{entry.path!r} of the package is not the file that was signed.", _COPY_AGAIN)


def _pieces(archive: zipfile.ZipFile, prefix: str, name: str, limit: int) -> Iterator[bytes]:
    """The content of an entry, at most ``limit`` bytes and one more."""
    try:
        info = archive.getinfo(prefix + name)
    except KeyError:
        raise PackageRefused(f"The package has no {name!r}.", _COPY_AGAIN) from None
    if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
        raise PackageRefused(f"{name!r} of the zip is encrypted, or neither stored nor deflated.", "Pack it anew.")
    left = limit + 1
    with archive.open(info) as source:
        while left > 0 and (piece := source.read(min(left, _CHUNK_BYTES))):
            left -= len(piece)
            yield piece


def folder_of(path: Path) -> Path:
    """The package's folder in a folder: itself, or its ``package``.

    Raises:
        PackageRefused: neither holds a manifest.
    """
    for prefix in PREFIXES:
        if (path / prefix / MANIFEST_FILE).is_file():
            return path / prefix if prefix else path
    raise PackageRefused(f"{path} holds no package: it has no {MANIFEST_FILE}.", "Name the folder of a package.")
