"""Bake an offline image folder: what goes onto a device's disk image or a USB stick, so that it serves without a cloud.

::

    OUT/README.md                     what lies where, and the commands that use it
    OUT/SHA256SUMS                    of every other file, for sha256sum -c
    OUT/trust.json                    whose packages the device believes
    OUT/factory/MODEL/                one package a model, as the server's setting ``factory`` reads it
    OUT/packages/MODEL-VERSION.zip    the same packages, for ``hybridge-edge install`` from a stick
    OUT/components/NAME/              recipe.yaml, and ARCHITECTURE/wheelhouse.zip for each architecture

The same packages and the same checkout give the same bytes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridge_cloud.components import archive, build
from hybridge_cloud.components.build import Component
from hybridge_cloud.components.download import digest
from hybridge_cloud.components.target import Target, here
from hybridge_cloud.package import verify_package
from hybridge_edge import durable, trust
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import Conflict, UsageError
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE, SIGNATURE_FILE

README = "README.md"
SUMS = "SHA256SUMS"
FACTORY = "factory"
DEVICE_FOLDER = "/opt/hybridge"
_MODE_FOLDER, _MODE_FILE = 0o755, 0o644


@dataclass(frozen=True, slots=True)
class Image:
    """What was baked: (model, version) of packages, (name, version, bytes) of components, and the folder's bytes."""

    packages: tuple[tuple[str, str], ...]
    components: tuple[tuple[str, str, int], ...]
    size: int


def bake(
    out: Path,
    packages: Sequence[Path],
    trust_file: Path,
    prefix: str = names.DEFAULT_PREFIX,
    version: str = "",
    only: tuple[str, ...] = (),
    targets: Sequence[Target] = (),
) -> Image:
    """Write the image folder ``out``, whole or not at all.

    Args:
        packages: signed packages' folders, one a model. The others are as in ``components.build``.

    Raises:
        Conflict: ``out`` exists. UsageError: no package, or two of one model. PackageRefused: the devices that trust
            ``trust_file`` would refuse one. Refused, Unavailable: see ``components.build``.
    """
    if out.exists():
        raise Conflict(f"{out} exists already.", "Name a folder that does not.")
    believed = trust.read_trust(trust_file)
    manifests = [verify_package(package, believed) for package in packages]
    models = [manifest.name for manifest in manifests]
    if not models or len(set(models)) != len(models):
        raise UsageError("Name one package for each model.", "hybridge package bake --out DIR --trust FILE PACKAGE...")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bake-", dir=out.parent) as temporary:
        folder = Path(temporary) / "image"
        (folder / FACTORY).mkdir(parents=True)
        (folder / "packages").mkdir()
        for package, manifest in zip(packages, manifests, strict=True):
            copied = _copy(package, manifest, folder / FACTORY / manifest.name)
            trust.verify_package(copied, believed)  # what is checked is what is baked
            files = {name: copied / name for name in _files(manifest)}
            archive.pack(folder / "packages" / f"{manifest.name}-{manifest.version}.zip", files, {})
        components = tuple(build.build(folder / "components", prefix, version, only, targets))
        (folder / "trust.json").write_bytes(believed.to_bytes())
        (folder / README).write_text(_readme(manifests, components, targets or (here(),)))
        listed = sorted(path for path in folder.rglob("*") if path.is_file())
        sums = "".join(f"{digest(path)}  {path.relative_to(folder)}\n" for path in listed)
        (folder / SUMS).write_text(sums)
        for path in (folder, *folder.rglob("*")):
            path.chmod(_MODE_FOLDER if path.is_dir() else _MODE_FILE)
        image = Image(
            tuple((one.name, one.version) for one in manifests),
            tuple((one.name, one.version, sum(artifact.size for artifact in one.artifacts)) for one in components),
            sum(path.stat().st_size for path in listed),
        )
        durable.rename(folder, out)
    return image


def _files(manifest: Manifest) -> tuple[str, ...]:
    return (*(entry.path for entry in manifest.files), MANIFEST_FILE, SIGNATURE_FILE)


def _copy(package: Path, manifest: Manifest, out: Path) -> Path:
    for name in _files(manifest):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / name, out / name, follow_symlinks=False)
    return out


def _readme(manifests: Sequence[Manifest], components: Sequence[Component], targets: Sequence[Target]) -> str:
    server = next((one for one in components if one.template == "InferenceServer"), None)
    artifacts = [
        f"| `components/{one.template}/{artifact.name}` | {one.name} {one.version}, {artifact.size / 1e6:.1f} MB |"
        for one in components
        for artifact in one.artifacts
    ]
    packages = [
        f"| `factory/{one.name}/`, `packages/{one.name}-{one.version}.zip` | {one.name} {one.version}, `{one.digest}` |"
        for one in manifests
    ]
    serve = [
        "",
        "## A server without Greengrass",
        "",
        f"With this folder at {DEVICE_FOLDER}, as the user that will run the server:",
        "",
        "```sh",
        f"cd {DEVICE_FOLDER}",
        "sha256sum --quiet -c SHA256SUMS",
        "machine=$(uname -m | sed s/x86_64/amd64/)",
        "work=$HOME/hybridge",
        'python3 -m zipfile -e "components/InferenceServer/$machine/wheelhouse.zip" "$work/wheels"',
        'python3 "$work/wheels/install.py" --wheels "$work/wheels" --work "$work"',
        f'HYBRIDGE_TRUST={DEVICE_FOLDER}/trust.json "$work/venv/bin/hybridge-edge" serve '
        f'--store "$work/store" --factory {DEVICE_FOLDER}/factory',
        "```",
        "",
        "It answers with the factory's packages at once, and with what is installed or deployed later from then on.",
    ]
    return "\n".join(
        [
            "# An offline image",
            "",
            f"Made by `hybridge package bake` for {'; '.join(map(str, targets))}.",
            "",
            "| | |",
            "|---|---|",
            *packages,
            *artifacts,
            "| `components/NAME/recipe.yaml` | the recipe; its artifacts' bucket is a placeholder |",
            "| `trust.json` | whose packages the device believes; root's, at `/etc/hybridge/trust.json` |",
            "| `SHA256SUMS` | of every other file |",
            *(serve if server else []),
            "",
            "## A device with Greengrass",
            "",
            f"Put `factory/` at {DEVICE_FOLDER}/factory and `trust.json` at /etc/hybridge/trust.json. Deploy the",
            f"server with `--set InferenceServer:factory={DEVICE_FOLDER}/factory`: a model that was never deployed",
            "begins with the factory's package, and falls back on it last.",
            "",
            "## A package from a stick",
            "",
            "```sh",
            "hybridge-edge install packages/MODEL-VERSION.zip",
            "```",
            "",
            "The server verifies and tries it like a deployment. It stays until the model's next deployment, which",
            "wins.",
            "",
        ]
    )
