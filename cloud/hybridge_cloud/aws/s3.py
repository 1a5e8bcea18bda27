"""Objects in one bucket, with the conditional writes everything that happens once relies on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from hybridge_cloud.aws.session import NotFound, bucket_name, calling, client, object_store
from hybridge_edge.contract.errors import Conflict, Refused

_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
MAX_GET_BYTES = 8 * 1024**3


class ObjectMissing(NotFound):
    """There is no such object. ``key`` names it."""

    def __init__(self, bucket: str, key: str) -> None:
        super().__init__(f"There is no object {key} in the bucket {bucket}.")
        self.key = key


class Bucket:
    """One bucket."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def from_environment(cls) -> Bucket:
        """The bucket of this installation. Raises UsageError where HYBRIDGE_BUCKET is not set."""
        return cls(bucket_name())

    def uri(self, key: str) -> str:
        """``s3://BUCKET/KEY``."""
        return f"s3://{self.name}/{key}"

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises ObjectMissing."""
        return self.get_with_etag(key)[0]

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """The object's bytes and ETag, which ``put(if_match=)`` takes. Raises ObjectMissing."""
        from botocore.exceptions import ClientError

        with calling("s3"):
            try:
                answer = client("s3").get_object(Bucket=self.name, Key=key)
                data: bytes = answer["Body"].read(MAX_GET_BYTES)
                return data, str(answer["ETag"])
            except ClientError as error:
                if error.response["Error"]["Code"] in _MISSING:
                    raise ObjectMissing(self.name, key) from None
                raise

    def put(
        self,
        key: str,
        data: bytes,
        *,
        only_if_absent: bool = False,
        if_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Write the object whole and return its ETag.

        A store without conditional writes is asked first: there, of two who write at the same moment, the later wins.

        Raises:
            Conflict: ``only_if_absent`` and it is there, or ``if_match`` is not its ETag any more.
        """
        conditions: dict[str, str] = {}
        atomic = object_store().conditional_writes
        if not atomic and if_match is not None:
            raise Refused(
                "This needs a store that changes an object only where it is as it was.",
                "Keep what the cloud decides in S3 of the region; a Snowball Edge takes artifacts and samples.",
            )
        if only_if_absent and not atomic and self.exists(key):
            raise Conflict(f"The object {key} is in the bucket {self.name} already.")
        if only_if_absent and atomic:
            conditions["IfNoneMatch"] = "*"
        if if_match is not None:
            conditions["IfMatch"] = if_match
        with calling("s3"):
            answer = client("s3").put_object(
                Bucket=self.name, Key=key, Body=data, Metadata=dict(metadata or {}), **conditions
            )
        return str(answer["ETag"])

    def upload(self, key: str, path: Path, *, metadata: Mapping[str, str] | None = None) -> str:
        """Write a file's content, streamed, and return the object's ETag."""
        with calling("s3"), path.open("rb") as file:
            answer = client("s3").put_object(Bucket=self.name, Key=key, Body=file, Metadata=dict(metadata or {}))
        return str(answer["ETag"])

    def list(self, prefix: str) -> Iterator[tuple[str, int, str]]:
        """(key, size in bytes, ETag) of every object below ``prefix``, in the order of the keys."""
        with calling("s3"):
            for page in client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                for item in page.get("Contents", ()):
                    yield str(item["Key"]), int(item["Size"]), str(item["ETag"])

    def exists(self, key: str) -> bool:
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        """The object's size in bytes, or None where there is none."""
        answer = self._head(key)
        return None if answer is None else int(answer["ContentLength"])  # type: ignore[call-overload]

    def head_metadata(self, key: str) -> dict[str, str] | None:
        """The user's metadata of the object, or None where there is none."""
        answer = self._head(key)
        return None if answer is None else dict(answer["Metadata"])  # type: ignore[call-overload]

    def _head(self, key: str) -> dict[str, object] | None:
        from botocore.exceptions import ClientError

        with calling("s3"):
            try:
                answer: dict[str, object] = client("s3").head_object(Bucket=self.name, Key=key)
                return answer
            except ClientError as error:
                if error.response["Error"]["Code"] in _MISSING:
                    return None
                raise
