"""Artifacts: the same content gives the same bytes, and what they hold installs without a network."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hybridge_cloud.components import archive, build, checkout, download, lock, wheel, wheelhouse
from hybridge_cloud.components.target import CEILINGS, Target, every, here, targets
from hybridge_edge.contract.errors import InvalidDocument, Refused, Unavailable, UsageError

JETPACK_6 = Target("aarch64", "3.10")
DOWNLOADS = os.environ.get("HYBRIDGE_TEST_DOWNLOADS")

BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)
CLEAN = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


@pytest.fixture
def unpacked(built: Path, tmp_path: Path) -> Path:
    """The uplink's artifact as a nucleus unpacks it; it is the smallest."""
    folder = tmp_path / "artifacts with space" / "wheelhouse"
    with zipfile.ZipFile(built / "SampleUplink" / here().architecture / build.WHEELHOUSE) as artifact:
        artifact.extractall(folder)
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
    needed = wheelhouse.of_component("SampleUplink")
    zips = [wheelhouse.write_zip(tmp_path / f"{one.parent.name}.zip", needed, one, [here()]) for one in wheels]
    assert zips[0].read_bytes() == zips[1].read_bytes()


def test_other_content_gives_another_digest(tmp_path: Path) -> None:
    zips = [archive.pack(tmp_path / f"{text}.zip", {}, {"a.txt": text.encode()}) for text in ("one", "two")]
    assert download.digest(zips[0]) != download.digest(zips[1])


def test_only_the_server_carries_onnxruntime_and_nothing_carries_what_is_not_imported(built: Path) -> None:
    held = {}
    for name in build.COMPONENTS:
        with zipfile.ZipFile(built / name / here().architecture / build.WHEELHOUSE) as artifact:
            held[name] = {entry.split("-")[0] for entry in artifact.namelist() if entry.endswith(".whl")}
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


def test_an_artifact_that_was_not_unpacked_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    shutil.copy(checkout.root() / "components" / "install.py", folder)
    done = install(folder, tmp_path / "work")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "machines.txt is missing" in done.stderr


def test_wheels_come_from_the_cache_without_asking_the_index(monkeypatch: pytest.MonkeyPatch, built: Path) -> None:
    pins = lock.read(here())
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setattr(subprocess, "run", None)
    assert all(path.is_file() for path in download.fetch([pins["numpy"], pins["awscrt"]], here()))
    assert download.missing([pins["numpy"]], here()) == ()
    assert download.missing([replace(pins["numpy"], sha256="0" * 64)], here())


def test_an_unknown_component_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no component 'Server'"):
        list(build.build(tmp_path, only=("Server",)))
    assert list(tmp_path.iterdir()) == []


def test_the_components_of_each_target_resolve_from_its_lock_alone() -> None:
    assert [str(target) for target in every()] == [
        f"{architecture}, Python 3.{minor}" for architecture in ("aarch64", "amd64") for minor in (10, 11, 12)
    ]
    for target in every():
        for short in build.COMPONENTS:
            pins = wheelhouse.pins_of(wheelhouse.of_component(short), target)
            assert ("onnxruntime" in {pin.name for pin in pins}) == (short == "InferenceServer")
            assert all(max(lock.check_wheel_name(pin.wheel, target), (2, 5)) <= (2, 35) for pin in pins)
        more = wheelhouse.pins_of(wheelhouse.of_component("SensorPipeline", build.EXTRAS), target)
        plain = wheelhouse.pins_of(wheelhouse.of_component("SensorPipeline"), target)
        assert {pin.name for pin in more} - {pin.name for pin in plain} == {"opencv-python-headless"}
        assert wheelhouse.of_component("SampleUplink", build.EXTRAS) == wheelhouse.of_component("SampleUplink")
    with pytest.raises(UsageError, match="There is no extra 'lidar'"):
        build.to_download(extras=("lidar",))
    jetpack = lock.read(JETPACK_6)
    for name, most in CEILINGS[(JETPACK_6.architecture, JETPACK_6.python)].items():
        assert tuple(map(int, jetpack[name].version.split(".")[:2])) <= most


