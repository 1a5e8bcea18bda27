"""AWS credentials on a device: from a file that was named, from Greengrass' token exchange, else the environment."""

from __future__ import annotations

import configparser
import http.client
import os
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
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
        file: a shared credentials file of the AWS SDKs, whose section ``default`` goes before all of these. It is read
            again after ``forget``.

    Raises:
        UsageError: there are no credentials, or the file holds none that may be used.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ, file: Path | None = None) -> None:
        self._file = file
        if file is not None:
            read_file(file)
            environment = {}
        self._uri = environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
        self._authorization = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
        self._fixed = Credentials(
            environment.get("AWS_ACCESS_KEY_ID", ""),
            environment.get("AWS_SECRET_ACCESS_KEY", ""),
            environment.get("AWS_SESSION_TOKEN", ""),
        )
        if file is None and not self._uri and not (self._fixed.access_key and self._fixed.secret_key):
            raise UsageError(
                "There are no AWS credentials.",
                "Depend on aws.greengrass.TokenExchangeService in the recipe, or set AWS_ACCESS_KEY_ID and its secret.",
            )
        self._lock = threading.Lock()
        self._current: Credentials | None = None
        self._refresh_at = 0.0

    def get(self) -> Credentials:
        """Valid credentials.

        Raises:
            Unavailable: the token exchange does not answer with any. UsageError: the file does not hold any now.
        """
        if self._file is not None:
            with self._lock:
                self._current = self._current or read_file(self._file)
                return self._current
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


def read_file(path: Path) -> Credentials:
    """The keys in the section ``default`` of a shared credentials file (AWS SDKs and Tools, shared config files).

    Raises:
        UsageError: it cannot be read, every user may read it, or it holds no keys.
    """
    mend = "Write [default] with aws_access_key_id and aws_secret_access_key, readable by the component's user alone."
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with path.open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                raise UsageError(f"Every user of this device may read the keys in {path}.", f"chmod o-rwx {path}")
            parser.read_string(file.read(MAX_ANSWER_BYTES))
        section = parser["default"]
        return Credentials(
            section["aws_access_key_id"], section["aws_secret_access_key"], section.get("aws_session_token", "")
        )
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The credentials file {path} cannot be read: {error}.", mend) from None
    except (configparser.Error, KeyError):  # their texts would show what the file holds
        raise UsageError(f"The credentials file {path} holds no keys.", mend) from None


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
