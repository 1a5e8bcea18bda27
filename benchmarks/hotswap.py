"""Does anybody notice when a model is swapped? Many swaps under load, every answer checked against its version.

    python benchmarks/hotswap.py [--swaps 1000] [--control] [--out benchmarks/results/hotswap.json]

A server serves one model on its Unix socket; three callers in another process ask it, one request after the other,
never retry, and compare each answer's numbers with what the weights of the version it names must answer. Meanwhile the
management socket is told to activate one of four versions after the other: most are loaded anew (only two are ever in
memory), each fifth one is the version before, which takes a pointer. Pauses without swaps lie between blocks of swaps:
what is slow in them is the machine's doing, and what is slower during swaps is ours.

--control gives one version the numbers of another: answers of other weights than named must be found, or this program
could not see them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import our_server
import psutil
from peers.processes import Tree, end_on_sigterm, surroundings
from peers.swap_load import FAILED, MISLABELLED, RIGHT, Truth
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported at run time
from small_model import write_package

from hybridge_edge import lines, runtime
from hybridge_edge.contract.handover import Handover

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "hotswap.json"
VERSIONS = 4
CALLERS = 3
SWITCH_EVERY = 5
BLOCKS = 10
WARM_UP_SHARE = 0.1
"""Of the swaps, before memory is watched: what is loaded once is loaded then."""
ANSWER_S = 60.0
REQUESTS_A_SWAP = 100
MOST_P99, MOST_GROWTH_KB = 2.5, 10.0
_EDGE_NS = 20_000_000
"""Left out at both ends of a pause: the swap before may still be felt."""


@dataclass(frozen=True, slots=True)
class Swap:
    """One activation: monotonic nanoseconds, whether it loaded the version, and the worker's resident bytes after."""

    began: int
    ended: int
    loaded: bool
    resident: int


class Fleet:
    """The versions, and which of them is handed over next."""

    def __init__(self, folder: Path, control: bool) -> None:
        signer = CryptoSigner.generate_ed25519()
        our_server.write_trust(folder, signer)
        self._epoch = 0
        self._handovers = []
        truth: dict[str, tuple[str, float]] = {}
        for number in range(1, VERSIONS + 1):
            name, factor = f"{number}.0.0", float(number)
            weights = 1.0 if control and number == VERSIONS else factor
            handover = write_package(folder / f"package-{number}", signer, name, weights)
            self._handovers.append(handover)
            truth[name] = (handover.digest, factor)
        Truth(truth).write(folder / "truth.json")
        self._active, self._before = -1, -1

    def following(self, number: int) -> tuple[Handover, bool]:
        """The hand-over of swap ``number``, and whether its version has to be loaded."""
        back = number % SWITCH_EVERY == SWITCH_EVERY - 1 and self._before >= 0
        if back:
            chosen = self._before
        else:
            others = [(self._active + step) % VERSIONS for step in range(1, VERSIONS + 1)]
            chosen = next(other for other in others if other not in (self._active, self._before))
        # What a switch back leaves behind is unloaded; otherwise the version before stays in memory.
        self._active, self._before = chosen, -1 if back else self._active
        self._epoch += 1
        made = self._handovers[chosen]
        return Handover(made.model, made.package, made.digest, f"swap-{self._epoch}", self._epoch), not back


