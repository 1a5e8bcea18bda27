"""A package's first load happens in a child process, which may die in the server's stead.

The child takes what it can away from itself before it reads the package (see ``trial_child``); what this kernel does
not allow it to take is told in the verdict and in the log. A child that dies, hangs or outgrows its limits is a verdict
like any other. It answers for the package's robustness, not for its honesty: code that took over the runtime could
forge the child's report as well, and a signature is what stands against that.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from hybridge_edge import failpoint
from hybridge_edge.admission.decision import TRIAL
from hybridge_edge.admission.passed import Measured
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import InvalidDocument, PackageRefused, Unavailable
from hybridge_edge.engine import Choice, choose
from hybridge_edge.package import Package
from hybridge_edge.targets.target import Target
from hybridge_edge.targets.target import choose as target_named

_LOG = logging.getLogger(__name__)
STEP = TRIAL
CHILD = "hybridge_edge.admission.trial_child"
MAX_REPORT_BYTES = 64 * 1024
MAX_LAST_WORDS = 2_048
"""Bytes kept of what the child wrote to its standard error."""
_STOPPED = "the server stops"
_LOOK_UP_S = 0.1
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL")
"""What a child knows of the server's environment; no HOME, no credentials, no sockets."""
_ANOTHER = "Correct the model and publish it under a higher version."


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """Of one child.

    Attributes:
        seconds: of the wall clock, the child's start included. cpu_seconds: of processor time, over all threads.
        memory_megabytes: what its address space may grow by, on a CPU; CUDA reserves more than any machine has. 0 has
            it chosen by the package's size.
    """

    seconds: float = 60.0
    cpu_seconds: int = 120
    memory_megabytes: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of a trial that was passed: its cost, and which limits could not be set, () where all were."""

    measured: Measured
    not_enforced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """What the child is told, as one JSON document. ``digest`` is what the manifest must have, which was believed."""

    folder: str
    digest: str
    threads: int
    target: str
    cpu_seconds: int
    memory_bytes: int

    def to_bytes(self) -> bytes:
        return canonical(asdict(self))


def try_in_child(
    package: Package, threads: int, stop: Callable[[], bool], limits: TrialLimits | None = None, target: str = ""
) -> Verdict:
    """Load the package and run its golden inputs in a child.

    Args:
        threads: of one run. stop: whether to give up early; looked at ten times a second. target: the kind of device,
            "" where only the runtime says what it can.

    Raises:
        PackageRefused: step load or golden as the child found it; step trial where it died, hung or outgrew a limit.
        Unavailable: ``stop`` said so; nothing is known of the package.
    """
    limits = limits or TrialLimits()
    task = _task(package, choose(package.manifest, _target(target)), threads, target, limits)
    started = time.monotonic()
    ended = _run(task, limits.seconds, stop)
    took_ms = round((time.monotonic() - started) * 1000)
    failpoint.reach("trial.ended")
    if ended.stopped == _STOPPED:
        raise Unavailable("The server stops; the package was not tried to the end.", "It goes on after the next start.")
    report = _read(ended.report)
    if report is None or ended.code != 0:
        raise PackageRefused(_cause(ended, limits), _ANOTHER, step=STEP)
    if report.refused:
        raise PackageRefused(report.reason, report.remedy, step=report.step)
    verdict = Verdict(Measured(memory_kib=report.memory_kib, trial_ms=took_ms), report.not_enforced)
    if verdict.not_enforced:
        _LOG.warning("The trial of %s ran without: %s.", package.digest[:19], "; ".join(verdict.not_enforced))
    return verdict


def _target(name: str) -> Target | None:
    return target_named(name) if name else None


def _task(package: Package, choice: Choice, threads: int, target: str, limits: TrialLimits) -> Task:
    weights = sum(package.entry(path).size for path in {choice.variant.features, choice.variant.model})
    # The floor is address space, not memory: an arena and a stack a thread are reserved and hardly used.
    generous = max(1024**3, 8 * weights, 2 * choice.variant.memory_megabytes * 1024**2)
    memory = limits.memory_megabytes * 1024**2 or generous
    return Task(
        str(package.folder.absolute()),
        package.digest,
        threads,
        target,
        limits.cpu_seconds,
        memory if choice.on_cpu else 0,
    )


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a child ended: its code (negative for a signal), what it reported, its last words, and who stopped it."""

    code: int
    report: bytes
    last_words: str
    stopped: str


