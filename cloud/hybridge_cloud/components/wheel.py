"""Looks into a wheel: whether it is what its name says, and its native code is for the machine that it will run on."""

from __future__ import annotations

import struct
import zipfile
from email.parser import BytesParser
from pathlib import Path

from hybridge_cloud.components.lock import check_wheel_name, normal
from hybridge_cloud.components.target import Target
from hybridge_edge.contract.errors import Refused

_ELF = b"\x7fELF"
_HEADER_BYTES = 20
_64_BIT, _LITTLE_ENDIAN = 2, 1
_ELF_MACHINES = {"amd64": 62, "aarch64": 183}
"""e_machine (System V ABI): EM_X86_64 and EM_AARCH64."""
_AGAIN = "Remove it from the cache of wheels and build again."


def check(wheel: Path, target: Target) -> tuple[int, int]:
    """Check one wheel file, and return the glibc that it needs, (0, 0) where it needs none.

    Raises:
        Refused: it is no wheel, for another target, or not what its name says.
    """
    glibc = check_wheel_name(wheel.name, target)
    name, version = wheel.name.split("-")[:2]
    try:
        with zipfile.ZipFile(wheel) as archive:
            metadata = BytesParser().parsebytes(archive.read(f"{name}-{version}.dist-info/METADATA"))
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    _check_native(wheel, entry.filename, file.read(_HEADER_BYTES), target)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise Refused(f"{wheel.name} is not a readable wheel: {error}.", _AGAIN) from None
    if (normal(metadata.get("Name", "")), metadata.get("Version", "")) != (normal(name), version):
        raise Refused(f"{wheel.name} says inside that it is {metadata.get('Name')} {metadata.get('Version')}.", _AGAIN)
    _check_python(wheel, metadata.get("Requires-Python", ""), target)
    return glibc


def _check_native(wheel: Path, inside: str, header: bytes, target: Target) -> None:
    if not header.startswith(_ELF) or len(header) < _HEADER_BYTES:
        return
    (machine,) = struct.unpack_from("<H", header, 18)
    if header[4] != _64_BIT or header[5] != _LITTLE_ENDIAN or machine != _ELF_MACHINES[target.architecture]:
        raise Refused(
            f"{inside} in {wheel.name} is native code for another machine than {target.architecture}.",
            "Take another version of the distribution; its wheel was built wrongly.",
        )


def _check_python(wheel: Path, requirement: str, target: Target) -> None:
    from packaging.specifiers import SpecifierSet

    if requirement and f"{target.python}.0" not in SpecifierSet(requirement):
        raise Refused(f"{wheel.name} needs Python {requirement}, not {target.python}.", "Take an older version.")
