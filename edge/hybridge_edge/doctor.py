"""What this device can run and what is missing: each finding with what to do about it. Looks, and changes
nothing but that the runtime folder is made.

A check that cannot look says so as a finding: whatever a device is like, there is an answer.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hybridge_edge import greengrass, runtime, trust
from hybridge_edge.contract.errors import HybridgeError, Unavailable
from hybridge_edge.targets.target import Target, choose
from hybridge_edge.version import installed_version

FILES_WANTED = 1024
"""Open files a server may need: 128 calls, sockets, segments, libraries."""
EARLIEST = 1_767_225_600
"""2026-01-01: a clock before this was never set."""
LATEST = 4_102_444_800
"""2100-01-01."""
SOCKET_PATH_BYTES = 107
_TENSORRT = "libnvinfer.so.10"
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_MIB = 1024 * 1024
CHILD_S = 20.0
"""How long the process that tries the isolation may take."""
_UNSHARE = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000 | 0x40000000) != 0)"
"""unshare(2) with CLONE_NEWUSER and CLONE_NEWNET (linux/sched.h)."""


class Verdict(str, Enum):
    """GOOD; WORTH_KNOWING: it runs, with less; MISSING: something needed is not there."""

    GOOD = "ok"
    WORTH_KNOWING = "note"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was found, and what to do ("" where nothing is)."""

    subject: str
    verdict: Verdict
    found: str
    remedy: str = ""


def examine(target_name: str, store: Path, spool: Path) -> tuple[Finding, ...]:
    """Look at everything.

    Args:
        target_name: as the setting ``target``, "" has it found out. store, spool: folders as ``serve`` would use them.
    """
    target, found = _target(target_name)
    reserve = (target.memory_reserve_megabytes, target.disk_reserve_megabytes) if target else (0, 0)
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("python", lambda: _python(target)),
        ("onnxruntime", lambda: _onnxruntime(target)),
        ("providers", lambda: _providers(target)),
        *((name, partial(_library, name)) for name in (target.libraries if target else ())),
        ("TensorRT", lambda: _tensorrt(target)),
        ("memory", lambda: _memory(reserve[0])),
        ("cores", _cores),
        ("store", lambda: _disk("store", store, reserve[1])),
        ("spool", lambda: _disk("spool", spool, reserve[1])),
        ("trust", _trust),
        ("runtime folder", _runtime_folder),
        ("server", _server),
        ("clock", _clock),
        ("nucleus", _nucleus),
        ("open files", _open_files),
        ("trial isolation", _isolation),
    )
    first = Finding("hybridge", Verdict.GOOD, f"{installed_version()} on {platform.machine()}")
    return (first, found, *(_safely(subject, check) for subject, check in checks))


def healthy(findings: tuple[Finding, ...]) -> bool:
    """Whether nothing that is needed is missing."""
    return all(finding.verdict is not Verdict.MISSING for finding in findings)


def _safely(subject: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except HybridgeError as error:
        return Finding(subject, Verdict.MISSING, error.message, error.remedy)
    except Exception as error:  # a doctor who faints helps nobody
        return Finding(subject, Verdict.WORTH_KNOWING, f"cannot be looked at: {type(error).__name__}: {error}")


def _target(name: str) -> tuple[Target | None, Finding]:
    try:
        target = choose(name)
    except HybridgeError as error:
        return None, Finding("target", Verdict.MISSING, error.message, error.remedy)
    except Exception as error:  # an onnxruntime that does not import raises anything
        remedy = "Install hybridge-edge[cpu] or hybridge-edge[gpu]."
        return None, Finding("target", Verdict.MISSING, f"ONNX Runtime does not import: {error}", remedy)
    return target, Finding(
        "target", Verdict.GOOD, f"{target.name}{'' if name else ' (found out)'}: {target.description}"
    )


def _python(target: Target | None) -> Finding:
    found = f"{sys.version_info.major}.{sys.version_info.minor}"
    if target is not None and not target.takes_python(found):
        remedy = f"Use one of {', '.join(target.python)}."
        return Finding("python", Verdict.WORTH_KNOWING, f"{found} was not tried on this target", remedy)
    return Finding("python", Verdict.GOOD, platform.python_version())


def _onnxruntime(target: Target | None) -> Finding:
    installed = [f"{name} {found}" for name in _RUNTIMES if (found := _installed(name))]
    try:
        import onnxruntime

        imported = str(onnxruntime.__version__)
    except Exception as error:
        remedy = "Install hybridge-edge[cpu] or hybridge-edge[gpu]."
        return Finding("onnxruntime", Verdict.MISSING, f"does not import: {error}", remedy)
    if len(installed) > 1:
        text = f"{' and '.join(installed)} lie over each other"
        return Finding("onnxruntime", Verdict.WORTH_KNOWING, text, "Uninstall both, then install the one you want.")
    if target is not None and not target.takes_runtime(imported):
        remedy = f"Install {target.runtime_minimum} or later, below {target.runtime_below}."
        return Finding("onnxruntime", Verdict.MISSING, f"{imported} is outside the target's range", remedy)
    return Finding("onnxruntime", Verdict.GOOD, installed[0] if installed else imported)


def _providers(target: Target | None) -> Finding:
    from hybridge_edge.engines import onnx

    available = onnx.available_providers()
    missing = [name for name in (target.providers if target else ()) if name not in available]
    if missing:
        text = f"{', '.join(available)}; the target also has {', '.join(missing)}"
        remedy = "Install hybridge-edge[gpu]; until then models run degraded."
        return Finding("providers", Verdict.WORTH_KNOWING, text, remedy)
    return Finding("providers", Verdict.GOOD, ", ".join(available))


def _library(name: str) -> Finding:
    _preload()
    if _loads(name):
        return Finding(name, Verdict.GOOD, "loads")
    remedy = "Install the GPU's driver, CUDA and cuDNN; until then models run on the CPU, degraded."
    return Finding(name, Verdict.WORTH_KNOWING, "does not load", remedy)


def _tensorrt(target: Target | None) -> Finding:
    if target is None or not target.libraries:
        return Finding("TensorRT", Verdict.GOOD, "not for this target")
    return Finding(
        "TensorRT",
        Verdict.GOOD,
        f"{_TENSORRT} {'loads' if _loads(_TENSORRT) else 'is not there; nothing needs it yet'}",
    )


def _preload() -> None:
    """Where CUDA came as Python packages, ONNX Runtime knows how to find it."""
    import onnxruntime

    if preload := getattr(onnxruntime, "preload_dlls", None):
        preload()


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _memory(reserve_megabytes: int) -> Finding:
    fields = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) // 1024
    total, free = fields["MemTotal"], fields["MemAvailable"]
    if free < reserve_megabytes:
        text = f"{free} of {total} MiB are free; {reserve_megabytes} are kept for everything else"
        return Finding("memory", Verdict.MISSING, text, "End what else runs, or use a larger device.")
    return Finding("memory", Verdict.GOOD, f"{free} of {total} MiB are free")


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0))
    return Finding("cores", Verdict.GOOD, f"{usable} of {os.cpu_count()} may be used")


