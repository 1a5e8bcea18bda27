"""Reads a package's folder without trusting it: no links, no unlisted files, every byte checked as it is read."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hybridge_edge import durable, failpoint
from hybridge_edge.contract.errors import PackageRefused
from hybridge_edge.contract.manifest import MAX_FILES, Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE, SIGNATURE_FILE, FileEntry

_CHUNK_BYTES = 1024 * 1024
_PUBLISH_AGAIN = "Take the package from where it was published, or publish it again."
_MAX_DEPTH = 4


@contextmanager
def open_below(folder: Path, relative: str) -> Iterator[int]:
    """Open a regular file below ``folder``, following no link at any step; yields the descriptor.

    Raises:
        PackageRefused: it is missing, a link, or no regular file.
    """
    descriptors: list[int] = []
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptors.append(os.open(folder, flags))
        *parents, name = relative.split("/")
        for part in parents:
            descriptors.append(os.open(part, flags, dir_fd=descriptors[-1]))
        # O_NONBLOCK: opening a named pipe must not wait for its writer.
        file_flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptors.append(os.open(name, file_flags, dir_fd=descriptors[-1]))
        if not stat.S_ISREG(os.fstat(descriptors[-1]).st_mode):
            raise PackageRefused(f"{relative!r} of the package is not a regular file.", _PUBLISH_AGAIN)
        yield descriptors[-1]
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise PackageRefused(f"The package has no {relative!r}.", _PUBLISH_AGAIN) from None
        raise PackageRefused(f"{relative!r} of the package cannot be read: {error.strerror}.", _PUBLISH_AGAIN) from None
    finally:
        for descriptor in reversed(descriptors):
            os.close(descriptor)


def read_small(folder: Path, relative: str, limit: int) -> bytes:
    """The content of a file of at most ``limit`` bytes whose digest is not known yet."""
    with open_below(folder, relative) as descriptor:
        data = _read(descriptor, limit + 1)
    if len(data) > limit:
        raise PackageRefused(f"{relative!r} of the package is larger than {limit} bytes.", _PUBLISH_AGAIN)
    return data


def check_listing(folder: Path, manifest: Manifest) -> None:
    """Refuse a folder that holds anything but what its manifest lists, the manifest and the signature."""
    allowed = {entry.path for entry in manifest.files} | {MANIFEST_FILE, SIGNATURE_FILE}
    found = set(_walk(folder, "", 1))
    if found != allowed:
        extra, missing = sorted(found - allowed), sorted(allowed - found)
        what = f"holds {extra[0]!r}, which its manifest does not list" if extra else f"lacks {missing[0]!r}"
        raise PackageRefused(f"The package {what}.", _PUBLISH_AGAIN)


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[str]:
    count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            count += 1
            name = prefix + entry.name
            if entry.is_symlink():
                raise PackageRefused(f"{name!r} of the package is a link.", _PUBLISH_AGAIN)
            if entry.is_dir(follow_symlinks=False) and depth < _MAX_DEPTH:
                yield from _walk(Path(entry.path), name + "/", depth + 1)
            elif entry.is_file(follow_symlinks=False):
                yield name
            else:
                raise PackageRefused(f"{name!r} of the package is neither a file nor a folder.", _PUBLISH_AGAIN)
            if count > MAX_FILES + 2:
                raise PackageRefused(f"The package holds more than {MAX_FILES} files.", _PUBLISH_AGAIN)


@dataclass(frozen=True, slots=True)
class Package:
    """A folder whose manifest has been believed (see ``trust.open_package``); its files are checked when read.

    Attributes:
        digest: sha256 of manifest.json. signature: the bytes of signature.json.
    """

    folder: Path
    manifest: Manifest
    digest: str
    signature: bytes

    def entry(self, path: str) -> FileEntry:
        """The manifest's entry of a file; KeyError where it lists none (the manifest checks its own uses)."""
        return {entry.path: entry for entry in self.manifest.files}[path]

    def read(self, path: str) -> bytes:
        """A file's content, its size and digest checked on the bytes that are returned.

        Raises:
            PackageRefused: they are not what the manifest says.
        """
        entry = self.entry(path)
        with open_below(self.folder, path) as descriptor:
            data = _read(descriptor, entry.size + 1)
        _compare(entry, len(data), hashlib.sha256(data).hexdigest())
        return data

    def verify_files(self) -> None:
        """Read every file once and check it, keeping nothing."""
        check_listing(self.folder, self.manifest)
        for entry in self.manifest.files:
            with open_below(self.folder, entry.path) as descriptor:
                for _ in _checked(descriptor, entry):
                    pass

    def copy_to(self, target: Path) -> None:
        """Copy the package into the empty folder ``target``, checking every byte on its way, and make it durable.

        The manifest decides what is copied, never the folder's listing; files are 0600, folders 0700.
        """
        check_listing(self.folder, self.manifest)
        folders = {target}
        for entry in self.manifest.files:
            destination = target / entry.path
            for folder in reversed([parent for parent in destination.parents if target in parent.parents]):
                if folder not in folders:
                    durable.make_folder(folder)
                    folders.add(folder)
            with open_below(self.folder, entry.path) as source:
                durable.create(destination, _checked(source, entry))
            failpoint.reach("package.file-copied")
        durable.write(target / SIGNATURE_FILE, self.signature)
        durable.write(target / MANIFEST_FILE, self.manifest.to_bytes())
        for folder in sorted(folders, reverse=True):
            durable.sync_folder(folder)


def _read(descriptor: int, limit: int) -> bytes:
    """At most ``limit`` bytes from a descriptor."""
    pieces, left = [], limit
    while left > 0:
        piece = os.read(descriptor, min(left, _CHUNK_BYTES))
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _checked(source: int, entry: FileEntry) -> Iterator[bytes]:
    """A file's content, piece by piece; PackageRefused at its end, or one byte beyond it, where it is another."""
    digest, size = hashlib.sha256(), 0
    while piece := os.read(source, _CHUNK_BYTES):
        size += len(piece)
        if size > entry.size:
            break
        digest.update(piece)
        yield piece
    _compare(entry, size, digest.hexdigest())


def _compare(entry: FileEntry, size: int, sha256_hex: str) -> None:
    if size != entry.size or f"sha256:{sha256_hex}" != entry.sha256:
        raise PackageRefused(f"{entry.path!r} of the package is not the file that was signed.", _PUBLISH_AGAIN)
