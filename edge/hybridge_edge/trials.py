"""Who was running when the worker died: a small table in memory that outlives it, and a count of deaths.

    STORE/running           the table: a slot a digest, with how many of its loads and runs are under way, and a pulse
    STORE/trials/HEX        how often the worker died while this digest was in the table

The worker marks, by writing into mapped memory: a run costs no file operation, and the kernel keeps what a killed
process wrote. The supervisor counts. Marks need not survive a power cut; one that does is counted like any other.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from pathlib import Path
from threading import Lock
from types import TracebackType
from weakref import WeakValueDictionary

from hybridge_edge import durable
from hybridge_edge.contract.errors import Refused, SpoolFull

_LOG = logging.getLogger(__name__)
FOLDER = "trials"
TABLE = "running"
MAX_SLOTS = 64
"""Digests marked at once; more go unmarked, and are told in the log."""
_HEAD = struct.Struct("<8sQ")
_SLOT = struct.Struct("<32sII")
_MAGIC = b"hytable1"
_SIZE = _HEAD.size + MAX_SLOTS * _SLOT.size
_INSIDE = struct.Struct("<I")
_INSIDE_AT, _TRUSTED_AT = 32, 36
_FREE = bytes(32)


class Table:
    """The worker's table: one a process."""

    def __init__(self, store: Path) -> None:
        """Raises Refused where its file is a link or somebody else's."""
        self._memory = _map(store / TABLE)
        self._lock = Lock()
        self._trials: WeakValueDictionary[bytes, Trial] = WeakValueDictionary()
        if self._memory[: len(_MAGIC)] != _MAGIC:
            self._memory[:] = bytes(_SIZE)
            self._memory[: len(_MAGIC)] = _MAGIC

    def beat(self) -> None:
        """The worker lives: its supervisor looks at this."""
        (_, pulse) = _HEAD.unpack_from(self._memory, 0)
        _HEAD.pack_into(self._memory, 0, _MAGIC, (pulse + 1) % 2**64)

    def trial(self, digest: str) -> Trial:
        """Marks the digest while a thread is inside; one object a digest."""
        name = bytes.fromhex(digest.removeprefix("sha256:"))
        with self._lock:
            known = self._trials.get(name)
            if known is not None:
                return known
            at = self._slot(name)
            if at < 0:
                _LOG.warning("%d digests are marked already; %s goes unmarked.", MAX_SLOTS, digest[:19])
                return unmarked()
            _SLOT.pack_into(self._memory, at, name, 0, 0)
            made = self._trials[name] = Trial(self._memory, at)
            return made

    def _slot(self, name: bytes) -> int:
        """Where the digest stood before, else where nobody stands or whoever did is gone; -1 where all are taken."""
        free = -1
        for number in range(MAX_SLOTS):
            at = _HEAD.size + number * _SLOT.size
            found, _, _ = _SLOT.unpack_from(self._memory, at)
            if found == name:
                return at
            if free < 0 and (found == _FREE or found not in self._trials):
                free = at
        return free


class Trial:
    """Marks a digest while at least one thread is inside ``with trial:``."""

    __slots__ = ("__weakref__", "_at", "_inside", "_lock", "_memory")

    def __init__(self, memory: mmap.mmap | bytearray, at: int) -> None:
        self._memory = memory
        self._at = at
        self._lock = Lock()
        self._inside = 0

    @property
    def trusted(self) -> bool:
        """Whether the digest has passed its first runs: among several, a death is laid at the others' door."""
        return bool(self._memory[self._at + _TRUSTED_AT])

    def trust(self) -> None:
        self._memory[self._at + _TRUSTED_AT] = 1

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            _INSIDE.pack_into(self._memory, self._at + _INSIDE_AT, self._inside)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            _INSIDE.pack_into(self._memory, self._at + _INSIDE_AT, self._inside)


def unmarked() -> Trial:
    """Of a model that no table knows: it is trusted, and nothing of it outlives this process."""
    trial = Trial(bytearray(_SLOT.size), 0)
    trial.trust()
    return trial


def forget(store: Path, digest: str) -> None:
    """The digest is trusted, or may not run at all: its count is over."""
    path = _path(store, digest)
    if path.exists():
        durable.remove(path)


def crashes(store: Path, digest: str) -> int:
    """How often the worker died with this digest marked."""
    return _count(_path(store, digest))


def blame(store: Path, digest: str) -> None:
    """One death more. Raises SpoolFull, OSError where that cannot be written."""
    path = _path(store, digest)
    durable.write(path, b"%d\n" % (_count(path) + 1))


def pulse(store: Path) -> int:
    """A number that changes while the worker lives; 0 where no worker has begun to."""
    try:
        with (store / TABLE).open("rb") as file:
            magic, number = _HEAD.unpack(file.read(_HEAD.size))
    except (OSError, struct.error):
        return 0
    return int(number) if magic == _MAGIC else 0


def count_crash(store: Path) -> None:
    """The supervisor's part, where a worker died: digests that were marked have one death more.

    Where untrusted ones were among them, those alone.
    """
    path = store / TABLE
    try:
        data = bytearray(path.read_bytes())
    except OSError:
        return
    if len(data) != _SIZE or not data.startswith(_MAGIC):
        return
    slots = [(at, *_SLOT.unpack_from(data, at)) for at in range(_HEAD.size, _SIZE, _SLOT.size)]
    marked = [(at, name.hex(), bool(trusted)) for at, name, inside, trusted in slots if name != _FREE and inside]
    suspects = [one for one in marked if not one[2]] or marked
    for at, digest, _ in marked:
        if any(digest == suspect for _, suspect, _ in suspects):
            try:
                blame(store, digest)
            except (SpoolFull, OSError) as error:  # it stays marked, to be counted once there is room
                _LOG.error("A death with %s marked is not counted: %s", digest[:12], error)
                continue
        _INSIDE.pack_into(data, at + _INSIDE_AT, 0)
    with path.open("r+b") as file:
        file.write(data)


def _map(path: Path) -> mmap.mmap:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Refused(f"{path} cannot be opened: {error.strerror}.", "Remove it, and let the server make it.") from None
    try:
        # Blocks are taken now: memory mapped from a hole in a file is a SIGBUS on a full disk.
        os.posix_fallocate(descriptor, 0, _SIZE)
        os.ftruncate(descriptor, _SIZE)
        return mmap.mmap(descriptor, _SIZE)
    except OSError as error:
        _LOG.warning("%s cannot be kept on the disk (%s): deaths are not laid at a model's door.", path, error.strerror)
        return mmap.mmap(-1, _SIZE)
    finally:
        os.close(descriptor)


def _path(store: Path, digest: str) -> Path:
    return store / FOLDER / digest.removeprefix("sha256:")


def _count(path: Path) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
    except ValueError:  # damaged: that there is a count means that there was a death
        return 1
