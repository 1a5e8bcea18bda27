"""The voice example: Silero's answers through our server, bit for bit, from a file in real time or a microphone."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from examples.voice import audio, build, listen, model, segments, synthetic

from hybridge_cloud.compile.foreign import Wanted, import_package
from hybridge_cloud.compile.foreign_states import StateWanted
from hybridge_cloud.package import read_package
from hybridge_edge.admission.lint import check_graphs
from hybridge_edge.client import Client
from hybridge_edge.contract.errors import PackageRefused, Refused, Unavailable, UsageError
from hybridge_edge.engine import load, readable
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.server import InferenceServer
from hybridge_edge.serving.service import Service

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def sound() -> numpy.ndarray:
    """Silence until 1 s, vowels until 2.5, noise until 4, vowels until 5, silence."""
    parts = [synthetic.silence(1), synthetic.speech(1.5), synthetic.noise(1.5), synthetic.speech(1, 5)]
    return numpy.concatenate([*parts, synthetic.silence(0.5)])


@pytest.fixture(scope="module")
def wanted(sound: numpy.ndarray) -> numpy.ndarray:
    """What the file that Silero's wrapper loads says of each window, by a loop over ONNX Runtime alone."""
    return model.detect(sound, model.source(model.KNOWN, model.KNOWN_SHA256))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("voice") / "package"
    model.build(out)
    return read_package(out)


@pytest.fixture(scope="module")
def served(package: Any) -> Iterator[str]:
    """The address of a server that has the package."""
    folder = Path(tempfile.mkdtemp(prefix="hyb", dir="/tmp"))
    service = Service(Gate(2), lambda name, digest: None)
    service.residents.switch(Resident(package.manifest, package.digest, load(package, 1)))
    server = InferenceServer(service, folder / "inference.sock", None, "0", lambda: True)
    server.start()
    yield f"unix:{folder / 'inference.sock'}"
    server.stop(0.2)
    shutil.rmtree(folder)


def test_the_file_we_take_answers_as_the_one_that_silero_s_wrapper_loads(
    sound: numpy.ndarray, wanted: numpy.ndarray
) -> None:
    assert numpy.array_equal(model.detect(sound, model.source()), wanted)


def test_silero_s_own_wrapper_keeps_context_and_state_as_we_do(sound: numpy.ndarray, wanted: numpy.ndarray) -> None:
    torch = pytest.importorskip("torch")
    path = model.source().parents[1] / "utils_vad.py"
    spec = importlib.util.spec_from_file_location("silero_utils_vad", path)
    assert spec is not None
    assert spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    wrapper = theirs.OnnxWrapper(str(model.source(model.KNOWN, model.KNOWN_SHA256)), force_onnx_cpu=True)
    found = [wrapper(torch.from_numpy(w[0].astype(numpy.float32) / 32768), 16_000) for w in audio.windows_of(sound)]
    assert numpy.array_equal(numpy.array([float(one) for one in found], numpy.float32), wanted)


def test_streamed_through_the_server_the_answers_are_silero_s_bit_for_bit(
    served: str, sound: numpy.ndarray, wanted: numpy.ndarray
) -> None:
    told: list[segments.Segment] = []
    with Client(served) as client:
        heard = listen.listen(client, audio.windows_of(sound), told.append)
    assert numpy.array_equal(numpy.array(heard.probabilities, numpy.float32), wanted)
    assert tuple(told) == heard.segments
    # and they tell speech from silence and noise
    spoken = numpy.zeros(len(wanted), bool)
    for one in heard.segments:
        spoken[round(one.begin / audio.WINDOW_S) : round(one.end / audio.WINDOW_S)] = True
    seconds = (numpy.arange(len(wanted)) + 0.5) * audio.WINDOW_S
    assert not spoken[seconds < 1].any()
    assert not spoken[(seconds > 3) & (seconds < 4)].any()
    assert spoken[(seconds > 1) & (seconds < 2.5)].mean() > 0.5
    assert spoken[(seconds > 4) & (seconds < 5)].mean() > 0.5


def test_without_the_state_it_is_another_answer(served: str, sound: numpy.ndarray, wanted: numpy.ndarray) -> None:
    """The positive control: each window as a sequence of its own."""
    with Client(served) as client:
        found = [float(client.infer("voice", {"pcm": w}).outputs["output"][0, 0]) for w in audio.windows_of(sound)]
    assert numpy.abs(numpy.array(found) - wanted).max() > 0.2


def test_the_package_holds_what_a_device_needs_and_nothing_of_this_machine(package: Any, tmp_path: Path) -> None:
    check_graphs(package, readable())
    manifest = package.manifest
    assert [(one.input, one.graph) for one in manifest.states] == [("context", "features"), ("state", "model")]
    assert manifest.control_flow == ()
    assert model.build(tmp_path / "again").digest == manifest.digest


