"""Returned data through AWS IoT Greengrass Stream Manager, on nucleus classic, without trusting it with a sample.

What Stream Manager takes is a task that names a file, a bucket and a key; the samples themselves lie in that file. Its
acknowledgement of the task says nothing of S3, and a task that S3 refuses for good ends as a Failure in its status
stream. So an object counts as written once Stream Manager has reported the task's Success, and until then the records
stay in the spool: a Stream Manager that loses everything costs time. An object's key is the one that the direct uplink
writes, so a task that is appended again, after a kill or a lost answer, writes the same object again.

The stream is kept in files, flushed at each append, and refuses new tasks when it is full. Protocol and meaning of the
fields: AWS IoT Greengrass V2 developer guide, "Manage data streams", and the SDK's own documentation.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridge_edge import durable
from hybridge_edge.contract.errors import HybridgeError, Refused, UsageError
from hybridge_edge.s3 import MAX_OBJECT_BYTES, TryAgain, bucket_name

DEFAULT_PORT = 8088
DEFAULT_STREAM = "hybridge-samples"
CONNECT_SECONDS = 3
REQUEST_SECONDS = 10
WAIT_SECONDS = 5.0
"""How long one attempt waits for the report of an export; the next attempt goes on waiting for the same task."""
POLL_SECONDS = 0.05
READ_MILLISECONDS = 500
STREAM_BYTES = 16 * 1024 * 1024
SEGMENT_BYTES = 1024 * 1024
STATUS_BYTES = 1024 * 1024
STATUS_SEGMENT_BYTES = 64 * 1024
STATUSES_AT_ONCE = 100
TASK_SECONDS = 6 * 3600.0
"""How long Stream Manager keeps a task; one without a report is appended again after it."""
_FOLDER_MODE, _FILE_MODE = 0o750, 0o640
"""Stream Manager may run as another user of the same group."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Task:
    """A task that was appended: its number in the stream, and when on the monotonic clock."""

    key: str
    number: int
    at: float


