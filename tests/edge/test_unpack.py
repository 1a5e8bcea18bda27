"""A package from a zip: only what the signed manifest lists is read, whatever the archive says (S6)."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridge_edge import unpack as unpacking
from hybridge_edge.contract.errors import HybridgeError, PackageRefused, SpoolFull, UsageError
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.unpack import folder_of, unpack

Entries = dict[str, bytes]
BOMB_BYTES = 32 * 1024 * 1024


def files_of(folder: Path) -> Entries:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pack(path: Path, entries: Entries, prefix: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(prefix + name, data)
    return path


@pytest.fixture
def built(packages: Callable[..., Any]) -> Any:
    return packages("1.0.0", 1.0)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "outer" / "out"
    folder.mkdir(mode=0o700, parents=True)
    return folder


@pytest.mark.parametrize("prefix", ["", "package/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_package_comes_out_as_it_went_in(
    built: Any, tmp_path: Path, out: Path, trust: TrustDocument, prefix: str, method: int
) -> None:
    made = pack(tmp_path / "p.zip", files_of(built.folder), prefix, method)
    if prefix:  # as in a model component's artifact
        with zipfile.ZipFile(made, "a") as archive:
            archive.writestr("activate.py", b"print(1)")
    package = unpack(made, out, trust)
    assert package.digest == built.digest
    assert files_of(out) == files_of(built.folder)
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*") if path.is_file()} == {0o600}
    package.verify_files()


def entry(name: str, mode: int = 0o100644, data: bytes = b"x") -> Callable[[zipfile.ZipFile], None]:
    """Adds an entry of any name and Unix mode."""

    def add(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("placeholder")
        info.filename = info.orig_filename = name
        info.create_system = 3
        info.external_attr = mode << 16
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive.writestr(info, data)

    return add


THROUGH_A_LINK = (entry("link", 0o120777, b".."), entry("link/escaped"))
EXTRA: dict[str, Callable[[zipfile.ZipFile], object]] = {
    "up": entry("../escaped"),
    "far up": entry("a/../../../escaped"),
    "absolute": entry("/tmp/escaped-from-hybridge-unpack"),
    "backslashes": entry("..\\escaped"),
    "drive": entry("C:\\escaped"),
    "symlink": entry("link", 0o120777, b"/etc/passwd"),
    "symlink, then through it": lambda archive: [
        entry("link", 0o120777, b"..")(archive),
        entry("link/escaped")(archive),
    ],  # type: ignore[func-returns-value,return-value]
    "device": entry("device", 0o020666),
    "pipe": entry("pipe", 0o010666),
    "socket": entry("socket", 0o140777),
    "setuid": entry("extra.txt", 0o104777),
    "empty name": entry(""),
    "dot": entry("."),
    "nul": entry("model.onnx\0.txt"),
    "other case": entry("MODEL.ONNX"),
    "unlisted": entry("readme.txt"),
    "long name": entry("n" * 5000),
    "control characters": entry("a\nb\x1b[2J"),
    "not unicode": entry("\udcff".encode("utf-8", "surrogateescape").decode("latin-1")),
    "twice": entry("model.onnx"),
    "manifest twice": entry("manifest.json"),
    "signature twice": entry("signature.json"),
    "many": lambda archive: [entry(f"{number:05d}")(archive) for number in range(2000)],
}


@pytest.mark.parametrize("name", EXTRA)
def test_an_archive_with_more_than_the_package_is_refused_and_nothing_escapes(
    name: str, built: Any, tmp_path: Path, out: Path, trust: TrustDocument
) -> None:
    made = pack(tmp_path / "p.zip", files_of(built.folder))
    with zipfile.ZipFile(made, "a") as archive:
        EXTRA[name](archive)
    with pytest.raises(PackageRefused) as refused:
        unpack(made, out, trust)
    assert refused.value.remedy
    assert {path.name for path in out.iterdir()} <= {"manifest.json", "signature.json"}  # big files came never
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert not Path("/tmp/escaped-from-hybridge-unpack").exists()


def change(entries: Entries, name: str, data: bytes | None) -> Entries:
    return {key: value for key, value in {**entries, name: data}.items() if value is not None}  # type: ignore[dict-item]


CHANGED: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "file altered": ("model.onnx", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "not the file that was signed"),
    "file shorter": ("model.onnx", lambda data: data[:-1], "not the file that was signed"),
    "file longer": ("model.onnx", lambda data: data + b"\0", "not the file that was signed"),
    "file is a bomb": ("model.onnx", lambda data: bytes(BOMB_BYTES), "not the file that was signed"),
    "file missing": ("model.onnx", lambda data: None, "lacks 'model.onnx'"),
    "manifest altered": ("manifest.json", lambda data: data.replace(b"1.0.0", b"1.0.1"), "another manifest"),
    "manifest missing": ("manifest.json", lambda data: None, "no manifest.json"),
    "manifest is a bomb": ("manifest.json", lambda data: bytes(BOMB_BYTES), "larger than 1048576 bytes"),
    "signature missing": ("signature.json", lambda data: None, "has no 'signature.json'"),
    "signature is nonsense": ("signature.json", lambda data: b"[" * 1000, "not a DSSE envelope"),
    "signature is a bomb": ("signature.json", lambda data: bytes(BOMB_BYTES), "larger than 2097152 bytes"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_package_that_is_not_the_signed_one_is_refused(
    name: str, built: Any, tmp_path: Path, out: Path, trust: TrustDocument
) -> None:
    where, harm, said = CHANGED[name]
    entries = files_of(built.folder)
    made = pack(tmp_path / "p.zip", change(entries, where, harm(entries[where])))
    tracemalloc.start()
    try:
        with pytest.raises(PackageRefused, match=said):
            unpack(made, out, trust)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < BOMB_BYTES // 2  # of memory, and so of the disk
    assert sum(len(data) for data in files_of(out).values()) < 4_000_000


def test_a_stranger_s_package_is_refused_before_its_files_are_read(
    packages: Callable[..., Any], kit: Any, tmp_path: Path, out: Path, trust: TrustDocument
) -> None:
    stranger = packages("1.0.0", 1.0, signers=(kit.signer(1),))
    with pytest.raises(PackageRefused, match="not signed by 1 of the 1 keys"):
        unpack(pack(tmp_path / "p.zip", files_of(stranger.folder)), out, trust)
    assert set(files_of(out)) == {"manifest.json", "signature.json"}


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_cannot_be_bounded_is_refused(
    built: Any, tmp_path: Path, out: Path, trust: TrustDocument, method: int
) -> None:
    with pytest.raises(PackageRefused, match="neither stored nor deflated"):
        unpack(pack(tmp_path / "p.zip", files_of(built.folder), method=method), out, trust)


def test_a_directory_of_a_million_entries_is_never_read(
    built: Any, tmp_path: Path, out: Path, trust: TrustDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pack(tmp_path / "p.zip", files_of(built.folder))
    whole = bytearray(made.read_bytes())
    place = whole.rfind(b"PK\x05\x06")
    large = unpacking.MAX_DIRECTORY_BYTES + 1

    def refused(data: bytes) -> None:
        made.write_bytes(data)
        with monkeypatch.context() as patch:
            patch.setattr(zipfile, "ZipFile", None)
            with pytest.raises(PackageRefused, match="directory is larger"):
                unpack(made, out, trust)

    refused(whole[: place + 12] + struct.pack("<I", large) + whole[place + 16 :])
    end = whole[: place + 12] + struct.pack("<I", 0xFFFFFFFF) + whole[place + 16 :]
    refused(end)
    at = len(whole[:place])
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, large, 0)
    refused(end[:place] + record + struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1) + end[place:])
    # A real one, for the control: 11,000 names of 60 bytes.
    with zipfile.ZipFile(made, "w") as archive:
        for number in range(11_000):
            archive.writestr(f"{number:060d}", b"")
    refused(made.read_bytes())


def test_what_is_no_zip_no_file_or_damaged_is_one_sentence(
    built: Any, tmp_path: Path, out: Path, trust: TrustDocument
) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        unpack(tmp_path / "none.zip", out, trust)
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        unpack(tmp_path / "pipe.zip", out, trust)
    for data in (b"", b"PK\x05\x06", b"hello" * 1000):
        (tmp_path / "p.zip").write_bytes(data)
        with pytest.raises(PackageRefused, match=r"is no zip|damaged zip"):
            unpack(tmp_path / "p.zip", out, trust)


def test_a_disk_without_room_is_said_before_anything_large_is_written(
    built: Any, tmp_path: Path, out: Path, trust: TrustDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "RESERVE_BYTES", 1 << 60)
    with pytest.raises(SpoolFull, match=r"MB are needed in .* MB are free"):
        unpack(pack(tmp_path / "p.zip", files_of(built.folder)), out, trust)
    assert set(files_of(out)) == {"manifest.json", "signature.json"}


def test_a_folder_is_a_package_or_holds_one(built: Any, tmp_path: Path) -> None:
    assert folder_of(built.folder) == built.folder
    shutil.copytree(built.folder, tmp_path / "stick" / "package")
    assert folder_of(tmp_path / "stick") == tmp_path / "stick" / "package"
    with pytest.raises(PackageRefused, match="holds no package"):
        folder_of(tmp_path)


def test_names_that_are_no_text_are_one_sentence(built: Any, tmp_path: Path, out: Path, trust: TrustDocument) -> None:
    whole = bytearray(pack(tmp_path / "p.zip", files_of(built.folder)).read_bytes())
    place = whole.find(b"PK\x01\x02")
    whole[place + 9] |= 0x08  # the flag for UTF-8
    whole[place + 46] = 0xFF
    (tmp_path / "p.zip").write_bytes(whole)
    with pytest.raises(PackageRefused, match="damaged zip: 'utf-8' codec"):
        unpack(tmp_path / "p.zip", out, trust)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_zip_with_any_bytes_changed_unpacks_to_the_package_or_is_refused(
    data: st.DataObject, built: Any, tmp_path_factory: pytest.TempPathFactory, trust: TrustDocument
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files_of(built.folder).items():
            archive.writestr(name, content)
    whole = bytearray(buffer.getvalue())
    directory = whole.rfind(b"PK\x01\x02") if data.draw(st.booleans()) else 0
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(directory, len(whole) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "p.zip").write_bytes(whole)
    (folder / "out").mkdir()
    said = ""
    try:
        package = unpack(folder / "p.zip", folder / "out", trust)
    except HybridgeError as error:
        said = error.message
    else:
        package.verify_files()
        assert files_of(folder / "out") == files_of(built.folder)
    assert "\n" not in said
    assert {path.name for path in folder.iterdir()} == {"p.zip", "out"}
    shutil.rmtree(folder)
