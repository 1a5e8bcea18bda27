"""An object store that is not the region's: TLS with a certificate of its own, path-style, region ``snow``.

The store is a bucket of region ``snow`` in the sandbox's account, which itself refuses the signature of another region,
behind a TLS front. Nothing here was ever run against a Snowball Edge.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from tls_front import TlsFront, certificate

from hybridge_cloud import publish as publishing
from hybridge_cloud.aws import session
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.components import build
from hybridge_cloud.components import publish as components
from hybridge_cloud.fleet.membership import ensure_fleet
from hybridge_cloud.sandbox.lifecycle import RunningSandbox
from hybridge_edge.backoff import Backoff
from hybridge_edge.capture import Observation
from hybridge_edge.cli import main
from hybridge_edge.configuration import Configuration
from hybridge_edge.contract.batch import BatchManifest
from hybridge_edge.contract.errors import Conflict, Refused, UsageError
from hybridge_edge.contract.names import parse_batch_manifest_key
from hybridge_edge.s3 import Bucket as DeviceBucket
from hybridge_edge.s3_access import Access
from hybridge_edge.spool_reader import SpoolReader
from hybridge_edge.spool_writer import SpoolWriter
from hybridge_edge.uplink import Uplink

SIGNED_FOR = re.compile(r"Credential=([^/]+)/\d{8}/([^/]+)/s3/aws4_request")
KEYS = "[default]\naws_access_key_id = SNOWKEY\naws_secret_access_key = snow-secret\n"


@pytest.fixture(scope="module")
def bucket(sandbox: RunningSandbox) -> Bucket:
    """A bucket whose region is ``snow``."""
    import boto3

    store = boto3.session.Session().client("s3", region_name="snow")
    store.create_bucket(Bucket="snowball", CreateBucketConfiguration={"LocationConstraint": "snow"})
    return Bucket("snowball")


@pytest.fixture
def front(bucket: Bucket, tmp_path: Path) -> Iterator[TlsFront]:
    backend = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    with TlsFront(tmp_path, (str(backend.hostname), int(backend.port or 0))) as front:
        yield front


@pytest.fixture
def snow(front: TlsFront, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TlsFront:
    """The cloud's S3 is the front's, with keys of its own."""
    (tmp_path / "credentials").write_text(KEYS.replace("default", "snow"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", front.url)
    monkeypatch.setenv("HYBRIDGE_S3_TARGET", "snowball-edge")
    monkeypatch.setenv("HYBRIDGE_S3_CA_FILE", str(front.certificate))
    monkeypatch.setenv("HYBRIDGE_S3_PROFILE", "snow")
    return front


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(KEYS)
    path.chmod(0o600)
    return path


@pytest.fixture
def settings(front: TlsFront, keys: Path) -> dict[str, object]:
    return {
        "target": "snowball-edge",
        "endpoint": front.url,
        "caFile": str(front.certificate),
        "credentialsFile": str(keys),
    }


def device_bucket(name: str, settings: dict[str, object]) -> DeviceBucket:
    environment = {"AWS_REGION": "eu-central-1", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/never"}
    return DeviceBucket(name, environment, Access.read(Configuration(settings)))


def assert_spoken_as_a_snowball_wants(front: TlsFront, bucket: str) -> None:
    assert front.heads
    for head in front.heads:
        assert head.split(" ")[1].startswith(f"/{bucket}"), head
        assert SIGNED_FOR.search(head).groups() == ("SNOWKEY", "snow"), head  # type: ignore[union-attr]
        lower = head.lower()
        for unknown in ("if-none-match", "x-amz-checksum", "x-amz-sdk-checksum", "aws-chunked", "x-amz-trailer"):
            assert unknown not in lower, head


def fill(spool: Path, count: int) -> list[np.ndarray]:
    rows = [np.random.default_rng(number).normal(size=16).astype(np.float32) for number in range(count)]
    observed = [
        Observation(
            model="watch",
            version="1.0.0",
            digest="sha256:" + "a" * 64,
            features_digest="sha256:" + "b" * 64,
            sample_id=f"s/{number}",
            captured_at_ms=1_700_000_000_000 + number,
            features={"features": row},
            outputs={"probabilities": np.zeros(3, np.float32)},
            confidence=0.5,
        )
        for number, row in enumerate(rows)
    ]
    writer = SpoolWriter(spool, minimum_free_bytes=0)
    writer.append([one.to_sample("random").to_bytes() for one in observed])
    writer.close()
    return rows


def run_until(uplink: Uplink, done: Callable[[], bool]) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=uplink.run, args=(stop,))
    thread.start()
    try:
        for _ in range(2000):
            if done():
                break
            time.sleep(0.01)
        else:
            raise AssertionError(f"it did not happen: {uplink.status}")
    finally:
        stop.set()
        thread.join(30)
        uplink.close()


def returned(bucket: Bucket, thing: str) -> dict[int, np.ndarray]:
    """Feature rows by seq, from the bucket itself and not through the front."""
    found: dict[int, np.ndarray] = {}
    for key, _, _ in bucket.list(f"devices/{thing}/"):
        if parse_batch_manifest_key(key) is None:
            continue
        manifest = BatchManifest.from_bytes(bucket.get(key))
        data = bucket.get(manifest.data_key)
        assert len(data) == manifest.data_size
        arrays = np.load(io.BytesIO(data), allow_pickle=False)
        found.update(zip(arrays["seq"].tolist(), arrays["features.features"], strict=True))
    return found


def test_components_are_published_through_it_byte_for_byte(
    snow: TlsFront, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control plane is the region's, as ever; only objects go through the front."""
    (component,) = build.build(tmp_path / "built", "snow", "9.9.9", ("SampleUplink",))
    assert components.publish(component, bucket).created
    assert not components.publish(component, bucket).created
    assert_spoken_as_a_snowball_wants(snow, bucket.name)
    puts = Counter(head.split(" ")[1] for head in snow.heads if head.startswith("PUT"))
    assert set(puts.values()) == {1}, "what was there was not written again"
    for name in ("AWS_ENDPOINT_URL_S3", "HYBRIDGE_S3_TARGET", "HYBRIDGE_S3_CA_FILE", "HYBRIDGE_S3_PROFILE"):
        monkeypatch.delenv(name)
    for artifact in component.artifacts:
        assert bucket.get(component.key(artifact)) == artifact.path.read_bytes()


