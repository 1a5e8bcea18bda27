"""Sources keep their rate, never wait for the pipeline, come back by themselves, and end when they are told."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from hybridge_edge.configuration import Configuration
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import HybridgeError, Refused, Unavailable, UsageError
from hybridge_edge.mqtt import Connection
from hybridge_edge.sources.messages import taker
from hybridge_edge.sources.pacing import Pace
from hybridge_edge.sources.polled import PolledSource, Spoilt
from hybridge_edge.sources.queue import ReadingQueue
from hybridge_edge.sources.source import GROUP, Context, Reading, Source, SourceCounters, open_source

WaitFor = Callable[[Callable[[], bool]], None]


def context(**settings: object) -> Context:
    def connection() -> Connection:
        raise AssertionError("this source needs no broker")

    return Context("device-1", Configuration(settings), connection)


def drain(source: Source) -> list[Reading]:
    """All readings until the source ends."""
    found = []
    until = time.monotonic() + 20
    while not source.ended and time.monotonic() < until:
        reading = source.next(0.05)
        if reading is not None:
            names.sample_id(reading.sample_id)
            found.append(reading)
    assert source.ended
    source.close()
    return found


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_moments_of_a_rate_do_not_drift() -> None:
    clock = Clock()
    pace = Pace(10.0, clock)
    taken = []
    for _ in range(1000):
        clock.now += max(0.0, pace.left())
        assert pace.take() == 0
        taken.append(clock.now)
        clock.now += 0.037  # work, never the same as the rate
    assert taken[-1] == pytest.approx(100.0 + 99.9)
    assert np.abs(np.diff(taken) - 0.1).max() < 1e-9


def test_moments_that_went_by_are_counted_and_not_hurried_after() -> None:
    clock = Clock()
    pace = Pace(10.0, clock)
    pace.take()
    clock.now += 0.55
    assert pace.take() == 4, "0.1 to 0.4 are lost, 0.5 is there"
    assert pace.left() == pytest.approx(0.05)


class Scripted:
    """A device that does what it is told: values are read, an error is raised; then it ends."""

    def __init__(self, *script: Any, live: bool = False) -> None:
        self.script = list(script)
        self.live = live
        self.opened = self.closed = self.skipped = 0
        self.read_at: list[float] = []

    def open(self) -> float:
        self.opened += 1
        return 0.0

    def skip(self) -> None:
        self.skipped += 1
        time.sleep(0.002)

    def read(self) -> Reading | None:
        self.read_at.append(time.monotonic())
        if not self.script:
            return None
        happening = self.script.pop(0)
        if isinstance(happening, Exception):
            raise happening
        return Reading(f"scripted/{happening}", {"x": np.array([happening])})

    def close(self) -> None:
        self.closed += 1


def test_a_device_that_goes_away_is_said_once_and_opened_again(
    wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    gone = Unavailable("The camera 0 gives no frames any more.", "Check its cable.")
    device = Scripted(1, gone, gone, 2, Spoilt("a bad frame"), 3)
    source = PolledSource(device, ReadingQueue(), 0.0, repeat=False, longest=0.01)
    with caplog.at_level(logging.INFO):
        assert [reading.sample_id for reading in drain(source)] == [f"scripted/{n}" for n in (1, 2, 3)]
    assert source.counters() == SourceCounters(received=4, taken=3, invalid=1, lost=2)
    assert (device.opened, device.closed >= 3) == (3, True)
    assert caplog.text.count("gives no frames any more") == 1 + 1  # it had come back in between, without a reading
    assert "a bad frame" in caplog.text


def test_an_accident_of_a_plugin_is_a_refusal_and_does_not_look_like_an_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = PolledSource(Scripted(1, ZeroDivisionError("oops")), ReadingQueue(), 0.0, repeat=False)
    assert source.next(5) is not None
    with pytest.raises(Refused, match="accident: ZeroDivisionError oops"):
        drain(source)
    assert not source.ended
    source.close()
    assert "oops" in caplog.text


def test_a_pipeline_that_is_slow_never_makes_the_sensor_wait(wait_for: WaitFor) -> None:
    device = Scripted(*range(500))
    source = PolledSource(device, ReadingQueue(limit=8), 5000.0, repeat=False)
    wait_for(lambda: source.counters().received == 500)  # while nobody takes any
    assert [reading.sample_id for reading in drain(source)] == [f"scripted/{n}" for n in range(492, 500)]
    assert source.counters().dropped == 492


def test_a_file_is_played_at_its_rate_and_begins_again_where_asked(wait_for: WaitFor) -> None:
    device = Scripted(*range(6))
    source = PolledSource(device, ReadingQueue(), 100.0, repeat=True)
    wait_for(lambda: device.opened >= 3)
    source.close()
    moments = np.array(device.read_at[:6]) - device.read_at[0]
    assert (moments >= np.arange(6) / 100 - 0.002).all(), "never before its moment"
    assert not source._thread.is_alive()


def test_a_live_device_faster_than_the_rate_is_skipped_and_not_stored(wait_for: WaitFor) -> None:
    device = Scripted(*range(5), live=True)
    source = PolledSource(device, ReadingQueue(), 50.0, repeat=False)
    assert len(drain(source)) == 5
    assert device.skipped > 5


# --- camera -------------------------------------------------------------------------------------------------------


def picture(number: int, side: int = 16) -> np.ndarray:
    """(side, side, 3) RGB, red grows with the number."""
    made = np.zeros((side, side, 3), np.uint8)
    made[:, :, 0] = number * 20
    made[: side // 2, :, 2] = 255
    return made


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(10):
        Image.fromarray(picture(number)).save(folder / f"{number:03}.png")
    return folder


def pixels(reading: Reading) -> np.ndarray:
    (element,) = reading.inputs["picture"]
    return np.asarray(Image.open(io.BytesIO(element)))


def test_a_camera_gives_the_frames_of_numbered_pictures_and_loses_nothing_in_png(frames: Path) -> None:
    path = str(frames / "%03d.png")
    settings = {"sourcePath": path, "sourceInput": "picture", "sourceRate": 500, "sourceEncoding": "png"}
    found = drain(open_source("camera", context(**settings)))
    assert [reading.sample_id for reading in found] == [f"device-1/frames/{number}" for number in range(10)]
    for number, reading in enumerate(found):
        np.testing.assert_array_equal(pixels(reading), picture(number), "red is red, and in the order of the file")


def test_a_camera_reads_a_video_file_as_jpeg_and_as_plain_numbers(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 200.0, (64, 48))
    assert writer.isOpened()
    for number in range(8):
        writer.write(np.full((48, 64, 3), (10, 20, number * 30), np.uint8))
    writer.release()
    settings = {"sourcePath": str(path), "sourceInput": "picture"}
    encoded = drain(open_source("camera", context(**settings)))
    plain = drain(open_source("camera", context(**settings, sourceEncoding="raw")))
    assert len(encoded) == len(plain) == 8
    for number, (one, other) in enumerate(zip(encoded, plain, strict=True)):
        red, _, blue = other.inputs["picture"][24, 32].astype(int)
        assert (abs(red - number * 30) < 12, abs(blue - 10) < 12) == (True, True)
        assert np.abs(pixels(one).astype(int) - other.inputs["picture"].astype(int)).max() < 16


def test_a_camera_that_is_not_there_is_said_and_tried_again(
    wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_source("camera", context(sourcePath="/dev/video97", sourceInput="picture"))
    wait_for(lambda: source.counters().lost >= 2)
    assert not source.ended
    source.close()
    assert caplog.text.count("The camera /dev/video97 cannot be opened. Check that it is there") == 1


def test_a_camera_whose_pictures_come_back_goes_on(frames: Path, wait_for: WaitFor) -> None:
    away = frames.with_name("away")
    away.mkdir()
    settings = {"sourcePath": str(away / "%03d.png"), "sourceInput": "picture", "sourceRate": 500}
    source = open_source("camera", context(**settings))
    wait_for(lambda: source.counters().lost >= 1)
    for path in frames.iterdir():
        path.rename(away / path.name)
    assert len(drain(source)) == 10


def test_opencv_that_is_missing_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(Refused, match=r"OpenCV.*pip install 'hybridge-edge\[camera\]'"):
        open_source("camera", context(sourcePath="0", sourceInput="picture"))


# --- replay -------------------------------------------------------------------------------------------------------


def test_an_array_is_played_row_by_row_and_without_a_rate_nothing_is_dropped(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(700, 4, 3)).astype(np.float32)
    np.save(tmp_path / "walk 1.npy", rows)
    found = drain(open_source("replay", context(sourcePath=str(tmp_path), sourceInput="window", sourceQueue=1)))
    assert [reading.sample_id for reading in found] == [f"walk-1/{row}" for row in range(700)]
    np.testing.assert_array_equal(np.stack([reading.inputs["window"] for reading in found]), rows)


def test_a_table_is_played_in_windows_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("ax,ay\n" + "".join(f"{n},{n / 2}\n" for n in range(7)))
    found = drain(open_source("replay", context(sourcePath=str(path), sourceInput="w", sourceSteps="3")))
    assert [reading.sample_id for reading in found] == ["table/1", "table/4"]
    assert found[1].inputs["w"].tolist() == [[3, 1.5], [4, 2], [5, 2.5]]
    single = drain(open_source("replay", context(sourcePath=str(path), sourceInput="w")))
    assert (len(single), single[0].inputs["w"].shape) == (7, (2,))


def test_pictures_are_played_as_they_are_and_the_second_pass_has_other_ids(frames: Path) -> None:
    source = open_source("replay", context(sourcePath=str(frames), sourceInput="picture", sourceLoop="true"))
    found = [reading for _ in range(26) if (reading := source.next(0.1)) is not None]
    source.close()
    assert found[0].sample_id == "frames/000"
    assert found[0].inputs["picture"][0] == (frames / "000.png").read_bytes()
    assert found[10].sample_id == "pass1/frames/000"
    assert len({reading.sample_id for reading in found}) == len(found)


def test_a_damaged_file_is_counted_and_the_next_one_is_played(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"no array")
    (tmp_path / "b.csv").write_text("1,2\n3\n")
    (tmp_path / "c.png").write_bytes(b"")
    np.save(tmp_path / "d.npy", np.array([1.0, 2.0]))
    np.save(tmp_path / "e.npy", np.array([{"a": 1}], object), allow_pickle=True)
    source = open_source("replay", context(sourcePath=str(tmp_path), sourceInput="x"))
    found = drain(source)
    assert [reading.sample_id for reading in found] == ["b/0", "d/0", "d/1"]
    assert source.counters() == SourceCounters(received=7, taken=3, invalid=4)


# --- settings, messages, plugins ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("microphone", {}, "Use one of mqtt, replay, greengrass, camera"),
        ("replay", {"sourceInput": "x"}, "sourcePath is not set"),
        ("replay", {"sourcePath": "/nowhere", "sourceInput": "x"}, "is no file and no folder"),
        ("replay", {"sourcePath": "/proc/self", "sourceInput": "x"}, "0 files that can be played"),
        ("replay", {"sourcePath": "/dev", "sourceInput": "x", "sourceRate": "-1"}, "sourceRate is"),
        ("replay", {"sourcePath": "/dev", "sourceInput": "x", "sourceRate": "fast"}, "not a number"),
        ("replay", {"sourcePath": "/dev", "sourceInput": "x", "sourceLoop": "maybe"}, "true or false"),
        ("camera", {"sourcePath": "0"}, "sourceInput is not set"),
        ("camera", {"sourcePath": "/nowhere/%d.png", "sourceInput": "x"}, "is not there"),
        ("camera", {"sourcePath": "/nowhere.avi", "sourceInput": "x"}, "is not there"),
        ("camera", {"sourcePath": "0", "sourceInput": "x", "sourceEncoding": "gif"}, "one of jpeg, png, raw"),
        ("camera", {"sourcePath": "0", "sourceInput": "x", "sourceQuality": "0"}, "from 1 to 100"),
        ("greengrass", {"sourceTopic": "a/+"}, "without wildcards"),
        ("greengrass", {}, "no Greengrass nucleus"),
    ],
    ids=range(14),
)
def test_a_wrong_setting_is_a_sentence(
    name: str, settings: dict[str, object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SVCUID", raising=False)
    with pytest.raises(HybridgeError, match=says):
        open_source(name, context(**settings))


def test_a_message_may_be_one_encoded_input() -> None:
    queue = ReadingQueue()
    take = taker(queue, Configuration({"sourcePayload": "encoded", "sourceInput": "picture"}), "device-1")
    for message in (b"one", b"one", b"", b"x" * (1024 * 1024 + 1)):
        take(message)
    found = [queue.next(0), queue.next(0)]
    assert [reading.inputs["picture"].tolist() for reading in found if reading] == [[b"one"], [b"one"]]
    assert queue.counters() == SourceCounters(received=4, taken=2, invalid=2)
    with pytest.raises(UsageError, match="sourceInput"):
        taker(queue, Configuration({"sourcePayload": "encoded"}), "device-1")


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A third party's wheel as it lies when it is installed."""
    (tmp_path / "thermometer.py").write_text(
        "import numpy\n"
        "from hybridge_edge.sources.queue import ReadingQueue\n"
        "from hybridge_edge.sources.source import Reading\n"
        "def open_it(context):\n"
        "    queue = ReadingQueue.of(context.configuration)\n"
        "    degrees = context.configuration.number('thermometerDegrees', 20.0, -50.0, 150.0)\n"
        "    queue.offer(Reading(f'{context.thing}/1', {'degrees': numpy.array([degrees])}))\n"
        "    queue.finish()\n"
        "    return queue\n"
    )
    info = tmp_path / "thermometer-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thermometer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nthermometer = thermometer:open_it\nbroken = thermometer:gone\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("thermometer", None)


@pytest.mark.usefixtures("plugin")
def test_a_third_party_s_wheel_adds_a_source_with_settings_of_its_own() -> None:
    (reading,) = drain(open_source("thermometer", context(thermometerDegrees="36.6")))
    assert reading.inputs["degrees"].tolist() == [36.6]
    with pytest.raises(UsageError, match="thermometerDegrees"):
        open_source("thermometer", context(thermometerDegrees="hot"))
    with pytest.raises(Refused, match=r"'broken' \(thermometer:gone\) cannot be loaded"):
        open_source("broken", context())
    with pytest.raises(UsageError, match="camera, broken, thermometer"):
        open_source("none", context())


def test_nothing_is_left_running_by_a_source_that_was_closed(frames: Path) -> None:
    before = threading.active_count()
    settings = {"sourcePath": str(frames / "%03d.png"), "sourceInput": "picture", "sourceRate": 20, "sourceLoop": True}
    source = open_source("camera", context(**settings))
    assert source.next(5) is not None
    source.close()
    assert threading.active_count() == before
    assert json.dumps(source.counters().dropped) == "0"
