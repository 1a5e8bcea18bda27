"""``hybridge-edge bench`` against a server that runs: its numbers add up, and nothing is left behind."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from types import ModuleType
from typing import Any

import numpy
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridge_edge import cli
from hybridge_edge.bench.load import load
from hybridge_edge.bench.tally import EXACT_US, Tally, merged, rounded
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import Refused, Unavailable


@pytest.fixture
def running(server: Any, packages: Callable, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server of one small model, on its socket and TCP."""
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(server.runtime))
    monkeypatch.delenv("HYBRIDGE_ENDPOINT", raising=False)
    server.start()
    server.hand_over(packages("1.0.0", 2.0).handover(1))
    return server


@pytest.fixture
def window(tmp_path: Path, kit: ModuleType) -> str:
    numpy.save(tmp_path / "window.npy", kit.window(rows=2))
    return str(tmp_path / "window.npy")


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if "bench.caller" in " ".join(one.cmdline())]


@pytest.mark.parametrize("way", ["stream", "direct"])
def test_the_other_ways_give_the_same_answers_and_their_errors_are_counted(
    way: str, running: Any, window: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "--model", "watch", "--input", window, "--seconds", "0.3", f"--{way}", "--json"]
    assert cli.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["transport"] == way
    assert told["answered"] > 0
    assert told["versions"] == {"1.0.0": told["answered"]}
    assert told["errors"] == {}
    assert 0 < told["server_mean_us"]["total"] <= told["latency_us"]["mean"]


def test_callers_in_other_processes_measure_what_the_server_counted_and_are_gone_afterwards(
    running: Any, window: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = running.say(verb="describe", model="watch")["counters"]["requests"]
    words = ["bench", "--model", "watch", "--input", window, "--seconds", "0.5", "--callers", "2", "--rows", "3"]
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    after = running.say(verb="describe", model="watch")["counters"]["requests"]
    assert told["answered"] == after - before - 2 * 10  # of each caller's warm-up
    assert told["versions"] == {"1.0.0": told["answered"]}
    assert told["errors"] == {}
    assert told["server_mean_us"]["total"] <= told["latency_us"]["mean"]
    assert told["latency_us"]["p50"] <= told["latency_us"]["p90"] <= told["latency_us"]["p99"]
    assert {"python", "onnxruntime", "grpcio"} <= set(told["installed"])
    assert not children()
    # the same for people, over TCP
    assert cli.main(["bench", "--model", "watch", "--input", window, "--seconds", "0.2", "--tcp"]) == 0
    table = capsys.readouterr().out
    for part in (running.endpoint.tcp, "p50", "0 failed", "1.0.0 (", "CPUExecutionProvider"):
        assert part in table
    # and a request that does not fit is one sentence
    numpy.save(tmp_path / "wrong.npy", numpy.zeros((1, 2, 3), numpy.float32))
    assert cli.main(["bench", "--model", "watch", "--input", str(tmp_path / "wrong.npy")]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert not children()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--callers", "65"], "64"),
        (["--callers", "0"], "64"),
        (["--seconds", "601"], "600"),
        (["--rows", "2000"], "1024"),
        (["--direct", "--tcp"], "over TCP"),
    ],
)
def test_a_load_beyond_its_bounds_or_its_version_is_refused(
    words: list[str], says: str, window: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "--model", "watch", "--input", window, *words]) == 2
    assert says in capsys.readouterr().err


def test_errors_while_it_runs_are_counted_by_their_code(running: Any, window: str) -> None:
    """The model goes while callers ask: the positive control of the count of errors."""

    def go_away() -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:  # the callers' own requests say when they have begun
            if running.say(verb="describe", model="watch")["counters"]["requests"] > 30:
                running.say(verb="unload", model="watch")
                return
            time.sleep(0.02)

    timer = Timer(0.0, go_away)
    timer.start()
    arrays = {"window": numpy.load(window)}
    tally = load(running.endpoint.inference, "unary", "watch", arrays, callers=2, seconds=1.5)
    timer.join()
    assert tally.answered > 0
    assert set(tally.errors) == {"NOT_FOUND"}
    assert tally.failed > 0
    with pytest.raises(Refused, match="watch"):  # and now the very first request says it
        load(running.endpoint.inference, "unary", "watch", arrays, callers=1, seconds=0.2)
    assert not children()


def test_no_server_is_said_and_nothing_hangs(short: Path, kit: ModuleType) -> None:
    with pytest.raises((Refused, Unavailable), match="does not answer"):
        load(f"unix:{short}/nobody.sock", "unary", "watch", {"window": kit.window()}, callers=1, seconds=0.2)
    assert not children()


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=80))
def test_quantiles_are_exact_below_ten_milliseconds_and_within_a_hundredth_above(durations: list[int]) -> None:
    tally = Tally()
    for duration in durations:
        tally.durations[rounded(duration)] = tally.durations.get(rounded(duration), 0) + 1
    for share in (0.5, 0.9, 0.99, 1.0):
        true = sorted(durations)[math.ceil(share * len(durations)) - 1]
        found = tally.quantile(share)
        assert found == true if true < EXACT_US else true * 0.99 <= found <= true


def test_tallies_add_up_and_come_through_the_pipe_as_they_were() -> None:
    one = Tally({100: 2, 50_000: 1}, dict.fromkeys(("queue", "copy", "features", "infer", "total"), 7),
                {"UNAVAILABLE": 1}, {"1.0.0": 3}, {"CPUExecutionProvider": 3}, 1, 0.5)  # fmt: skip
    assert Tally.read(parse(canonical(one.to_json()), "tally")) == one
    both = merged([one, one])
    assert (both.answered, both.failed, both.guarded, both.seconds) == (6, 2, 2, 0.5)
    assert both.mean_us("queue") == pytest.approx(14 / 6)
    assert both.mean_us() == pytest.approx(50_200 / 3)