WRONG_WHEELS = {
    "numpy-2.2.6.tar.gz": "is no wheel",
    "numpy-2.2.6-cp310-cp310-manylinux_2_17_x86_64.whl": "is not for aarch64, Python 3.10",
    "numpy-2.2.6-cp311-cp311-manylinux_2_17_aarch64.whl": "is not for aarch64, Python 3.10",
    "numpy-2.2.6-cp311-abi3-manylinux_2_17_aarch64.whl": "is not for aarch64, Python 3.10",
    "numpy-2.2.6-cp310-cp310-manylinux_2_36_aarch64.whl": "glibc 2.35 or older",
    "numpy-2.2.6-cp310-cp310-linux_aarch64.whl": "is not for aarch64, Python 3.10",
    "numpy-2.2.6-cp310-cp310-musllinux_1_2_aarch64.whl": "is not for aarch64, Python 3.10",
    "numpy-2.2.6-pp310-pypy310_pp73-manylinux_2_17_aarch64.whl": "is not for aarch64, Python 3.10",
    "scipy-2.2.6-cp310-cp310-manylinux_2_17_aarch64.whl": "pins numpy 2.2.6 to scipy-2.2.6",
}


@pytest.mark.parametrize("name", WRONG_WHEELS)
def test_a_lock_that_names_a_wheel_of_another_target_is_refused(name: str) -> None:
    right = lock.read(JETPACK_6)["numpy"]
    lock.check([right], JETPACK_6)
    with pytest.raises(Refused, match=WRONG_WHEELS[name]) as refused:
        lock.check([replace(right, wheel=name)], JETPACK_6)
    assert refused.value.remedy


@pytest.mark.parametrize(("name", "version"), [("onnxruntime", "1.24.0"), ("numpy", "2.3.0"), ("onnxruntime", "2.0.0")])
def test_what_is_too_new_for_jetpack_6_is_refused_there_and_nowhere_else(name: str, version: str) -> None:
    def pinned(target: Target) -> lock.Pin:
        return lock.Pin(
            name,
            version,
            f"{name}-{version}-cp{target.digits}-cp{target.digits}-manylinux_2_28_aarch64.whl",
            1,
            "0" * 64,
        )

    with pytest.raises(Refused, match=r"is too new for aarch64, Python 3\.10"):
        lock.check([pinned(JETPACK_6)], JETPACK_6)
    jetpack_7 = Target("aarch64", "3.12")
    lock.check([pinned(jetpack_7)], jetpack_7)


def test_a_lock_that_somebody_edited_is_refused(tmp_path: Path) -> None:
    text = (checkout.root() / "locks" / JETPACK_6.lock).read_text()
    assert len(lock.parse(checkout.root() / "locks" / JETPACK_6.lock)) > 10
    for number, harmed in enumerate((text + "numpy\n", "", text.replace("sha256:", "md5:", 1))):
        path = tmp_path / f"{number}.txt"
        path.write_text(harmed)
        with pytest.raises(InvalidDocument, match="no entry of a lock"):
            lock.parse(path)


def native(machine: int, bits: int = 2) -> bytes:
    """The beginning of an ELF shared object (System V ABI, figure 4-3) for a machine."""
    return b"\x7fELF" + bytes([bits, 1, 1]) + bytes(9) + struct.pack("<HH", 3, machine) + bytes(40)


def make_wheel(folder: Path, name: str, files: dict[str, bytes], metadata: str = "") -> Path:
    distribution, version = name.split("-")[:2]
    text = metadata or f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    return archive.pack(folder / name, {}, {f"{distribution}-{version}.dist-info/METADATA": text.encode(), **files})


