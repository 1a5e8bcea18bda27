"""A camera by OpenCV: a device, a stream's address, a video file, or numbered pictures such as frames/%04d.png.

OpenCV is the extra ``camera`` and is imported here alone. Frames are not resized: what the model's codec says decides
that, by the code that training used.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy

from hybridge_edge.configuration import Configuration
from hybridge_edge.contract.codec import MAX_ENCODED_BYTES
from hybridge_edge.contract.errors import Refused, Unavailable, UsageError
from hybridge_edge.sources.messages import Numbers, encoded, plain
from hybridge_edge.sources.pacing import MAX_HERTZ
from hybridge_edge.sources.polled import PolledSource, Spoilt
from hybridge_edge.sources.queue import ReadingQueue
from hybridge_edge.sources.source import Context, Reading, Source

ENCODINGS = ("jpeg", "png", "raw")
MAX_SIDE = 16_384
QUALITY = 90
INSTALL = "pip install 'hybridge-edge[camera]'"


def open_source(context: Context) -> Source:
    """Settings: sourcePath (a device's number, or what OpenCV opens), sourceInput, sourceRate, sourceLoop, sourceQueue,
    sourceEncoding, sourceQuality, sourceWidth, sourceHeight.

    Raises:
        UsageError: a setting is wrong. Refused: OpenCV is not installed.
    """
    settings = context.configuration
    device = Camera(settings, context.thing)
    hertz = settings.number("sourceRate", 0.0, 0.0, MAX_HERTZ)
    repeat = settings.boolean("sourceLoop", False)
    return PolledSource(device, ReadingQueue.of(settings), hertz, repeat=repeat)


class Camera:
    """One capture of OpenCV. Sample ids are THING/camera/START/NUMBER; of a file,
    THING/STEM/FRAME; of numbered pictures, THING/FOLDER/FRAME."""

    def __init__(self, settings: Configuration, thing: str) -> None:
        path = settings.required("sourcePath")
        self._input = settings.required("sourceInput")
        self._encoding = settings.choice("sourceEncoding", ENCODINGS)
        self._quality = settings.integer("sourceQuality", QUALITY, 1, 100)
        self._width = settings.integer("sourceWidth", 0, 0, MAX_SIDE)
        self._height = settings.integer("sourceHeight", 0, 0, MAX_SIDE)
        self.live = path.isdigit() or "://" in path or path.startswith("/dev/")
        self._path: str | int = int(path) if path.isdigit() else path
        there = Path(path).parent.is_dir() if "%" in path else Path(path).is_file()
        if not self.live and not there:
            raise UsageError(f"sourcePath is {path[:200]!r}, and that is not there.", "Correct the path.")
        self._thing = thing
        self._numbers = Numbers(f"{thing}/camera")
        self._frame = 0
        self._good = False
        self._capture: Any = None
        try:
            self._cv2: Any = importlib.import_module("cv2")
        except ImportError as error:
            raise Refused(
                f"OpenCV, for cameras, cannot be imported: {error}.", f"Install it with: {INSTALL}."
            ) from None
        # Its warnings would come anew with each attempt; what is wrong is said once by us.
        self._cv2.utils.logging.setLogLevel(self._cv2.utils.logging.LOG_LEVEL_ERROR)

    def open(self) -> float:
        self._good = False
        capture = self._cv2.VideoCapture(self._path)
        self._capture = capture
        if not capture.isOpened():
            raise Unavailable(f"The camera {self._path} cannot be opened.", "Check that it is there and free to use.")
        if self.live:
            for key, value in (("FRAME_WIDTH", self._width), ("FRAME_HEIGHT", self._height)):
                if value:
                    capture.set(getattr(self._cv2, f"CAP_PROP_{key}"), value)
            capture.set(self._cv2.CAP_PROP_BUFFERSIZE, 1)  # where the driver knows it: a frame is of now
        rate = float(capture.get(self._cv2.CAP_PROP_FPS))
        return rate if numpy.isfinite(rate) and 0 < rate <= MAX_HERTZ else 0.0

    def skip(self) -> None:
        if not self._capture.grab():
            self._gone()

    def read(self) -> Reading | None:
        got, frame = self._capture.read()
        if not got or frame is None:
            if self.live:
                self._gone()
            if not self._good:
                raise Unavailable(f"{self._path} has no frame that OpenCV can read.", "Check the file.")
            return None
        self._good = True
        sample_id = self._sample_id()
        if self._encoding == "raw":
            return Reading(sample_id, {self._input: numpy.ascontiguousarray(frame[:, :, ::-1])})
        options = [self._cv2.IMWRITE_JPEG_QUALITY, self._quality] if self._encoding == "jpeg" else []
        done, data = self._cv2.imencode(".jpg" if self._encoding == "jpeg" else ".png", frame, options)
        if not done or len(data) > MAX_ENCODED_BYTES:
            height, width = frame.shape[:2]
            raise Spoilt(
                f"A frame of {width} x {height} takes more than {MAX_ENCODED_BYTES} bytes as {self._encoding}.",
                "Lower sourceQuality, or sourceWidth and sourceHeight.",
            )
        return encoded(self._input, sample_id, data.tobytes())

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _gone(self) -> None:
        raise Unavailable(f"The camera {self._path} gives no frames any more.", "Check its cable and its power.")

    def _sample_id(self) -> str:
        if self.live:
            return self._numbers()
        self._frame += 1
        path = Path(str(self._path))
        name = path.parent.name if "%" in path.name else path.stem
        return f"{self._thing}/{plain(name)[:40] or 'file'}/{self._frame - 1}"
