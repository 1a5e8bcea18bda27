"""Objects are signed as AWS expects, written once, and every refusal says what to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from hybridge_edge.contract.errors import Refused, Unavailable, UsageError
from hybridge_edge.credentials import Credentials, CredentialSource
from hybridge_edge.s3 import Bucket, Endpoint, TryAgain, sign


@pytest.mark.parametrize("path", ["/bucket/devices/a/x.json", "/devices/a%3Ab/data/watch/x%20y.npz"])
@pytest.mark.parametrize("token", ["", "session-token"])
def test_the_signature_is_the_one_that_botocore_makes(path: str, token: str) -> None:
    payload = "e" * 64
    headers = {
        "Host": "127.0.0.1:4566",
        "Content-Length": "12",
        "Content-Type": "application/octet-stream",
        "x-amz-checksum-sha256": "abc=",
        "If-None-Match": "*",
    }
    when = datetime(2026, 3, 1, 12, 30, tzinfo=timezone.utc)
    ours = sign("PUT", path, headers, payload, "eu-central-1", Credentials("AKID", "secret", token), when)
    theirs = AWSRequest("PUT", f"http://127.0.0.1:4566{path}", headers=dict(headers))
    theirs.headers["X-Amz-Content-SHA256"] = payload
    theirs.headers["X-Amz-Date"] = "20260301T123000Z"
    if token:
        theirs.headers["X-Amz-Security-Token"] = token
    theirs.context["timestamp"] = "20260301T123000Z"
    signer = S3SigV4Auth(BotoCredentials("AKID", "secret", token or None), "s3", "eu-central-1")
    signature = signer.signature(signer.string_to_sign(theirs, signer.canonical_request(theirs)), theirs)
    assert ours["Authorization"].endswith(f"Signature={signature}")


@pytest.mark.parametrize(
    ("bucket", "region", "environment", "expected"),
    [
        ("data", "eu-west-1", {}, (True, "data.s3.eu-west-1.amazonaws.com", None, "/")),
        ("data", "cn-north-1", {}, (True, "data.s3.cn-north-1.amazonaws.com.cn", None, "/")),
        ("my.data", "eu-west-1", {}, (True, "s3.eu-west-1.amazonaws.com", None, "/my.data/")),
        ("data", "x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, (False, "127.0.0.1", 9, "/data/")),
        (
            "data",
            "x",
            {"AWS_ENDPOINT_URL": "http://a:1", "AWS_ENDPOINT_URL_S3": "https://b/s3/"},
            (True, "b", None, "/s3/data/"),
        ),
    ],
)
def test_the_endpoint_follows_the_standard_variables(
    bucket: str, region: str, environment: dict[str, str], expected: tuple[bool, str, int | None, str]
) -> None:
    assert Endpoint.of(bucket, region, environment) == Endpoint(*expected)


@pytest.mark.parametrize(
    ("bucket", "environment"),
    [
        ("Not A Bucket", {"AWS_REGION": "x", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}),
        ("data", {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}),
        ("data", {"AWS_REGION": "x"}),
        (
            "data",
            {"AWS_REGION": "x", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "ftp://x"},
        ),
    ],
)
def test_wrong_settings_are_a_usage_error_with_a_remedy(bucket: str, environment: dict[str, str]) -> None:
    with pytest.raises(UsageError) as error:
        Bucket(bucket, environment)
    assert error.value.remedy


def test_an_object_is_written_once(s3: Any) -> None:
    bucket = Bucket("data", s3.environment())
    assert bucket.put("devices/a:b/x.npz", b"content", only_if_absent=True)
    assert not bucket.put("devices/a:b/x.npz", b"other", only_if_absent=True)
    assert s3.objects == {"devices/a:b/x.npz": b"content"}
    assert bucket.put("devices/a:b/x.npz", b"other")
    assert s3.objects == {"devices/a:b/x.npz": b"other"}
    assert s3.headers[0]["x-amz-checksum-sha256"] == "7XACtDnprIRfIjV9giusFERzD722AW0+yUMil7nsn3M="


@pytest.mark.parametrize("fault", ["500", "503", "cut", "lost-answer", "expired", "skewed"])
def test_what_may_pass_is_to_be_tried_again(s3: Any, fault: str) -> None:
    bucket = Bucket("data", s3.environment())
    s3.fault = lambda: fault
    with pytest.raises(TryAgain):
        bucket.put("key", b"content", only_if_absent=True)
    s3.fault = lambda: ""
    bucket.put("key", b"content", only_if_absent=True)
    assert s3.objects == {"key": b"content"}


def test_a_refusal_names_the_bucket_and_what_to_check(s3: Any) -> None:
    s3.fault = lambda: "403"
    with pytest.raises(Refused, match=r"AccessDenied.*bucket data") as error:
        Bucket("data", s3.environment()).put("key", b"content")
    assert not isinstance(error.value, Unavailable)
    assert "role" in error.value.remedy


def test_nobody_there_is_to_be_tried_again() -> None:
    environment = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_REGION": "x",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    with pytest.raises(TryAgain, match="does not answer"):
        Bucket("data", environment).put("key", b"")


@pytest.fixture
def exchange() -> Iterator[tuple[dict[str, str], Callable[..., None], list[str]]]:
    """A token exchange: its environment, a setter of its next answer, and the authorizations it saw."""
    answer: dict[str, object] = {}
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            body = json.dumps(answer["body"]).encode()
            self.send_response(int(str(answer["status"])))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    environment = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{server.server_address[1]}/2016-11-01/credentialprovider/",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "the-token",
        "AWS_ACCESS_KEY_ID": "never-used",
        "AWS_SECRET_ACCESS_KEY": "never-used",
    }
    yield environment, lambda status, body: answer.update(status=status, body=body), seen
    server.shutdown()
    server.server_close()
    thread.join()


def answer_of(life: timedelta, number: int) -> dict[str, str]:
    return {
        "AccessKeyId": f"ASIA{number}",
        "SecretAccessKey": "s",
        "Token": "t",
        "Expiration": (datetime.now(timezone.utc) + life).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def test_credentials_come_from_the_token_exchange_and_are_kept_while_they_live(exchange: Any) -> None:
    environment, say, seen = exchange
    source = CredentialSource(environment)
    say(200, answer_of(timedelta(hours=1), 1))
    assert source.get() == Credentials("ASIA1", "s", "t")
    say(200, answer_of(timedelta(hours=1), 2))
    assert source.get().access_key == "ASIA1"
    source.forget()
    assert source.get().access_key == "ASIA2"
    assert seen == ["the-token", "the-token"]
    assert "ASIA" not in repr(source.get())


def test_credentials_that_have_ended_are_fetched_again(exchange: Any) -> None:
    environment, say, _ = exchange
    source = CredentialSource(environment)
    say(200, answer_of(timedelta(seconds=-5), 1))
    source.get()
    say(200, answer_of(timedelta(hours=1), 2))
    assert source.get().access_key == "ASIA2"


@pytest.mark.parametrize(("status", "body"), [(500, {}), (403, {}), (200, {"AccessKeyId": 7}), (200, [])])
def test_a_token_exchange_without_credentials_is_unavailable(exchange: Any, status: int, body: object) -> None:
    environment, say, _ = exchange
    say(status, body)
    with pytest.raises(Unavailable):
        CredentialSource(environment).get()
