"""Objects in S3, or in a store with its API: what a device needs of it, signed by awscrt, over the standard library's
HTTP.

Signature Version 4, ``x-amz-checksum-sha256`` and conditional writes (``If-None-Match: *``) as the Amazon S3 API
reference describes them for PutObject. What a store does not take of these is left out as its ``Access`` says.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from hybridge_edge import durable
from hybridge_edge.contract.errors import Refused, SpoolFull, Unavailable, UsageError
from hybridge_edge.credentials import Credentials, CredentialSource
from hybridge_edge.s3_access import Access, check_endpoint

CONNECT_AND_READ_SECONDS = 30.0
SIGN_SECONDS = 10.0
MAX_ANSWER_BYTES = 64 * 1024
MAX_OBJECT_BYTES = 1024**3
_CHUNK_BYTES = 1024 * 1024
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_RETRYABLE = frozenset({408, 409, 429, 500, 502, 503, 504})
_ENDED = frozenset({"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "TokenRefreshRequired"})


class TryAgain(Unavailable):
    """S3 could not do it now. ``seconds``: how long it asked us to wait, 0.0 where it did not say."""

    def __init__(self, message: str, remedy: str = "", *, seconds: float = 0.0) -> None:
        super().__init__(message, remedy)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a bucket is reached: ``host`` (and ``port``, None for the scheme's own), and what precedes a key."""

    secure: bool
    host: str
    port: int | None
    prefix: str

    @classmethod
    def of(
        cls,
        bucket: str,
        region: str,
        environment: Mapping[str, str] = os.environ,
        endpoint: str = "",
        addressing: str = "auto",
    ) -> Endpoint:
        """``endpoint``, else AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, else the region's own.

        ``auto`` has the bucket in the path of an endpoint that was given, and before the host of a region's own.
        """
        custom = endpoint or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL", "")
        if custom:
            check_endpoint("endpoint" if endpoint else "AWS_ENDPOINT_URL", custom)
            url = urlsplit(custom)
            secure, host, port, before = url.scheme == "https", str(url.hostname), url.port, url.path.rstrip("/")
            in_path = addressing != "virtual"
        else:
            suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
            secure, host, port, before = True, f"s3.{region}.{suffix}", None, ""
            in_path = addressing == "path" or (addressing == "auto" and "." in bucket)  # a wildcard covers no dot
        if in_path:
            return cls(secure, host, port, f"{before}/{bucket}/")
        return cls(secure, f"{bucket}.{host}", port, f"{before}/")

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