def test_a_package_is_published_through_it_and_read_by_a_device(
    snow: TlsFront, bucket: Bucket, make_package: Any, signer: Any, settings: dict[str, object], tmp_path: Path
) -> None:
    ensure_fleet(bucket, "snowfleet")
    package = make_package("snowmodel")
    done = publishing.publish(package, "snowfleet", signer.trust, bucket)
    assert done.created
    assert_spoken_as_a_snowball_wants(snow, bucket.name)
    (key,) = [key for key, _, _ in bucket.list("components/hybridge.model.snowmodel/") if key.endswith("model.zip")]
    size = device_bucket(bucket.name, settings).fetch(key, tmp_path / "package.zip", 1 << 30)
    assert size == (tmp_path / "package.zip").stat().st_size
    assert (tmp_path / "package.zip").read_bytes() == bucket.get(key)
    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        assert archive.read("package/model.onnx") == (package / "model.onnx").read_bytes()
    with pytest.raises(Refused, match="larger than 10 bytes"):
        device_bucket(bucket.name, settings).fetch(key, tmp_path / "small.zip", 10)
    with pytest.raises(Refused, match="404"):
        device_bucket(bucket.name, settings).fetch("no/such/key", tmp_path / "none.zip", 10)


@pytest.mark.parametrize("good", [True, False])
def test_the_device_s_install_fetches_from_it_and_believes_the_signature_alone(
    front: TlsFront, bucket: Bucket, make_package: Any, signer: Any, settings: dict[str, object], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], good: bool,
) -> None:  # fmt: skip
    """No server runs here, so a package that is believed ends at the server's door."""
    package = make_package("stick")
    with zipfile.ZipFile(tmp_path / "stick.zip", "w") as archive:
        for path in package.rglob("*"):
            if path.is_file() and (good or path.name != "signature.json"):
                archive.write(path, path.relative_to(package))
    bucket.put("sticks/stick 1.zip", (tmp_path / "stick.zip").read_bytes())
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HYBRIDGE_TRUST", str(signer.trust_file))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    flags = ["--target", "snowball-edge", "--endpoint", front.url, "--ca-file", str(front.certificate),
             "--credentials-file", str(settings["credentialsFile"])]  # fmt: skip
    assert main(["install", f"s3://{bucket.name}/sticks/stick 1.zip", *flags, "--wait", "0"]) == 1
    assert ("server" if good else "signature") in capsys.readouterr().err
    assert_spoken_as_a_snowball_wants(front, bucket.name)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert main(["install", f"s3://{bucket.name}", *flags]) == 2
    assert "Write s3://BUCKET/KEY" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (KEYS, 0o644, "may read the keys"),
        ("[other]\naws_access_key_id = SECRETWORD\n", 0o600, "holds no keys"),
        ("SECRETWORD no file of sections", 0o600, "holds no keys"),
        ("[default]\naws_access_key_id = SECRETWORD\n", 0o600, "holds no keys"),
    ],
)
def test_a_file_of_keys_that_cannot_serve_is_said_without_what_it_holds(
    keys: Path, content: str, mode: int, said: str
) -> None:
    keys.write_text(content)
    keys.chmod(mode)
    with pytest.raises(UsageError, match=said) as error:
        DeviceBucket("data", {}, Access.read(Configuration({"target": "snowball-edge", "credentialsFile": str(keys)})))
    assert "SECRETWORD" not in str(error.value)


