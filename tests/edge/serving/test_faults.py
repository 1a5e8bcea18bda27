"""A model that hangs, dies, eats memory or says nonsense, and a process that is stopped: who notices and what it costs.

Everything here is a real server with real graphs: a loop whose length is in the input, a tensor whose size is.
More repetitions on demand: HYBRIDGE_FAULTS=500 scripts/test tests/edge/serving/test_faults.py
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from types import ModuleType
from typing import Any

import numpy
import pytest
from slow_graphs import hungry, looping, with_loop

from hybridge_edge import vitals
from hybridge_edge.client import Client
from hybridge_edge.contract.errors import HybridgeError, Refused, Unavailable
from hybridge_edge.contract.expectations import Guard
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.targets.target import usable_cores

REPETITIONS = int(os.environ.get("HYBRIDGE_FAULTS", "3"))
ENDLESS = 1e9
"""Trips of the loop: hours."""


class Asked:
    """A server with version 1.0.0 active, then whatever a test hands over."""

    def __init__(self, server: Any, packages: Callable, kit: ModuleType) -> None:
        self.server, self.packages, self.kit = server, packages, kit
        self.epoch = 0

    def hand_over(self, *arguments: Any, **options: Any) -> None:
        self.epoch += 1
        answer = self.server.hand_over(self.packages(*arguments, **options).handover(self.epoch))
        assert answer["state"] == "ACTIVE", answer

    @property
    def client(self) -> Client:
        return Client(self.server.endpoint.inference, retry=False)

    def window(self, value: float) -> dict[str, numpy.ndarray]:
        return {"window": numpy.full((1, self.kit.STEPS, self.kit.CHANNELS), value, numpy.float32)}

    def version(self) -> str:
        """Who answers now, asked again while nobody does."""
        until = time.monotonic() + 20
        while True:
            try:
                with self.client as client:
                    return client.infer("watch", self.window(0.5)).version
            except (Unavailable, Refused):
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def states(self) -> dict[str, str]:
        return {one["version"]: one["state"] for one in self.server.say(verb="status")["models"]}

    def comes_to(self, wanted: Callable[[], bool]) -> None:
        until = time.monotonic() + 20
        while not wanted():
            assert time.monotonic() < until, self.server.say(verb="status")
            time.sleep(0.05)


@pytest.fixture
def asked(server: Any, packages: Callable, kit: ModuleType) -> Iterator[Asked]:
    return Asked(server, packages, kit)


def hang(asked: Asked, value: float = ENDLESS, timeout_s: float = 20) -> HybridgeError:
    with asked.client as client, pytest.raises(HybridgeError) as caught:
        client.infer("watch", asked.window(value), timeout_s=timeout_s)
    return caught.value


def test_a_model_that_hangs_three_times_in_a_row_is_quarantined_and_the_one_before_answers(asked: Asked) -> None:
    asked.server.arguments += ["--run-seconds", "0.3"]
    asked.server.start()
    asked.hand_over("1.0.0", 1.0)
    asked.hand_over("2.0.0", 2.0, graph=looping(2.0, asked.kit.CHANNELS), change=with_loop)
    for _ in range(2):
        hang(asked)
    assert asked.version() == "2.0.0"  # an answer in between: it begins to count anew
    for _ in range(2):
        hang(asked)
    assert (asked.version(), asked.states()) == ("2.0.0", {"2.0.0": "ACTIVE"})
    for _ in range(3):
        hang(asked)
    asked.comes_to(lambda: asked.states() == {"1.0.0": "ACTIVE", "2.0.0": "QUARANTINED"})
    assert asked.version() == "1.0.0"
    asked.server.kill_tree()
    asked.server.start()
    assert asked.version() == "1.0.0"
    assert asked.states() == {"1.0.0": "ACTIVE", "2.0.0": "QUARANTINED"}


def test_a_version_that_hangs_on_a_probe_is_refused_and_holds_no_place(asked: Asked) -> None:
    """Its golden inputs are answered at once, in the trial too: only a probe goes round for hours."""
    asked.server.arguments += ["--run-seconds", "0.3"]
    asked.server.start()
    asked.hand_over("1.0.0", 1.0)
    kit = asked.kit
    calm, rough = (kit.window(rows, seed=seed).mean(axis=1).max() for rows, seed in ((4, 7), (64, 11)))
    assert rough > calm
    graph = looping(2.0, kit.CHANNELS, above=(calm + rough) / 2)
    built = asked.packages("2.0.0", 2.0, graph=graph, probes=64, change=with_loop)
    answer = asked.server.hand_over(built.handover(asked.epoch + 1))
    assert answer["state"] == "REFUSED", answer
    assert "probes: A probe cannot be run: A run of watch 2.0.0 was stopped after 0.3 s" in answer["reason"]
    with asked.client as client:
        for _ in range(4 * usable_cores()):
            assert client.infer("watch", asked.window(0.5), timeout_s=5).version == "1.0.0"


def test_a_run_that_nobody_waits_for_any_more_is_ended_and_blames_nobody(asked: Asked) -> None:
    asked.server.start()
    asked.hand_over("1.0.0", 1.0)
    asked.hand_over("2.0.0", 2.0, graph=looping(2.0, asked.kit.CHANNELS), change=with_loop)
    places = usable_cores()
    for _ in range(3):
        callers = [Thread(target=hang, args=(asked, ENDLESS, 0.3)) for _ in range(places)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        with asked.client as client:  # every place was taken by a run of hours
            assert client.infer("watch", asked.window(0.5), timeout_s=5).version == "2.0.0"
    assert asked.states() == {"2.0.0": "ACTIVE"}


def test_a_trusted_model_that_kills_the_worker_three_times_is_quarantined_and_the_one_before_answers(
    asked: Asked,
) -> None:
    asked.server.start()
    asked.hand_over("1.0.0", 1.0)
    asked.hand_over("2.0.0", 2.0, graph=looping(2.0, asked.kit.CHANNELS), change=with_loop)
    for _ in range(30):
        asked.version()
    asked.comes_to(lambda: asked.server.say(verb="describe", model="watch")["counters"]["requests"] >= 30)
    for death in range(3):
        assert asked.version() == "2.0.0"
        pid = asked.server.endpoint.pid
        caller = Thread(target=hang, args=(asked,))
        caller.start()
        time.sleep(0.3)  # it runs
        os.kill(pid, signal.SIGKILL)
        caller.join()
        began = time.monotonic()
        asked.server.wait(not_pid=pid)
        assert time.monotonic() - began < 15, death
    assert asked.version() == "1.0.0"
    assert asked.states() == {"1.0.0": "ACTIVE", "2.0.0": "QUARANTINED"}
    asked.server.kill_tree()  # nobody ran: nobody is blamed for a power cut
    asked.server.start()
    assert asked.version() == "1.0.0"


def test_a_worker_that_shows_no_life_is_killed_and_another_one_answers(asked: Asked) -> None:
    asked.server.arguments += ["--pulse-seconds", "2"]
    asked.server.start()
    asked.hand_over("1.0.0", 1.0)
    pid = asked.server.endpoint.pid
    time.sleep(3)
    assert asked.server.endpoint.pid == pid  # an idle worker lives
    os.kill(pid, signal.SIGSTOP)
    asked.server.wait(not_pid=pid)
    assert asked.version() == "1.0.0"


def test_a_request_for_too_much_memory_is_an_error_and_a_server_grown_too_large_starts_again(asked: Asked) -> None:
    asked.server.arguments += ["--memory-megabytes", "64"]
    asked.server.start()
    asked.hand_over("1.0.0", 1.0, graph=hungry(1.0, asked.kit.CHANNELS))
    pid = asked.server.endpoint.pid
    with asked.client as client:
        with pytest.raises(Refused, match="The request failed"):
            client.infer("watch", asked.window(1e11))  # 400 GB
        assert client.infer("watch", asked.window(0.0)).version == "1.0.0"
        assert asked.server.endpoint.pid == pid
        client.infer("watch", asked.window(1e8))  # 400 MB, which the runtime keeps for later
    asked.server.wait(not_pid=pid)
    assert asked.version() == "1.0.0"
    asked.server.stop()
    assert "MiB are its limit" in asked.server.said


def test_memory_is_bounded_only_where_a_limit_is_set() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    vitals.bound_memory(0)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def guarded(action: str, after: int) -> Callable[[Manifest], Manifest]:
    guard = Guard("scores", -1e6, 1e6, action, after)
    return lambda manifest: replace(manifest, guards=(guard,))


@pytest.mark.parametrize(("action", "says"), [("pass", False), ("flag", True), ("refuse", True)])
def test_a_model_that_answers_the_same_whatever_it_is_asked_is_found(
    device: Any, packages: Callable, kit: ModuleType, action: str, says: bool
) -> None:
    constant = packages("1.0.0", 0.0, change=guarded(action, 5))
    assert device.activation.hand_over(constant.handover(1)).state.value == "ACTIVE"
    for seed in range(5):
        assert device.ask(kit.window(seed=seed)).guard == ""
    if action == "refuse":
        with pytest.raises(Refused, match="the same in 6 answers to different inputs"):
            device.ask(kit.window(seed=6))
    else:
        assert ("the same in 6 answers" in device.ask(kit.window(seed=6)).guard) == says
    assert device.reports()["1.0.0"].evidence.guarded == 1


def test_the_same_question_asked_again_is_no_constant_answer(device: Any, packages: Callable, kit: ModuleType) -> None:
    device.activation.hand_over(packages("1.0.0", 1.0, change=guarded("refuse", 3)).handover(1))
    for _ in range(10):
        device.ask(kit.window(seed=1))
    for seed in range(10):
        device.ask(kit.window(seed=seed))


def test_requests_that_are_here_at_a_stop_are_answered_and_the_rest_is_told(asked: Asked) -> None:
    for _ in range(REPETITIONS):
        asked.server.start()
        if asked.epoch == 0:
            asked.hand_over("1.0.0", 1.0, graph=looping(1.0, asked.kit.CHANNELS), change=with_loop)
        codes: list[str] = []
        stopped = Event()

        def ask(codes: list[str] = codes, stopped: Event = stopped) -> None:
            with asked.client as client:
                while not stopped.is_set():
                    try:
                        client.infer("watch", asked.window(2000.0))
                        codes.append("OK")
                    except Unavailable as error:
                        codes.append(error.code)
                        return

        callers = [Thread(target=ask) for _ in range(4)]
        for caller in callers:
            caller.start()
        time.sleep(0.4)
        code = asked.server.stop()
        stopped.set()
        for caller in callers:
            caller.join()
        assert code == 0
        assert set(codes) <= {"OK", "UNAVAILABLE"}
        assert codes.count("OK") > 4
        assert "Traceback" not in asked.server.said


def test_a_server_without_file_descriptors_left_stays_up_and_serves_again(asked: Asked, short: Path) -> None:
    asked.server.within = ("prlimit", "--nofile=96:96")
    asked.server.start()
    asked.hand_over("1.0.0", 1.0)
    pid = asked.server.endpoint.pid
    host, port = asked.server.endpoint.tcp.rsplit(":", 1)
    with asked.client as client, ExitStack() as stack:
        assert client.infer("watch", asked.window(1.0)).version == "1.0.0"
        for _ in range(150):
            one = stack.enter_context(socket.socket())
            one.settimeout(0.5)
            with suppress(OSError):  # a refusal is an answer too
                one.connect((host, int(port)))
        time.sleep(0.5)
        assert client.infer("watch", asked.window(1.0)).version == "1.0.0"
    assert asked.version() == "1.0.0"
    assert asked.server.endpoint.pid == pid


def test_a_disk_without_inodes_refuses_a_package_and_what_runs_runs_on(asked: Asked) -> None:
    own_mounts = ("unshare", "--user", "--map-root-user", "--mount")
    if subprocess.run([*own_mounts, "true"], check=False).returncode:
        pytest.skip("this kernel lets nobody have a mount namespace of his own")
    store = asked.server.store
    store.mkdir(mode=0o700)
    mount = f"mount -t tmpfs -o mode=700,size=80m,nr_inodes=24 none {store}"
    asked.server.within = (*own_mounts, "sh", "-c", f'{mount} && exec "$@"', "sh")
    asked.server.start()
    asked.hand_over("1.0.0", 1.0)
    asked.epoch += 1
    answer = asked.server.hand_over(asked.packages("2.0.0", 2.0).handover(asked.epoch))
    while answer["state"] == "ACTIVE" and asked.epoch < 6:
        asked.epoch += 1
        version = f"{asked.epoch}.0.0"
        answer = asked.server.hand_over(asked.packages(version, float(asked.epoch)).handover(asked.epoch))
    assert answer["state"] == "REFUSED", answer
    assert "No space left on device" in answer["reason"] or "disk is full" in answer["reason"], answer
    assert asked.version() == f"{asked.epoch - 1}.0.0"
