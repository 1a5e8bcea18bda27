"""Metrics of a real server as Prometheus' own parser reads them, and a page that a rude reader cannot hold up."""

from __future__ import annotations

import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from hybridge_edge.capture import CaptureCounters
from hybridge_edge.client import Client
from hybridge_edge.contract.errors import InvalidInput, UsageError
from hybridge_edge.contract.scores import ScoreSketch
from hybridge_edge.contract.sketch import BUCKETS, Sketch
from hybridge_edge.front.tls_status import TlsStatus
from hybridge_edge.observe.exposition import CONTENT_TYPE, to_text
from hybridge_edge.observe.families import DURATION_BUCKETS, duration_bound, families
from hybridge_edge.observe.page import MAX_CONNECTIONS, MAX_REQUEST_BYTES, MetricsPage
from hybridge_edge.observe.readings import Process, Readings
from hybridge_edge.serving.evidence import Paired
from hybridge_edge.serving.shadow_tally import Compared, ShadowTally
from hybridge_edge.serving.statistics import ModelStatistics, Statistics

PAGE = Path(__file__).parents[3] / "docs" / "observability.md"
UNITS = (
    "_seconds",
    "_bytes",
    "_requests",
    "_total",
    "_rows",
    "_records",
    "_connections",
    "_refused",
    "_info",
    "_fds",
    "_confidence",
    "_state",
    "_degraded",
    "_sequences",
    "_ratio",
)


def parsed(text: bytes) -> dict[str, Metric]:
    return {metric.name: metric for metric in text_string_to_metric_families(text.decode())}


