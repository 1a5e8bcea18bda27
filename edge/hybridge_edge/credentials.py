"""AWS credentials on a device: from Greengrass' token exchange, else from the environment."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from hybridge_edge.contract.document import parse
from hybridge_edge.contract.errors import InvalidDocument, Unavailable, UsageError

TOKEN_EXCHANGE_SECONDS = 10.0
REFRESH_BEFORE_SECONDS = 300.0
UNKNOWN_LIFE_SECONDS = 900.0
"""How long credentials are kept that do not say when they end."""
MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key pair; ``token`` is "" for a permanent one. Never printed."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"


class CredentialSource:
    """Gives credentials, and fetches new ones in time.

    Args:
        environment: AWS_CONTAINER_CREDENTIALS_FULL_URI and AWS_CONTAINER_AUTHORIZATION_TOKEN as Greengrass sets them,
            else AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._uri = environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
        self._authorization = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
        self._fixed = Credentials(
            environment.get("AWS_ACCESS_KEY_ID", ""),
            environment.get("AWS_SECRET_ACCESS_KEY", ""),
            environment.get("AWS_SESSION_TOKEN", ""),
        )
        if not self._uri and not (self._fixed.access_key and self._fixed.secret_key):
            raise UsageError(
                "There are no AWS credentials.",
                "Depend on aws.greengrass.TokenExchangeService in the recipe, or set AWS_ACCESS_KEY_ID and its secret.",
            )
        self._lock = threading.Lock()
        self._current: Credentials | None = None
        self._refresh_at = 0.0

    def get(self) -> Credentials:
        """Valid credentials. Raises Unavailable where the token exchange does not answer with any."""
        if not self._uri:
            return self._fixed
        with self._lock:
            if self._current is None or time.monotonic() >= self._refresh_at:
                self._current, life = self._exchange()
                self._refresh_at = time.monotonic() + max(life - REFRESH_BEFORE_SECONDS, min(life, 60.0) / 2)
            return self._current

    def forget(self) -> None:
        """Fetch new ones at the next call; S3 said that these have ended."""
        with self._lock:
            self._current = None

    def _exchange(self) -> tuple[Credentials, float]:
        uri = urlsplit(self._uri)
        kind = http.client.HTTPSConnection if uri.scheme == "https" else http.client.HTTPConnection
        connection = kind(uri.hostname or "", uri.port, timeout=TOKEN_EXCHANGE_SECONDS)
        try:
            path = (uri.path or "/") + (f"?{uri.query}" if uri.query else "")
            connection.request("GET", path, headers={"Authorization": self._authorization})
            answer = connection.getresponse()
            body = answer.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"The token exchange does not answer: {error}.", "Check the Greengrass nucleus of this device."
            ) from None
        finally:
            connection.close()
        if answer.status != 200:
            raise Unavailable(
                f"The token exchange answered {answer.status}.",
                "Check the device's role alias and the AWS IoT policy of its certificate.",
            )
        return _read(body)


def _read(body: bytes) -> tuple[Credentials, float]:
    try:
        reader = parse(body, "answer of the token exchange")
        credentials = Credentials(reader.text("AccessKeyId"), reader.text("SecretAccessKey"), reader.text("Token", ""))
        expiration = reader.text("Expiration", "")
        if not expiration:
            return credentials, UNKNOWN_LIFE_SECONDS
        end = datetime.fromisoformat(expiration.replace("Z", "+00:00"))
        return credentials, end.timestamp() - time.time()
    except (InvalidDocument, ValueError):
        raise Unavailable("The token exchange answered no credentials.", "Check the Greengrass nucleus.") from None
