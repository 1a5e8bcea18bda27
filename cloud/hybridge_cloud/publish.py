"""Publish a model's package: to S3, to the registry, and as a Greengrass component, exactly once a version."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from hybridge_cloud import registry
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.components import build
from hybridge_cloud.components import publish as components
from hybridge_cloud.components.download import digest as file_digest
from hybridge_cloud.fleet import record as fleet_record
from hybridge_cloud.package import verify_package
from hybridge_edge import durable, trust
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, sha256
from hybridge_edge.contract.errors import Conflict, PackageRefused
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE, SIGNATURE_FILE
from hybridge_edge.contract.trust_document import TrustDocument

_DIGEST_METADATA = components.DIGEST_METADATA


@dataclass(frozen=True, slots=True)
class Published:
    """What publishing did: ``created`` is False where everything was there already."""

    model: str
    version: str
    digest: str
    component: str
    created: bool


def publish(package: Path, fleet: str, believed: TrustDocument, bucket: Bucket) -> Published:
    """Publish a package for a fleet. The same content again is a no-op, and completes a publication that was cut short.

    Args:
        believed: the trust document of the fleet's devices; a package they would refuse is refused here.

    Raises:
        UsageError: there is no package. PackageRefused: unsigned, altered, signed by nobody known, or incomplete.
        Conflict: this version is published with other content. Refused: no such fleet.
    """
    listed = verify_package(package, believed)
    prefix = fleet_record.read(bucket, fleet).prefix
    with tempfile.TemporaryDirectory(prefix="hybridge-publish-") as temporary:
        # What is checked is what is published: a copy nobody else changes meanwhile.
        copy = _copy(package, listed, Path(temporary) / "package")
        manifest = trust.verify_package(copy, believed)
        content = _content(copy, manifest)
        created = registry.add(bucket, _record(manifest, content, fleet))
        _store(bucket, copy, manifest)
        component = build.build_model(Path(temporary), copy, manifest.name, manifest.version, content, prefix)
        done = components.publish(component, bucket)
    return Published(manifest.name, manifest.version, manifest.digest, done.name, created or done.created)


def fetch(model: str, version: str, out: Path, believed: TrustDocument, bucket: Bucket) -> Manifest:
    """Bring a published package back into the folder ``out``, which must not exist; verified before it appears there.

    Raises:
        Refused: it is not published. PackageRefused: what lies in S3 is altered. Conflict: ``out`` exists.
    """
    registered = registry.get(bucket, model, version)
    if out.exists():
        raise Conflict(f"{out} exists already.", "Name a folder that does not.")
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = names.package_key(model, version, "")
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=out.parent) as temporary:
        folder = Path(temporary) / "package"
        folder.mkdir()
        listed = Manifest.from_bytes(bucket.get(prefix + MANIFEST_FILE))
        for name in _files(listed):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bucket.get(prefix + name))
        manifest = trust.verify_package(folder, believed)
        if manifest.digest != registered.digest:
            raise PackageRefused(
                f"{model} {version} in S3 is not the package that was registered.", "Publish a higher version."
            )
        durable.rename(folder, out)
    return manifest


def _copy(package: Path, manifest: Manifest, out: Path) -> Path:
    try:
        for name in _files(manifest):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / name, out / name, follow_symlinks=False)
    except OSError as error:
        raise PackageRefused(f"The package {package} could not be read: {error}.", "Publish it again.") from None
    return out


def _files(manifest: Manifest) -> tuple[str, ...]:
    return (*(entry.path for entry in manifest.files), MANIFEST_FILE, SIGNATURE_FILE)


def _content(package: Path, manifest: Manifest) -> str:
    """A digest of everything: the manifest lists every file but itself and its signature."""
    return sha256(canonical({"manifest": manifest.digest, "signature": file_digest(package / SIGNATURE_FILE)}))


def _record(manifest: Manifest, content: str, fleet: str) -> registry.RegistryRecord:
    return registry.RegistryRecord(
        model=manifest.name,
        version=manifest.version,
        digest=manifest.digest,
        content=content,
        features_digest=manifest.features_digest,
        fleet=fleet,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        dataset=manifest.lineage.dataset,
        parent=manifest.lineage.parent,
        metrics=dict(manifest.metrics),
    )


def _store(bucket: Bucket, package: Path, manifest: Manifest) -> None:
    """Upload what is not there. The registry's record, written before, keeps other content out of these keys."""
    for name in _files(manifest):
        key, digest = names.package_key(manifest.name, manifest.version, name), file_digest(package / name)
        if (bucket.head_metadata(key) or {}).get(_DIGEST_METADATA) != digest:
            bucket.upload(key, package / name, metadata={_DIGEST_METADATA: digest})
