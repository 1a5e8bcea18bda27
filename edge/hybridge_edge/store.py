"""Packages on disk, and the ledger that says which of them answers.

    STORE/lock                    held while a server uses the store
    STORE/state.json              the ledger
    STORE/running, trials/        who loads and runs, and how often the worker died of it: see trials.py
    STORE/packages/HEX/           one verified package each, named by its digest
    STORE/packages/.incoming-*    a copy under way; removed at the next start

One process writes (the worker); the supervisor only counts crashes in ``trials``.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from hybridge_edge import durable, failpoint, ledger, trials
from hybridge_edge.contract.errors import InvalidDocument, PackageRefused, Refused
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.ledger import Installed, ModelRecord, Verdict, Wanted
from hybridge_edge.package import Package
from hybridge_edge.trials import Table, Trial
from hybridge_edge.trust import open_package

_LOG = logging.getLogger(__name__)
_INCOMING = ".incoming-"
RESERVE_BYTES = 64 * 1024 * 1024
"""What an installation leaves free on the disk, for the ledger and the spool's bookkeeping."""


class Store:
    """The store in ``folder``, made if need be. The caller holds its lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._packages = folder / "packages"
        self._ledger_file = folder / "state.json"
        for path in (folder, self._packages, folder / trials.FOLDER):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self._packages.glob(f"{_INCOMING}*"):
            shutil.rmtree(leftover)
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

    def quarantine(self, record: ModelRecord, verdict: Verdict) -> ModelRecord:
        """Never run this digest again (until a higher epoch); the previous package is the active one."""
        record = record.put_back(replace(verdict, reason=verdict.reason[: ledger.MAX_REASON]))
        self.save(record)
        trials.forget(self.folder, verdict.digest)
        return record

    def refuse(self, record: ModelRecord, verdict: Verdict) -> ModelRecord:
        """Remember why a package was not activated."""
        record = record.with_refusal(replace(verdict, reason=verdict.reason[: ledger.MAX_REASON]))
        self.save(record)
        trials.forget(self.folder, verdict.digest)
        return record

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

    def install(self, package: Package, trust: TrustDocument) -> Package:
        """Copy a believed package into the store, checking every byte; returns the installed one.

        Raises:
            PackageRefused: altered since it was signed, or larger than the room on the disk.
        """
        target = self._packages / _hex(package.digest)
        if target.is_dir():
            self.discard(package.digest)
        size = sum(entry.size for entry in package.manifest.files)
        free = shutil.disk_usage(self._packages).free
        if free < size + RESERVE_BYTES:
            raise PackageRefused(
                f"The package needs {size >> 20} MB and {free >> 20} MB are free, of which {RESERVE_BYTES >> 20} MB "
                "are kept.",
                "Make room on the device.",
                step="install",
            )
        incoming = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self._packages))
        try:
            package.copy_to(incoming)
            failpoint.reach("store.copied")
            durable.rename(incoming, target)
        except BaseException:
            shutil.rmtree(incoming, ignore_errors=True)
            raise
        return open_package(target, trust)

    def discard(self, digest: str) -> None:
        """Remove an installed package: out of the way first, so that a half-removed one is never found."""
        target = self._packages / _hex(digest)
        if not target.is_dir():
            return
        doomed = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self._packages))
        durable.rename(target, doomed / "package")
        shutil.rmtree(doomed)

    def collect_garbage(self) -> None:
        """Remove packages that no record needs."""
        kept = {_hex(digest) for record in self._records.values() for digest in record.kept_digests()}
        for path in self._packages.iterdir():
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
            _LOG.error("%s It lies in %s now; models are installed again when their components start.", error, aside)
            return {}


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
