"""A component's wheelhouse: what one architecture's devices install it from, without internet.

One zip an architecture, for one Python or several::

    install.py               builds the environment (components/install.py)
    imports.txt              modules that must import once it is built
    machines.txt             a line for each Python: PYTHON MACHINE GLIBC, what its wheels need
    requirements-3.10.txt    the wheels of that Python, with hashes
    *.whl                    of all of them; one that fits several Pythons is there once

A nucleus cannot choose by Python, so the installer does, on the device.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridge_cloud.components import archive, checkout, download, lock, wheel
from hybridge_cloud.components.lock import Pin
from hybridge_cloud.components.target import Target
from hybridge_edge.contract.errors import InvalidDocument, Refused

BUILD_TIMEOUT_SECONDS = 120
IMPORTS = "imports.txt"
INSTALLER = "install.py"
MACHINES = "machines.txt"
DEVICE_DISTRIBUTION = "hybridge-edge"
PURE = "-py3-none-any.whl"
_PIP = "pip"
_SOURCE_DATE = "315619200"


@dataclass(frozen=True, slots=True)
class WheelList:
    """What a component needs: names of distributions, and modules that must import once they are installed."""

    distributions: tuple[str, ...]
    imports: tuple[str, ...]


def requirements_name(python: str) -> str:
    return f"requirements-{python}.txt"


def read_list(path: Path) -> WheelList:
    """Read a ``wheels.txt``: a distribution and a module a line, ``#`` for remarks."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    if not lines or any(len(line) != 2 for line in lines):
        raise InvalidDocument(f"{path} must hold a distribution and a module a line.", "Correct it.")
    return WheelList(tuple(lock.normal(line[0]) for line in lines), tuple(line[1] for line in lines))


def of_component(short: str, extras: Sequence[str] = ()) -> WheelList:
    """What components/SHORT/wheels.txt asks for, and wheels-EXTRA.txt of each extra that this component has."""
    folder = checkout.root() / "components" / short
    lists = [read_list(folder / "wheels.txt")]
    lists += [read_list(path) for extra in extras if (path := folder / f"wheels-{extra}.txt").is_file()]
    return WheelList(
        tuple(dict.fromkeys(name for one in lists for name in one.distributions)),
        tuple(dict.fromkeys(name for one in lists for name in one.imports)),
    )


def pins_of(wheels: WheelList, target: Target) -> tuple[Pin, ...]:
    """The lock's pins of these distributions and of pip, which installs them. Raises Refused where one is missing."""
    pins = lock.read(target)
    absent = [name for name in (*wheels.distributions, _PIP) if name not in pins]
    if absent:
        raise Refused(
            f"locks/{target.lock} does not pin {', '.join(absent)}.", "Run scripts/lock and commit what it writes."
        )
    return tuple(pins[name] for name in (*wheels.distributions, _PIP))


def build_device_wheel(out: Path) -> Path:
    """Build the wheel of ``edge/`` into ``out``; the same source gives the same bytes.

    Raises:
        Refused: hatchling is not installed or says no, or the wheel is not pure Python.
    """
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(
        command,
        cwd=checkout.root() / "edge",
        env={**os.environ, "SOURCE_DATE_EPOCH": _SOURCE_DATE},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_SECONDS,
        check=False,
    )
    wheels = sorted(out.glob("hybridge_edge-*.whl"))
    if done.returncode or len(wheels) != 1:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise Refused(f"The device wheel was not built: {' '.join(said)}", "Run scripts/setup and try again.")
    if not wheels[0].name.endswith(PURE):
        raise Refused(f"The device wheel {wheels[0].name} is not pure Python.", "Keep native code out of edge/.")
    return wheels[0]


def write_zip(out: Path, wheels: WheelList, device_wheel: Path, targets: Sequence[Target]) -> Path:
    """Write a component's artifact to the file ``out`` for targets of one architecture.

    Raises:
        Refused: a wheel is not for a target. Unavailable: one could not be downloaded.
    """
    files = {device_wheel.name: device_wheel}
    texts = {
        IMPORTS: "".join(f"{name}\n" for name in (*wheels.imports, "hybridge_edge")).encode(),
        INSTALLER: (checkout.root() / "components" / INSTALLER).read_bytes(),
    }
    own = Pin(DEVICE_DISTRIBUTION, device_wheel.name.split("-")[1], device_wheel.name, device_wheel.stat().st_size,
              download.digest(device_wheel))  # fmt: skip
    machines = []
    for target in targets:
        pins = pins_of(wheels, target)
        fetched = download.fetch(pins, target)
        glibc = max(wheel.check(path, target) for path in (*fetched, device_wheel))
        machines.append(f"{target.python} {target.machine} {glibc[0]}.{glibc[1]}\n")
        installed = sorted((own, *(pin for pin in pins if pin.name != _PIP)), key=lambda pin: pin.name)
        texts[requirements_name(target.python)] = "".join(pin.line for pin in installed).encode()
        files.update({path.name: path for path in fetched})
    texts[MACHINES] = "".join(machines).encode()
    return archive.pack(out, files, texts)