def test_a_file_that_is_no_certificate_is_said_at_once(front: TlsFront, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    settings: dict[str, object] = {"endpoint": front.url, "region": "snow", "caFile": str(tmp_path / "ca.pem"),
                                   "credentialsFile": str(keys)}  # fmt: skip
    with pytest.raises(UsageError, match="holds no certificate"):
        device_bucket("data", settings)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "https://data.s3.eu-central-1.amazonaws.com/"),
        ({"addressing": "path"}, "https://s3.eu-central-1.amazonaws.com/data/"),
        ({"endpoint": "https://10.0.0.1:8443"}, "https://10.0.0.1:8443/data/"),
        ({"endpoint": "https://store/s3/", "addressing": "virtual"}, "https://data.store/s3/"),
        ({"endpoint": "https://[fd00::1]:8443"}, "https://[fd00::1]:8443/data/"),
    ],
)
def test_the_settings_say_where_a_bucket_is(keys: Path, settings: dict[str, object], url: str) -> None:
    found = device_bucket("data", {**settings, "credentialsFile": str(keys)}).endpoint
    assert f"https://{found.authority}{found.prefix}" == url


def test_what_the_cloud_must_decide_atomically_is_refused_there(snow: TlsFront, bucket: Bucket) -> None:
    bucket.put("snow/once", b"1", only_if_absent=True)
    with pytest.raises(Conflict):
        bucket.put("snow/once", b"2", only_if_absent=True)
    with pytest.raises(Refused, match="only where it is as it was"):
        bucket.put("snow/once", b"2", if_match='"x"')


