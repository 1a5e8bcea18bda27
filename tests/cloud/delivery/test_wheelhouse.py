"""Artifacts: the same content gives the same bytes, and what they hold installs without a network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from hybridge_cloud.components import build, checkout, wheelhouse
from hybridge_edge.contract.errors import UsageError

BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)
CLEAN = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


@pytest.fixture
def unpacked(built: Path, tmp_path: Path) -> Path:
    """The uplink's artifact as a nucleus unpacks it; it is the smallest."""
    folder = tmp_path / "artifacts with space" / "wheelhouse"
    with zipfile.ZipFile(built / "SampleUplink" / build.WHEELHOUSE) as archive:
        archive.extractall(folder)
    return folder


def installer(wheels: Path, work: Path) -> list[str]:
    return [BASE_PYTHON, str(wheels / "install.py"), "--wheels", f"{wheels}/", "--work", f"{work}/"]


def install(wheels: Path, work: Path) -> subprocess.CompletedProcess[str]:
    environment = {**CLEAN, "HOME": str(work), "PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PYTHONPATH": "/nowhere"}
    return subprocess.run(
        installer(wheels, work), env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_same_source_gives_the_same_wheel_and_zip_whenever_it_is_built(tmp_path: Path, built: Path) -> None:
    wheels = [wheelhouse.build_device_wheel(tmp_path / name) for name in ("one", "two")]
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    needed = wheelhouse.read_list(checkout.root() / "components" / "SampleUplink" / "wheels.txt")
    zips = [wheelhouse.write_zip(tmp_path / f"{wheel.parent.name}.zip", needed, wheel) for wheel in wheels]
    assert zips[0].read_bytes() == zips[1].read_bytes()


def test_other_content_gives_another_digest(tmp_path: Path) -> None:
    zips = [wheelhouse.pack(tmp_path / f"{text}.zip", {}, {"a.txt": text.encode()}) for text in ("one", "two")]
    assert wheelhouse.digest(zips[0]) != wheelhouse.digest(zips[1])


def test_only_the_server_carries_onnxruntime_and_nothing_carries_what_is_not_imported(built: Path) -> None:
    held = {}
    for name in build.COMPONENTS:
        with zipfile.ZipFile(built / name / build.WHEELHOUSE) as archive:
            held[name] = {entry.split("-")[0] for entry in archive.namelist() if entry.endswith(".whl")}
    assert [name for name in held if "onnxruntime" in held[name]] == ["InferenceServer"]
    assert "grpcio" not in held["SampleUplink"]
    assert all(
        {"pip", "hybridge_edge"} <= wheels and not {"torch", "boto3", "sympy"} & wheels for wheels in held.values()
    )


def test_the_installer_builds_an_environment_offline_and_does_nothing_the_second_time(
    unpacked: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    # A build that was killed on its way has no stamp: it is built again, in the same place.
    killed = subprocess.Popen(installer(unpacked, work), env=CLEAN, start_new_session=True)
    while not (begun := list(work.glob("venv-*/bin/python"))):
        assert killed.poll() is None
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    (interrupted,) = (path.parents[1] for path in begun)
    assert not (interrupted / ".complete").exists()
    first = install(unpacked, work)
    assert first.returncode == 0, first.stderr
    assert "built" in first.stdout
    environment = (work / "venv").resolve()
    assert environment == interrupted
    asked = subprocess.run(
        [work / "venv/bin/hybridge-edge", "--help"], env=CLEAN, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    assert "uplink" in asked.stdout
    stamp = (environment / ".complete").stat().st_mtime_ns

    second = install(unpacked, work)
    assert second.returncode == 0
    assert "is there already" in second.stdout
    assert (environment / ".complete").stat().st_mtime_ns == stamp

    # A wheel that is not the one the requirements name is refused, and the link stays with what works.
    damaged = next(unpacked.glob("awsiotsdk-*.whl"))
    with damaged.open("ab") as file:
        file.write(b"x")
    requirements = unpacked / "requirements.txt"
    requirements.write_text(requirements.read_text() + "\n")
    failed = install(unpacked, work)
    assert failed.returncode == 1
    assert "pip failed" in failed.stderr
    assert (work / "venv").resolve() == environment
    assert (work / "venv/bin/hybridge-edge").exists()


def test_an_artifact_that_was_not_unpacked_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    shutil.copy(checkout.root() / "components" / "install.py", folder)
    done = install(folder, tmp_path / "work")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "requirements.txt is missing" in done.stderr


def test_wheels_come_from_the_cache_without_asking_the_index(monkeypatch: pytest.MonkeyPatch, built: Path) -> None:
    pins = wheelhouse.read_lock(checkout.root() / "locks" / "edge.txt")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setattr(subprocess, "run", None)
    assert all(path.is_file() for path in wheelhouse.fetch([pins["numpy"], pins["awscrt"]]))


def test_an_unknown_component_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no component 'Server'"):
        list(build.build(tmp_path, only=("Server",)))
    assert list(tmp_path.iterdir()) == []
