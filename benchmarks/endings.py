"""Does a server end well, whenever it ends? Killed at random moments of an activation, and told to stop under load.

    python benchmarks/endings.py [--kills 2000] [--stops 500] [--lanes 2] [--control] [--out FILE]

Kills (F1 of the threats that ADR 9 answers): a server with one version is handed another; at a random moment of that,
the whole tree of processes is killed with SIGKILL. What starts again must be ready in time, answer as exactly the old
or the new version (the numbers say which), and leave at most one package in its store that no record knows.

Stops (F32): callers ask without a pause longer than a few milliseconds, every sample is captured; at a random moment
comes SIGTERM. Every request must end with an answer or with UNAVAILABLE, the server with 0, and the spool must hold
the sample of every answer.

--control breaks both promises on purpose, a version that answers with another's numbers and a spool that loses its
last record, and succeeds if each is found.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import numpy
import our_server
import psutil
from peers.callers import UnaryCaller
from peers.processes import end_on_sigterm, surroundings
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported at run time
from small_model import CHANNELS, STEPS, write_package

from hybridge_edge import ledger, lines, runtime, spool
from hybridge_edge.admission import passed
from hybridge_edge.contract.errors import HybridgeError
from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.contract.sample import Sample

RESULT = Path(__file__).resolve().parent / "results" / "endings.json"
VERSIONS = 4
CALLERS = 3
READY_S, ANSWER_S = 10.0, 30.0
"""F1 allows ten seconds from the start to an answer."""
GIVEN_UP_S = 60.0
TRIED_SHARE = 0.5
"""Of the activations that have to try their package in a child first, as one does that the device never saw."""
LATER, SOONER = 1.03, 0.92
"""A kill that fell within an activation lets the next ones fall later, one behind it sooner: a quarter falls behind, so
that the last steps are met as often as the first. What an activation takes depends on what was killed before."""
LOAD_S = 0.5
PAUSE_S = 0.003
MAX_REASONS = 20
_HEX = 64
_TOLERANCE = 1e-4


@dataclass
class Found:
    """What all lanes counted; ``wrong`` are the sentences of broken promises, the first MAX_REASONS."""

    kills: int = 0
    stops: int = 0
    answered: int = 0
    wrong_count: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_start_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def broken(self, sentence: str) -> None:
        with self.lock:
            self.wrong_count += 1
            if len(self.wrong) < MAX_REASONS:
                self.wrong.append(sentence)


class Lane:
    """A store, a server over it, and the versions it is handed, one after the other."""

    def __init__(self, folder: Path, seed: int, found: Found, control: bool) -> None:
        self._folder = folder
        self._found = found
        self._control = control
        self._random = random.Random(seed)
        folder.mkdir()
        signer = CryptoSigner.generate_ed25519()
        our_server.write_trust(folder, signer)
        self._handovers = []
        for number in range(1, VERSIONS + 1):
            factor = 1.0 if control and number == VERSIONS else float(number)
            self._handovers.append(write_package(folder / f"package-{number}", signer, f"{number}.0.0", factor))
        self._epoch = 0
        self._window = numpy.ones((1, STEPS, CHANNELS), numpy.float32)
        request = messages.ModelInferRequest(model_name="watch")
        request.inputs.add(name="window", datatype="FP32", shape=self._window.shape)
        request.raw_input_contents.append(self._window.tobytes())
        self._request = request.SerializeToString()
        first = VERSIONS - 1 if control else 0
        self._may = {first}
        """Versions by index that may answer now."""
        self._handed = first
        self._within_s = {True: 0.0, False: 0.0}
        """Kills fall anywhere in this after the hand-over: with a trial in a child, without one."""
        self._sent = threading.Event()
        with our_server.running(folder, environment=self._environment()):
            for number in range(VERSIONS):  # the device sees each for the first time, and tries it
                self._within_s[True] = self._activated(number)
            for number in (1, first):
                self._within_s[False] = self._activated(number)

    def _activated(self, number: int) -> float:
        """Seconds that it took."""
        began = time.monotonic()
        our_server.activate(self._folder, self._next(number))
        return time.monotonic() - began

    def kill(self) -> None:
        """One round: start, look, hand over, kill."""
        tried = self._random.random() < TRIED_SHARE
        if tried:
            (self._folder / "store" / passed.FILE).unlink(missing_ok=True)
        server = self._start()
        active, pending = self._look(), self._pending()
        chosen = self._random.choice([one for one in range(VERSIONS) if one != active])
        self._sent.clear()
        handed = threading.Thread(target=self._hand_over, args=(chosen, tried))
        handed.start()
        self._sent.wait()
        time.sleep(self._random.uniform(0.0, self._within_s[tried]))
        _kill(server)
        handed.join()
        # A server that starts again ends what it was handed before, until it is handed something else.
        self._may = {active, chosen, *pending}
        self._handed = chosen
        with self._found.lock:
            self._found.kills += 1

    def stop(self) -> None:
        """One round: start, load, SIGTERM."""
        server = self._start()
        callers = [_Asker(f"unix:{self._folder}/run/{runtime.INFERENCE_SOCKET}", self._request) for _ in range(CALLERS)]
        for one in callers:
            one.start()
        time.sleep(self._random.uniform(0.0, LOAD_S))
        server.terminate()
        try:
            code = server.wait(ANSWER_S)
        except psutil.TimeoutExpired:
            code = None
            _kill(server)
        for one in callers:
            one.stop()
        if code != 0:
            self._found.broken(f"told to stop, the server ended with {code}")
        kept = self._captured()
        for one in callers:
            for status in one.refused:
                self._found.broken(f"a request ended with {status}")
            if lost := one.answered - kept:
                self._found.broken(f"{len(lost)} of {len(one.answered)} answered samples are not in the spool")
            with self._found.lock:
                self._found.answered += len(one.answered)
                self._found.outcomes["unavailable"] += one.unavailable
        with self._found.lock:
            self._found.stops += 1

    def _start(self) -> psutil.Popen:
        (self._folder / "run" / runtime.ENDPOINT_FILE).unlink(missing_ok=True)
        with (self._folder / "server.log").open("wb") as log:
            server = psutil.Popen(
                [*our_server.command(self._folder), "--capture-share", "1", "--spool", str(self._folder / "spool")],
                env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        began = time.monotonic()
        while not (self._folder / "run" / runtime.ENDPOINT_FILE).exists():
            if server.poll() is not None or time.monotonic() - began > GIVEN_UP_S:
                _kill(server)
                last = (self._folder / "server.log").read_text()[-500:]
                raise SystemExit(f"endings: the server did not start: {last}")
            time.sleep(0.01)
        took = time.monotonic() - began
        if took > READY_S:
            self._found.broken(f"the server was ready after {took:.1f} s")
        with self._found.lock:
            self._found.slowest_start_s = max(self._found.slowest_start_s, took)
        return server

    def _look(self) -> int:
        """Which version answers, by its name; whether by its numbers too, and whether the store is clean."""
        caller = UnaryCaller(f"unix:{self._folder}/run/{runtime.INFERENCE_SOCKET}", self._request)
        try:
            answer = messages.ModelInferResponse.FromString(caller.ask())
        except grpc.RpcError as error:
            raise SystemExit(f"endings: no answer after a start: {error}") from None
        finally:
            caller.close()
        number = int(answer.model_version.split(".")[0])
        scores = numpy.frombuffer(answer.raw_output_contents[0], "<f4")
        if abs(float(scores[0]) - number) > _TOLERANCE:
            self._found.broken(f"version {answer.model_version} answered {scores[0]:g}")
        if number - 1 not in self._may:
            may = sorted(one + 1 for one in self._may)
            self._found.broken(f"version {answer.model_version} answers; {may} may")
        with self._found.lock:
            self._found.outcomes["new version" if number - 1 == self._handed else "old version"] += 1
        self._count_orphans()
        return number - 1

    def _pending(self) -> set[int]:
        """What the server was handed before and is to end yet."""
        wanted = {record.wanted.digest for record in self._records().values() if record.wanted is not None}
        return {number for number, made in enumerate(self._handovers) if made.digest in wanted}

    def _records(self) -> dict[str, ledger.ModelRecord]:
        return ledger.from_bytes((self._folder / "store" / "state.json").read_bytes())

    def _count_orphans(self) -> None:
        """Looks at the files alone: a Store would tidy up under the server's feet."""
        records = self._records()
        known = {digest.removeprefix("sha256:") for record in records.values() for digest in record.kept_digests()}
        packages = {one.name for one in (self._folder / "store" / "packages").iterdir() if len(one.name) == _HEX}
        # One more of its history is kept on purpose, as somewhere to fall back to.
        orphans = len(packages - known) - len(records)
        if orphans > 1:
            self._found.broken(f"{orphans} packages lie in the store that no record knows")

    def _hand_over(self, chosen: int, tried: bool) -> None:
        outcome = "killed within an activation"
        line = self._next(chosen).to_line()
        self._sent.set()
        with suppress(OSError, HybridgeError, ValueError):  # the server is killed meanwhile
            answer = json.loads(lines.ask(self._folder / "run" / runtime.MANAGEMENT_SOCKET, line, ANSWER_S))
            outcome = "killed behind one"
            if answer.get("state") not in ("ACTIVE", "BUILDING"):
                self._found.broken(f"a good package was not activated: {answer}")
        self._within_s[tried] *= LATER if outcome == "killed within an activation" else SOONER
        with self._found.lock:
            self._found.outcomes[outcome] += 1

    def _next(self, chosen: int) -> Handover:
        self._epoch += 1
        made = self._handovers[chosen]
        return Handover(made.model, made.package, made.digest, f"ending-{self._epoch}", self._epoch)

    def _captured(self) -> set[str]:
        """Sample ids in the spool."""
        found: list[str] = []
        folder = self._folder / "spool"
        for index in spool.segment_indexes(folder):
            data = spool.read_segment(spool.segment_path(folder, index))
            found += [Sample.from_bytes(record.body).sample_id for record in spool.records(data)]
        return set(found[:-1] if self._control else found)

    def _environment(self) -> dict[str, str]:
        return surroundings(
            HYBRIDGE_RUNTIME_DIR=str(self._folder / "run"), HYBRIDGE_TRUST=str(self._folder / "trust.json")
        )


