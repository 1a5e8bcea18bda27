"""Kill one process of the live tree, chosen by a seed, while the story goes on: it must end right, or say why not.

A seed chooses a hop, a moment in it, and a victim among everything that runs then: the account, its control service,
the keeper, a core device, a component's process on a device. SIGKILL: nobody is asked. The same seed kills in the same
hop, and on the same tree the same kind of process.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from hybridge_cloud.sandbox import processes
from hybridge_cloud.sandbox.folder import SandboxFolder

HOPS = ("replay", "return", "retrain", "version 2", "shuffled", "slow")
"""Hops during which something may die: from the first served answer to the last put back."""
LATEST_SECONDS = 6.0
SERVING = ("server", "front", "core device")
"""Kinds whose death may cost answers of their own device: a grpcio server's socket dies with its process."""


@dataclass(frozen=True, slots=True)
class Victim:
    """A process that may die: what it is, on which device ("" for the account's own), its number."""

    kind: str
    device: str
    pid: int

    def to_json(self) -> dict[str, object]:
        return {"kind": self.kind, "device": self.device, "pid": self.pid}


@dataclass(frozen=True, slots=True)
class Death:
    """Who died when: hop, seconds since 1970, and everybody who could have."""

    victim: Victim
    hop: str
    at: float
    candidates: tuple[Victim, ...]

    def tolerates(self, device: str) -> bool:
        """Whether answers of a device may have failed because of it."""
        return self.victim.device == device and self.victim.kind in SERVING

    def to_json(self) -> dict[str, object]:
        return {
            **self.victim.to_json(),
            "hop": self.hop,
            "at": self.at,
            "candidates": [candidate.to_json() for candidate in self.candidates],
        }


class Chaos:
    """Waits for its hop, then kills once."""

    def __init__(self, seed: int, sandbox: Path) -> None:
        self.seed = seed
        self._random = random.Random(seed)  # noqa: S311  to be repeated, not to be secret
        self._sandbox = sandbox
        self._hop = self._random.choice(HOPS)
        self._delay = self._random.uniform(0.0, LATEST_SECONDS)
        self._timer: threading.Timer | None = None
        self.death: Death | None = None

    @property
    def sentence(self) -> str:
        """Who died, for the table and for an error; "" before it."""
        if self.death is None:
            return ""
        victim = self.death.victim
        where = f" of {victim.device}" if victim.device else ""
        return f"Seed {self.seed} killed the {victim.kind}{where} during {self.death.hop!r}. "

    def hop_begins(self, name: str) -> None:
        """Told of every hop by the story."""
        if name == self._hop and self._timer is None:
            self._timer = threading.Timer(self._delay, self._kill, (name,))
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _kill(self, hop: str) -> None:
        found = candidates(self._sandbox)
        if not found:
            return
        victim = found[self._random.randrange(len(found))]
        try:
            os.kill(victim.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it ended meanwhile; nobody was killed, and the report says so
        self.death = Death(victim, hop, time.time(), found)


def candidates(sandbox: Path) -> tuple[Victim, ...]:
    """Everything of a sandbox that runs now, sorted by what it is."""
    found = [_named(process.pid, sandbox) for process in processes.belonging(SandboxFolder(sandbox))]
    known = [victim for victim in found if victim is not None]
    return tuple(sorted(known, key=lambda victim: (victim.kind, victim.device, victim.pid)))


def _named(pid: int, sandbox: Path) -> Victim | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        folder = Path(os.readlink(f"/proc/{pid}/cwd"))  # noqa: PTH115  a link that may lead nowhere any more
    except OSError:
        return None
    line = " ".join(words)
    devices = sandbox.resolve() / "devices"
    device = folder.relative_to(devices).parts[0] if folder.is_relative_to(devices) and folder != devices else ""
    if "hybridge_cloud.sandbox.device" in line and "--thing" in words:
        return Victim("core device", words[words.index("--thing") + 1], pid)
    for text, kind in _KINDS:
        if text in line:
            return Victim(kind, device, pid)
    return None


_KINDS = (
    ("hybridge_cloud.sandbox.keeper", "keeper"),
    ("hybridge_cloud.sandbox.control", "control service"),
    ("loopback.py", "account"),
    ("hybridge-edge serve", "server"),
    ("hybridge_edge.worker", "server"),
    ("hybridge_edge.front", "front"),
    ("hybridge-edge pipeline", "pipeline"),
    ("hybridge-edge uplink", "uplink"),
    ("activate.py", "model component"),
)
