"""From sensors to results: take a reading, ask the server on this device, publish what it answered.

The result of one reading is a JSON object: format, sample_id, model, version, digest, class and label (of the first
output that is a vector of numbers), confidence, outputs (small ones), and times in microseconds.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hybridge_edge import greengrass, lines, runtime
from hybridge_edge.backoff import Backoff
from hybridge_edge.client import Client, InferenceAnswer
from hybridge_edge.configuration import Configuration
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import (
    DeadlineExceeded,
    HybridgeError,
    ModelNotFound,
    Overloaded,
    Refused,
    Unavailable,
    UsageError,
)
from hybridge_edge.mqtt import Broker, Connection
from hybridge_edge.sources.source import DEFAULT, Context, Reading, Source, open_source
from hybridge_edge.stopping import stop_event

RESULT_FORMAT = 1
READING_SECONDS = 30.0
"""How long one reading is tried again while the server is away; then it is counted as failed."""
INFER_SECONDS = 10.0
RETRY_SECONDS = 1.0
POLL_SECONDS = 0.5
DESCRIBE_SECONDS = 5.0
REPORT_SECONDS = 60.0
MAX_OUTPUT_ELEMENTS = 64
"""Larger outputs are left out of a result; whoever needs them asks the server."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PipelineCounters:
    """answered + failed = readings taken; unpublished results were answered and then found no room to be sent."""

    answered: int = 0
    failed: int = 0
    unpublished: int = 0


def _connect() -> Client:
    """Without attempts of its own: the pipeline has a reading's time for them, and hears of each."""
    return Client(retry=False)


class Publish(Protocol):
    """Sends one result's bytes. Raises HybridgeError where it cannot."""

    def __call__(self, payload: bytes) -> None: ...


class Pipeline:
    """Source -> server -> result, one reading at a time.

    Args:
        model: whose active version answers. connect: makes a client of this device's server, or raises Unavailable.
        labels: names of the classes of a package, by its digest; () where they are not known.
        publish: where results go; a failing one does not keep the others from it.
    """

    def __init__(
        self,
        source: Source,
        model: str,
        publish: tuple[Publish, ...],
        *,
        connect: Callable[[], Client] = _connect,
        labels: Callable[[str], tuple[str, ...]] = lambda _: (),
    ) -> None:
        self._source = source
        self._model = names.model_name(model)
        self._publish = publish
        self._connect = connect
        self._labels = labels
        self._client: Client | None = None
        self._counters = PipelineCounters()
        self._error = ""

    @property
    def counters(self) -> PipelineCounters:
        return self._counters

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``, or until the source has ended: readings that wait at a stop are left."""
        report_at = time.monotonic() + REPORT_SECONDS
        try:
            while not stop.is_set() and not self._source.ended:
                reading = self._source.next(POLL_SECONDS)
                if reading is not None:
                    self._one(reading, stop)
                if time.monotonic() >= report_at:
                    _log.info("%s %s", self._source.counters(), self._counters)
                    report_at = time.monotonic() + REPORT_SECONDS
        finally:
            self._disconnect()

    def _one(self, reading: Reading, stop: threading.Event) -> None:
        counters = self._counters
        answer = self._infer(reading, stop)
        if answer is None:
            self._counters = PipelineCounters(counters.answered, counters.failed + 1, counters.unpublished)
            return
        payload = result(reading, answer, self._labels(answer.digest))
        missed = 0
        for publish in self._publish:
            try:
                publish(payload)
            except HybridgeError as error:
                missed = 1
                self._complain(error)
        self._counters = PipelineCounters(counters.answered + 1, counters.failed, counters.unpublished + missed)

    def _infer(self, reading: Reading, stop: threading.Event) -> InferenceAnswer | None:
        """Ask until the server answers, for READING_SECONDS at most. None: refused, or no answer in time."""
        inputs = {name: array[np.newaxis] for name, array in reading.inputs.items()}
        end = time.monotonic() + READING_SECONDS
        backoff = Backoff(RETRY_SECONDS)
        while True:
            try:
                client = self._client or self._connect()
                self._client = client
                answer = client.infer(self._model, inputs, sample_id=reading.sample_id, timeout_s=INFER_SECONDS)
            except (Unavailable, DeadlineExceeded, ModelNotFound, Overloaded) as error:
                self._complain(error)
                self._disconnect()  # a server that comes back may listen elsewhere
                if time.monotonic() >= end or stop.wait(backoff.wait()):
                    return None
            except HybridgeError as error:
                self._complain(error)
                return None
            else:
                self._error = ""
                return answer

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _complain(self, error: HybridgeError) -> None:
        """Log an error once, however often it repeats."""
        if str(error) != self._error:
            _log.warning("%s", error)
        self._error = str(error)


def result(reading: Reading, answer: InferenceAnswer, labels: tuple[str, ...]) -> bytes:
    """The bytes of one result."""
    small = {name: array[0] for name, array in answer.outputs.items() if array[0].size <= MAX_OUTPUT_ELEMENTS}
    scores = next((array for array in small.values() if array.ndim == 1 and array.dtype.kind == "f"), None)
    best = int(np.argmax(scores)) if scores is not None and scores.size and np.isfinite(scores).all() else -1
    fields: dict[str, object] = {
        "format": RESULT_FORMAT,
        "sample_id": reading.sample_id,
        "model": answer.model,
        "version": answer.version,
        "digest": answer.digest,
        "class": best,
        "label": labels[best] if 0 <= best < len(labels) else "",
        "confidence": float(scores[best]) if scores is not None and best >= 0 else -1.0,
        "outputs": {name: array.tolist() for name, array in small.items() if np.isfinite(array).all()},
        "features_us": answer.features_us,
        "infer_us": answer.infer_us,
        "total_us": answer.total_us,
    }
    return canonical(fields)


class Labels:
    """Names of classes by package digest, asked of the server's management socket once per digest."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._digest = ""
        self._labels: tuple[str, ...] = ()

    def __call__(self, digest: str) -> tuple[str, ...]:
        if digest == self._digest:
            return self._labels
        try:
            socket = Path(runtime.Endpoint.read(runtime.folder()).management)
            line = lines.ask(socket, canonical({"verb": "describe", "model": self._model}), DESCRIBE_SECONDS)
            reader = parse(line, "server's description")
            if reader.boolean("ok") and reader.text("digest") == digest:
                self._digest, self._labels = digest, reader.strings("labels")
                return self._labels
        except HybridgeError as error:
            _log.warning("The labels of %s are not known: %s", self._model, error)
            self._digest, self._labels = digest, ()
        return ()