@pytest.mark.parametrize("wrong", ["another", "none", "system"])
def test_the_cloud_does_not_speak_to_a_store_it_does_not_trust(
    snow: TlsFront, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    if wrong == "none":
        monkeypatch.setenv("HYBRIDGE_S3_CA_FILE", str(tmp_path / "nowhere.pem"))
    elif wrong == "another":
        monkeypatch.setenv("HYBRIDGE_S3_CA_FILE", str(certificate(tmp_path, "another")[0]))
    else:
        monkeypatch.delenv("HYBRIDGE_S3_CA_FILE")
    with pytest.raises(UsageError if wrong == "none" else Refused, match="HYBRIDGE_S3_CA_FILE"):
        bucket.put("snow/key", b"1")
    assert snow.heads == []


def test_samples_come_back_through_it_byte_for_byte(
    front: TlsFront, bucket: Bucket, settings: dict[str, object], tmp_path: Path
) -> None:
    rows = fill(tmp_path / "spool", 100)
    uplink = Uplink(
        tmp_path / "spool", device_bucket(bucket.name, settings), "snow-1", batch_samples=32, batch_seconds=0.05
    )
    run_until(uplink, lambda: uplink.status.returned >= 100)
    found = returned(bucket, "snow-1")
    assert len(found) == 100
    for row, (_, theirs) in zip(rows, sorted(found.items()), strict=True):
        assert row.tobytes() == theirs.tobytes()
    assert_spoken_as_a_snowball_wants(front, bucket.name)


def test_a_wrong_certificate_is_a_clear_answer_and_the_spool_keeps_everything(
    front: TlsFront, bucket: Bucket, settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridge_edge.uplink.FLUSH_SECONDS", 0.1)
    monkeypatch.setattr("hybridge_edge.uplink.REFUSED_SECONDS", 0.05)
    fill(tmp_path / "spool", 50)
    authorities = certificate(tmp_path, "another")[0]
    store = device_bucket(bucket.name, {**settings, "caFile": str(authorities)})
    uplink = Uplink(tmp_path / "spool", store, "snow-2", batch_seconds=0.05, backoff=Backoff(0.05))
    run_until(uplink, lambda: "is not trusted" in uplink.status.error)
    assert f"Correct {authorities}" in uplink.status.error
    assert (front.heads, returned(bucket, "snow-2"), uplink.status.returned) == ([], {}, 0)
    # Who corrects the file need not restart anything.
    uplink = Uplink(tmp_path / "spool", store, "snow-2", batch_seconds=0.05, backoff=Backoff(0.05))
    authorities.write_bytes(front.certificate.read_bytes())
    run_until(uplink, lambda: uplink.status.returned >= 50)
    assert len(returned(bucket, "snow-2")) == 50
    reader = SpoolReader(tmp_path / "spool")
    assert reader.read(1, 1) == []
    reader.close()


def test_the_command_takes_the_settings_as_flags(
    front: TlsFront, bucket: Bucket, settings: dict[str, object], tmp_path: Path
) -> None:
    fill(tmp_path / "spool", 20)
    (tmp_path / "run").mkdir(mode=0o700)
    command = [
        sys.executable, "-m", "hybridge_edge.cli", "uplink", "--bucket", bucket.name, "--thing", "snow-3",
        "--spool", str(tmp_path / "spool"), "--target", "snowball-edge", "--endpoint", front.url,
        "--ca-file", str(front.certificate), "--credentials-file", str(settings["credentialsFile"]),
    ]  # fmt: skip
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HYBRIDGE_"))}
    process = subprocess.Popen([*command, "--batch-seconds", "0.05"],
                               env={**bare, "HYBRIDGE_RUNTIME_DIR": str(tmp_path / "run")})  # fmt: skip
    try:
        for _ in range(1000):
            if len(returned(bucket, "snow-3")) == 20:
                break
            time.sleep(0.02)
    finally:
        process.terminate()
        assert process.wait(20) == 0
    assert len(returned(bucket, "snow-3")) == 20
    assert_spoken_as_a_snowball_wants(front, bucket.name)


def test_no_other_service_is_told_of_the_store(snow: TlsFront, bucket: Bucket) -> None:
    assert session.client("s3").meta.region_name == "snow"
    assert session.client("iot").meta.region_name == os.environ["AWS_REGION"]
    assert session.client("iot").meta.endpoint_url == os.environ["AWS_ENDPOINT_URL"]