class StreamExport:
    """Writes objects by tasks of Stream Manager, one after the other.

    Args:
        bucket: in the account and region of this device. folder: where the file of the task under way lies; at most
            one object is in it.
        port: of Stream Manager on loopback. stream: its stream for the tasks; ``STREAM-status`` has their reports.

    Raises:
        UsageError: the SDK is not installed, or not a bucket's name.
    """

    def __init__(self, bucket: str, folder: Path, *, port: int = DEFAULT_PORT, stream: str = DEFAULT_STREAM) -> None:
        try:
            import stream_manager
        except ImportError:
            raise UsageError(
                "The SDK of Stream Manager is not installed.", "Install hybridge-edge[stream-manager]."
            ) from None
        self._sdk: Any = stream_manager
        self.name = bucket_name(bucket)
        self._folder = folder
        self._port = port
        self._stream, self._status_stream = stream, f"{stream}-status"
        self._client: Any = None
        self._task: _Task | None = None
        self._next_status = 0
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)

    def put(self, key: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        """Have one object exported. Returns True once it is in S3, whatever was there before.

        Raises:
            TryAgain: Stream Manager is away, full or has not exported it yet; the next call goes on with the same task.
            Refused: S3 or Stream Manager says no for good. SpoolFull, OSError: the file cannot be written.
        """
        file = self._keep(key, data)
        try:
            client = self._connected()
            if self._task is None or self._task.key != key or time.monotonic() - self._task.at > TASK_SECONDS:
                self._append(client, key, file)
            self._wait(client, key)
        except HybridgeError:
            raise
        except Exception as error:  # the SDK raises its own, asyncio's, OSError and, after a timeout, KeyError
            self._drop()
            raise TryAgain(
                f"Stream Manager at port {self._port} does not answer: {_said(error)}.",
                "Deploy aws.greengrass.StreamManager to this device, or set via to s3.",
            ) from None
        file.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        self._drop()

    def _keep(self, key: str, data: bytes) -> Path:
        """The object's file, durably on disk; what an earlier life wrote under the same key stays as it is."""
        file = self._folder / hashlib.sha256(key.encode()).hexdigest()[:32]
        for other in list(self._folder.iterdir()):
            if other != file:  # of a group that was delivered, or an unfinished write
                other.unlink()
        if not file.exists():
            durable.write(file, data, _FILE_MODE)
        return file

    def _append(self, client: Any, key: str, file: Path) -> None:
        definition = self._sdk.S3ExportTaskDefinition(input_url=f"file://{file.absolute()}", bucket=self.name, key=key)
        payload = self._sdk.util.Util.validate_and_serialize_to_json_bytes(definition)
        self._task = None
        try:
            number = client.append_message(stream_name=self._stream, data=payload)
        except self._sdk.exceptions.ResourceNotFoundException:
            self._drop()  # the next attempt makes the stream anew
            raise TryAgain(f"Stream Manager has lost the stream {self._stream}.") from None
        except self._sdk.exceptions.StreamManagerException as error:
            raise TryAgain(
                f"Stream Manager does not take {key}: {_said(error)}.",
                f"Where the stream {self._stream} is full, see why Stream Manager does not export.",
            ) from None
        self._task = _Task(key, int(number), time.monotonic())

    def _wait(self, client: Any, key: str) -> None:
        """Read reports until the one of this object. Raises TryAgain after WAIT_SECONDS, Refused where it failed."""
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            for status in self._reports(client):
                context = status.status_context
                task = context.s3_export_task_definition if context else None
                if task is None or (task.bucket, task.key) != (self.name, key):
                    continue
                if status.status == self._sdk.Status.Success:
                    self._task = None
                    return
                # A failure counts only for the task that is waited for: an older one may have lost its file.
                ended = status.status in (self._sdk.Status.Failure, self._sdk.Status.Canceled)
                if ended and self._task and context.sequence_number == self._task.number:
                    self._task = None
                    raise Refused(
                        f"Stream Manager could not export {key}: {str(status.message or status.status.name)[:300]}.",
                        "Check the bucket's name, and that the device's role may write there.",
                    )
        raise TryAgain(f"Stream Manager has taken {key} and not exported it yet.", "Check the network.")

    def _reports(self, client: Any) -> list[Any]:
        options = self._sdk.ReadMessagesOptions(
            desired_start_sequence_number=self._next_status,
            min_message_count=1,
            max_message_count=STATUSES_AT_ONCE,
            read_timeout_millis=READ_MILLISECONDS,
        )
        try:
            messages = client.read_messages(self._status_stream, options)
        except self._sdk.exceptions.NotEnoughMessagesException:
            time.sleep(POLL_SECONDS)
            return []
        read = self._sdk.util.Util.deserialize_json_bytes_to_obj
        found = []
        for message in messages:
            self._next_status = message.sequence_number + 1
            try:
                found.append(read(message.payload, self._sdk.StatusMessage))
            except (ValueError, TypeError, KeyError, AttributeError):  # of a version that reports otherwise
                _log.warning("A report of Stream Manager cannot be read.")
        return found

    def _connected(self) -> Any:
        if self._client is not None:
            return self._client
        kind = self._sdk.StreamManagerClient
        quiet = logging.getLogger(f"{__name__}.sdk")
        quiet.setLevel(logging.CRITICAL)  # what it says comes as an exception too, and again at every attempt
        # Made in two steps, since a constructor that fails leaves its thread behind for nobody to end.
        client = self._client = kind.__new__(kind)
        client.__init__(port=self._port, connect_timeout=CONNECT_SECONDS, request_timeout=REQUEST_SECONDS, logger=quiet)
        self._make_streams(client)
        return client

    def _make_streams(self, client: Any) -> None:
        """Create both streams or find them as they must be, and read reports from now on.

        Raises:
            Refused: there is a stream of that name that may lose tasks, or reports elsewhere.
        """
        sdk = self._sdk
        made = {info for info in client.list_streams() if info in (self._stream, self._status_stream)}
        if self._status_stream not in made:
            client.create_message_stream(
                sdk.MessageStreamDefinition(
                    name=self._status_stream,
                    max_size=STATUS_BYTES,
                    stream_segment_size=STATUS_SEGMENT_BYTES,
                    strategy_on_full=sdk.StrategyOnFull.OverwriteOldestData,
                    persistence=sdk.Persistence.File,
                )
            )
        newest = client.describe_message_stream(self._status_stream).storage_status.newest_sequence_number
        self._next_status = max(0, int(newest or 0))  # the newest again: it does no harm, and 0 may mean none
        if self._stream not in made:
            self._task = None
            client.create_message_stream(self._definition())
        elif not self._fits(client.describe_message_stream(self._stream).definition):
            self._drop()
            raise Refused(
                f"Stream Manager has a stream {self._stream} that is not kept in files, not flushed at each append, "
                f"drops old tasks, or does not report to {self._status_stream}.",
                "Delete it, or set stream to another name.",
            )

    def _definition(self) -> Any:
        sdk = self._sdk
        status = sdk.StatusConfig(status_level=sdk.StatusLevel.INFO, status_stream_name=self._status_stream)
        executor = sdk.S3ExportTaskExecutorConfig(
            identifier=self._stream,
            status_config=status,
            size_threshold_for_multipart_upload_bytes=MAX_OBJECT_BYTES,  # parts would need more of the device's role
        )
        return sdk.MessageStreamDefinition(
            name=self._stream,
            max_size=STREAM_BYTES,
            stream_segment_size=SEGMENT_BYTES,
            time_to_live_millis=int(TASK_SECONDS * 1000),
            strategy_on_full=sdk.StrategyOnFull.RejectNewData,
            persistence=sdk.Persistence.File,
            flush_on_write=True,
            export_definition=sdk.ExportDefinition(s3_task_executor=[executor]),
        )

    def _fits(self, found: Any) -> bool:
        wanted = self._definition()
        executors = (found.export_definition.s3_task_executor if found.export_definition else None) or []
        reports = [one.status_config.status_stream_name for one in executors if one.status_config and not one.disabled]
        return (
            (found.persistence, found.flush_on_write, found.strategy_on_full)
            == (wanted.persistence, wanted.flush_on_write, wanted.strategy_on_full)
        ) and self._status_stream in reports

    def _drop(self) -> None:
        client, self._client = self._client, None
        for _ in range(2 if client is not None else 0):
            try:
                client.close()
                return
            except Exception as error:  # a broken connection; closing once more ends its thread
                _log.debug("closing: %s", _said(error))


def _said(error: BaseException) -> str:
    return f"{type(error).__name__} {getattr(error, 'message', '') or error}".strip()[:300].rstrip(".")
