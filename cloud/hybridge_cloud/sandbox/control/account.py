"""What the control service asks of the embedded account: objects in S3, things and groups in IoT."""

from __future__ import annotations

import base64
import hashlib
import time
from pathlib import Path
from urllib.parse import urlparse

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from hybridge_cloud.sandbox.control.wire import invalid

CHUNK_BYTES = 1 << 20
MEMBERSHIP_SECONDS = 0.5
"""How long a device's group membership may be remembered: long-polling devices must not hammer the registry."""


class Account:
    """Clients made from the process's own environment, as any program's would be."""

    def __init__(self) -> None:
        configuration = Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 3, "mode": "standard"})
        self._s3 = boto3.client("s3", config=configuration)
        self._iot = boto3.client("iot", config=configuration)
        self._groups: dict[str, tuple[float, tuple[str, ...]]] = {}

    def artifact_digest(self, uri: str) -> str:
        """The base64 SHA-256 of an artifact in S3, as Greengrass puts it into the stored recipe.

        Raises:
            ServiceError: the object is not there.
        """
        parsed = urlparse(uri)
        digest = hashlib.sha256()
        try:
            body = self._s3.get_object(Bucket=parsed.netloc, Key=parsed.path.lstrip("/"))["Body"]
            for chunk in body.iter_chunks(CHUNK_BYTES):
                digest.update(chunk)
        except ClientError:
            raise invalid(
                f"Invalid Input: Encountered following errors in Artifacts: "
                f"{{{uri} = Specified artifact resource cannot be accessed}}"
            ) from None
        return base64.b64encode(digest.digest()).decode()

    def groups_of(self, thing: str) -> tuple[str, ...]:
        """The thing groups a thing is directly in."""
        known = self._groups.get(thing)
        if known is not None and time.monotonic() - known[0] < MEMBERSHIP_SECONDS:
            return known[1]
        pages = self._iot.get_paginator("list_thing_groups_for_thing").paginate(thingName=thing)
        try:
            found = tuple(entry["groupName"] for page in pages for entry in page["thingGroups"])
        except self._iot.exceptions.ResourceNotFoundException:
            found = ()
        self._groups[thing] = (time.monotonic(), found)
        return found

    def members_of(self, group: str) -> set[str]:
        """The things in a group and in the groups below it.

        The embedded account knows each group's parent, but neither lists by parent nor recursively.
        """
        if not self.target_exists("thinggroup", group):
            return set()
        listed = self._iot.get_paginator("list_thing_groups").paginate()
        parents = {name: self._parent(name) for page in listed for name in _names(page["thingGroups"])}
        wanted = {group}
        while below := {name for name, parent in parents.items() if parent in wanted} - wanted:
            wanted |= below
        members: set[str] = set()
        for name in wanted:
            for page in self._iot.get_paginator("list_things_in_thing_group").paginate(thingGroupName=name):
                members.update(page["things"])
        return members

    def _parent(self, group: str) -> str:
        described = self._iot.describe_thing_group(thingGroupName=group)
        return str(described.get("thingGroupMetadata", {}).get("parentGroupName", ""))

    def target_exists(self, kind: str, name: str) -> bool:
        try:
            if kind == "thinggroup":
                self._iot.describe_thing_group(thingGroupName=name)
            else:
                self._iot.describe_thing(thingName=name)
        except self._iot.exceptions.ResourceNotFoundException:
            return False
        return True

    def object_revision(self, bucket: str, key: str) -> tuple[str, str] | None:
        """(version id, ETag) of the newest version of an object, or None where there is none."""
        try:
            head = self._s3.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NoSuchBucket"):
                return None
            raise
        return head.get("VersionId", ""), head["ETag"].strip('"')

    def download(self, bucket: str, key: str, version: str, path: Path) -> None:
        """Write one version of an object to a file."""
        if version:
            body = self._s3.get_object(Bucket=bucket, Key=key, VersionId=version)["Body"]
        else:
            body = self._s3.get_object(Bucket=bucket, Key=key)["Body"]
        with path.open("wb") as file:
            for chunk in body.iter_chunks(CHUNK_BYTES):
                file.write(chunk)


def _names(groups: list[dict[str, str]]) -> list[str]:
    return [entry["groupName"] for entry in groups]
