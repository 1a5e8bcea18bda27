"""Builds a component's Python environment on the device, without internet. Standard library only.

    python3 install.py --wheels FOLDER --work FOLDER [--system-packages true]

The folder of wheels is an artifact, unpacked: pip's own wheel and the others, ``requirements-PYTHON.txt`` for each
Python that there are wheels for (pinned, with hashes), ``machines.txt`` (what those wheels need) and ``imports.txt``
(modules that must import). The environment is built as ``WORK/venv-STAMP``, tried out, and only then does the link
``WORK/venv`` turn to it: a failed or interrupted update leaves the version that runs alone. STAMP is a digest of what
the environment is made of, so running this again with the same wheels does nothing, and another version's environment
never gets in the way.

A device's Python often has no ensurepip (Ubuntu, JetPack), so pip runs from its wheel. With ``--system-packages`` the
environment sees the device's own packages, and takes onnxruntime from there (NVIDIA's build for a Jetson).

The environment needs a Python that there are wheels for; this program itself also runs on 3.7, to say so.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

STEP_TIMEOUT_SECONDS = 900
"""For one step on a slow SD card; the recipe's own Timeout ends all of them."""
ASK_TIMEOUT_SECONDS = 120
"""For what a Python says of itself; importing NVIDIA's libraries takes a Jetson half a minute the first time."""
KEPT_ENVIRONMENTS = 2
"""The one that runs now may be an older one until the nucleus has stopped it."""
MEBIBYTE = 1024 * 1024
RESERVE_MEBIBYTES = 32
YES, NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")
NUMPY_FROM, NUMPY_BELOW = (1, 26), (3, 0)
"""The versions of numpy that hybridge-edge takes."""
COMPLETE = ".complete"


class InstallFailed(Exception):
    """One sentence for the component's log."""


class Offer(NamedTuple):
    """A Python that there are wheels for, MAJOR.MINOR, and the machine and glibc that they need."""

    python: str
    machine: str
    glibc: str


class Interpreter(NamedTuple):
    """A Python of this device."""

    path: str
    version: str


def main() -> int:
    parser = argparse.ArgumentParser(description="Build a component's Python environment from its wheels.")
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--system-packages", default="false", help="see the device's own packages: true or false")
    arguments = parser.parse_args()
    try:
        system = truth(arguments.system_packages)
        environment, fresh = install(arguments.wheels.resolve(), arguments.work.resolve(), system)
    except (InstallFailed, OSError) as error:
        print(f"install: {error}", file=sys.stderr, flush=True)
        return 1
    print(f"install: {environment.name} {'built' if fresh else 'is there already'}", flush=True)
    return 0


def truth(text: str) -> bool:
    """A setting, as a nucleus writes it: always a text."""
    if text.strip().lower() not in YES + NO:
        raise InstallFailed(f"systemPackages is {text[:40]!r}; set it to true or false")
    return text.strip().lower() in YES


