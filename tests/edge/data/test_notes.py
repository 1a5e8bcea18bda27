"""Labels beside samples in one spool: durable when acknowledged, refused in words, and never in a sample's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridge_edge import capture as capture_module
from hybridge_edge.capture import Capture, CapturePolicy, Observation
from hybridge_edge.contract.errors import Overloaded, SpoolFull, Unavailable
from hybridge_edge.contract.feedback import MAGIC, Feedback
from hybridge_edge.contract.sample import Sample
from hybridge_edge.spool_reader import SpoolReader
from hybridge_edge.spool_writer import SpoolWriter
from hybridge_edge.traces import Where

Observe = Callable[..., Observation]
LABELLER = """
import sys
from pathlib import Path
from hybridge_edge.capture import Capture, CapturePolicy
from hybridge_edge.contract.feedback import Feedback
capture = Capture(CapturePolicy(1.0, 0.0), Path(sys.argv[1]))
for number in range(10_000):
    capture.note(Feedback(f"a/{number}", "watch", "left", "device", 1.0, 0).to_bytes())
    print(number, flush=True)
"""


def label(number: int) -> bytes:
    return Feedback(f"person1/{number}", "watch", "left", "device", 1.0, 0).to_bytes()


def bodies(folder: Path) -> list[bytes]:
    reader = SpoolReader(folder)
    found = [entry.body for entry in reader.read(100_000, 1 << 26)]
    reader.close()
    return found


def test_labels_and_samples_share_the_spool_and_each_is_there_once(spool_folder: Path, observe: Observe) -> None:
    capture = Capture(CapturePolicy(1.0, 0.0), spool_folder)
    asking = [threading.Thread(target=capture.note, args=(label(number),)) for number in range(20)]
    for number, thread in enumerate(asking):
        capture.offer(observe(number))
        thread.start()
    for thread in asking:
        thread.join()
    capture.close()
    found = bodies(spool_folder)
    said = sorted(Feedback.from_bytes(body).sample_id for body in found if body.startswith(MAGIC))
    kept = sorted(Sample.from_bytes(body).sample_id for body in found if not body.startswith(MAGIC))
    assert said == kept == sorted(f"person1/{number}" for number in range(20))
    assert capture.counters().captured == 20  # samples only


def test_no_acknowledged_label_is_lost_to_kill_9(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", LABELLER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(40)]
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().split()]
    process.wait()
    found = {Feedback.from_bytes(body).sample_id for body in bodies(tmp_path)}
    assert {f"a/{number}" for number in acknowledged} <= found
    assert len(found) <= len(acknowledged) + 1


def test_a_full_spool_refuses_a_label_and_says_so(spool_folder: Path) -> None:
    capture = Capture(CapturePolicy(1.0, 0.0), spool_folder, 300)
    capture.note(label(0))
    with pytest.raises(SpoolFull, match="of 300 bytes"):
        capture.note(label(1))
    capture.close()


def test_a_spool_that_cannot_be_opened_or_fails_is_unavailable(
    spool_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = SpoolWriter(spool_folder)
    capture = Capture(CapturePolicy(1.0, 0.0), spool_folder)
    with pytest.raises(Unavailable, match="writer already"):
        capture.note(label(1))
    capture.close()
    owner.close()
    capture = Capture(CapturePolicy(1.0, 0.0), spool_folder)

    def failing(self: SpoolWriter, group: object) -> range:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(SpoolWriter, "append", failing)
        with pytest.raises(Unavailable, match="Input/output"):
            capture.note(label(1))
    capture.close()
    with pytest.raises(Unavailable, match="stops"):
        capture.note(label(2))


def test_a_disk_that_stands_still_bounds_what_waits(spool_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    real = SpoolWriter.append
    monkeypatch.setattr(SpoolWriter, "append", lambda self, group: (goes_on.wait(), real(self, group))[1])
    monkeypatch.setattr(capture_module, "MAX_NOTES", 3)
    monkeypatch.setattr(capture_module, "NOTE_SECONDS", 0.2)
    capture = Capture(CapturePolicy(1.0, 0.0), spool_folder)
    with pytest.raises(Unavailable, match="does not answer"):
        capture.note(label(0))
    for number in range(1, 4):
        with pytest.raises(Unavailable):
            capture.note(label(number))
    with pytest.raises(Overloaded, match="3 labels"):
        capture.note(label(4))
    goes_on.set()
    capture.close()
    assert len(bodies(spool_folder)) == 4  # told "does not answer", which may mean there


def test_where_a_sample_stands_is_known_from_the_offer_on(
    spool_folder: Path, observe: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    real = SpoolWriter.append
    monkeypatch.setattr(SpoolWriter, "append", lambda self, group: (goes_on.wait(), real(self, group))[1])
    monkeypatch.setattr(capture_module, "QUEUE_OBSERVATIONS", 30)
    capture = Capture(CapturePolicy(1.0, 0.0), spool_folder)
    for number in range(60):
        capture.offer(observe(number))
    places = [capture.where(f"person1/{number}").where for number in range(60)]
    assert places[0] is Where.WAITING
    assert places[-1] is Where.DROPPED
    assert capture.where("person1/59").reason == "queue-full"
    goes_on.set()
    capture.close()
    assert capture.where("person1/0").where is Where.CAPTURED
