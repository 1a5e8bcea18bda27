"""The support bundle: what somebody far away needs to see why a device does not do what it should, and nothing else.

Every part is looked at by itself: one that cannot be read says why in its place, and the others are there. It reads
what lies on the disk, so it works where the server is down. Never read: keys, certificates, trust, packages, samples.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path

from hybridge_edge import doctor, ledger, lines, redact, runtime, spool
from hybridge_edge.contract.document import canonical
from hybridge_edge.contract.errors import HybridgeError, Unavailable, UsageError
from hybridge_edge.settings import ServeSettings
from hybridge_edge.uplink_status import UplinkStatus
from hybridge_edge.version import installed_version

LOG_BYTES = 256 * 1024
"""Of the end of each log."""
MAX_LOGS = 24
PART_BYTES = 1024 * 1024
TOTAL_BYTES = 8 * 1024 * 1024
"""Of all parts before they are packed."""
STATUS_S = 10.0
JOURNAL_S = 15.0
JOURNAL_LINES = 2000
MAX_LEDGER_BYTES = 4 * 1024 * 1024
_VERSIONS = ("hybridge", "onnxruntime", "numpy", "grpcio", "protobuf", "awsiotsdk", "awscrt", "cryptography", "paho")
_CUT = "\n[cut here: a bundle has its limits]\n"
_LOG = re.compile(r"[\w.-]{1,128}\.log(\.1)?")


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look: the server's store and spool, and the folder of the nucleus' logs, None where there is none."""

    store: Path
    spool: Path
    logs: Path | None


def places(settings: ServeSettings, is_store_named: bool, logs: Path | None) -> Places:
    """Where this device's server keeps its things.

    A server run by a nucleus keeps them in ``ROOT/work/COMPONENT``, and says where in the runtime folder; the logs are
    in ``ROOT/logs`` then.

    Args:
        is_store_named: whether the operator named the store. logs: named by the operator.
    """
    store, spool_folder = settings.store, settings.spool
    if not is_store_named:
        try:
            said = Path(runtime.Endpoint.read(runtime.folder()).spool)
        except (HybridgeError, OSError):
            said = Path()
        if said.name == "spool" and said.is_absolute():
            store, spool_folder = said.with_name("store"), said
    work = store.parent.parent
    if logs is None and work.name == "work" and (work.parent / "logs").is_dir():
        logs = work.parent / "logs"
    return Places(store, spool_folder, logs)


def write(out: Path, settings: ServeSettings, where: Places) -> tuple[str, ...]:
    """Write the bundle, readable by its owner alone, and return the names of its parts.

    Raises:
        UsageError: the file exists, or cannot be written.
    """
    redactor = redact.of_this_process()
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    written: list[str] = []
    left = TOTAL_BYTES
    try:
        if out.exists():
            raise UsageError(f"{out} is there already.", "Name another file; a bundle replaces none.")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in _parts(settings, where, redactor):
                data = _bounded(text, min(PART_BYTES, left))
                left -= len(data)
                archive.writestr(name, data)
                written.append(name)
        os.link(temporary, out)  # fails where somebody else made it meanwhile
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}.", "Name a file in a folder of yours.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return tuple(written)


def _bounded(text: str, limit: int) -> bytes:
    data = text.encode(errors="replace")
    if len(data) <= limit:
        return data
    return data[: max(0, limit - len(_CUT))] + _CUT.encode()[:limit]


def _parts(settings: ServeSettings, where: Places, redactor: redact.Redactor) -> Iterator[tuple[str, str]]:
    yield "README.txt", _readme()
    looked: tuple[tuple[str, Callable[[], object]], ...] = (
        ("versions.json", _versions),
        ("doctor.json", lambda: _doctor(settings, where)),
        ("status.json", _status),
        ("configuration.json", lambda: _configuration(settings)),
        ("models.json", lambda: _models(where.store)),
        ("spool.json", lambda: _spool(where.spool)),
        ("logs.json", lambda: _listed(where.logs)),
    )
    for name, look in looked:
        yield name, redactor.json(_safely(look))
    for path in _logs(where.logs):
        found = _safely(lambda path=path: _end(path))  # type: ignore[misc]
        yield f"logs/{redactor.text(path.name)}", redactor.text(found if isinstance(found, str) else str(found))
    if where.logs is None:
        found = _safely(_journal)
        yield "logs/journal.log", redactor.text(found if isinstance(found, str) else str(found))


