"""The child of a trial: ``python -m hybridge_edge.admission.trial_child TASK``, started by ``trial``.

Takes from itself, in this order: new privileges, core files, writing to disks, the network, processor time, and, once
the runtime is in memory, more address space than the package is allowed. Then it loads the package, runs its golden
inputs and writes one JSON line. It imports no more than that needs: every import is part of a package's activation.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_SIGKILL = 9
_NICER = 10
"""The server's requests go first."""
_FIRST_TO_DIE = "1000"
"""Where memory ends, the kernel should choose the child."""
_SMALLER = "Make a smaller model."
_NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "MemoryError", "bad allocation")


def main() -> int:
    """Returns the exit code: 0 where a report was written."""
    report = os.dup(1)
    os.dup2(2, 1)  # whatever the runtime prints is no part of the report
    task = json.loads(sys.argv[1])
    not_enforced = give_up(task["cpu_seconds"])
    fields = _try(task, not_enforced)
    line = json.dumps({**fields, "not_enforced": not_enforced}).encode() + b"\n"
    while line:
        line = line[os.write(report, line) :]
    os.close(report)
    sys.stderr.flush()
    os._exit(0)  # a runtime that fails while it is torn down has no say in it


def give_up(cpu_seconds: int) -> list[str]:
    """Everything but memory, before anything heavy is loaded; returns what could not be given up."""
    import ctypes

    failed: list[str] = []
    libc: Any = ctypes.CDLL(None, use_errno=True)
    calls: tuple[tuple[str, Callable[[], int]], ...] = (
        ("an end with the server's", lambda: libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)),
        ("no new privileges", lambda: libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)),
        ("no network", lambda: libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)),
    )
    for name, call in calls:
        if call() != 0:
            failed.append(f"{name} ({os.strerror(ctypes.get_errno())})")
    for name, kind, soft, hard in (
        ("no core files", resource.RLIMIT_CORE, 0, 0),
        ("no files written", resource.RLIMIT_FSIZE, 0, 0),
        # At the soft limit comes SIGXCPU, which names the cause; at the hard one SIGKILL, which does not.
        ("limited processor time", resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1),
    ):
        _limit(name, kind, soft, hard, failed)
    try:
        os.nice(_NICER)
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123  pathlib is not imported yet
            file.write(_FIRST_TO_DIE)
    except OSError as error:
        failed.append(f"lower priority ({error.strerror})")
    return failed


def _limit(name: str, kind: int, soft: int, hard: int, failed: list[str]) -> None:
    try:
        resource.setrlimit(kind, (soft, hard))
    except (OSError, ValueError) as error:
        failed.append(f"{name} ({error})")


def _try(task: dict[str, object], not_enforced: list[str]) -> dict[str, object]:
    from pathlib import Path

    from hybridge_edge import engine
    from hybridge_edge.admission.golden import check_golden
    from hybridge_edge.contract.document import sha256
    from hybridge_edge.contract.errors import HybridgeError, PackageRefused
    from hybridge_edge.contract.manifest import MAX_MANIFEST_BYTES, Manifest
    from hybridge_edge.contract.package_file import MANIFEST_FILE
    from hybridge_edge.package import Package, read_small
    from hybridge_edge.targets.target import choose

    folder = Path(str(task["folder"]))
    target = choose(str(task["target"])) if task["target"] else None
    step, reason, remedy = "", "", ""
    before = 0
    try:
        manifest = read_small(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES)
        if sha256(manifest) != task["digest"]:
            raise PackageRefused("The package was changed while it was tried.", "Hand it over again.")
        package = Package(folder, Manifest.from_bytes(manifest), str(task["digest"]), b"")
        engine.choose(package.manifest, target)  # has the runtime in memory before what it takes is measured
        before = _kib("VmRSS")
        memory = int(str(task["memory_bytes"]))
        if memory:
            limit = _kib("VmSize") * 1024 + memory
            _limit("limited memory", resource.RLIMIT_AS, limit, limit, not_enforced)
        else:
            not_enforced.append("limited memory (this provider reserves address space)")
        check_golden(package, engine.load(package, int(str(task["threads"])), target))
    except MemoryError:
        step, reason, remedy = "trial", "It needs more memory than it is allowed.", _SMALLER
    except PackageRefused as error:
        step, reason, remedy = error.step, error.message, error.remedy
        if any(text in reason for text in _NO_MEMORY):
            step, reason, remedy = "trial", f"It needs more memory than it is allowed: {reason}", _SMALLER
    except HybridgeError as error:
        step, reason, remedy = "load", error.message, error.remedy
    return {
        "refused": bool(step),
        "step": step,
        "reason": reason[:1000],
        "remedy": remedy,
        "memory_kib": max(0, _kib("VmHWM") - before),
    }


def _kib(field: str) -> int:
    """A figure of proc(5), /proc/self/status; 0 where there is none. ru_maxrss would count the parent's memory too."""
    with open("/proc/self/status") as file:  # noqa: PTH123  as above
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