def _run(task: Task, seconds: float, stop: Callable[[], bool]) -> _Ended:
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", CHILD, task.to_bytes().decode()],
        cwd="/",  # it writes nothing, so it needs no folder of its own
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    failpoint.reach("trial.started")
    try:
        report, last_words, stopped = _listen(child, time.monotonic() + seconds, stop)
    finally:
        _kill_group(child)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    child.stderr.close()
    return _Ended(child.returncode, report, last_words.decode("utf-8", "replace").strip(), stopped)


def _listen(child: subprocess.Popen[bytes], until: float, stop: Callable[[], bool]) -> tuple[bytes, bytes, str]:
    """Both pipes to their ends, within limits; why it was not waited for longer, "" where it ended by itself."""
    assert child.stdout is not None
    assert child.stderr is not None
    report, last_words = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ, report)
        selector.register(child.stderr, selectors.EVENT_READ, last_words)
        while selector.get_map():
            if stop():
                return bytes(report), bytes(last_words), _STOPPED
            if time.monotonic() > until:
                return bytes(report), bytes(last_words), "time"
            for key, _ in selector.select(_LOOK_UP_S):
                data = os.read(key.fd, 65_536)
                if not data:
                    selector.unregister(key.fileobj)
                key.data.extend(data)
                if len(report) > MAX_REPORT_BYTES:
                    return b"", bytes(last_words), "its report had no end"
                del last_words[:-MAX_LAST_WORDS]
    # Both pipes are closed: it has ended, or is about to.
    try:
        child.wait(max(until - time.monotonic(), _LOOK_UP_S))
    except subprocess.TimeoutExpired:
        return bytes(report), bytes(last_words), "time"
    return bytes(report), bytes(last_words), ""


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """The child and whatever it started; it leads a group of its own."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def _cause(ended: _Ended, limits: TrialLimits) -> str:
    """Why there is no good report, in a sentence."""
    said = ended.last_words.splitlines()[-1][:200] if ended.last_words else ""
    words = f" Its last words: {said}" if said else ""
    if ended.stopped == "time":
        return f"Its trial in a process of its own did not end in {limits.seconds:g} s."
    if ended.stopped:
        return f"Its trial was not finished: {ended.stopped}."
    if ended.code == -signal.SIGXCPU:
        return f"Its trial used more than {limits.cpu_seconds} s of processor time."
    if ended.code == -signal.SIGKILL:
        return f"Its trial was killed from outside, most likely for the memory it took.{words}"
    if ended.code < 0:
        return f"It ended its trial by {signal.Signals(-ended.code).name}.{words}"
    return f"Its trial ended with code {ended.code} and no report.{words}"


@dataclass(frozen=True, slots=True)
class _Report:
    refused: bool
    step: str
    reason: str
    remedy: str
    memory_kib: int
    not_enforced: tuple[str, ...]


def _read(data: bytes) -> _Report | None:
    """The child's report: its last line, whatever the runtime printed before it; None where it is none."""
    lines = data.strip().splitlines()
    try:
        reader = parse(lines[-1] if lines else b"", "trial's report", MAX_REPORT_BYTES)
        report = _Report(
            reader.boolean("refused"),
            reader.text("step"),
            reader.text("reason"),
            reader.text("remedy"),
            reader.integer("memory_kib"),
            reader.strings("not_enforced"),
        )
        reader.close()
    except InvalidDocument:
        return None
    return report