def test_a_wheel_is_looked_into_and_not_believed_by_its_name(tmp_path: Path) -> None:
    name = "thing-1.0-cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64.whl"
    assert wheel.check(make_wheel(tmp_path, name, {"thing/core.so": native(183)}), JETPACK_6) == (2, 17)
    assert wheel.check(make_wheel(tmp_path, "thing-1.0-py3-none-any.whl", {"thing.py": b""}), JETPACK_6) == (0, 0)
    wrong: dict[str, Callable[[], Path]] = {
        "native code for another machine": lambda: make_wheel(tmp_path, name, {"thing/core.so": native(62)}),
        "core.so in thing.* another machine": lambda: make_wheel(
            tmp_path, name, {"thing/core.so": native(183, bits=1)}
        ),
        "any.whl is native": lambda: make_wheel(tmp_path, "thing-1.0-py3-none-any.whl", {"x": native(62)}),
        "says inside that it is other 1.0": lambda: make_wheel(tmp_path, name, {}, "Name: other\nVersion: 1.0\n"),
        "needs Python >=3.11, not 3.10": lambda: make_wheel(
            tmp_path, name, {}, "Name: thing\nVersion: 1.0\nRequires-Python: >=3.11\n"
        ),
        "is not a readable wheel": lambda: (tmp_path / name).write_bytes(b"not a zip") and tmp_path / name,  # type: ignore[dict-item]
    }
    for said, make in wrong.items():
        if said == "any.whl is native":
            said = "another machine than aarch64"
        with pytest.raises(Refused, match=said):
            wheel.check(make(), JETPACK_6)


def test_platforms_and_pythons_are_named_or_this_machine_s() -> None:
    assert targets((), ()) == (here(),)
    assert [str(one) for one in targets(("aarch64",), ("3.12", "3.10"))] == [
        "aarch64, Python 3.10",
        "aarch64, Python 3.12",
    ]
    for platforms, pythons, said in (
        (("armv7",), (), "platform 'armv7'"), (("aarch64",), ("3.9",), "Python '3.9'"),
        (("amd64", "amd64"), (), "named twice"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            targets(platforms, pythons)


def test_a_recipe_has_a_manifest_for_each_platform_that_was_built_and_no_other(tmp_path: Path, built: Path) -> None:
    from hybridge_cloud.components import recipe

    def platforms(*files: str) -> list[str]:
        text = recipe.fill("SampleUplink", "hybridge.SampleUplink", "1.0.0", "bucket", "hybridge", files)
        return [manifest["Platform"]["architecture"] for manifest in yaml.safe_load(text)["Manifests"]]

    assert platforms("aarch64/wheelhouse.zip") == ["aarch64"]
    assert platforms("aarch64/wheelhouse.zip", "amd64/wheelhouse.zip") == ["amd64", "aarch64"]
    for files in ((), ("riscv64/wheelhouse.zip",), ("amd64/wheelhouse.zip", "more.zip")):
        with pytest.raises(InvalidDocument, match="has no manifest for"):
            platforms(*files)
    written = yaml.safe_load((built / "SampleUplink" / build.RECIPE).read_text())
    assert [manifest["Platform"]["architecture"] for manifest in written["Manifests"]] == [here().architecture]


def test_wheels_that_an_index_does_not_have_are_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYBRIDGE_CACHE", str(tmp_path))
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        Unavailable, match=r"pycparser for aarch64, Python 3\.10 could not be downloaded"
    ) as unavailable:
        download.fetch([lock.read(JETPACK_6)["pycparser"]], JETPACK_6)
    assert unavailable.value.remedy
    assert list(download.cache_folder(JETPACK_6).iterdir()) == []


@pytest.mark.skipif(not DOWNLOADS, reason="HYBRIDGE_TEST_DOWNLOADS=1 downloads 100 MB of wheels for JetPack 6 and 7")
def test_the_wheelhouse_of_a_jetson_is_built_here_and_is_the_same_each_time(tmp_path: Path) -> None:
    jetsons = [JETPACK_6, Target("aarch64", "3.12")]
    digests = set()
    for number in range(2):
        (component,) = build.build(tmp_path / str(number), only=("InferenceServer",), targets=jetsons)
        (artifact,) = component.artifacts
        digests.add(artifact.digest)
        with zipfile.ZipFile(artifact.path) as opened:
            wheels = {name for name in opened.namelist() if name.endswith(".whl")}
            assert {"requirements-3.10.txt", "requirements-3.12.txt", "install.py"} <= set(opened.namelist())
        assert {name.split("-")[1] for name in wheels if name.startswith("onnxruntime-")} == {"1.23.2"}
        assert not [name for name in wheels if "x86_64" in name]
        print(f"{artifact.size / 1e6:.1f} MB: {', '.join(sorted(wheels))}")
    assert len(digests) == 1
