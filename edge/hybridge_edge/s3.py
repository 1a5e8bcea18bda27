"""Put objects into S3: what the uplink needs of it, signed by awscrt, over the standard library's HTTP.

Signature Version 4, ``x-amz-checksum-sha256`` and conditional writes (``If-None-Match: *``) as the Amazon S3 API
reference describes them for PutObject.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

from hybridge_edge.contract.errors import Refused, Unavailable, UsageError
from hybridge_edge.credentials import Credentials, CredentialSource

CONNECT_AND_READ_SECONDS = 30.0
SIGN_SECONDS = 10.0
MAX_ANSWER_BYTES = 64 * 1024
MAX_OBJECT_BYTES = 1024**3
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
    def of(cls, bucket: str, region: str, environment: Mapping[str, str] = os.environ) -> Endpoint:
        """AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL with the bucket in the path, else the region's own endpoint."""
        custom = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL", "")
        if custom:
            url = urlsplit(custom)
            if url.scheme not in ("http", "https") or not url.hostname:
                raise UsageError(
                    f"{custom[:200]!r} is not an endpoint.", "Write AWS_ENDPOINT_URL as http(s)://host:port."
                )
            return cls(url.scheme == "https", url.hostname, url.port, f"{url.path.rstrip('/')}/{bucket}/")
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        if "." in bucket:  # a certificate's wildcard covers no dot
            return cls(True, f"s3.{region}.{suffix}", None, f"/{bucket}/")
        return cls(True, f"{bucket}.s3.{region}.{suffix}", None, "/")

    @property
    def authority(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


class Bucket:
    """One bucket, as a device sees it.

    Args:
        name: of the bucket. environment: AWS_REGION or AWS_DEFAULT_REGION, endpoints, credentials.

    Raises:
        UsageError: no region, no credentials, or not a bucket's name.
    """

    def __init__(self, name: str, environment: Mapping[str, str] = os.environ) -> None:
        if _BUCKET.fullmatch(name) is None:
            raise UsageError(f"{name[:80]!r} is not the name of a bucket.", "Set the component's configuration bucket.")
        self.name = name
        self._region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION", "")
        if not self._region:
            raise UsageError("No AWS region is set.", "Set AWS_REGION.")
        self._endpoint = Endpoint.of(name, self._region, environment)
        self._credentials = CredentialSource(environment)
        self._clock_offset = timedelta()

    def put(self, key: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        """Write one object, in one attempt. Returns False where ``only_if_absent`` found it there already.

        Raises:
            TryAgain: network, overload, ended credentials or a wrong clock; the next attempt may succeed.
            Refused: S3 will go on saying no: access denied, no such bucket.
        """
        if len(data) > MAX_OBJECT_BYTES:
            raise Refused(f"The object {key} is {len(data)} bytes large.", "Make batches smaller.")
        digest = hashlib.sha256(data)
        headers = {
            "Host": self._endpoint.authority,
            "Content-Length": str(len(data)),
            "Content-Type": "application/octet-stream",
            "x-amz-checksum-sha256": base64.b64encode(digest.digest()).decode(),
        }
        if only_if_absent:
            headers["If-None-Match"] = "*"
        path = self._endpoint.prefix + quote(key, safe="/-_.~")
        when = datetime.now(timezone.utc) + self._clock_offset
        signed = sign("PUT", path, headers, digest.hexdigest(), self._region, self._credentials.get(), when)
        status, answer_headers, body = self._send("PUT", path, signed, data)
        if status == 412 and only_if_absent:
            return False
        if status != 200:
            raise self._error(key, status, answer_headers, body)
        return True

    def _send(
        self, method: str, path: str, headers: Mapping[str, str], data: bytes
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        endpoint = self._endpoint
        connection: http.client.HTTPConnection
        if endpoint.secure:
            context = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or None)
            connection = http.client.HTTPSConnection(
                endpoint.host, endpoint.port, timeout=CONNECT_AND_READ_SECONDS, context=context
            )
        else:
            connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=CONNECT_AND_READ_SECONDS)
        try:
            connection.request(method, path, body=data, headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read(MAX_ANSWER_BYTES)
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
            "Check the bucket's name, and that the device's role may write under devices/ and its own name.",
        )

    def _take_time(self, headers: http.client.HTTPMessage) -> None:
        """Sign by S3's clock from now on."""
        try:
            theirs = parsedate_to_datetime(headers.get("Date", ""))
        except (TypeError, ValueError):
            return
        self._clock_offset = theirs - datetime.now(timezone.utc)


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