class Load:
    """The other process."""

    def __init__(self, folder: Path, target: str) -> None:
        self._out = folder / "requests.npz"
        command = [sys.executable, "-m", "peers.swap_load", target, str(folder / "truth.json"), str(CALLERS)]
        self._process = subprocess.Popen(
            [*command, str(self._out)],
            env=surroundings(PYTHONPATH=str(HERE)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def counts(self) -> list[int]:
        """Answers that were right, failed, mislabelled, so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found: list[int] = json.loads(self._process.stdout.readline())
        return found

    def end(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Stop asking. The requests as arrays, and what the callers say of them."""
        said, _ = self._process.communicate(timeout=ANSWER_S)
        if self._process.returncode:
            sys.exit("hotswap: the load process failed")
        with numpy.load(self._out) as arrays:
            return dict(arrays), json.loads(said.strip().splitlines()[-1])

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two swaps")
    parser.add_argument("--steady", type=float, default=4.0, help="seconds without swaps around each block of them")
    parser.add_argument("--control", action="store_true", help="one version has another's numbers: must be found")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="hyb") as name:
        folder = Path(name)
        fleet = Fleet(folder, options.control)
        with server(folder) as tree:
            load = None
            try:
                hand_over(folder, fleet.following(0)[0])
                load = Load(folder, f"unix:{folder / 'run' / runtime.INFERENCE_SOCKET}")
                swaps, pauses = swap(folder, fleet, load, options)
                requests, told = load.end()
            finally:
                if load is not None:
                    load.kill()
            megabytes = tree.memory().resident
    result = report(options, swaps, pauses, requests, told, megabytes)
    print(json.dumps({key: value for key, value in result.items() if key not in ("machine", "versions")}, indent=1))
    if options.control:
        found = result["mislabelled"]
        print(f"control: {found} mislabelled answers found; more than 0 must be")
        return 0 if found else 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["failed"] == result["mislabelled"] == 0 else 1


@contextmanager
def server(folder: Path) -> Iterator[Tree]:
    """``hybridge-edge serve`` on Unix sockets, ended on leaving."""
    environment = surroundings(HYBRIDGE_RUNTIME_DIR=str(folder / "run"), HYBRIDGE_TRUST=str(folder / "trust.json"))
    tree = Tree.start(our_server.command(folder), environment, folder / "server.log", folder)
    try:
        until = time.monotonic() + ANSWER_S
        while not (folder / "run" / runtime.ENDPOINT_FILE).exists():
            if tree.ended() or time.monotonic() > until:
                sys.exit(f"hotswap: the server did not start: {tree.ended()}")
            time.sleep(0.02)
        yield tree
    finally:
        tree.stop()


def hand_over(folder: Path, handover: Handover) -> None:
    answer = json.loads(lines.ask(folder / "run" / runtime.MANAGEMENT_SOCKET, handover.to_line(), ANSWER_S))
    if answer.get("state") != "ACTIVE":
        sys.exit(f"hotswap: the server did not activate what it was handed: {answer}")


def swap(
    folder: Path, fleet: Fleet, load: Load, options: argparse.Namespace
) -> tuple[list[Swap], list[tuple[int, int]]]:
    """All swaps in blocks, a pause before each and after the last; also the pauses, in monotonic nanoseconds."""
    swaps: list[Swap] = []
    pauses = [steady(options.steady)]
    blocks = min(BLOCKS, options.swaps)
    worker = psutil.Process(runtime.Endpoint.read(folder / "run").pid)
    for block in range(blocks):
        for number in range(options.swaps * block // blocks, options.swaps * (block + 1) // blocks):
            handover, loaded = fleet.following(number + 1)
            began = time.monotonic_ns()
            hand_over(folder, handover)
            swaps.append(Swap(began, time.monotonic_ns(), loaded, worker.memory_info().rss))
            time.sleep(options.pause)
        pauses.append(steady(options.steady))
        right, failed, wrong = load.counts()
        print(f"{len(swaps)} swaps, {right} answers, {failed} failed, {wrong} mislabelled", file=sys.stderr, flush=True)
    return swaps, pauses


def steady(seconds: float) -> tuple[int, int]:
    began = time.monotonic_ns()
    time.sleep(seconds)
    return began, time.monotonic_ns()


def within(requests: dict[str, Any], spans: list[tuple[int, int]], *, overlap: bool) -> Any:
    """Which requests overlap with one of the spans, or lie wholly inside of one. Spans are ascending and disjoint."""
    starts, ends = (numpy.asarray(edge, numpy.int64) for edge in zip(*spans, strict=True))
    began, ended = requests["began"], requests["began"] + requests["took"]
    if overlap:  # the last span that begins before the request ends, ends after it began
        place = numpy.searchsorted(starts, ended) - 1
        return (place >= 0) & (ends[place] >= began)
    place = numpy.searchsorted(starts, began, side="right") - 1
    return (place >= 0) & (ends[place] >= ended)


def report(
    options: argparse.Namespace,
    swaps: list[Swap],
    pauses: list[tuple[int, int]],
    requests: dict[str, Any],
    told: dict[str, Any],
    megabytes: float,
) -> dict[str, Any]:
    inner = [(began + _EDGE_NS, ended - _EDGE_NS) for began, ended in pauses]
    calm = requests["took"][within(requests, inner, overlap=False)]
    busy = requests["took"][within(requests, [(one.began, one.ended) for one in swaps], overlap=True)]
    counts = {code: int((requests["code"] == code).sum()) for code in (RIGHT, FAILED, MISLABELLED)}
    steady_ms, during_ms = percentiles(calm), percentiles(busy)
    watched = swaps[int(len(swaps) * WARM_UP_SHARE) :]
    growth = numpy.polyfit(range(len(watched)), [one.resident / 1024 for one in watched], 1)[0]
    ratio = round(during_ms["p99"] / steady_ms["p99"], 2)
    figures: dict[str, Any] = {
        "swaps": len(swaps),
        "loaded": sum(one.loaded for one in swaps),
        "pointer_switches": sum(not one.loaded for one in swaps),
        "requests": len(requests["took"]),
        "failed": counts[FAILED],
        "mislabelled": counts[MISLABELLED],
        "steady_ms": steady_ms,
        "during_swaps_ms": during_ms,
        "p99_ratio": ratio,
        "growth_kb_a_swap": round(float(growth), 2),
        "resident_mb": megabytes,
        "swap_loaded_ms": percentiles(numpy.asarray([one.ended - one.began for one in swaps if one.loaded])),
        "swap_pointer_ms": percentiles(numpy.asarray([one.ended - one.began for one in swaps if not one.loaded])),
    }
    promises = (
        (f"at least {REQUESTS_A_SWAP} requests a swap", figures["requests"] >= REQUESTS_A_SWAP * len(swaps)),
        ("0 failed", figures["failed"] == 0),
        ("0 answered by other weights than the version named", figures["mislabelled"] == 0),
        (f"p99 during swaps at most {MOST_P99}x of steady", ratio <= MOST_P99),
        (f"growth at most {MOST_GROWTH_KB:g} KB a swap", growth <= MOST_GROWTH_KB),
    )
    return {
        "what": f"swaps of a model under load from {CALLERS} callers in another process, over a Unix socket",
        "command": f"python benchmarks/hotswap.py --swaps {options.swaps}{' --control' if options.control else ''}",
        **figures,
        "promises": {what: bool(kept) for what, kept in promises},
        "answers_by_version": told["versions"],
        "reasons": told["reasons"],
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "processor": platform.machine(),
            "system": platform.platform(),
        },
        "versions": {name: version(name) for name in ("hybridge", "onnxruntime", "grpcio", "numpy")},
    }


def percentiles(nanoseconds: Any) -> dict[str, float]:
    """Middle and worst of them, in milliseconds."""
    if not len(nanoseconds):
        return {"p50": 0.0, "p99": 0.0, "max": 0.0, "count": 0}
    p50, p99 = (round(float(value) / 1e6, 3) for value in numpy.percentile(nanoseconds, (50, 99)))
    return {"p50": p50, "p99": p99, "max": round(float(nanoseconds.max()) / 1e6, 3), "count": len(nanoseconds)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
