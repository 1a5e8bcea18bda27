"""An offline image: what is baked is what devices believe, and what its README says works without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridge_cloud import bake
from hybridge_cloud.components.target import Target, here
from hybridge_edge.admission.factory import Factory
from hybridge_edge.contract.errors import Conflict, PackageRefused, UsageError
from hybridge_edge.unpack import unpack


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def image(make_package: Callable[..., Path], signer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bake") / "new" / "image"
    packages = [make_package("left"), make_package("right", "2.0.0", bias=1.0)]
    command = [Path(sys.executable).parent / "hybridge", "package", "bake", *packages, "--out", out,
               "--trust", signer.trust_file, "--component", "SampleUplink"]  # fmt: skip
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    downloading = r"(Downloading \d+ wheels, [\d.]+ MB, for [^\n]+\n)?"  # where not all of them are in the cache
    made = r"left 1\.0\.0\nright 2\.0\.0\nhybridge\.SampleUplink [\d.]+: [\d.]+ MB\n"
    assert re.match(downloading + made, done.stdout)
    return out


def test_an_image_holds_what_its_readme_and_its_sums_say(image: Path) -> None:
    names = {"README.md", "SHA256SUMS", "trust.json", "packages/left-1.0.0.zip", "packages/right-2.0.0.zip",
             "components/SampleUplink/recipe.yaml",
             f"components/SampleUplink/{here().architecture}/wheelhouse.zip"}  # fmt: skip
    found = tree(image)
    assert names <= set(found)
    assert {name.split("/")[1] for name in found if name.startswith("factory/")} == {"left", "right"}
    assert set(found) - names == {name for name in found if name.startswith("factory/")}
    checked = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=image, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert found["SHA256SUMS"].count(b"\n") == len(found) - 1
    readme = found["README.md"].decode()
    assert all(name in readme for name in ("factory/left/", "packages/right-2.0.0.zip", "wheelhouse.zip", str(here())))
    assert not [path for path in image.rglob("*") if not path.stat().st_mode & 0o004]  # the server is another user
    recipe = yaml.safe_load(found["components/SampleUplink/recipe.yaml"])
    assert [one["Platform"]["architecture"] for one in recipe["Manifests"]] == [here().architecture]


def test_a_device_believes_the_factory_and_installs_from_the_packages(image: Path, signer: Any, tmp_path: Path) -> None:
    found = Factory(str(image / "factory")).packages(signer.trust)
    assert {name: package.manifest.version for name, package in found.items()} == {"left": "1.0.0", "right": "2.0.0"}
    for name, package in found.items():
        package.verify_files()
        (tmp_path / name).mkdir()
        unpacked = unpack(image / "packages" / f"{name}-{package.manifest.version}.zip", tmp_path / name, signer.trust)
        assert unpacked.digest == package.digest
    (image / "factory" / "left" / "signature.json").write_bytes(b"{}")
    assert set(Factory(str(image / "factory")).packages(signer.trust)) == {"right"}


def test_baking_again_gives_the_same_bytes(make_package: Callable[..., Path], signer: Any, tmp_path: Path) -> None:
    package = make_package("again")
    for name in ("one", "two"):
        bake.bake(tmp_path / name, [package], signer.trust_file, only=("SampleUplink",))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_what_no_device_would_believe_is_not_baked_and_leaves_nothing(
    make_package: Callable[..., Path], signer: Any, tmp_path: Path
) -> None:
    good, harmed = make_package("good"), make_package("harmed")
    (harmed / "model.onnx").write_bytes(b"x")
    cases: list[tuple[list[Path], type[Exception], str]] = [
        ([good, harmed], PackageRefused, "not the file that was signed"),
        ([good, good], UsageError, "one package for each model"),
        ([], UsageError, "one package for each model"),
        ([tmp_path / "nowhere"], UsageError, "not a package"),
    ]
    for packages, kind, said in cases:
        with pytest.raises(kind, match=said):
            bake.bake(tmp_path / "image", packages, signer.trust_file, only=("SampleUplink",))
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "image").mkdir()
    with pytest.raises(Conflict, match="exists already"):
        bake.bake(tmp_path / "image", [good], signer.trust_file)


def test_the_readme_s_commands_are_those_that_exist() -> None:
    from hybridge_edge import cli

    text = bake._readme([], [], [Target("aarch64", "3.10")])
    verbs = set(re.findall(r"hybridge-edge ([a-z]+)", text))
    assert verbs
    assert verbs <= set(cli._COMMANDS)
