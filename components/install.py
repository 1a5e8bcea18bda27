"""Builds a component's Python environment on the device, without internet. Standard library only, Python >= 3.10.

    python3 install.py --wheels FOLDER --work FOLDER

The folder of wheels holds pip's own wheel too, ``requirements.txt`` (pinned, with hashes) and ``imports.txt`` (modules
that must import). The environment is built as ``WORK/venv-STAMP``, tried out, and only then does the link ``WORK/venv``
turn to it: a failed or interrupted update leaves the version that runs alone. STAMP is a digest of what the environment
is made of, so running this again with the same wheels does nothing, and another version's environment never gets in the
way.

A device's Python often has no ensurepip (Ubuntu, JetPack), so pip runs from its wheel.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

STEP_TIMEOUT_SECONDS = 900
"""For one step on a slow SD card; the recipe's own Timeout ends all of them."""
KEPT_ENVIRONMENTS = 2
"""The one that runs now may be an older one until the nucleus has stopped it."""


class InstallFailed(Exception):
    """One sentence for the component's log."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Build a component's Python environment from its wheels.")
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        environment, fresh = install(arguments.wheels.resolve(), arguments.work.resolve())
    except (InstallFailed, OSError) as error:
        print(f"install: {error}", file=sys.stderr, flush=True)
        return 1
    print(f"install: {environment.name} {'built' if fresh else 'is there already'}", flush=True)
    return 0


def install(wheels: Path, work: Path) -> tuple[Path, bool]:
    """Make ``work/venv`` the environment of these wheels; returns the environment and whether it was built just now."""
    requirements = wheels / "requirements.txt"
    if not requirements.is_file():
        raise InstallFailed(f"{requirements} is missing: the artifact was not unpacked; deploy the component again")
    work.mkdir(parents=True, exist_ok=True)
    lock = os.open(work / ".install.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # an install the nucleus gave up on may still run
        stamp = _stamp(requirements)
        environment = work / f"venv-{stamp[:16]}"
        fresh = _read(environment / ".complete") != stamp
        if fresh:
            _build(environment, wheels, requirements)
            _write(environment / ".complete", stamp)
        _switch(work, environment)
        _remove_old(work, environment)
    finally:
        os.close(lock)
    return environment, fresh


def _stamp(requirements: Path) -> str:
    """A digest of the pinned wheels and of the interpreter they are for."""
    interpreter = f"{sys.version_info.major}.{sys.version_info.minor} {Path(sys.executable).resolve()}"
    return hashlib.sha256(requirements.read_bytes() + b"\n" + interpreter.encode()).hexdigest()


def _build(environment: Path, wheels: Path, requirements: Path) -> None:
    if environment.is_symlink() or environment.exists():
        shutil.rmtree(environment)  # no stamp: an earlier run was interrupted
    pip = sorted(wheels.glob("pip-*.whl"))
    if len(pip) != 1:
        raise InstallFailed(f"{wheels} holds {len(pip)} wheels of pip, and one is needed; publish the component again")
    python = environment / "bin" / "python"
    _run("python3 -m venv", [sys.executable, "-m", "venv", "--without-pip", str(environment)])
    _run(
        "pip",
        [str(python), "-I", str(pip[0] / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-input",
         "--isolated", "--no-cache-dir", "--no-index", "--find-links", str(wheels), "--no-deps", "--require-hashes",
         "--no-compile", "--requirement", str(requirements)],
    )  # fmt: skip
    # Native code that does not fit this machine fails here, before the switch. It also compiles what a start imports,
    # which is a third of what pip would compile.
    imports = (wheels / "imports.txt").read_text().split()
    _run("importing the wheels", [str(python), "-I", "-c", "import importlib, sys\n"
         "for name in sys.argv[1:]: importlib.import_module(name)", *imports])  # fmt: skip


def _run(what: str, command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    environment["PIP_CONFIG_FILE"] = os.devnull  # nothing of the machine's own configuration has a say here
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=STEP_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise InstallFailed(f"{what} took longer than {STEP_TIMEOUT_SECONDS} s and was stopped") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-12:]
        raise InstallFailed(f"{what} failed with exit code {done.returncode}:\n" + "\n".join(said))


def _switch(work: Path, environment: Path) -> None:
    """Turn the link ``venv`` in one step: there is never a moment without it."""
    link, fresh = work / "venv", work / ".venv.new"
    if link.is_symlink() and link.readlink() == Path(environment.name):
        return
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(environment.name)
    fresh.replace(link)
    _sync(work)


def _remove_old(work: Path, current: Path) -> None:
    found = sorted(work.glob("venv-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for environment in [path for path in found if path != current][KEPT_ENVIRONMENTS - 1 :]:
        shutil.rmtree(environment)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
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
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