def _safely(look: Callable[[], object]) -> object:
    """What a look finds, or why it finds nothing: a part that fails takes none of the others with it."""
    try:
        return look()
    except HybridgeError as error:
        return {"not read": error.message, "what to do": error.remedy}
    except Exception as error:  # whatever a device is like, there is a bundle
        return {"not read": f"{type(error).__name__}: {error}"}


def _readme() -> str:
    return (
        f"Hybridge support bundle, hybridge-edge {installed_version()}, "
        f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}.\n\n"
        "Taken out, each with a mark in square brackets: secrets, tokens, keys and certificates, lists of numbers\n"
        "(tensors, samples), addresses, account numbers, mail addresses, the names of user and host, home folders.\n"
        "Never read: keys, certificates, the trust file, packages, samples. Look through it before you send it:\n"
        "what a component of yours writes to its log in a form of its own, no rule can know.\n"
    )


def _versions() -> dict[str, object]:
    found = {
        name: item.version
        for item in distributions()
        if (name := str(item.metadata["Name"] or "").lower()).startswith(_VERSIONS)
    }
    return {
        "hybridge-edge": installed_version(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "distribution": _release(),
        "nucleus": os.environ.get("GGC_VERSION", ""),
        "packages": found,
        "byteorder": sys.byteorder,
    }


def _release() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _doctor(settings: ServeSettings, where: Places) -> object:
    findings = doctor.examine(settings.target, where.store, where.spool)
    return {"healthy": doctor.healthy(findings), "findings": [asdict(one) for one in findings]}


def _status() -> object:
    import json

    endpoint = runtime.Endpoint.read(runtime.folder())
    return json.loads(lines.ask(Path(endpoint.management), canonical({"verb": "status"}), STATUS_S))


def _configuration(settings: ServeSettings) -> object:
    import json

    return {"settings": json.loads(settings.to_json()), "variables": _set_variables()}


def _set_variables() -> list[str]:
    """Names alone: what they are set to is none of a bundle's business."""
    return sorted(name for name in os.environ if name.startswith(("HYBRIDGE_", "AWS_", "GG")))


def _models(store: Path) -> object:
    """What the store's ledger holds of each model; the packages themselves are not opened."""
    path = store / "state.json"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LEDGER_BYTES + 1)
    except FileNotFoundError:
        raise Unavailable(f"There is no ledger at {path}.", "Name the server's --store.") from None
    records = ledger.from_bytes(data)
    packages = store / "packages"
    kept = sorted(item.name for item in packages.iterdir())[:256] if packages.is_dir() else []
    return {"models": {name: record.to_json() for name, record in records.items()}, "packages": kept}


def _spool(folder: Path) -> object:
    """Counts; no record is opened."""
    if not folder.is_dir():
        raise Unavailable(f"There is no spool at {folder}.", "Nothing was captured, or name the server's --spool.")
    aside = spool.quarantine_folder(folder)
    return {
        "bytes": spool.used_bytes(folder),
        "segments": len(spool.segment_indexes(folder)),
        "set aside": len(list(aside.iterdir())) if aside.is_dir() else 0,
        "cursor": asdict(spool.Cursor.read(folder)),
        "uplink": asdict(UplinkStatus.read(runtime.folder())),
    }


def _logs(folder: Path | None) -> list[Path]:
    """The newest logs, plain files alone."""
    if folder is None or not folder.is_dir():
        return []
    found = [
        path for path in folder.iterdir() if _LOG.fullmatch(path.name) and path.is_file() and not path.is_symlink()
    ]
    newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[:MAX_LOGS]
    return sorted(newest)


def _listed(folder: Path | None) -> object:
    if folder is None:
        raise Unavailable("No folder of logs is known.", "Name it with --logs: ROOT/logs of the nucleus.")
    return {path.name: path.stat().st_size for path in _logs(folder)}


def _end(path: Path) -> str:
    """The last whole lines of a log."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LOG_BYTES))
        data = file.read(LOG_BYTES)
    if size > LOG_BYTES:  # what is cut in two, no rule can know
        data = data.partition(b"\n")[2]
    return data.decode(errors="replace")


def _journal() -> str:
    """What nucleus lite's components said: it keeps no logs of its own."""
    done = subprocess.run(
        ["journalctl", "--no-pager", "--quiet", "-o", "short-iso", "-n", str(JOURNAL_LINES), "-u", "ggl.*"],
        capture_output=True, check=False, timeout=JOURNAL_S, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    said = (done.stdout or done.stderr)[-LOG_BYTES:]
    return said.partition(b"\n")[2 if len(said) == LOG_BYTES else 0].decode(errors="replace") or "[nothing]\n"