_FLAGS = {
    "model": "the model to ask",
    "thing": "this device's name (or AWS_IOT_THING_NAME)",
    "brokerHost": "where the MQTT broker listens",
    "brokerPort": "its port",
    "brokerCa": "certificate authorities to trust, PEM; without it the connection is not encrypted",
    "brokerCertificate": "this client's certificate, PEM",
    "brokerKey": "its key, PEM",
    "sourceTopic": "where windows come from (default sensors/THING/windows)",
    "resultTopic": "where results go (default hybridge/THING/results)",
    "localTopic": "a topic of Greengrass' local publish/subscribe where results go too",
    "source": "where readings come from: mqtt, replay, greengrass, camera, or a plugin's name",
    "sourcePath": "what replay or camera opens: a file, a folder, a device's number, or what OpenCV takes",
    "sourceInput": "the model's input that pictures, rows or encoded messages are",
    "sourcePayload": "what messages are: window, or encoded for one encoded input each",
    "sourceRate": "readings a second of replay and camera; 0: replay as fast as it is answered, camera at its own rate",
    "sourceLoop": "whether replay and camera begin a file again at its end: true or false",
    "sourceSteps": "lines of a CSV that make one window",
    "sourceQueue": "readings that may wait; above it the oldest are dropped",
    "sourceEncoding": "how camera sends frames: jpeg, png, or raw for an input without a codec",
    "sourceQuality": "of jpeg, 1 to 100",
    "sourceWidth": "pixels that a camera is asked for, 0 for its own",
    "sourceHeight": "pixels that a camera is asked for, 0 for its own",
    "results": "where results go: mqtt or stdout",
}
RESULTS = ("mqtt", "stdout")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``hybridge-edge pipeline``."""
    for name, text in _FLAGS.items():
        flag = "--" + "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name)
        parser.add_argument(flag, dest=name, help=text)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of a plugin's own")
    parser.add_argument("--configuration", action="store_true", help="read these settings from Greengrass")


def run(arguments: argparse.Namespace) -> int:
    """``hybridge-edge pipeline``: runs until SIGTERM or SIGINT. Returns the exit code."""
    named = [text.partition("=") for text in arguments.set]
    if any(not name or not equals for name, equals, _ in named):
        raise UsageError("--set takes NAME=VALUE.", "Write --set for each setting.")
    configuration = Configuration(
        {"thing": os.environ.get("AWS_IOT_THING_NAME")},
        greengrass.component_configuration() if arguments.configuration else {},
        {name: value for name, _, value in named},
        {name: getattr(arguments, name) for name in _FLAGS},
    )
    thing = names.thing_name(configuration.required("thing"))
    model = names.model_name(configuration.required("model"))
    broker = Broker(
        configuration.text("brokerHost", "127.0.0.1"),
        configuration.integer("brokerPort", 1883, 1, 65535),
        configuration.path("brokerCa"),
        configuration.path("brokerCertificate"),
        configuration.path("brokerKey"),
    )
    kind = configuration.text("source", DEFAULT)
    results = configuration.choice("results", RESULTS)
    result_topic = configuration.topic("resultTopic", names.results_topic(thing))
    local_topic = configuration.topic("localTopic")
    with ExitStack() as closing:
        stop = closing.enter_context(stop_event())
        connections: list[Connection] = []

        def connection() -> Connection:
            if not connections:
                connections.append(closing.enter_context(Connection(broker, f"{thing}-pipeline")))
            return connections[0]

        publish: list[Publish] = [_print]
        if results == "mqtt":
            to_broker = connection()
            publish = [lambda payload: to_broker.publish(result_topic, payload)]
        if local_topic and (nucleus := greengrass.connect()) is not None:
            closing.enter_context(nucleus)
            publish.append(lambda payload: nucleus.publish(local_topic, payload))
        source = open_source(kind, Context(thing, configuration, connection))
        closing.callback(source.close)
        for one in connections:
            one.start()
        pipeline = Pipeline(source, model, tuple(publish), labels=Labels(model))
        target = result_topic if results == "mqtt" else results
        _log.info("Readings of %s go to model %s, results to %s.", kind, model, target)
        pipeline.run(stop)
        _log.info("%s %s", source.counters(), pipeline.counters)
    return 0


def _print(payload: bytes) -> None:
    try:
        sys.stdout.buffer.write(payload)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise Refused(f"A result cannot be written to stdout: {error}.", "Read what is written.") from None
