"""The install scripts of the recipes, run as a nucleus runs them: by dash, offline, on Pythons as devices have them."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from hybridge_cloud.components import build, checkout, download, lock, recipe, wheelhouse
from hybridge_cloud.components.target import here
from hybridge_cloud.sandbox.device.interpolate import Scope, interpolate
from hybridge_cloud.sandbox.device.mode import Mode, limits_of
from hybridge_cloud.sandbox.device.recipe import parse

BASE_PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SMALL = wheelhouse.WheelList(("typing-extensions",), ("typing_extensions",))
"""A wheelhouse of two wheels, to be quick."""


@functools.cache
def no_network() -> tuple[str, ...]:
    """A command that takes the network away, where the kernel lets it; pip is told of a dead index in any case."""
    unshare = shutil.which("unshare")
    for command in ((unshare, "-n"), (unshare, "-rn")) if unshare else ():
        if not subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
            return command
    return ()


@dataclass
class DevicePython:
    """A Python as a device has it: system-wide, with packages of its own and without ensurepip."""

    prefix: Path

    @property
    def executable(self) -> Path:
        return self.prefix / "bin" / f"python{VERSION}"

    def says(self, program: str) -> str:
        done = subprocess.run([self.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
        return done.stdout.strip() or done.stderr.strip()

    def packages(self) -> Path:
        folder = Path(self.says("import site; print(site.getsitepackages()[0])"))
        assert folder.is_relative_to(self.prefix)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@pytest.fixture
def device_python(tmp_path: Path) -> DevicePython:
    """This Python once more below another prefix; its library is linked file by file, so that it costs nothing."""
    prefix = tmp_path / "usr"
    library = prefix / "lib" / f"python{VERSION}"
    (prefix / "bin").mkdir(parents=True)
    library.mkdir(parents=True)
    shutil.copy(BASE_PYTHON, prefix / "bin" / f"python{VERSION}")
    (prefix / "bin" / "python3").symlink_to(f"python{VERSION}")
    for entry in Path(sysconfig.get_path("stdlib")).iterdir():
        if entry.name not in ("site-packages", "dist-packages", "ensurepip", "__pycache__"):
            (library / entry.name).symlink_to(entry)
    python = DevicePython(prefix)
    assert "No module named 'ensurepip'" in python.says("import ensurepip")
    return python


@dataclass
class Installer:
    """Runs a component's install script in one work folder."""

    work: Path
    mode: Mode
    path: str

    def __call__(self, short: str, wheels: Path, **configuration: str) -> subprocess.CompletedProcess[str]:
        text = recipe.fill(short, f"hybridge.{short}", "1.0.0", "some-bucket", "hybridge", None)
        text = self._with_digests(text)
        read = parse(text, self.mode, limits_of(self.mode))
        scope = Scope(
            read.name, wheels.parent, wheels.parent, self.work, self.work, "thing-1",
            {**read.configuration, **configuration},
        )  # fmt: skip
        script = interpolate(read.steps["install"].script, scope, self.mode, {})
        environment = {"PATH": self.path, "LANG": "C.UTF-8", "HOME": str(self.work), "PYTHONPATH": "/nowhere",
                       "PIP_INDEX_URL": "http://127.0.0.1:1/simple"}  # fmt: skip
        self.work.mkdir(exist_ok=True)
        shell = shutil.which("dash") or "/bin/sh"
        return subprocess.run(
            [*no_network(), shell, "-c", script], cwd=self.work, env=environment, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    @staticmethod
    def _with_digests(text: bytes) -> bytes:
        found = yaml.safe_load(text)
        for manifest in found["Manifests"]:
            for artifact in manifest["Artifacts"]:  # the account adds them
                artifact.update(Digest="AAAA", Algorithm="SHA-256")
        return yaml.safe_dump(found).encode()

    def link(self) -> str:
        return str((self.work / "venv").readlink())

    def environments(self) -> set[str]:
        return {path.name for path in self.work.glob("venv-*")}

    def runs(self, *words: str) -> str:
        done = subprocess.run([self.work / "venv" / "bin" / words[0], *words[1:]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def install(device_python: DevicePython, tmp_path: Path) -> Installer:
    return Installer(tmp_path / "work folder", Mode.LITE, f"{device_python.prefix / 'bin'}:/usr/bin:/bin")


@pytest.fixture(scope="session")
def device_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheelhouse.build_device_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def unpack(tmp_path: Path, device_wheel: Path) -> Callable[..., Path]:
    """Builds a wheelhouse and unpacks it as a nucleus does: FOLDER/wheelhouse."""
    count = iter(range(100))

    def make(wheels: wheelhouse.WheelList = SMALL) -> Path:
        folder = tmp_path / f"unarchived {next(count)}"
        folder.mkdir()
        made = wheelhouse.write_zip(folder / "wheelhouse.zip", wheels, device_wheel, [here()])
        with zipfile.ZipFile(made) as archive:
            archive.extractall(folder / "wheelhouse")
        return folder / "wheelhouse"

    return make


def test_install_again_upgrade_and_a_broken_wheelhouse(install: Installer, unpack: Callable[..., Path]) -> None:
    first = install("SampleUplink", one := unpack())
    assert first.returncode == 0, first.stderr
    assert "built" in first.stdout
    before = install.link()
    assert "uplink" in install.runs("hybridge-edge", "--help")

    install.mode = Mode.CLASSIC  # writes its folders' paths otherwise, and means the same
    assert "is there already" in install("SampleUplink", one).stdout
    assert install.environments() == {before}

    for name in ("venv-of-long-ago", "venv-half-built"):
        (install.work / name).mkdir()
    (install.work / "venv-of-long-ago" / ".complete").write_text("x")
    os.utime(install.work / "venv-of-long-ago" / ".complete", (0, 0))
    two = unpack(wheelhouse.WheelList((*SMALL.distributions, "pycparser"), (*SMALL.imports, "pycparser")))
    upgraded = install("SampleUplink", two)
    assert upgraded.returncode == 0, upgraded.stderr
    after = install.link()
    assert before != after
    assert install.environments() == {before, after}  # the one before stays, whatever else lay there
    assert install.runs("python", "-c", "import pycparser; print(pycparser.__name__)") == "pycparser"

    for wheel, said in (("pycparser", "pip failed"), ("hybridge_edge", "is damaged")):
        broken = unpack(wheelhouse.WheelList(("pycparser",), ("pycparser",)))
        path = next(broken.glob(f"{wheel}-*.whl"))
        path.write_bytes(path.read_bytes() + b"x" if said == "pip failed" else b"no zip")
        failed = install("SampleUplink", broken)
        assert (failed.returncode, said in failed.stderr) == (1, True), failed.stderr
        assert "Traceback" not in failed.stderr
        assert install.link() == after
        assert install.environments() == {before, after}  # what failed is gone
        assert "uplink" in install.runs("hybridge-edge", "--help")

    # Back to the one before, whose Python an update of the device took away meanwhile: it is built again.
    (install.work / before / "bin" / "python").unlink()
    back = install("SampleUplink", one)
    assert "built" in back.stdout, back.stderr
    assert install.link() == before
    assert install.environments() == {before, after}


def rename(wheels: Path, python: str, machine: str = "", glibc: str = "") -> None:
    """Make a wheelhouse say that it is for another Python, machine or glibc."""
    has = (wheels / "machines.txt").read_text().split()
    (wheels / "machines.txt").write_text(f"{python} {machine or has[1]} {glibc or has[2]}\n")
    (wheels / f"requirements-{VERSION}.txt").rename(wheels / f"requirements-{python}.txt")


def test_what_is_missing_is_one_sentence(install: Installer, unpack: Callable[..., Path], tmp_path: Path) -> None:
    def said(change: Callable[[Path], object], **configuration: str) -> str:
        change(wheels := unpack())
        done = install("InferenceServer", wheels, **configuration)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert not (install.work / "venv").exists()
        return done.stderr

    install.path = f"{install.path.split(':')[0]}:{tmp_path}"
    (tmp_path / "python3.99").write_text("#!/bin/sh\nexit 127\n")  # such as a version manager's
    (tmp_path / "python3.99").chmod(0o755)
    assert f"for Python 3.99, and this device has {VERSION}" in said(lambda wheels: rename(wheels, "3.99"))
    assert "the wheels are for riscv64, and this device is" in said(lambda wheels: rename(wheels, VERSION, "riscv64"))
    assert "the wheels need glibc 9.99" in said(lambda wheels: rename(wheels, VERSION, "", "9.99"))
    assert "machines.txt is missing" in said(lambda wheels: (wheels / "machines.txt").unlink())
    assert "0 wheels of pip" in said(lambda wheels: next(wheels.glob("pip-*")).unlink())
    assert "systemPackages is 'perhaps'" in said(lambda wheels: None, systemPackages="perhaps")
    assert "neither onnxruntime nor tensorrt" in said(lambda wheels: None, systemPackages="true")


def others() -> list[Path]:
    """Pythons of other versions, from 3.7 on, that lie beside this one."""
    found = {}
    for minor in range(7, 20):
        name = f"python3.{minor}"
        for path in (*Path(sys.base_prefix).parent.glob(f"*/bin/{name}"), *Path("/usr/bin").glob(name)):
            if name != f"python{VERSION}":
                found.setdefault(name, path)
    return list(found.values())


OTHERS = others()


@pytest.mark.skipif(not OTHERS, reason="no other Python from 3.7 on this machine")
@pytest.mark.parametrize("other", OTHERS, ids=lambda path: path.name)
def test_the_python_that_there_are_wheels_for_is_found_beside_another(
    other: Path, install: Installer, unpack: Callable[..., Path], tmp_path: Path, device_python: DevicePython
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python3").symlink_to(other)
    install.path = f"{folder}"
    wheels = unpack()
    alone = install("SampleUplink", wheels)
    assert f"for Python {VERSION}, and this device has {other.name.removeprefix('python')}" in alone.stderr
    (folder / f"python{VERSION}").symlink_to(device_python.executable)
    next(wheels.glob("pip-*")).unlink()  # it gets as far as this once it has its Python; the rest is as elsewhere
    assert "holds 0 wheels of pip" in install("SampleUplink", wheels).stderr


def test_a_device_s_own_onnxruntime_and_numpy_are_used_where_asked_and_tried_first(
    install: Installer, unpack: Callable[..., Path], device_python: DevicePython
) -> None:
    wheels = unpack(wheelhouse.WheelList(("numpy", "onnxruntime"), ("numpy", "onnxruntime")))
    pins = lock.read(here())
    packages = device_python.packages()
    for path in download.fetch([pins["numpy"], pins["onnxruntime"]], here()):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(packages)
    specification = importlib.util.spec_from_file_location("installer", checkout.root() / "components" / "install.py")
    assert specification is not None
    assert specification.loader is not None
    installer = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(installer)
    found = installer.of_the_device(installer.Interpreter(str(device_python.executable), VERSION))
    assert found == {name: pins[name].version for name in ("numpy", "onnxruntime")}

    # numpy gone: ours is installed, and the device's onnxruntime is tried with it.
    shutil.rmtree(packages / "numpy")
    done = install("InferenceServer", wheels, systemPackages="true")
    assert done.returncode == 0, done.stderr
    for name, ours in (("numpy", True), ("onnxruntime", False)):
        where = Path(install.runs("python", "-c", f"import {name}; print({name}.__file__)"))
        assert where.is_relative_to(install.work if ours else device_python.prefix)
    mixed = install.link()

    # A build for another numpy says this at its import (the control: the check must see it).
    (packages / "onnxruntime" / "__init__.py").write_text("raise ImportError('numpy.core.multiarray failed to import')")
    done = install("InferenceServer", wheels, systemPackages="true")
    assert done.returncode == 1
    assert f"onnxruntime does not work with numpy {pins['numpy'].version}" in done.stderr
    assert install.link() == mixed


def test_every_recipe_that_installs_calls_the_installer_that_its_artifact_holds() -> None:
    for short in build.COMPONENTS:
        found = yaml.safe_load((checkout.root() / "recipes" / f"{short}.yaml").read_text())
        assert {manifest["Platform"]["architecture"] for manifest in found["Manifests"]} == {"amd64", "aarch64"}
        scripts = {manifest["Lifecycle"]["install"]["Script"] for manifest in found["Manifests"]}
        assert len(scripts) == 1
        assert "wheelhouse/install.py" in scripts.pop()
