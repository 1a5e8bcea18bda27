"""Keys and signatures: what is signed is what is verified, by the device's own check."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridge_cloud.signing import generate_key, sign_package
from hybridge_edge.contract.errors import Conflict, PackageRefused, UsageError
from hybridge_edge.trust import read_trust, verify_package


@pytest.fixture
def key(tmp_path: Path) -> Path:
    generate_key(tmp_path / "key.pem", tmp_path / "trust.json")
    return tmp_path / "key.pem"


@pytest.fixture
def trust(key: Path) -> Path:
    return key.with_name("trust.json")


def test_a_signed_package_is_believed_by_a_device(package: Path, key: Path, trust: Path) -> None:
    sign_package(package, key)
    assert verify_package(package, read_trust(trust)).name == "watch"


def test_an_unsigned_package_is_refused(package: Path, trust: Path) -> None:
    with pytest.raises(PackageRefused):
        verify_package(package, read_trust(trust))


def test_a_package_signed_by_a_stranger_is_refused(package: Path, key: Path, trust: Path, tmp_path: Path) -> None:
    generate_key(tmp_path / "stranger.pem", tmp_path / "stranger.json")
    sign_package(package, tmp_path / "stranger.pem")
    with pytest.raises(PackageRefused, match="not signed by"):
        verify_package(package, read_trust(trust))
    sign_package(package, key)  # beside the stranger's
    assert verify_package(package, read_trust(trust)).name == "watch"
    assert verify_package(package, read_trust(tmp_path / "stranger.json")).name == "watch"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["features.onnx", "model.onnx", "golden/output-0.npy"])
def test_an_altered_file_is_neither_signed_nor_believed(file: str, package: Path, key: Path, trust: Path) -> None:
    sign_package(package, key)
    before = (package / "signature.json").read_bytes()
    flip(package / file)
    with pytest.raises(PackageRefused, match="not the file that was signed"):
        verify_package(package, read_trust(trust))
    with pytest.raises(PackageRefused):
        sign_package(package, key)
    assert (package / "signature.json").read_bytes() == before


def test_an_altered_manifest_is_not_signed_again(package: Path, key: Path) -> None:
    sign_package(package, key)
    manifest = package / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"version":"1.0.0"', b'"version":"1.0.1"'))
    with pytest.raises(PackageRefused, match="altered after it was signed"):
        sign_package(package, key)


def test_an_unlisted_file_is_refused(package: Path, key: Path) -> None:
    (package / "extra.onnx").write_bytes(b"more")
    with pytest.raises(PackageRefused, match=r"'extra\.onnx'"):
        sign_package(package, key)
    assert not (package / "signature.json").exists()


def test_keys_are_private_and_never_overwritten(key: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    with pytest.raises(Conflict, match="never overwritten"):
        generate_key(key, tmp_path / "other.json")
    with pytest.raises(Conflict, match="never overwritten"):
        generate_key(tmp_path / "other.pem", tmp_path / "trust.json")
    assert key.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.pem", "trust.json"]


@pytest.mark.parametrize("content", [None, b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_file_that_is_no_key_is_one_sentence(content: bytes | None, package: Path, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"key\.pem"):
        sign_package(package, path)
    assert not (package / "signature.json").exists()


def test_the_commands_sign_verify_and_show(
    package: Path, tmp_path: Path, hybridge: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    key, trust = tmp_path / "keys" / "key.pem", tmp_path / "keys" / "trust.json"
    assert hybridge("package", "keygen", "--key", key, "--trust", trust) == 0
    assert hybridge("package", "show", package) == 0
    assert "nobody yet" in capsys.readouterr().out
    assert hybridge("package", "sign", package, "--key", key) == 0
    assert hybridge("package", "verify", package, "--trust", trust) == 0
    assert "signed and unaltered" in capsys.readouterr().out
    assert hybridge("package", "show", package, "--json") == 0
    assert capsys.readouterr().out.encode() == (package / "manifest.json").read_bytes()
    flip(package / "model.onnx")
    assert hybridge("package", "verify", package, "--trust", trust) == 1
    error = capsys.readouterr().err
    assert error.startswith("hybridge: 'model.onnx'")
    assert hybridge("package", "verify", tmp_path, "--trust", trust) == 2