class _Asker(threading.Thread):
    """A caller that never retries; ends at the first request that is not answered."""

    def __init__(self, target: str, request: bytes) -> None:
        super().__init__(daemon=True)
        self._caller = UnaryCaller(target, request)
        self._end = threading.Event()
        self.answered: set[str] = set()
        self.unavailable = 0
        self.refused: list[str] = []

    def run(self) -> None:
        while not self._end.wait(PAUSE_S):
            try:
                answer: Any = self._caller.ask()
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    self.unavailable += 1
                else:
                    self.refused.append(f"{error.code().name}: {error.details()}")
                return
            found = messages.ModelInferResponse.FromString(answer)
            self.answered.add(found.parameters["sample_id"].string_param)

    def stop(self) -> None:
        self._end.set()
        self.join()
        self._caller.close()


def _kill(server: psutil.Popen) -> None:
    """SIGKILL to the server and all that it started, at one moment as far as that can be had."""
    members: list[Any] = [server]
    with suppress(psutil.Error):
        members += server.children(recursive=True)
    for one in members:
        with suppress(psutil.Error):
            one.suspend()
    for one in members:
        with suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(members, ANSWER_S)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=2000)
    parser.add_argument("--stops", type=int, default=500)
    parser.add_argument("--lanes", type=int, default=2, help="servers at once, each with a store of its own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--control", action="store_true", help="break the promises: must be found")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    end_on_sigterm()
    found = Found()
    with tempfile.TemporaryDirectory(prefix="hyb") as temporary, ThreadPoolExecutor(options.lanes) as pool:
        lanes = [
            Lane(Path(temporary) / str(number), options.seed + number, found, options.control)
            for number in range(options.lanes)
        ]
        for name, rounds, act in (("kills", options.kills, Lane.kill), ("stops", options.stops, Lane.stop)):
            shares = [rounds // options.lanes + (number < rounds % options.lanes) for number in range(options.lanes)]
            begun = [pool.submit(_rounds, lane, act, share, name) for lane, share in zip(lanes, shares, strict=True)]
            for done in begun:
                done.result()
    result = {
        "what": "a server killed at random moments of an activation, and told to stop under load",
        "command": f"python benchmarks/endings.py {' '.join(arguments)}".strip(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "versions": {name: version(name) for name in ("hybridge", "onnxruntime", "grpcio")},
        "kills": found.kills,
        "stops": found.stops,
        "answered_before_stops": found.answered,
        "outcomes": dict(sorted(found.outcomes.items())),
        "slowest_start_s": round(found.slowest_start_s, 2),
        "promises_broken": found.wrong_count,
        "sentences": found.wrong,
    }
    print(json.dumps(result, indent=1))
    if options.control:
        numbers = any("answered 1" in one for one in found.wrong)
        samples = any("not in the spool" in one for one in found.wrong)
        return 0 if numbers and samples else 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if found.wrong_count else 0


def _rounds(lane: Lane, act: Callable[[Lane], None], rounds: int, name: str) -> None:
    for number in range(rounds):
        act(lane)
        if (number + 1) % 50 == 0:
            print(f"{name}: {number + 1} of {rounds} in this lane", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
