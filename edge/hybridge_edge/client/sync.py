"""The client for threads."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from hybridge_edge import lines
from hybridge_edge.client.answers import InferenceAnswer
from hybridge_edge.client.asked import Asked
from hybridge_edge.client.attempts import Attempts
from hybridge_edge.client.connection import Connection
from hybridge_edge.client.direct import DEFAULT_CONNECTIONS
from hybridge_edge.client.exchange import SHARED_BYTES
from hybridge_edge.client.labels import FEEDBACK_S, feedback_line
from hybridge_edge.client.readiness import LOOK_AGAIN_S, LOOK_S, Progress, Watcher, not_ready
from hybridge_edge.client.sequences import DEFAULT_TIMEOUT_S, ClientSequence, retried
from hybridge_edge.client.streams import DEFAULT_STREAMS
from hybridge_edge.client.targets import Targets
from hybridge_edge.client.tls import ClientTls, Files
from hybridge_edge.contract.errors import DeadlineExceeded, HybridgeError, Refused, Unavailable
from hybridge_edge.contract.feedback import DEFAULT_SOURCE
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.engine import Array
from hybridge_edge.serving.sequences import Step


class Client:
    """A connection to one server; safe to share between threads. Close it, or use it in a ``with``.

    Args:
        target: an address in grpc's form (``unix:/run/hybridge/inference.sock``, ``HOST:PORT``); "" finds this
            device's server when it is needed, and again when it has been started anew.
        retry: whether a server that does not answer is asked again, within each call's deadline.
        direct: how many connections to the direct socket, on the same device; 0 for none. shared_bytes: from which
            size on tensors go through shared memory there.
        streams: how many may be open where the direct socket is not; with neither, every request is a call of its own.
        tls: for a server on the network, at HOST:PORT; its files are read again when they change, and calls under way
            are not disturbed.

    Raises:
        UsageError: ``tls`` is for the network alone.
    """

    def __init__(
        self,
        target: str = "",
        *,
        tls: ClientTls | None = None,
        retry: bool = True,
        direct: int = DEFAULT_CONNECTIONS,
        shared_bytes: int = SHARED_BYTES,
        streams: int = DEFAULT_STREAMS,
    ) -> None:
        self._targets = Targets(target)
        self._files = Files(tls)
        self._files.check_target(target)
        self._retry = retry
        self._ways = streams, direct, shared_bytes
        self._lock = threading.Lock()
        self._connected: Connection | None = None

    @classmethod
    def connect(cls) -> Client:
        """A client of this device's server, which need not have started yet (see ``wait_ready``)."""
        return cls()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later call makes a new one."""
        with self._lock:
            connection, self._connected = self._connected, None
        if connection is not None:
            connection.close()

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: str = "",
        sample_id: str = "",
        outputs: Sequence[str] = (),
        capture: bool = True,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> InferenceAnswer:
        """Run one request.

        Args:
            inputs: raw arrays by name, batch first. version: "" for the active one. sample_id: "" chooses one.
            outputs: those wanted, () for all. capture: whether the device may keep the sample.
            timeout_s: for everything, attempts and pauses included.

        Raises:
            InvalidInput, ModelNotFound, Overloaded: as the server says. DeadlineExceeded: no answer in time.
            Unavailable: no server, or one that does not answer. Refused: anything else that it refuses.
        """
        return self._infer(
            Asked(model, inputs, version, sample_id or secrets.token_hex(16), outputs, capture), timeout_s
        )

    def sequence(self, model: str, *, sequence_id: int | str = "", version: str = "") -> ClientSequence:
        """Requests that belong together, of a model with states: ``with client.sequence(MODEL) as sequence``.

        Args:
            sequence_id: "" chooses one that nobody else has. version: to begin on, "" for the active one.
        """
        return ClientSequence(self._step, model, sequence_id, version)

    def _step(
        self,
        model: str,
        inputs: Mapping[str, Array],
        version: str,
        sample_id: str,
        outputs: Sequence[str],
        capture: bool,
        timeout_s: float,
        step: Step,
    ) -> InferenceAnswer:
        asked = Asked(model, inputs, version, sample_id or secrets.token_hex(16), outputs, capture, step)
        return self._infer(asked, timeout_s)

    def _infer(self, asked: Asked, timeout_s: float) -> InferenceAnswer:
        attempts = Attempts(timeout_s, retry=retried(asked.step, self._retry))
        while True:
            left = attempts.left()
            try:
                with self._using(found_anew=not attempts.first) as connection:
                    return connection.ask(asked, attempts.until, left)
            except HybridgeError as error:
                pause = attempts.pause_after(error)
            time.sleep(pause)

    def model_ready(self, model: str, timeout_s: float = 5.0) -> bool:
        """Whether the model answers now. Raises Unavailable where the server does not."""
        with self._using() as connection:
            return bool(connection.call("ModelReady", messages.ModelReadyRequest(name=model), timeout_s).ready)

    def wait_ready(self, model: str = "", *, timeout_s: float = 60.0, progress: Progress | None = None) -> None:
        """Wait until a model answers, or, without a name, every model that should.

        Args:
            progress: told what is waited for, one sentence each time that changes.

        Raises:
            Unavailable: it is not ready after ``timeout_s`` seconds, with what was waited for last.
        """
        watcher, until = Watcher(progress), time.monotonic() + timeout_s
        while True:
            try:
                if self._look(model, watcher):
                    return
            except (Unavailable, DeadlineExceeded) as error:
                watcher.say(error.message)
            if time.monotonic() >= until:
                raise watcher.missed(model, timeout_s)
            time.sleep(LOOK_AGAIN_S)

    def feedback(
        self, sample_id: str, label: str, *, model: str, source: str = DEFAULT_SOURCE, confidence: float = 1.0
    ) -> None:
        """Say what a sample is: the label is on the device's disk when this returns, and goes to the cloud.

        Args:
            sample_id: of an answer; row 2 of several is SAMPLE_ID/2. source: who says so. confidence: 0 to 1.

        Raises:
            InvalidDocument, Refused: the label cannot be taken. Unavailable: no server.
        """
        line = feedback_line(sample_id, label, model, source, confidence)
        lines.read_answer(lines.ask(self._targets.management(), line, FEEDBACK_S))

    def _look(self, model: str, watcher: Watcher) -> bool:
        with self._using(found_anew=True) as connection:
            return self._look_over(connection, model, watcher)

    @staticmethod
    def _look_over(connection: Connection, model: str, watcher: Watcher) -> bool:
        if model:
            ready = connection.call("ModelReady", messages.ModelReadyRequest(name=model), LOOK_S).ready
        else:
            ready = connection.call("ServerReady", messages.ServerReadyRequest(), LOOK_S).ready
        if not ready and model:
            index = connection.call("RepositoryIndex", messages.RepositoryIndexRequest(), LOOK_S)
            watcher.say(not_ready(model, index))
        elif not ready:
            watcher.say("a model that should answer does not yet")
        return bool(ready)

    def _using(self, *, found_anew: bool = False) -> Connection:
        """The connection, for one call: to be left after it."""
        while True:
            connection = self._connection(found_anew=found_anew)
            if connection.uses is None or connection.uses.enter():
                return connection

    def _connection(self, *, found_anew: bool = False) -> Connection:
        """The connection, made if need be, or where the device's server listens elsewhere or TLS' files are others."""
        connected = self._connected
        if connected is not None and not found_anew and not self._files.changed():
            return connected
        target = self._targets.now()
        with self._lock:
            before, connected = self._connected, self._connected
            if connected is None or connected.target != target or self._files.differ():
                try:
                    connected = Connection(target, *self._ways, self._files)
                except Refused:  # files that are being replaced: those of before go on
                    if connected is None:
                        raise
                self._connected = connected
        if before is not None and before is not connected:
            before.retire()
        return connected