def install(wheels: Path, work: Path, system: bool) -> tuple[Path, bool]:
    """Make ``work/venv`` the environment of these wheels; returns the environment and whether it was built just now."""
    offers = read_offers(wheels)
    interpreter = choose(offers)
    requirements = (wheels / f"requirements-{interpreter.version}.txt").read_text()
    given = of_the_device(interpreter) if system else {}
    kept = "".join(f"{line}\n" for line in requirements.splitlines() if line.split("==")[0] not in given)
    work.mkdir(parents=True, exist_ok=True)
    lock = os.open(str(work / ".install.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # an install the nucleus gave up on may still run
        made_of = [kept, interpreter.version, interpreter.path, str(system), json.dumps(given, sort_keys=True)]
        stamp = hashlib.sha256("\n".join(made_of).encode()).hexdigest()
        environment = work / f"venv-{stamp[:16]}"
        fresh = _read(environment / COMPLETE) != stamp or not os.access(str(environment / "bin" / "python"), os.X_OK)
        if fresh:
            try:
                build(environment, interpreter, wheels, kept, system)
            except InstallFailed:
                shutil.rmtree(str(environment), ignore_errors=True)  # half of one helps nobody, and the disk is small
                raise
            _write(environment / COMPLETE, stamp)
        elif system:
            check_arrays(environment, wheels, system)  # the device's own packages may be others by now
        before = _switch(work, environment)
        _remove_old(work, {environment, before})
    finally:
        os.close(lock)
    return environment, fresh


def read_offers(wheels: Path) -> list[Offer]:
    """What machines.txt says, the newest Python first."""
    path = wheels / "machines.txt"
    if not path.is_file():
        raise InstallFailed(f"{path} is missing: the artifact was not unpacked; deploy the component again")
    offers = [Offer(*line.split()) for line in path.read_text().splitlines() if len(line.split()) == 3]
    return sorted(offers, key=lambda offer: _numbers(offer.python), reverse=True)


def choose(offers: list[Offer]) -> Interpreter:
    """This Python if there are wheels for it, else another of the device that there are wheels for."""
    machine, libc = platform.machine(), platform.libc_ver()
    own = Interpreter(os.path.realpath(sys.executable), f"{sys.version_info[0]}.{sys.version_info[1]}")
    fitting = [offer for offer in offers if offer.machine == machine]
    if not fitting:
        machines = " and ".join(sorted({offer.machine for offer in offers})) or "no machine"
        raise InstallFailed(f"the wheels are for {machines}, and this device is {machine}; build the component for it")
    found = None
    for version in sorted((offer.python for offer in fitting), key=lambda python: python != own.version):
        found = own if version == own.version else _other(version)
        if found:
            break
    if not found:
        wanted = " or ".join(offer.python for offer in fitting)
        raise InstallFailed(
            f"the wheels are for Python {wanted}, and this device has {own.version} ({sys.executable}) alone; "
            f"install python{fitting[0].python} and its venv module, or build the component with --python {own.version}"
        )
    needed = next(offer.glibc for offer in fitting if offer.python == found.version)
    if libc[0] != "glibc" or _numbers(libc[1]) < _numbers(needed):
        has = " ".join(libc).strip() or "another C library"
        raise InstallFailed(f"the wheels need glibc {needed}, and this device has {has}; they cannot run here")
    return found


def _other(version: str) -> Interpreter | None:
    path = shutil.which(f"python{version}", path=os.environ.get("PATH", os.defpath) + ":/usr/local/bin")
    if not path:
        return None
    program = "import os, sys; print('%d.%d' % sys.version_info[:2], os.path.realpath(sys.executable))"
    try:
        said = _run(path, [path, "-I", "-c", program], ASK_TIMEOUT_SECONDS).strip().split(" ", 1)
    except InstallFailed:
        return None  # a name without a Python behind it
    return Interpreter(said[1], version) if said[0] == version else None


def of_the_device(interpreter: Interpreter) -> dict[str, str]:
    """What the environment takes from the device's own packages: onnxruntime, and numpy where both work as they are.

    Returns a version by name, "" where it cannot be imported with the device's own numpy: ours may be the right one.
    """
    program = (
        "import importlib, importlib.util, json, sys\nfound = {}\nfor name in sys.argv[1:]:\n"
        "    if importlib.util.find_spec(name):\n        found[name] = ''\n"
        "        try:\n            found[name] = str(importlib.import_module(name).__version__)\n"
        "        except Exception:\n            pass\nprint(json.dumps(found))"
    )
    names = ["numpy", "onnxruntime", "tensorrt"]
    said = _run("importing the device's packages", [interpreter.path, "-I", "-c", program, *names], ASK_TIMEOUT_SECONDS)
    found = json.loads(said.strip().splitlines()[-1])
    if "onnxruntime" not in found and "tensorrt" not in found:
        raise InstallFailed(
            f"systemPackages is true, and {interpreter.path} finds neither onnxruntime nor tensorrt; "
            "install them for all users, or set systemPackages to false"
        )
    given = {"onnxruntime": found["onnxruntime"]} if "onnxruntime" in found else {}
    if given.get("onnxruntime") and NUMPY_FROM <= _numbers(found.get("numpy", "")) < NUMPY_BELOW:
        given["numpy"] = found["numpy"]  # the one that this build of onnxruntime is known to work with
    return given


def build(environment: Path, interpreter: Interpreter, wheels: Path, requirements: str, system: bool) -> None:
    """Make the environment in an empty folder, and try it out."""
    if environment.is_symlink() or environment.exists():
        shutil.rmtree(str(environment))  # no stamp: an earlier run was interrupted
    pip = sorted(wheels.glob("pip-*.whl"))
    if len(pip) != 1:
        raise InstallFailed(f"{wheels} holds {len(pip)} wheels of pip, and one is needed; publish the component again")
    _check_space(environment.parent, wheels, requirements)
    python = str(environment / "bin" / "python")
    sees = ["--system-site-packages"] if system else []
    _run("python3 -m venv", [interpreter.path, "-m", "venv", "--without-pip", *sees, str(environment)])
    listed = environment / "requirements.txt"
    listed.write_text(requirements)
    _run(
        "pip",
        [python, "-I", str(pip[0] / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-input",
         "--isolated", "--no-cache-dir", "--no-index", "--find-links", str(wheels), "--no-deps", "--require-hashes",
         "--ignore-installed", "--no-compile", "--requirement", str(listed)],
    )  # fmt: skip
    check_arrays(environment, wheels, system)
    imports = (wheels / "imports.txt").read_text().split()
    # Native code that does not fit this machine fails here, before the switch. It also compiles what a start imports,
    # which is a third of what pip would compile.
    _run("importing the wheels", [python, "-I", "-c", "import importlib, sys\n"
         "for name in sys.argv[1:]: importlib.import_module(name)", *imports])  # fmt: skip


def check_arrays(environment: Path, wheels: Path, system: bool) -> None:
    """An array goes to onnxruntime and comes back: a build for another numpy fails at it, often as early as its
    import (numpy's C interface changed with 2.0)."""
    if "onnxruntime" not in (wheels / "imports.txt").read_text().split():
        return
    python = str(environment / "bin" / "python")
    program = (
        "import numpy, onnxruntime\ngiven = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)\n"
        "assert (onnxruntime.OrtValue.ortvalue_from_numpy(given).numpy() == given).all()"
    )
    try:
        _run("handing an array to onnxruntime", [python, "-I", "-c", program], ASK_TIMEOUT_SECONDS)
    except InstallFailed as error:
        if not system:
            raise
        said = _run("numpy", [python, "-I", "-c", "import numpy; print(numpy.__version__)"], ASK_TIMEOUT_SECONDS)
        raise InstallFailed(
            f"this device's onnxruntime does not work with numpy {said.strip()}; install a build of it for that numpy, "
            f"or set systemPackages to false: {error}"
        ) from None


def _check_space(folder: Path, wheels: Path, requirements: str) -> None:
    wanted = {line.split("==")[0].replace("-", "_") for line in requirements.splitlines()}
    needed = RESERVE_MEBIBYTES * MEBIBYTE
    for wheel in wheels.glob("*.whl"):
        if wheel.name.split("-")[0].lower() in wanted:
            try:
                with zipfile.ZipFile(str(wheel)) as archive:
                    needed += sum(entry.file_size for entry in archive.infolist())
            except zipfile.BadZipFile:
                raise InstallFailed(f"{wheel.name} is damaged; deploy the component again") from None
    found = os.statvfs(str(folder))
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise InstallFailed(
            f"{needed // MEBIBYTE} MiB are needed in {folder}, and {free // MEBIBYTE} MiB are free; make room"
        )


def _run(what: str, command: list[str], timeout: float = STEP_TIMEOUT_SECONDS) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    environment["PIP_CONFIG_FILE"] = os.devnull  # nothing of the machine's own configuration has a say here
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise InstallFailed(f"{what} took longer than {timeout:.0f} s and was stopped") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-12:]
        raise InstallFailed(f"{what} failed with exit code {done.returncode}:\n" + "\n".join(said))
    return done.stdout


def _switch(work: Path, environment: Path) -> Path:
    """Turn the link ``venv`` in one step: there is never a moment without it. Returns where it led before."""
    link, fresh = work / "venv", work / ".venv.new"
    before = work / os.readlink(str(link)) if link.is_symlink() else environment  # noqa: PTH115  runs on 3.8 too
    if link.is_symlink() and before == environment:
        return before
    if fresh.is_symlink():
        fresh.unlink()
    fresh.symlink_to(environment.name)
    fresh.replace(link)
    _sync(work)
    return before


def _remove_old(work: Path, kept: set[Path]) -> None:
    """Keep so many environments that are whole, the newest first; ``kept`` stay in any case."""
    whole = [path for path in work.glob("venv-*") if (path / COMPLETE).is_file()]
    whole.sort(key=lambda path: (path / COMPLETE).stat().st_mtime, reverse=True)
    others = [path for path in whole if path not in kept][: max(0, KEPT_ENVIRONMENTS - len(kept))]
    for environment in work.glob("venv-*"):
        if environment not in kept and environment not in others:
            shutil.rmtree(str(environment))


def _numbers(version: str) -> tuple[int, ...]:
    """MAJOR.MINOR of a version, as numbers; (0, 0) where it says none."""
    parts = version.split(".")[:2]
    return tuple(int(part) for part in parts) if len(parts) == 2 and all(part.isdigit() for part in parts) else (0, 0)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    """Write a file durably: the stamp must not be there before what it speaks for."""
    os.sync()
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
