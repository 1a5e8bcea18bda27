"""Publish a component version exactly once: artifacts to S3, recipe to Greengrass, and a record of what it is.

The record ``components/NAME/VERSION/content.json`` is written first, on condition that it is absent. Whoever finds
another content in it is refused; whoever finds the same goes on, so that a publication cut short anywhere is completed
by another try.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from hybridge_cloud.aws import greengrass
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.components.build import Component
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import Conflict, Refused, Unavailable

CONTENT_RECORD = "content.json"
FORMAT = 2
FORMATS = (1, 2)
"""The first had no ``parts``."""
MAX_NAMED_DIFFERENCES = 4
DIGEST_METADATA = "sha256"
DEPLOYABLE_SECONDS = 60.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Publication:
    """What publishing did: ``created`` is False where the same content was there already."""

    name: str
    version: str
    arn: str
    created: bool


def publish(component: Component, bucket: Bucket) -> Publication:
    """Publish one component version, or find it published with the same content.

    Raises:
        Conflict: this version exists with other content. Refused: Greengrass does not take the recipe.
        Unavailable: it did not become deployable in time.
    """
    _claim(component, bucket)
    for artifact in component.artifacts:
        if bucket.head_metadata(component.key(artifact)) is None:
            bucket.upload(component.key(artifact), artifact.path, metadata={DIGEST_METADATA: artifact.digest})
    created = True
    try:
        arn = greengrass.create_component(component.recipe(bucket.name)).arn
    except Conflict:
        found = greengrass.find_component(component.name, component.version)
        if found is None:
            raise
        arn, created = found.arn, False
    _wait_until_deployable(component, arn)
    return Publication(component.name, component.version, arn, created)


def _claim(component: Component, bucket: Bucket) -> None:
    key = names.component_artifact_key(component.name, component.version, CONTENT_RECORD)
    fields: dict[str, object] = {"format": FORMAT, "content": component.content, "parts": dict(component.parts)}
    try:
        bucket.put(key, canonical(fields), only_if_absent=True)
        return
    except Conflict:
        reader = parse(bucket.get(key), "component's content record")
    number = reader.format(*FORMATS)
    found = reader.text("content", check=names.digest)
    parts = reader.object("parts", _parts) if number > 1 else {}
    reader.close()
    if found != component.content:
        raise Conflict(
            f"{component.name} {component.version} is published already with other content: "
            f"{difference(parts, dict(component.parts)) or f'{found[:19]}, not {component.content[:19]}'}.",
            "Raise the version (components/VERSION, or --version): a published version never changes. To publish what "
            "was published before, name the same --platform and --python.",
        )


def _parts(reader: Reader) -> dict[str, str]:
    return {name: reader.text(name, check=names.digest) for name in reader.names()}


def difference(published: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """What differs between two contents, in words; "" where either says nothing of its parts.

    A file in an artifact is named where both have the artifact; else the artifact is.
    """
    if not published or not ours:
        return ""
    common = published.keys() & ours.keys()
    differ = [name for name in sorted(published.keys() | ours.keys()) if published.get(name) != ours.get(name)]
    inside = [name for name in differ if _artifact(name) in common]
    whole = [name for name in differ if not _artifact(name) and not any(_artifact(one) == name for one in inside)]
    said = [f"{name} {_how(name, published, ours)}" for name in (*whole, *inside)]
    more = len(said) - MAX_NAMED_DIFFERENCES
    return ", ".join(said[:MAX_NAMED_DIFFERENCES]) + (f", and {more} more" if more > 0 else "")


def _artifact(part: str) -> str:
    """The artifact that a part lies in, "" where it lies in none."""
    artifact, found, _ = part.partition(".zip/")
    return f"{artifact}.zip" if found else ""


def _how(name: str, published: Mapping[str, str], ours: Mapping[str, str]) -> str:
    if name in published and name in ours:
        return "differs"
    return "is new" if name in ours else "is missing"


def _wait_until_deployable(component: Component, arn: str) -> None:
    deadline = time.monotonic() + DEPLOYABLE_SECONDS
    while True:
        found = greengrass.describe_component(arn)
        if found.state == "DEPLOYABLE":
            return
        if found.state in ("FAILED", "DEPRECATED"):
            raise Refused(
                f"{component.name} {component.version} is {found.state}: {found.message.rstrip('.')}.",
                "Correct it and publish it at a higher version.",
            )
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{component.name} {component.version} is still {found.state} after {DEPLOYABLE_SECONDS:.0f} s.",
                "Publish it again later: what is done already stays.",
            )
        time.sleep(_POLL_SECONDS)
