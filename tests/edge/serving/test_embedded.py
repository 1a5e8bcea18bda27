"""CloudWatch's lines held to the rules of the embedded metric format, and logs as JSON lines."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from hybridge_edge.client import Client
from hybridge_edge.observe import logs
from hybridge_edge.observe.embedded import EmbeddedLines
from hybridge_edge.observe.readings import Process, Readings
from hybridge_edge.serving.evidence import Paired
from hybridge_edge.serving.shadow_tally import Compared, ShadowTally
from hybridge_edge.serving.statistics import Statistics

UNITS = {
    "Seconds", "Microseconds", "Milliseconds", "Bytes", "Kilobytes", "Megabytes", "Gigabytes", "Terabytes", "Bits",
    "Percent", "Count", "Bytes/Second", "Count/Second", "None",
}  # fmt: skip
MAX_METRICS = MAX_VALUES = 100
MAX_DIMENSIONS = 30
MAX_LINE_BYTES = 1024 * 1024


def check(line: str) -> dict[str, Any]:
    """The rules of "Specification: Embedded metric format" (Amazon CloudWatch User Guide), one after the other."""
    document = json.loads(line)
    assert len(line.encode()) <= MAX_LINE_BYTES
    meta = document["_aws"]
    assert set(meta) == {"Timestamp", "CloudWatchMetrics"}
    assert isinstance(meta["Timestamp"], int)
    assert isinstance(meta["CloudWatchMetrics"], list)
    for directive in meta["CloudWatchMetrics"]:
        assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
        assert 1 <= len(directive["Namespace"]) <= 255
        assert directive["Dimensions"]
        for dimensions in directive["Dimensions"]:
            assert 1 <= len(dimensions) <= MAX_DIMENSIONS
            for name in dimensions:
                assert 1 <= len(name) <= 250
                assert isinstance(document[name], str)
                assert 1 <= len(document[name]) <= 1024
        assert 1 <= len(directive["Metrics"]) <= MAX_METRICS
        for metric in directive["Metrics"]:
            assert set(metric) <= {"Name", "Unit", "StorageResolution"}
            assert metric["Unit"] in UNITS
            value = document[metric["Name"]]
            values = value if isinstance(value, list) else [value]
            assert 1 <= len(values) <= MAX_VALUES
            assert all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values)
    return document


def readings(statistics: Statistics) -> Readings:
    return Readings("1.0.0", 1_790_000_000.5, Process(5 << 20), (), statistics.read())


def answered(statistics: Statistics, count: int, total_us: int) -> None:
    for _ in range(count):
        statistics.answered("watch", "1.0.0", "CPUExecutionProvider", 1, (10, 1, 2, 3, total_us), guarded=False)
        statistics.ran("watch", "1.0.0", "CPUExecutionProvider", 1)
        statistics.scored("watch", "1.0.0", [0.9])


@pytest.mark.parametrize(
    "broken",
    [
        '{"_aws":{"CloudWatchMetrics":[]}}',
        '{"_aws":{"Timestamp":1,"CloudWatchMetrics":[{"Namespace":"N","Dimensions":[["D"]],"Metrics":[{"Name":"M","Unit":"Count"}]}]},"D":"d"}',
        '{"_aws":{"Timestamp":1,"CloudWatchMetrics":[{"Namespace":"N","Dimensions":[["D"]],"Metrics":[{"Name":"M","Unit":"Fortnights"}]}]},"D":"d","M":1}',
        '{"_aws":{"Timestamp":1,"CloudWatchMetrics":[{"Namespace":"N","Dimensions":[[]],"Metrics":[{"Name":"M","Unit":"Count"}]}]},"M":1}',
    ],
)
def test_the_check_finds_a_line_that_breaks_a_rule(broken: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        check(broken)


def test_every_line_keeps_the_rules_also_before_the_first_request() -> None:
    statistics, lines = Statistics(), EmbeddedLines("watch-1")
    assert len([check(line) for line in lines.lines(readings(statistics))]) == 1
    answered(statistics, 500, 1000)
    statistics.failed("watch", "1.0.0", "CPUExecutionProvider", "INTERNAL")
    model, device = (check(line) for line in lines.lines(readings(statistics)))
    assert (model["Model"], model["Version"], model["Device"]) == ("watch", "1.0.0", "watch-1")
    assert (model["Requests"], model["Failures"], model["Rows"]) == (500, 1, 500)
    assert (model["QueueTime"], model["InferTime"]) == ([10.0], [3.0])
    assert model["Latency"][0] == pytest.approx(1000, rel=0.03)
    assert model["Confidence"][0] == pytest.approx(0.9, abs=0.02)
    assert device["ResidentMemory"] == 5 << 20


def test_a_line_counts_only_what_came_since_the_one_before() -> None:
    statistics, lines = Statistics(), EmbeddedLines("watch-1")
    answered(statistics, 10, 100)
    lines.lines(readings(statistics))
    answered(statistics, 4, 50_000)
    model, _ = (check(line) for line in lines.lines(readings(statistics)))
    assert model["Requests"] == 4
    assert min(model["Latency"]) > 40_000  # none of the fast ones before
    quiet, _ = (check(line) for line in lines.lines(readings(statistics)))
    assert quiet["Requests"] == 0
    assert "Latency" not in quiet


def test_a_version_that_was_forgotten_begins_anew() -> None:
    before, after, lines = Statistics(), Statistics(), EmbeddedLines("watch-1")
    answered(before, 10, 100)
    lines.lines(readings(before))
    answered(after, 3, 100)
    model, _ = (check(line) for line in lines.lines(readings(after)))
    assert model["Requests"] == 3


def test_a_running_server_writes_lines_to_stdout_and_logs_as_json_to_stderr(
    server: Any, packages: Callable, kit: ModuleType
) -> None:
    output = server.store.parent / "stdout"
    server.arguments += ["--embedded-metrics", "0.2", "--log-format", "json"]
    command = [sys.executable, "-m", "hybridge_edge.cli", "serve", "--store", str(server.store), *server.arguments]
    with output.open("wb") as stdout:
        server.process = subprocess.Popen(
            command, env=server.environment, stdout=stdout, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        server.wait()
        server.hand_over(packages("1.0.0", 2.0).handover(1))
        with Client(server.endpoint.inference) as client:
            for _ in range(7):
                client.infer("watch", {"window": kit.window()})
        assert server.stop() == 0
    documents = [check(line) for line in output.read_text().splitlines()]
    assert sum(document.get("Requests", 0) for document in documents) == 7
    records = [json.loads(line) for line in server.said.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(record) for record in records)
    assert any(record["message"].startswith("serving on") for record in records)


def test_a_record_carries_what_its_caller_knew_and_stays_one_line() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logs.JsonLines())
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.getLogger("x").makeRecord(
            "x", logging.ERROR, __file__, 1, "failed: %s", ("a\nb",), sys.exc_info(),
            extra={"incident": "abc", "model": "watch", "other": 1},
        )  # fmt: skip
    line = handler.format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert (told["incident"], told["model"], told["message"]) == ("abc", "watch", "failed: a\nb")
    assert "ValueError" in told["exception"]
    assert "other" not in told
    assert "version" not in told
    assert told["time"].endswith("Z")


def test_a_shadow_has_a_line_of_its_own_that_counts_what_came_since() -> None:
    tally = ShadowTally("watch", "1.1.0", "sha256:" + "1" * 64, "CPUExecutionProvider", "sha256:" + "0" * 64, "1.0.0",
                        Paired())  # fmt: skip
    lines = EmbeddedLines("watch-1")

    def told(dropped: int) -> dict[str, Any]:
        read = replace(readings(Statistics()), shadows=((tally.reading(), (("queue-full", dropped),)),))
        found, _ = (check(line) for line in lines.lines(read))
        return found

    quiet = told(0)
    assert quiet["ShadowRuns"] == 0
    assert "ShadowLatency" not in quiet
    tally.compared(Compared(1000, 900, True, 2, 1, (0.9, 0.8), (0.1, 0.2)))
    tally.failed()
    busy = told(3)
    assert (busy["Model"], busy["ShadowVersion"], busy["Against"]) == ("watch", "1.1.0", "1.0.0")
    assert "Version" not in busy  # or it would count among the versions that answer
    counts = ("ShadowRuns", "ShadowFailures", "ShadowGuarded", "ShadowCompared", "ShadowDisagreed", "ShadowDropped")
    assert [busy[name] for name in counts] == [1, 1, 1, 2, 1, 3]
    assert busy["ShadowScoreShift"] == [1.0]
    assert [told(3)[name] for name in counts] == [0] * 6