def _disk(subject: str, folder: Path, reserve_megabytes: int) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free // _MIB
    if not os.access(existing, os.W_OK):
        return Finding(subject, Verdict.MISSING, f"{folder} cannot be written", f"Name another one with --{subject}.")
    if free < reserve_megabytes:
        text = f"{free} MiB are free at {existing}; {reserve_megabytes} are kept"
        return Finding(subject, Verdict.MISSING, text, "Make room on the disk.")
    made = "" if folder.exists() else " (not made yet)"
    return Finding(subject, Verdict.GOOD, f"{folder}{made}, {free} MiB free")


def _trust() -> Finding:
    document = trust.read_trust()
    count = len(document.keys)
    return Finding("trust", Verdict.GOOD, f"{count} key{'s' if count > 1 else ''}, {document.threshold} must sign")


def _runtime_folder() -> Finding:
    folder = runtime.folder()
    path = folder / runtime.MANAGEMENT_SOCKET
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        text = f"{path} is longer than {SOCKET_PATH_BYTES} bytes"
        return Finding("runtime folder", Verdict.MISSING, text, "Name a shorter folder with HYBRIDGE_RUNTIME_DIR.")
    return Finding("runtime folder", Verdict.GOOD, f"{folder}, mode {stat.S_IMODE(folder.stat().st_mode):04o}")


def _server() -> Finding:
    folder = runtime.folder()
    try:
        endpoint = runtime.Endpoint.read(folder)
        os.kill(endpoint.pid, 0)
    except (Unavailable, ProcessLookupError):
        return Finding("server", Verdict.WORTH_KNOWING, "none runs", "Start it with hybridge-edge serve.")
    except PermissionError:
        return Finding("server", Verdict.WORTH_KNOWING, "one of another user runs", "Ask as that user.")
    lacking = [name for name in (runtime.INFERENCE_SOCKET, runtime.MANAGEMENT_SOCKET) if not _is_socket(folder / name)]
    if lacking:
        text = f"pid {endpoint.pid} runs without {', '.join(lacking)}"
        return Finding("server", Verdict.MISSING, text, "Restart it.")
    return Finding("server", Verdict.GOOD, f"pid {endpoint.pid} on {endpoint.inference}")


def _clock() -> Finding:
    now = time.time()
    said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if not EARLIEST <= now <= LATEST:
        remedy = "Set the clock: serving works, AWS refuses requests signed minutes off."
        return Finding("clock", Verdict.WORTH_KNOWING, f"{said} cannot be", remedy)
    return Finding("clock", Verdict.GOOD, said)


def _nucleus() -> Finding:
    if greengrass.has_nucleus():
        return Finding("nucleus", Verdict.GOOD, "this process was started by one")
    remedy = "Fine by hand; under Greengrass, run this inside a component."
    return Finding("nucleus", Verdict.WORTH_KNOWING, "none started this process, so nothing is reported", remedy)


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    if soft != resource.RLIM_INFINITY and soft < FILES_WANTED:
        text = f"{shown} may be open; {FILES_WANTED} may be needed"
        return Finding("open files", Verdict.WORTH_KNOWING, text, f"Raise the limit, such as ulimit -n {FILES_WANTED}.")
    return Finding("open files", Verdict.GOOD, f"{shown} may be open")


def _isolation() -> Finding:
    """Whether a trial may have a network of its own: tried by a process that does nothing else."""
    tried = subprocess.run([sys.executable, "-I", "-c", _UNSHARE], capture_output=True, timeout=CHILD_S, check=False)
    if tried.returncode == 0:
        return Finding("trial isolation", Verdict.GOOD, "user and network namespaces can be made")
    return Finding(
        "trial isolation",
        Verdict.WORTH_KNOWING,
        "the kernel allows no namespaces here",
        "Allow unprivileged user namespaces, so that packages are tried without a network.",
    )


def _is_socket(path: Path) -> bool:
    return path.exists() and stat.S_ISSOCK(path.stat().st_mode)


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
