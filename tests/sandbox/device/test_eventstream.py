from __future__ import annotations

import uuid

import pytest
from botocore.eventstream import EventStreamBuffer

from hybridge_cloud.sandbox.device import eventstream
from hybridge_cloud.sandbox.device.eventstream import Message
from hybridge_edge.contract.errors import InvalidDocument

# The empty message of the event-stream format's own documentation.
EMPTY = bytes.fromhex("000000100000000005c248eb7d98c8ff")
# CONNECT_ACK with CONNECTION_ACCEPTED, written here once and read by botocore's parser below.
ACKNOWLEDGED = bytes.fromhex(
    "0000004700000037374cfe3f0d3a6d6573736167652d7479706504000000050e3a6d6573736167652d666c61677304000000010a"
    "3a73747265616d2d69640400000000e237e27d"
)


def test_the_empty_message_of_the_format_is_read() -> None:
    assert eventstream.length(EMPTY[:12]) == 16
    assert eventstream.decode(EMPTY) == Message(0)


def test_another_implementation_reads_what_is_written() -> None:
    message = Message(5, 0, 1, {":version": "0.1.0", "yes": True, "raw": b"\0\1"}, b'{"a":1}')
    buffer = EventStreamBuffer()
    buffer.add_data(message.encode())
    (read,) = list(buffer)
    assert read.payload == b'{"a":1}'
    assert read.headers == {
        ":message-type": 5,
        ":message-flags": 1,
        ":stream-id": 0,
        ":version": "0.1.0",
        "yes": True,
        "raw": b"\0\1",
    }


def test_messages_come_back_as_they_were() -> None:
    headers = {"operation": "aws.greengrass#GetConfiguration", "no": False, "id": uuid.UUID(int=7), "ü": "ß"}
    message = Message(0, 3, 2, headers, bytes(range(256)))
    assert eventstream.decode(message.encode()) == message


def test_golden_bytes() -> None:
    assert Message(5, 0, 1).encode() == ACKNOWLEDGED
    buffer = EventStreamBuffer()
    buffer.add_data(ACKNOWLEDGED)
    assert next(buffer).headers == {":message-type": 5, ":message-flags": 1, ":stream-id": 0}


@pytest.mark.parametrize("at", [0, 5, 9, 14, 40, -1])
def test_a_damaged_byte_is_noticed(at: int) -> None:
    data = bytearray(Message(0, 1, 0, {"a": "b"}, b"payload").encode())
    data[at] ^= 0x40
    with pytest.raises(InvalidDocument):
        eventstream.decode(bytes(data))


@pytest.mark.parametrize("size", [0, 5, 15, 20])
def test_a_message_cut_short_is_noticed(size: int) -> None:
    with pytest.raises(InvalidDocument):
        eventstream.decode(Message(0, 1, 0, {"a": "b"}, b"payload").encode()[:size])
