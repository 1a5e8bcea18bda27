"""The token exchange service: AWS credentials for components, over loopback HTTP, as a core device hands them out."""

from __future__ import annotations

import datetime
import hmac
import json
import os
import secrets
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATH = "/2016-11-01/credentialprovider/"
LIFETIME = datetime.timedelta(hours=1)
_REQUEST_SECONDS = 10
_STOP_POLL_SECONDS = 0.02
"""How often the server looks whether it is to end; the library's half a second is felt at every stop of a device."""


class TokenExchange:
    """Serve the device's own credentials to whoever shows a component's token.

    Args:
        known: whether an authorization token belongs to a component of this device.
        thing: names the session where the device's environment has no session token.
    """

    def __init__(self, known: Callable[[str], bool], thing: str) -> None:
        self._known = known
        self._thing = thing
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_STOP_POLL_SECONDS,), name="token-exchange", daemon=True
        )

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{PATH}"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str, token: str) -> tuple[int, dict[str, str]]:
        if path.rstrip("/") != PATH.rstrip("/"):
            return 404, {"error": "There is nothing here."}
        if not token or not self._known(token):
            return 403, {"error": "The Authorization header names no component of this device."}
        key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if not key or not secret:
            return 500, {"error": "The core device has no credentials."}
        expiration = datetime.datetime.now(datetime.UTC) + LIFETIME
        return 200, {
            "AccessKeyId": key,
            "SecretAccessKey": secret,
            # SDKs insist on a token here, as a role's credentials always have one.
            "Token": os.environ.get("AWS_SESSION_TOKEN") or f"core-device-{self._thing}",
            "Expiration": expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        exchange = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_SECONDS

            def do_GET(self) -> None:
                status, fields = exchange._answer(self.path, self.headers.get("Authorization", ""))
                body = json.dumps(fields).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: a request line would bring tokens near logs."""

        return Handler


class Tokens:
    """The secret of each component (SVCUID), made anew for each life of the nucleus."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}

    def token(self, component: str) -> str:
        if component not in self._of:
            self._of[component] = secrets.token_urlsafe(12)
        return self._of[component]

    def component(self, token: str) -> str | None:
        """Whose token this is, compared in constant time; None for nobody's."""
        return next((name for name, own in list(self._of.items()) if hmac.compare_digest(own, token)), None)