def value(metrics: dict[str, Metric], name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for metric in metrics.values()
        for sample in metric.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def fetch(tcp: str, path: str = "/metrics") -> bytes:
    with urllib.request.urlopen(f"http://{tcp}{path}", timeout=10) as answer:
        return answer.read()


def full_readings(model: str = "watch") -> Readings:
    statistics = Statistics()
    for duration in (20, 100, 5_000, 2_000_000):
        statistics.answered(model, "1.0.0", "CPUExecutionProvider", 2, (5, 1, 3, 6, duration), guarded=duration == 100)
        statistics.ran(model, "1.0.0", "CPUExecutionProvider", 2)
    statistics.failed(model, "1.0.0", "CPUExecutionProvider", "RESOURCE_EXHAUSTED")
    statistics.scored(model, "1.0.0", [0.05, 0.1, 0.95, 7.0, -0.5, float("nan")])
    capture = CaptureCounters(9, 5, 3, 1, 0, 0, 1, 3, 4096)
    process = Process(1 << 20, 1.25, 1e9, 12)
    tls = TlsStatus(not_after=int(1e9) + 60, problem="half a file", connections=2, handshakes={"ok": 5, "revoked": 1})
    return Readings("1.1.0", 1e9, process, (), statistics.read(), ((model, 2),), capture, 3, 0, tls=tls)


def test_the_text_says_what_the_readings_say() -> None:
    metrics = parsed(to_text(families(full_readings())))
    labels = {"model": "watch", "version": "1.0.0", "provider": "CPUExecutionProvider"}
    assert value(metrics, "hybridge_requests_total", **labels) == 4
    assert value(metrics, "hybridge_answers_guarded_total", **labels) == 1
    assert value(metrics, "hybridge_request_failures_total", code="RESOURCE_EXHAUSTED", **labels) == 1
    assert value(metrics, "hybridge_requests_invalid_total", model="watch") == 2
    assert value(metrics, "hybridge_request_stage_seconds_total", stage="queue", **labels) == pytest.approx(20e-6)
    assert value(metrics, "hybridge_request_duration_seconds_sum", **labels) == pytest.approx(2.00512)
    assert value(metrics, "hybridge_request_duration_seconds_count", **labels) == 4
    assert value(metrics, "hybridge_batch_rows_bucket", le="1.0", **labels) == 0
    assert value(metrics, "hybridge_batch_rows_bucket", le="2.0", **labels) == 4
    assert value(metrics, "hybridge_batch_rows_sum", **labels) == 8
    assert value(metrics, "hybridge_confidence_bucket", le="0.0", **labels) == 1
    assert value(metrics, "hybridge_confidence_bucket", le="0.1", **labels) == 3
    assert value(metrics, "hybridge_confidence_bucket", le="1.0", **labels) == 4
    assert value(metrics, "hybridge_confidence_count", **labels) == 5
    assert value(metrics, "hybridge_confidence_strange_total", **labels) == 1
    assert value(metrics, "hybridge_samples_dropped_total", reason="queue-full") == 1
    assert value(metrics, "hybridge_spool_records") == 3
    assert value(metrics, "hybridge_tls_certificate_expiry_seconds") == 60
    assert value(metrics, "hybridge_tls_files_refused") == 1
    assert value(metrics, "hybridge_tls_handshakes_total", result="revoked") == 1
    assert value(metrics, "hybridge_spool_bytes") == 4096
    assert value(metrics, "process_resident_memory_bytes") == 1 << 20


def test_no_duration_is_counted_on_the_wrong_side_of_a_bound() -> None:
    for bucket in DURATION_BUCKETS:
        bound = round(duration_bound(bucket) * 1e6)
        if bound < 600_000_000:
            sketch = Sketch()
            sketch.add(bound)
            assert sketch.counts[0][0] <= bucket
            sketch = Sketch()
            sketch.add(bound + 1)
            assert sketch.counts[0][0] > bucket
    assert len(DURATION_BUCKETS) <= 32
    assert DURATION_BUCKETS[-1] < BUCKETS


def test_histograms_grow_towards_infinity_and_end_at_their_count() -> None:
    found = parsed(to_text(families(full_readings())))
    histograms = [metric for metric in found.values() if metric.type == "histogram" and metric.samples]
    assert len(histograms) == 3
    for metric in histograms:
        counts = [sample.value for sample in metric.samples if sample.name.endswith("_bucket")]
        assert counts == sorted(counts)
        assert counts[-1] == next(sample.value for sample in metric.samples if sample.name.endswith("_count"))


def test_a_shadow_s_metrics_say_what_it_did_beside_which_version() -> None:
    tally = ShadowTally("watch", "1.1.0", "sha256:" + "1" * 64, "CPU", "sha256:" + "0" * 64, "1.0.0", Paired())
    tally.compared(Compared(1000, 900, True, 2, 1, (0.95, 0.85), (0.15, 0.25)))
    tally.compared(Compared(3000, 0, False, 1, 0, (0.9,), (0.1,)))
    tally.failed()
    shadows = ((tally.reading(), (("queue-full", 4), ("no-lull", 0))),)
    metrics = parsed(to_text(families(replace(full_readings(), shadows=shadows))))
    labels = {"model": "watch", "version": "1.1.0", "against": "1.0.0"}
    told = {"runs": 2, "failures": 1, "guarded": 1, "compared": 3, "disagreed": 1}
    for name, expected in told.items():
        assert value(metrics, f"hybridge_shadow_{name}_total", **labels) == expected
    assert value(metrics, "hybridge_shadow_dropped_total", reason="queue-full", **labels) == 4
    assert value(metrics, "hybridge_shadow_duration_seconds_count", role="shadow", **labels) == 2
    assert value(metrics, "hybridge_shadow_duration_seconds_count", role="first", **labels) == 1
    assert value(metrics, "hybridge_shadow_duration_seconds_sum", role="shadow", **labels) == pytest.approx(
        4e-3, rel=0.03
    )
    assert value(metrics, "hybridge_shadow_confidence_bucket", role="first", le="0.5", **labels) == 3
    assert value(metrics, "hybridge_shadow_confidence_bucket", role="shadow", le="0.5", **labels) == 0
    assert value(metrics, "hybridge_shadow_score_shift_ratio", **labels) == 1.0


def test_names_are_in_base_units_and_counters_say_so() -> None:
    for family in families(full_readings()):
        assert family.name.endswith(UNITS), family.name
        assert (family.kind == "counter") == family.name.endswith("_total"), family.name


def test_labels_with_quotes_and_newlines_come_back_as_they_were() -> None:
    strange = 'a"b\\c\nd'
    metrics = parsed(to_text(families(full_readings(strange))))
    assert value(metrics, "hybridge_requests_total", model=strange) == 4


def test_every_metric_stands_on_its_page_and_the_page_names_no_other() -> None:
    exported = {family.name for family in families(Readings("", 0.0, Process()))}
    written = set(re.findall(r"^\| `((?:hybridge|process)_\w+)`", PAGE.read_text(), re.M))
    assert written == exported


def test_a_fleet_s_histogram_is_the_sum_of_its_devices() -> None:
    (one,) = full_readings().statistics
    two = replace(one, latency=one.latency.merged(one.latency), scores=one.scores.merged(ScoreSketch([(10, 3)])))

    def buckets(statistics: ModelStatistics) -> list[float]:
        readings = replace(full_readings(), statistics=(statistics,))
        metric = parsed(to_text(families(readings)))["hybridge_request_duration_seconds"]
        return [sample.value for sample in metric.samples if sample.name.endswith("_bucket")]

    assert buckets(two) == [2 * count for count in buckets(one)]


def test_a_running_server_shows_what_it_did(server: Any, packages: Callable, kit: ModuleType) -> None:
    server.arguments += ["--metrics", "127.0.0.1:0", "--capture-share", "1", "--spool", str(server.store / "spool")]
    server.start()
    server.hand_over(packages("1.0.0", 2.0).handover(1))
    with Client(server.endpoint.inference) as client:
        for _ in range(5):
            client.infer("watch", {"window": kit.window(rows=2)})
        with pytest.raises(InvalidInput):
            client.infer("watch", {"wrong": kit.window()})
    until = time.monotonic() + 10
    while server.say(verb="status")["capture"]["captured"] < 10 and time.monotonic() < until:
        time.sleep(0.05)
    metrics = parsed(fetch(server.say(verb="status")["server"]["metrics"]))
    labels = {"model": "watch", "version": "1.0.0", "provider": "CPUExecutionProvider"}
    assert value(metrics, "hybridge_requests_total", **labels) == 5
    assert value(metrics, "hybridge_rows_total", **labels) == 10
    assert value(metrics, "hybridge_requests_invalid_total", model="watch") == 1
    assert value(metrics, "hybridge_request_duration_seconds_count", **labels) == 5
    assert value(metrics, "hybridge_confidence_count", **labels) == 10
    assert value(metrics, "hybridge_model_state", model="watch", version="1.0.0", state="ACTIVE") == 1
    assert value(metrics, "hybridge_model_degraded", **labels) == 0
    assert value(metrics, "hybridge_samples_captured_total") == 10
    assert value(metrics, "hybridge_spool_records") == 10
    assert value(metrics, "process_resident_memory_bytes") > 20e6
    assert server.stop() == 0


@pytest.fixture
def page() -> Iterator[MetricsPage]:
    one = MetricsPage("127.0.0.1:0", CONTENT_TYPE, lambda: b"x 1\n")
    yield one
    one.close()


def raw(page: MetricsPage, request: bytes, timeout_s: float = 10.0) -> bytes:
    host, port = page.tcp.split(":")
    with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
        connection.sendall(request)
        found = b""
        while more := connection.recv(4096):
            found += more
        return found


def test_only_get_of_metrics_is_answered(page: MetricsPage) -> None:
    assert fetch(page.tcp) == b"x 1\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(page.tcp, "/")
    for method in ("POST", "PUT", "DELETE", "HEAD", "CONNECT"):
        assert raw(page, f"{method} /metrics HTTP/1.1\r\n\r\n".encode()).startswith(b"HTTP/1.1 405 ")
    assert raw(page, b"what is this\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_connection_answers_once_and_ends(page: MetricsPage) -> None:
    twice = b"GET /metrics HTTP/1.1\r\nConnection: keep-alive\r\n\r\n" * 2
    found = raw(page, twice)
    assert found.count(b"HTTP/1.1 200") == 1
    assert b"Connection: close" in found


def test_readers_that_say_nothing_are_cut_and_others_are_served_again(page: MetricsPage) -> None:
    host, port = page.tcp.split(":")
    idle = [socket.create_connection((host, int(port)), timeout=10) for _ in range(MAX_CONNECTIONS)]
    time.sleep(0.2)
    assert raw_or_cut(page) == b""  # every place is taken: the control that the limit is one
    began = time.monotonic()
    while raw_or_cut(page) == b"" and time.monotonic() < began + 20:
        time.sleep(0.1)
    assert raw_or_cut(page).startswith(b"HTTP/1.1 200")
    for connection in idle:
        connection.close()


def raw_or_cut(page: MetricsPage) -> bytes:
    try:
        return raw(page, b"GET /metrics HTTP/1.1\r\n\r\n")
    except OSError:
        return b""


def test_a_request_without_end_is_refused_at_its_limit(page: MetricsPage) -> None:
    found = b""
    try:
        found = raw(page, b"GET /metrics HTTP/1.1\r\n" + b"x: y\r\n" * (MAX_REQUEST_BYTES // 4))
    except ConnectionError:  # cut while we still wrote
        pass
    assert b" 200 " not in found
    assert fetch(page.tcp) == b"x 1\n"


@pytest.mark.parametrize("tcp", ["0.0.0.0:9100", "192.0.2.1:9100", "nonsense", "127.0.0.1:99999"])
def test_the_page_is_never_beyond_loopback(tcp: str) -> None:
    with pytest.raises(UsageError):
        MetricsPage(tcp, CONTENT_TYPE, lambda: b"")