def test_the_file_with_ifs_is_imported_too_and_declares_them(sound: numpy.ndarray, tmp_path: Path) -> None:
    steps = [numpy.concatenate([numpy.zeros((1, 64)), w / 32768], axis=1) for w in audio.windows_of(sound)][:40]
    numpy.savez(tmp_path / "golden.npz", input=numpy.vstack(steps).astype(numpy.float32))
    wanted = Wanted("voice", states=(StateWanted("state", "stateN"),), fixed={"sr": "16000"})
    path = model.source(model.KNOWN, model.KNOWN_SHA256)
    manifest = import_package(path, tmp_path / "golden.npz", tmp_path / "out", wanted)
    assert manifest.control_flow == ("If",)
    package = read_package(tmp_path / "out")
    check_graphs(package, readable())
    undeclared = replace(package, manifest=replace(manifest, control_flow=()))
    with pytest.raises(PackageRefused, match=r"\(If\) is control flow that the manifest does not declare"):
        check_graphs(undeclared, readable())


def test_a_missing_or_another_silero_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="SHA-256 differs"):
        model.source(model.FILE, "0" * 64)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"pip install --no-deps silero-vad==6\.2\.3"):
        model.source()


def test_a_file_is_paced_by_its_own_clock_and_catches_up() -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    windows = audio.paced(iter([numpy.zeros((1, 512), numpy.int16)] * 6), lambda: now[0], sleep)
    for number, _ in enumerate(windows):
        assert now[0] >= 100 + (number + 1) * audio.WINDOW_S - 1e-9
        now[0] += 2.5 * audio.WINDOW_S if number == 1 else 0.001  # one answer is late
    assert len(slept) == 4  # the two windows that were late already were not waited for
    assert now[0] == pytest.approx(100 + 6 * audio.WINDOW_S + 0.001)


def test_a_wav_is_read_whole_and_filled_up(tmp_path: Path) -> None:
    pcm = numpy.arange(1000, dtype=numpy.int16)
    audio.write_wav(tmp_path / "a.wav", pcm)
    read = numpy.concatenate([one.ravel() for one in audio.wav_windows(tmp_path / "a.wav")])
    assert len(read) == 1024
    assert numpy.array_equal(read[:1000], pcm)
    assert not read[1000:].any()


@pytest.mark.parametrize(("rate", "channels", "width"), [(48_000, 1, 2), (16_000, 2, 2), (16_000, 1, 1)])
def test_a_wav_of_another_kind_is_refused_with_what_to_do(tmp_path: Path, rate: int, channels: int, width: int) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
    with pytest.raises(UsageError, match=r"has .* the model takes 16000 Hz, 1, 16.*ffmpeg"):
        audio.wav_windows(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(b"no sound")
    for name in ("b.wav", "none.wav"):
        with pytest.raises(UsageError, match="cannot be read as WAV"):
            audio.wav_windows(tmp_path / name)


def arecord(folder: Path, script: str) -> None:
    folder.mkdir()
    (folder / "arecord").write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    (folder / "arecord").chmod(0o755)


def test_a_microphone_by_arecord_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arecord(tmp_path / "bin", "assert '--rate=16000' in sys.argv\nsys.stdout.buffer.write(bytes(range(256)) * 12)\n"
            "print('arecord: device gone', file=sys.stderr)")  # fmt: skip
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    windows = audio.microphone()
    found = [next(windows) for _ in range(3)]
    assert found[1].tobytes() == bytes(range(256)) * 4
    with pytest.raises(Refused, match="arecord ended: arecord: device gone"):
        next(windows)


def test_without_a_microphone_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"neither arecord nor .* sounddevice.*Install alsa-utils"):
        audio.microphone()


def spans(probabilities: list[float]) -> list[tuple[int, int]]:
    found = segments.Segments()
    ended = [*(found.add(one) for one in probabilities), found.end()]
    return [(round(s.begin / audio.WINDOW_S), round(s.end / audio.WINDOW_S)) for s in ended if s is not None]


def test_segments_begin_and_end_as_silero_s_defaults_have_it() -> None:
    assert spans([0.1] * 20) == []
    assert spans([0.1] * 5 + [0.9] * 10 + [0.1] * 10) == [(5, 15)]
    assert spans([0.9] * 10 + [0.1] * 3 + [0.9] * 10 + [0.1] * 4) == [(0, 23)]  # 96 ms of silence end nothing
    assert spans([0.9] * 10 + [0.1] * 4 + [0.9] * 10) == [(0, 10), (14, 24)]
    assert spans([0.9] * 10 + [0.4] * 10 + [0.9]) == [(0, 21)]  # between the two thresholds it goes on
    assert spans([0.9] * 7 + [0.1] * 10) == []  # 224 ms are too short


def test_the_command_says_what_it_heard(
    served: str, package: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.main(["--out", str(tmp_path / "package"), "--wav", str(tmp_path / "a.wav")]) == 0
    assert package.digest in capsys.readouterr().out
    assert listen.main([str(tmp_path / "a.wav"), "--fast", "--server", served]) == 0
    said = capsys.readouterr().out.splitlines()
    assert all(line.startswith("speech ") for line in said[:-1])
    assert said[-1].startswith(f"{len(said) - 1} stretches of speech in 7.01 s, 219 windows")
    assert len(said) > 2
    assert listen.main([]) == 2
    assert listen.main([str(tmp_path / "none.wav")]) == 2
    assert build.main(["--out", str(tmp_path / "package")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == ["listen", "listen", "build"]


def test_the_lock_has_the_release_that_the_example_names() -> None:
    assert "silero-vad==6.2.3 " in (ROOT / "locks" / "data.txt").read_text()
