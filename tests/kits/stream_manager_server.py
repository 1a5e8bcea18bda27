"""The smallest server that speaks Stream Manager's protocol with its unmodified SDK, and exports S3 tasks.

Frames: a length (4 bytes), an operation (1 byte), CBOR, as the SDK writes and reads them; one version byte goes before
the first frame of each side. What the real server does inside is not known here: which code it answers when a stream is
full, and in what order and how often it exports, are this file's own choices. It was never compared with the real one.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import cbor2
from stream_manager.data import Operation, ResponseStatusCode, Status, VersionInfo

_ANSWERS = {
    Operation.CreateMessageStream: Operation.CreateMessageStreamResponse,
    Operation.DeleteMessageStream: Operation.DeleteMessageStreamResponse,
    Operation.AppendMessage: Operation.AppendMessageResponse,
    Operation.ReadMessages: Operation.ReadMessagesResponse,
    Operation.ListStreams: Operation.ListStreamsResponse,
    Operation.DescribeMessageStream: Operation.DescribeMessageStreamResponse,
}


@dataclass
class Stream:
    definition: dict[str, Any]
    messages: list[bytes] = field(default_factory=list)
    exported: int = 0


@dataclass
class StreamManagerServer:
    """Streams, and an exporter that reads the files of the tasks.

    Attributes:
        fault: what the next append meets: "" nothing, "full", "lost" (stored, and not answered), "cut" (neither).
        refuse: what S3 answers to a key, "" for taking it. online: whether it exports at all.
        uploads: (key, content) of every upload, in order. appends: keys of every task that was stored, in order.
    """

    fault: Callable[[], str] = lambda: ""
    refuse: Callable[[str], str] = lambda key: ""
    online: bool = True
    uploads: list[tuple[str, bytes]] = field(default_factory=list)
    appends: list[str] = field(default_factory=list)
    streams: dict[str, Stream] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._stopping = False
        self._connections: list[socket.socket] = []
        self.port = 0

    @property
    def objects(self) -> dict[str, bytes]:
        return dict(self.uploads)

    def __enter__(self) -> StreamManagerServer:
        self.start()
        self._exporter = threading.Thread(target=self._export, daemon=True)
        self._exporter.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self.stop()
        self._exporter.join()

    def start(self) -> None:
        """Listen, at the same port as before where there was one."""
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def stop(self, *, power_cut: bool = False) -> None:
        """End every connection; with ``power_cut``, also what was not flushed is gone."""
        try:
            self._listening.shutdown(socket.SHUT_RDWR)
        except OSError:  # stopped already
            pass
        self._listening.close()
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self._connections.clear()
            if power_cut:
                for stream in self.streams.values():
                    if not stream.definition.get("flushOnWrite"):
                        stream.messages.clear()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with self._lock:
                self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                version = _exactly(connection, 1)
                operation, request = _frame(connection)
                assert (version, operation) == (b"\x01", Operation.Connect), (version, operation)
                assert request["protocolVersion"] == VersionInfo.PROTOCOL_VERSION.value
                answer = {"requestId": request["requestId"], "status": 0, "protocolVersion": request["protocolVersion"],
                          "supportedProtocolVersions": ["1.1.0"], "serverVersion": "test"}  # fmt: skip
                connection.sendall(b"\x01")
                _send(connection, Operation.ConnectResponse, answer)
                while True:
                    operation, request = _frame(connection)
                    fault = self.fault() if operation == Operation.AppendMessage else ""
                    if fault == "cut":
                        return
                    code, fields = self._do(operation, request, fault)
                    if fault == "lost":
                        return
                    answer = {"requestId": request["requestId"], "status": code.value, **fields}
                    _send(connection, _ANSWERS[operation], answer)
        except (OSError, EOFError):
            pass

    def _do(self, operation: Operation, request: dict[str, Any], fault: str) -> tuple[ResponseStatusCode, dict]:
        ok, missing = ResponseStatusCode.Success, ResponseStatusCode.ResourceNotFound
        with self._lock:
            if operation == Operation.ListStreams:
                return ok, {"streams": list(self.streams)}
            if operation == Operation.CreateMessageStream:
                definition = request["definition"]
                if definition["name"] in self.streams:
                    return ResponseStatusCode.InvalidRequest, {"errorMessage": "it exists"}
                self.streams[definition["name"]] = Stream(definition)
                return ok, {}
            name = request.get("name") or request.get("streamName")
            if name not in self.streams:
                return missing, {"errorMessage": f"no stream {name}"}
            stream = self.streams[name]
            if operation == Operation.DescribeMessageStream:
                storage = {"newestSequenceNumber": len(stream.messages) - 1, "oldestSequenceNumber": 0,
                           "totalBytes": sum(map(len, stream.messages))}  # fmt: skip
                info = {"definition": stream.definition, "storageStatus": storage, "exportStatuses": []}
                return ok, {"messageStreamInfo": info}
            if operation == Operation.AppendMessage:
                if fault == "full":
                    return ResponseStatusCode.UnknownFailure, {"errorMessage": "the stream is full"}
                stream.messages.append(request["payload"])
                self.appends.append(json.loads(request["payload"])["key"])
                return ok, {"sequenceNumber": len(stream.messages) - 1}
            assert operation == Operation.ReadMessages, operation
        options = request["readMessagesOptions"]
        end = time.monotonic() + options["readTimeoutMillis"] / 1000
        while True:
            with self._lock:
                first = options["desiredStartSequenceNumber"]
                found = list(enumerate(stream.messages))[first : first + options["maxMessageCount"]]
            if found:
                messages = [{"streamName": name, "sequenceNumber": number, "payload": payload, "ingestTime": 0}
                            for number, payload in found]  # fmt: skip
                return ok, {"messages": messages}
            if time.monotonic() > end:
                return ResponseStatusCode.NotEnoughMessages, {"errorMessage": "none yet"}
            time.sleep(0.005)

    def _export(self) -> None:
        while not self._stopping:
            time.sleep(0.002)
            with self._lock:
                if self.online:
                    for name, stream in list(self.streams.items()):
                        for executor in (stream.definition.get("exportDefinition") or {}).get("s3TaskExecutor") or ():
                            self._export_next(name, stream, executor["statusConfig"]["statusStreamName"])

    def _export_next(self, name: str, stream: Stream, reports: str) -> None:
        if stream.exported >= len(stream.messages):
            return
        number, stream.exported = stream.exported, stream.exported + 1
        task = json.loads(stream.messages[number])
        said, status = self.refuse(task["key"]), Status.Success
        try:
            content = Path(unquote(urlsplit(task["inputUrl"]).path)).read_bytes()
        except OSError as error:
            said = str(error)
        if said:
            status = Status.Failure
        else:
            self.uploads.append((task["key"], content))
        context = {"s3ExportTaskDefinition": task, "streamName": name, "sequenceNumber": number,
                   "exportIdentifier": name}  # fmt: skip
        for one in (Status.InProgress, status):
            report = {"eventType": 0, "statusLevel": 2, "status": one.value, "statusContext": context,
                      "message": said, "timestampEpochMs": 0}  # fmt: skip
            if reports in self.streams:
                self.streams[reports].messages.append(json.dumps(report).encode())


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _frame(connection: socket.socket) -> tuple[Operation, dict[str, Any]]:
    length, operation = struct.unpack(">ib", _exactly(connection, 5))
    return Operation(operation), cbor2.loads(_exactly(connection, length - 1))


def _send(connection: socket.socket, operation: Operation, fields: dict[str, Any]) -> None:
    payload = cbor2.dumps(fields)
    connection.sendall(struct.pack(">ib", len(payload) + 1, operation.value) + payload)
