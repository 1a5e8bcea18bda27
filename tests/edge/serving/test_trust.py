"""A package is believed whole and signed, or refused with the reason."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from hybridge_edge import trust as trusting
from hybridge_edge.contract.errors import HybridgeError, InvalidDocument, PackageRefused
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.trust import open_package, read_trust, verify_package


def test_a_signed_package_is_believed(packages: Callable, trust: TrustDocument) -> None:
    built = packages()
    assert verify_package(built.folder, trust) == built.manifest
    assert open_package(built.folder, trust).digest == built.digest


@pytest.mark.parametrize(
    "file", ["manifest.json", "signature.json", "features.onnx", "model.onnx", "golden/window.npy", "golden/scores.npy"]
)
def test_one_changed_byte_anywhere_is_refused(packages: Callable, trust: TrustDocument, file: str) -> None:
    path = packages().folder / file
    content = path.read_bytes()
    for position in sorted({0, 1, len(content) // 3, len(content) // 2, len(content) - 2}):
        changed = bytearray(content)
        changed[position] ^= 0x04
        path.write_bytes(bytes(changed))
        if file == "signature.json" and _same_envelope(content, bytes(changed)):
            continue
        with pytest.raises(HybridgeError):
            verify_package(path.parents[file.count("/")], trust)
    path.write_bytes(content)
    verify_package(path.parents[file.count("/")], trust)


def _same_envelope(one: bytes, other: bytes) -> bool:
    """Whether the change fell on JSON's white space, which says nothing."""
    return one.split() == other.split()


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"\0", lambda content: b""])
def test_a_file_of_another_size_is_refused(packages: Callable, trust: TrustDocument, change: Callable) -> None:
    built = packages()
    path = built.folder / "model.onnx"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(PackageRefused, match=r"model\.onnx"):
        verify_package(built.folder, trust)


def test_an_unsigned_package_is_refused(packages: Callable, trust: TrustDocument) -> None:
    built = packages()
    (built.folder / "signature.json").unlink()
    with pytest.raises(PackageRefused, match=r"signature\.json"):
        verify_package(built.folder, trust)


def test_another_key_is_refused(packages: Callable, trust: TrustDocument, kit: ModuleType) -> None:
    with pytest.raises(PackageRefused, match="not signed by 1 of the 1 keys"):
        verify_package(packages(signers=(kit.signer(1),)).folder, trust)


def test_the_threshold_counts_different_keys(packages: Callable, kit: ModuleType) -> None:
    two = kit.trust_of(kit.signer(), kit.signer(1), threshold=2)
    verify_package(packages(signers=(kit.signer(), kit.signer(1))).folder, two)
    for signers in ((kit.signer(),), (kit.signer(), kit.signer()), (kit.signer(), kit.signer(2))):
        with pytest.raises(PackageRefused, match="2 of the 2"):
            verify_package(packages(signers=signers).folder, two)


def test_one_key_under_two_names_is_no_trust_file(kit: ModuleType) -> None:
    good = kit.trust_of(kit.signer())
    document = json.loads(good.to_bytes())
    assert TrustDocument.from_bytes(json.dumps(document).encode()) == good
    document["keys"]["other"] = document["keys"][good.keys[0].keyid]
    with pytest.raises(InvalidDocument, match="twice"):
        TrustDocument.from_bytes(json.dumps(document).encode())


@pytest.mark.parametrize("text", ["{}", "[]", '{"format":1,"threshold":0,"keys":{}}', '{"format":2}', "nonsense"])
def test_a_bad_trust_file_is_refused_with_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trust.json"
    path.write_text(text)
    with pytest.raises(InvalidDocument):
        read_trust(path)


def test_a_key_of_an_unknown_kind_is_refused(packages: Callable, trust: TrustDocument) -> None:
    strange = TrustDocument.from_bytes(trust.to_bytes().replace(b'"ed25519"', b'"rot13"'))
    with pytest.raises(PackageRefused):
        verify_package(packages().folder, strange)


def test_without_a_trust_file_nothing_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDGE_TRUST", str(tmp_path / "none.json"))
    with pytest.raises(PackageRefused, match="Enrol the device"):
        trusting.read_trust()


def test_files_of_two_packages_do_not_mix(packages: Callable, trust: TrustDocument) -> None:
    one, two = packages("1.0.0", 1.0), packages("1.1.0", 2.0)
    (one.folder / "model.onnx").write_bytes((two.folder / "model.onnx").read_bytes())
    with pytest.raises(PackageRefused, match=r"model\.onnx"):
        verify_package(one.folder, trust)


def test_a_signature_of_another_manifest_is_refused(packages: Callable, trust: TrustDocument) -> None:
    one, two = packages("1.0.0"), packages("1.1.0")
    (one.folder / "signature.json").write_bytes((two.folder / "signature.json").read_bytes())
    with pytest.raises(PackageRefused, match="another manifest"):
        verify_package(one.folder, trust)


@pytest.mark.parametrize("where", ["extra.txt", "golden/extra.npy", "deep/er/extra.onnx"])
def test_a_file_that_is_not_listed_is_refused(packages: Callable, trust: TrustDocument, where: str) -> None:
    path = packages().folder / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    with pytest.raises(PackageRefused, match="does not list"):
        verify_package(path.parents[where.count("/")], trust)


def test_links_and_pipes_are_refused(packages: Callable, trust: TrustDocument, tmp_path: Path) -> None:
    def link_file(folder: Path) -> None:
        (folder / "model.onnx").rename(tmp_path / "outside.onnx")
        (folder / "model.onnx").symlink_to(tmp_path / "outside.onnx")

    def link_folder(folder: Path) -> None:
        (folder / "golden").rename(tmp_path / "outside")
        (folder / "golden").symlink_to(tmp_path / "outside")

    def link_manifest(folder: Path) -> None:
        (folder / "manifest.json").rename(tmp_path / "outside.json")
        (folder / "manifest.json").symlink_to(tmp_path / "outside.json")

    def pipe(folder: Path) -> None:
        (folder / "model.onnx").unlink()
        os.mkfifo(folder / "model.onnx")

    for damage in (link_file, link_folder, link_manifest, pipe):
        folder = packages().folder
        damage(folder)
        with pytest.raises(PackageRefused):
            verify_package(folder, trust)
        with pytest.raises(PackageRefused):
            open_package(folder, trust).copy_to(tmp_path)
