"""Windows are read exactly, once, and the newest win when the device falls behind."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest

from hybridge_edge.arrays import to_array, to_tensor
from hybridge_edge.configuration import Configuration
from hybridge_edge.contract.document import canonical
from hybridge_edge.contract.errors import HybridgeError, InvalidDocument, InvalidName
from hybridge_edge.contract.window import MAGIC, MAX_WINDOW_BYTES, Window
from hybridge_edge.sources.messages import taker
from hybridge_edge.sources.queue import REMEMBERED_IDS, ReadingQueue
from hybridge_edge.sources.source import Reading, SourceCounters


def window(number: int) -> Window:
    return Window(f"person1/{number}", (to_tensor("window", np.full((4, 3), number, np.float32)),))


class WindowQueue(ReadingQueue):
    """A queue that is given messages, and gives windows back to compare."""

    def put(self, message: bytes) -> None:
        taker(self, Configuration(), "device-1")(message)

    def window(self) -> Window | None:
        reading: Reading | None = self.next(0)
        if reading is None:
            return None
        return Window(reading.sample_id, tuple(to_tensor(name, array) for name, array in reading.inputs.items()))


def test_a_window_survives_its_message() -> None:
    sent = Window("a", (to_tensor("x", np.arange(6, dtype=np.int16).reshape(2, 3)), to_tensor("y", np.array(2.5))))
    got = Window.from_bytes(sent.to_bytes())
    assert got == sent
    assert to_array(got.tensors[0]).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert to_array(got.tensors[1]).shape == ()


def message(header: object, data: bytes = b"") -> bytes:
    body = canonical(header)
    return MAGIC + struct.pack("<I", len(body)) + body + data


TENSOR = {"name": "x", "datatype": "FP32", "shape": [2]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HYW1",
        b"HYW2" + window(1).to_bytes()[4:],
        window(1).to_bytes() + b"\0",
        window(1).to_bytes()[:-1],
        MAGIC + struct.pack("<I", 2**31) + b"{}",
        MAGIC + b"\0" * MAX_WINDOW_BYTES,
        message({"format": 2, "sample_id": "a", "tensors": [TENSOR]}, b"\0" * 8),
        message({"format": 1, "sample_id": "", "tensors": [TENSOR]}, b"\0" * 8),
        message({"format": 1, "sample_id": "a", "tensors": []}),
        message({"format": 1, "sample_id": "a", "tensors": [TENSOR, TENSOR]}, b"\0" * 16),
        message({"format": 1, "sample_id": "a", "tensors": [{**TENSOR, "shape": [-2]}]}),
        message({"format": 1, "sample_id": "a", "tensors": [{**TENSOR, "shape": [2**40, 2**40]}]}),
        message({"format": 1, "sample_id": "a", "tensors": [{**TENSOR, "datatype": "BYTES"}]}),
        message({"format": 1, "sample_id": "a", "tensors": [TENSOR], "label": "secret"}, b"\0" * 8),
    ],
    ids=range(15),
)
def test_what_is_no_window_is_refused_and_does_not_stop_the_queue(data: bytes) -> None:
    with pytest.raises(InvalidDocument):
        Window.from_bytes(data)
    queue = WindowQueue()
    queue.put(data)
    queue.put(window(1).to_bytes())
    assert queue.window() == window(1)
    assert queue.counters() == SourceCounters(received=2, taken=1, invalid=1)


def test_no_change_of_bytes_does_worse_than_a_refusal() -> None:
    rng = random.Random(5)
    good = window(3).to_bytes()
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            Window.from_bytes(bytes(data))
        except HybridgeError:
            continue


def test_a_window_names_a_valid_sample() -> None:
    with pytest.raises(InvalidName):
        Window("no spaces", ()).to_bytes()


def test_a_redelivery_is_taken_once() -> None:
    queue = WindowQueue()
    for number in (1, 2, 1, 2, 3):
        queue.put(window(number).to_bytes())
    assert [queue.window() for _ in range(4)] == [window(1), window(2), window(3), None]
    assert queue.counters() == SourceCounters(received=5, taken=3, duplicates=2)


def test_a_device_that_falls_behind_drops_the_oldest_and_counts_them() -> None:
    queue = WindowQueue(limit=10)
    for number in range(25):
        queue.put(window(number).to_bytes())
    assert [queue.window() for _ in range(10)] == [window(number) for number in range(15, 25)]
    assert queue.counters() == SourceCounters(received=25, taken=10, dropped=15)


def test_it_remembers_a_bounded_number_of_windows() -> None:
    queue = WindowQueue(limit=1)
    queue.put(window(-1).to_bytes())
    for number in range(REMEMBERED_IDS):
        queue.put(window(number).to_bytes())
    queue.put(window(-1).to_bytes())
    assert queue.counters().duplicates == 0
    queue.put(window(-1).to_bytes())
    assert queue.counters().duplicates == 1
