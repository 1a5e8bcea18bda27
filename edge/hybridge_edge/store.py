"""Packages on disk, and the ledger that says which of them answers.

    STORE/lock                    held while a server uses the store
    STORE/state.json              the ledger
    STORE/running, trials/        who loads and runs, and how often the worker died of it: see trials.py
    STORE/packages/HEX/           one verified package each, named by its digest
    STORE/passed.json             digests that passed their trial here: see admission.passed
    STORE/packages/.incoming-*    a copy under way, or a removal; removed at the next start

One process writes (the worker); the supervisor only counts crashes in ``trials``.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hybridge_edge import durable, failpoint, ledger, private, trials
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.errors import HybridgeError, InvalidDocument, PackageRefused, Refused
from hybridge_edge.contract.manifest import MAX_MANIFEST_BYTES, Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.ledger import Installed, ModelRecord, Verdict, Wanted
from hybridge_edge.package import Package, read_small
from hybridge_edge.trials import Table, Trial
from hybridge_edge.trust import open_package

_LOG = logging.getLogger(__name__)
_INCOMING = ".incoming-"


class Store:
    """The store in ``folder``, made if need be. The caller holds its lock.

    Raises:
        Refused: a folder of it is a link, belongs to somebody else, or may be written by others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._packages = folder / "packages"
        self._ledger_file = folder / "state.json"
        for path in (folder, self._packages, folder / trials.FOLDER):
            private.folder(path, "the store's folder")
        private.file(self._ledger_file, "the store's ledger")
        with suppress(OSError):  # of a parent that may not be read, or a file system without fsync of folders
            durable.sync_folder(folder)
            durable.sync_folder(folder.parent)
        for leftover in sorted(self._packages.glob(f"{_INCOMING}*")):
            durable.remove_tree(leftover)
            failpoint.reach("store.leftover-removed")
        for unfinished in durable.unfinished(folder):
            durable.remove(unfinished)
            failpoint.reach("store.leftover-removed")
        self.table = Table(folder)
        self._records = self._read_ledger()

    def records(self) -> dict[str, ModelRecord]:
        """Every model the store knows, by name."""
        return dict(self._records)

    def record(self, model: str) -> ModelRecord:
        return self._records.get(model) or ModelRecord(model)

    def save(self, record: ModelRecord) -> None:
        """Make a model's record durable. Raises SpoolFull on a full disk; the old ledger stays."""
        records = {**self._records, record.model: record}
        if len(records) > ledger.MAX_MODELS:
            raise Refused(f"The store holds {ledger.MAX_MODELS} models already.", "Retire one first.")
        durable.write(self._ledger_file, ledger.to_bytes(records))
        self._records = records
        failpoint.reach("store.ledger-written")

    def want(self, record: ModelRecord, wanted: Wanted) -> ModelRecord:
        """Remember the hand-over being obeyed."""
        record = replace(record, wanted=wanted)
        self.save(record)
        return record

    def activate(self, record: ModelRecord, installed: Installed, *, trusted: bool = False) -> ModelRecord:
        """The switch on disk: after this a restart serves ``installed``; ``trusted`` where it has run often enough."""
        record = record.activated(installed, trusted=trusted)
        self.save(record)
        return record

    def condemn(self, record: ModelRecord, verdict: Verdict) -> ModelRecord:
        """Never run this digest again (until a higher epoch); what answers stays."""
        return self._condemned(record, record.condemned(_short(verdict)), verdict.digest)

    def quarantine(
        self,
        record: ModelRecord,
        verdict: Verdict,
        successor: Installed | None,
        *,
        trusted: bool = False,
        at: int | None = None,
    ) -> ModelRecord:
        """Never run the active digest again (until a higher epoch); ``successor`` is the active package, or none is.

        Args:
            trusted: the successor ran often enough before. at: see ``ModelRecord.succeeded``.
        """
        after = record.condemned(_short(verdict)).succeeded(successor, at, trusted=trusted)
        return self._condemned(record, after, verdict.digest)

    def fall_back(self, record: ModelRecord, successor: Installed, at: int | None) -> ModelRecord:
        """``successor`` answers where nothing does."""
        record = record.succeeded(successor, at, trusted=False)
        self.save(record)
        return record

    def refuse(self, record: ModelRecord, verdict: Verdict) -> ModelRecord:
        """Remember why a package was not activated."""
        return self._condemned(record, record.with_refusal(_short(verdict)), verdict.digest)

    def _condemned(self, before: ModelRecord, after: ModelRecord, digest: str) -> ModelRecord:
        if after != before:
            self.save(after)
        trials.forget(self.folder, digest)
        failpoint.reach("store.trials-forgotten")
        return after

    def retire(self, record: ModelRecord) -> ModelRecord:
        """The model answers no more, and its packages may go; verdicts and the epoch stay."""
        record = replace(record, active=None, previous=None, trusted=False)
        self.save(record)
        return record

    def trust(self, model: str, digest: str) -> None:
        """The active digest has passed its first runs."""
        record = self.record(model)
        if record.active is None or record.active.digest != digest:
            return
        if not record.trusted:
            self.save(replace(record, trusted=True))
        trials.forget(self.folder, digest)
        failpoint.reach("store.trials-forgotten")

    def holds(self, digest: str) -> bool:
        """Whether a package is installed; its content is checked when it is opened and read."""
        return (self._packages / _hex(digest)).is_dir()

    def open(self, digest: str, trust: TrustDocument) -> Package:
        """An installed package, believed again. Raises PackageRefused where it is gone or altered."""
        if not self.holds(digest):
            raise PackageRefused(f"The package {digest[:19]} is not in the store.", "Hand it over again.")
        package = open_package(self._packages / _hex(digest), trust)
        if package.digest != digest:
            raise PackageRefused(f"The store's package {digest[:19]} is another one.", "Hand it over again.")
        return package

    def intact(self, digest: str) -> bool:
        """Whether the installed bytes are still those of that digest, whoever signed them."""
        folder = self._packages / _hex(digest)
        try:
            manifest = read_small(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES)
            if sha256(manifest) != digest:
                return False
            Package(folder, Manifest.from_bytes(manifest), digest, b"").verify_files()
        except HybridgeError:
            return False
        return True

    def free_bytes(self) -> int:
        """Room on the disk for packages."""
        return shutil.disk_usage(self._packages).free

    def install(self, package: Package, trust: TrustDocument) -> Package:
        """Copy a believed package into the store, checking every byte; returns the installed one.

        Raises:
            PackageRefused: altered since it was signed, or the disk is full.
        """
        target = self._packages / _hex(package.digest)
        if target.is_dir():
            self.discard(package.digest)
        incoming = self._new_incoming()
        try:
            package.copy_to(incoming)
            failpoint.reach("store.copied")
            durable.rename(incoming, target)
        except BaseException as error:
            with suppress(OSError):
                durable.remove_tree(incoming)
            if isinstance(error, OSError) and error.errno in durable.DISK_FULL:
                raise PackageRefused("The disk is full.", "Make room on the device.", step="install") from None
            raise
        failpoint.reach("store.installed")
        return open_package(target, trust)

    def discard(self, digest: str) -> None:
        """Remove an installed package: out of the way first, so that a half-removed one is never found."""
        target = self._packages / _hex(digest)
        if not target.is_dir():
            return
        doomed = self._new_incoming()
        durable.rename(target, doomed / "package")
        failpoint.reach("store.discarding")
        durable.remove_tree(doomed)
        failpoint.reach("store.discarded")

    def _new_incoming(self) -> Path:
        folder = self._packages / f"{_INCOMING}{secrets.token_hex(8)}"
        durable.make_folder(folder)
        failpoint.reach("store.incoming-made")
        return folder

    def collect_garbage(self, *, spare: bool = True) -> None:
        """Remove packages that no record needs.

        Args:
            spare: also keep each model's newest good package of history (see ``ModelRecord.fallbacks``), to fall back
                on where both the active and the previous one fail.
        """
        kept = {_hex(digest) for record in self._records.values() for digest in record.kept_digests()}
        for record in self._records.values() if spare else ():
            others = (_hex(one.digest) for one in record.fallbacks() if one != record.previous)
            kept |= set(next(((name,) for name in others if (self._packages / name).is_dir()), ()))
        for path in sorted(self._packages.iterdir()):
            if path.name not in kept and not path.name.startswith(_INCOMING):
                self.discard(f"sha256:{path.name}")

    def trial(self, digest: str) -> Trial:
        """Marks the digest while it loads or runs, so that a death of the worker is laid at its door: see trials.py."""
        return self.table.trial(digest)

    def crashes(self, digest: str) -> int:
        """How often the worker died while this digest loaded or ran."""
        return trials.crashes(self.folder, digest)

    def _read_ledger(self) -> dict[str, ModelRecord]:
        try:
            return ledger.from_bytes(self._ledger_file.read_bytes())
        except FileNotFoundError:
            return {}
        except InvalidDocument as error:
            # A lost ledger is one of the rows of the design: the model components hand over again.
            aside = self._ledger_file.with_name(f"state.json.unreadable-{time.time_ns()}")
            durable.rename(self._ledger_file, aside)
            failpoint.reach("store.ledger-aside")
            _LOG.error("%s It lies in %s now; models are installed again when their components start.", error, aside)
            return {}


def _short(verdict: Verdict) -> Verdict:
    return replace(verdict, reason=verdict.reason[: ledger.MAX_REASON])


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