class Bucket:
    """One bucket, as a device sees it.

    Args:
        name: of the bucket. environment: AWS_REGION or AWS_DEFAULT_REGION, endpoints, credentials.
        access: what goes before the environment.

    Raises:
        UsageError: no region, no credentials, not a bucket's name, or a file of authorities without a certificate.
    """

    def __init__(self, name: str, environment: Mapping[str, str] = os.environ, access: Access | None = None) -> None:
        access = access or Access()
        self.name = bucket_name(name)
        self._store = access.store
        self._region = access.store.region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION", "")
        if not self._region:
            raise UsageError("No AWS region is set.", "Set AWS_REGION.")
        self._endpoint = Endpoint.of(name, self._region, environment, access.endpoint, access.store.addressing)
        self._authorities = str(access.ca_file or "") or environment.get("AWS_CA_BUNDLE") or None
        if self._endpoint.secure:
            _trusting(self._authorities)
        self._credentials = CredentialSource(environment, access.credentials_file)
        self._clock_offset = timedelta()

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def put(self, key: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        """Write one object, in one attempt. Returns False where ``only_if_absent`` found it there already.

        A store without conditional writes is asked first whether the object is there.

        Raises:
            TryAgain: network, overload, ended credentials or a wrong clock; the next attempt may succeed.
            Refused: S3 will go on saying no: access denied, no such bucket, a certificate that is not trusted.
        """
        if len(data) > MAX_OBJECT_BYTES:
            raise Refused(f"The object {key} is {len(data)} bytes large.", "Make batches smaller.")
        if only_if_absent and not self._store.conditional_writes and self._exists(key):
            return False
        digest = hashlib.sha256(data)
        headers = {"Content-Length": str(len(data)), "Content-Type": "application/octet-stream"}
        if self._store.checksums == "sha256":
            headers["x-amz-checksum-sha256"] = base64.b64encode(digest.digest()).decode()
        if only_if_absent and self._store.conditional_writes:
            headers["If-None-Match"] = "*"
        with self._answer("PUT", key, headers, digest.hexdigest(), data) as answer:
            if answer.status == 412 and only_if_absent:
                return False
            if answer.status != 200:
                raise self._error(key, answer.status, answer.headers, answer.read(MAX_ANSWER_BYTES))
            answer.read(MAX_ANSWER_BYTES)
            return True

    def fetch(self, key: str, path: Path, limit: int) -> int:
        """Write one object's content to the new file ``path``, in one attempt; returns its bytes.

        Raises:
            TryAgain: as ``put``, also where it ended early. Refused: there is none, it is larger than ``limit`` bytes,
                or S3 says no. SpoolFull: the disk is full.
        """
        size = 0
        with self._answer("GET", key, {}, _EMPTY_SHA256, b"") as answer:
            if answer.status != 200:
                raise self._error(key, answer.status, answer.headers, answer.read(MAX_ANSWER_BYTES))
            try:
                with path.open("xb") as file:
                    while chunk := answer.read(_CHUNK_BYTES):
                        size += len(chunk)
                        if size > limit:
                            raise Refused(f"The object {key} is larger than {limit} bytes.", "Name another one.")
                        try:
                            file.write(chunk)
                        except OSError as error:
                            if error.errno not in durable.DISK_FULL:
                                raise Refused(f"{path} cannot be written: {error.strerror}.", "See the disk.") from None
                            raise SpoolFull(f"The disk of {path.parent} is full.", "Make room on it.") from None
            except http.client.IncompleteRead:
                raise TryAgain(f"S3 at {self._endpoint.authority} ended {key} early.", "Check the network.") from None
        expected = answer.headers.get("Content-Length", "")
        if expected.isdecimal() and int(expected) != size:
            raise TryAgain(f"S3 gave {size} of {expected} bytes of {key}.", "Check the network.")
        return size

    def _exists(self, key: str) -> bool:
        with self._answer("HEAD", key, {}, _EMPTY_SHA256, b"") as answer:
            if answer.status in (200, 404):
                return answer.status == 200
            raise self._error(key, answer.status, answer.headers, b"")

    @contextmanager
    def _answer(
        self, method: str, key: str, headers: Mapping[str, str], payload_sha256: str, data: bytes
    ) -> Iterator[http.client.HTTPResponse]:
        endpoint = self._endpoint
        path = endpoint.prefix + quote(key, safe="/-_.~")
        when = datetime.now(timezone.utc) + self._clock_offset
        unsigned = {"Host": endpoint.authority, **headers}
        signed = sign(method, path, unsigned, payload_sha256, self._region, self._credentials.get(), when)
        connection: http.client.HTTPConnection
        if endpoint.secure:
            # Read anew each time: whoever corrects the file need not restart the component.
            context = _trusting(self._authorities)
            connection = http.client.HTTPSConnection(
                endpoint.host, endpoint.port, timeout=CONNECT_AND_READ_SECONDS, context=context
            )
        else:
            connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=CONNECT_AND_READ_SECONDS)
        try:
            connection.request(method, path, body=data or None, headers=signed)
            yield connection.getresponse()
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"The certificate of {endpoint.authority} is not trusted: {error.verify_message}.",
                f"Correct {self._authorities}: it must hold the certificate of this store."
                if self._authorities
                else "Name the store's own certificate in caFile.",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise TryAgain(f"S3 at {endpoint.authority} does not answer: {reason}.", "Check the network.") from None
        finally:
            connection.close()

    def _error(self, key: str, status: int, headers: http.client.HTTPMessage, body: bytes) -> Refused:
        found = re.search(rb"<Code>([A-Za-z]{1,64})</Code>", body)
        code = found.group(1).decode() if found else ""
        said = f"S3 answered {status} {code}".strip()
        if code in _ENDED:
            self._credentials.forget()
            return TryAgain(f"{said}: the credentials have ended.")
        if code == "RequestTimeTooSkewed":
            self._take_time(headers)
            return TryAgain(f"{said}: the device's clock is wrong.", "Set the device's clock.")
        if status in _RETRYABLE:
            asked = headers.get("Retry-After", "")
            return TryAgain(f"{said} for {key}.", seconds=float(asked) if asked.isdecimal() else 0.0)
        return Refused(
            f"{said} for {key} in bucket {self.name}.",
            "Check the bucket's name, and that the device's role or keys may write under devices/ and its own name.",
        )

    def _take_time(self, headers: http.client.HTTPMessage) -> None:
        """Sign by S3's clock from now on."""
        try:
            theirs = parsedate_to_datetime(headers.get("Date", ""))
        except (TypeError, ValueError):
            return
        self._clock_offset = theirs - datetime.now(timezone.utc)


def bucket_name(name: str) -> str:
    """The name, where it can be a bucket's. Raises UsageError."""
    if _BUCKET.fullmatch(name) is None:
        raise UsageError(f"{name[:80]!r} is not the name of a bucket.", "Set the component's configuration bucket.")
    return name


def _trusting(authorities: str | None) -> ssl.SSLContext:
    """What a connection is checked against: the system's authorities, or only those in a PEM file."""
    try:
        context = ssl.create_default_context(cafile=authorities)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{authorities} holds no certificate that can be read: {error}.", "Name a PEM file in caFile."
        ) from None
    if authorities:
        # Python 3.13 also wants fields that an appliance's own certificate need not have. Who signed it, its dates and
        # the host's name are checked as before.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def sign(
    method: str,
    path: str,
    headers: Mapping[str, str],
    payload_sha256: str,
    region: str,
    credentials: Credentials,
    when: datetime,
) -> dict[str, str]:
    """The headers with those of Signature Version 4 added. ``path`` is percent-encoded already, once, as S3 wants."""
    from awscrt import auth
    from awscrt import http as crt

    request = crt.HttpRequest(method, path, crt.HttpHeaders(list(headers.items())))
    provider = auth.AwsCredentialsProvider.new_static(
        credentials.access_key, credentials.secret_key, credentials.token or None
    )
    configuration = auth.AwsSigningConfig(
        algorithm=auth.AwsSigningAlgorithm.V4,
        signature_type=auth.AwsSignatureType.HTTP_REQUEST_HEADERS,
        credentials_provider=provider,
        region=region,
        service="s3",
        date=when,
        use_double_uri_encode=False,
        should_normalize_uri_path=False,
        signed_body_value=payload_sha256,
        signed_body_header_type=auth.AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256,
    )
    signed: Any = auth.aws_sign_request(request, configuration).result(SIGN_SECONDS)
    return {str(name): str(value) for name, value in signed.headers}
