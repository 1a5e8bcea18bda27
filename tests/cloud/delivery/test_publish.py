"""Publishing, against the sandbox's real account: once, and only once, whatever is repeated or cut short."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridge_cloud import publish as publishing
from hybridge_cloud import registry
from hybridge_cloud.aws import greengrass, session
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.components import build
from hybridge_cloud.components import publish as components
from hybridge_cloud.fleet import record
from hybridge_cloud.fleet.membership import ensure_fleet
from hybridge_cloud.signing import generate_key, sign_package
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical
from hybridge_edge.contract.errors import Conflict, HybridgeError, PackageRefused, Refused, Unavailable, UsageError
from hybridge_edge.contract.package_file import SIGNATURE_FILE

FLEET = "publishers"
NUMBERS = itertools.count(1)


@pytest.fixture
def fleet(bucket: Bucket) -> str:
    ensure_fleet(bucket, FLEET)
    return FLEET


@pytest.fixture
def model() -> str:
    return f"model-{next(NUMBERS)}"


def test_a_package_is_stored_registered_and_made_a_component(
    bucket: Bucket, fleet: str, model: str, make_package: Callable[..., Path], signer: Any, tmp_path: Path
) -> None:
    package = make_package(model)
    done = publishing.publish(package, fleet, signer.trust, bucket)
    assert (done.model, done.version, done.component, done.created) == (model, "1.0.0", f"hybridge.model.{model}", True)
    component = greengrass.find_component(done.component, "1.0.0")
    assert component is not None
    assert component.state == "DEPLOYABLE"
    registered = registry.get(bucket, model, "1.0.0")
    assert (registered.digest, registered.stage, registered.fleet) == (done.digest, "candidate", fleet)
    assert registry.versions(bucket, model) == ("1.0.0",)
    fetched = publishing.fetch(model, "1.0.0", tmp_path / "back", signer.trust, bucket)
    assert fetched.digest == done.digest
    for path in package.rglob("*"):
        if path.is_file():
            assert (tmp_path / "back" / path.relative_to(package)).read_bytes() == path.read_bytes()


def test_the_same_content_again_changes_nothing_and_other_content_is_refused(
    bucket: Bucket, fleet: str, model: str, make_package: Callable[..., Path], signer: Any
) -> None:
    package, trust = make_package(model), signer.trust
    publishing.publish(package, fleet, trust, bucket)
    before = {key: etag for key, _, etag in bucket.list("") if model in key}
    assert publishing.publish(package, fleet, trust, bucket).created is False
    with pytest.raises(Conflict, match="published already with other content"):
        publishing.publish(make_package(model, bias=1.0), fleet, trust, bucket)
    assert {key: etag for key, _, etag in bucket.list("") if model in key} == before
    assert publishing.publish(make_package(model, "1.1.0", bias=1.0), fleet, trust, bucket).created


def test_a_publication_cut_short_anywhere_is_completed_by_another_try(
    bucket: Bucket, fleet: str, model: str, make_package: Callable[..., Path], signer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    package, trust = make_package(model), signer.trust
    writes = {"put_object", "create_component_version"}
    call, client = session.call, session.client
    left = 0

    class Dying:
        """A client that dies before its nth write."""

        def __init__(self, service: str) -> None:
            self._client = client(service)

        def __getattr__(self, name: str) -> object:
            nonlocal left
            if name in writes:
                if left == 0:
                    raise Unavailable("The power went.")
                left -= 1
            return getattr(self._client, name)

    monkeypatch.setattr("hybridge_cloud.aws.s3.client", Dying)
    monkeypatch.setattr(session, "client", Dying)
    survived = 0
    for allowed in itertools.count():
        left = allowed
        try:
            publishing.publish(package, fleet, trust, bucket)
            break
        except Unavailable:
            survived += 1
            # Every try gets one write further, or finds it done.
            assert allowed < 40
    monkeypatch.undo()
    assert survived >= 2
    assert call is session.call
    found = greengrass.find_component(f"hybridge.model.{model}", "1.0.0")
    assert found is not None
    assert publishing.publish(package, fleet, trust, bucket).created is False


def test_two_publishers_of_different_content_at_once_leave_one_whole_version(
    bucket: Bucket, fleet: str, model: str, make_package: Callable[..., Path], signer: Any, tmp_path: Path
) -> None:
    trust = signer.trust
    packages = [make_package(model, bias=float(number)) for number in range(4)]

    def attempt(package: Path) -> str:
        try:
            return publishing.publish(package, fleet, trust, bucket).digest
        except Conflict:
            return ""

    with ThreadPoolExecutor(4) as pool:
        digests = [digest for digest in pool.map(attempt, packages) if digest]
    assert len(digests) == 1
    assert publishing.fetch(model, "1.0.0", tmp_path / "back", trust, bucket).digest == digests[0]


@pytest.mark.parametrize("harm", ["unsigned", "altered", "other key", "extra file", "missing"])
def test_a_package_that_devices_would_refuse_is_refused_and_nothing_is_written(
    harm: str, bucket: Bucket, fleet: str, model: str, make_package: Callable[..., Path], signer: Any, tmp_path: Path
) -> None:
    package = make_package(model)
    if harm == "unsigned":
        (package / SIGNATURE_FILE).unlink()
    elif harm == "altered":
        (package / "model.onnx").write_bytes((package / "model.onnx").read_bytes() + b"\0")
    elif harm == "other key":
        generate_key(tmp_path / "other.pem", tmp_path / "other.json")
        (package / SIGNATURE_FILE).unlink()
        sign_package(package, tmp_path / "other.pem")
    elif harm == "extra file":
        (package / "readme.txt").write_text("hello")
    else:
        package = tmp_path / "nowhere"
    with pytest.raises(UsageError if harm == "missing" else PackageRefused):
        publishing.publish(package, fleet, signer.trust, bucket)
    assert not [key for key, _, _ in bucket.list("") if model in key]


def test_an_altered_object_in_s3_is_seen_when_it_is_fetched(
    bucket: Bucket, fleet: str, model: str, make_package: Callable[..., Path], signer: Any, tmp_path: Path
) -> None:
    publishing.publish(make_package(model), fleet, signer.trust, bucket)
    bucket.put(names.package_key(model, "1.0.0", "model.onnx"), b"other")
    with pytest.raises(PackageRefused):
        publishing.fetch(model, "1.0.0", tmp_path / "back", signer.trust, bucket)
    assert not (tmp_path / "back").exists()


def test_an_unknown_fleet_is_refused(
    bucket: Bucket, model: str, make_package: Callable[..., Path], signer: Any
) -> None:
    with pytest.raises(Refused, match="There is no fleet 'nobody'"):
        publishing.publish(make_package(model), "nobody", signer.trust, bucket)


def test_a_component_is_published_once_and_a_rebuild_with_other_content_asks_for_a_higher_version(
    bucket: Bucket, tmp_path: Path
) -> None:
    component = next(build.build(tmp_path, prefix="publish.test", only=("SampleUplink",)))
    (artifact,) = component.artifacts
    assert components.publish(component, bucket).created
    assert components.publish(component, bucket).created is False
    assert bucket.head_metadata(component.key(artifact)) == {"sha256": artifact.digest}
    before = {key: etag for key, _, etag in bucket.list("components/publish.test")}
    other = "sha256:" + "1" * 64
    both = (*component.parts, ("riscv64/wheelhouse.zip", other), ("riscv64/wheelhouse.zip/a.whl", other))
    # Other source: the device's wheel is another, and so is the artifact that holds it.
    wheel = tuple((name, other if name == artifact.name or "hybridge_edge" in name else digest)
                  for name, digest in component.parts)  # fmt: skip
    for parts, said in (
        (both, "riscv64/wheelhouse.zip is new"),
        (component.parts[:1], "wheelhouse.zip is missing"),
        ((("the recipe", other), *component.parts[1:]), "content: the recipe differs"),
        ((), other[:19]),
        (wheel, r"content: \w+/wheelhouse\.zip/hybridge_edge-[\w.-]+\.whl differs\. Raise"),
    ):
        with pytest.raises(Conflict, match=said) as refused:
            components.publish(replace(component, content=other, parts=parts), bucket)
        assert "Raise the version" in refused.value.remedy
    assert {key: etag for key, _, etag in bucket.list("components/publish.test")} == before


def test_one_version_carries_a_manifest_and_an_artifact_for_each_platform(bucket: Bucket, tmp_path: Path) -> None:
    component = next(build.build(tmp_path, prefix="two.platforms", only=("SampleUplink",)))
    (one,) = component.artifacts
    # The other platform's content does not matter to the account, and its wheels are not downloaded for this.
    places = ("amd64/wheelhouse.zip", "aarch64/wheelhouse.zip")
    both = replace(component, artifacts=tuple(replace(one, name=place) for place in places))
    arn = components.publish(both, bucket).arn
    answer = session.call("greengrassv2", "get_component", arn=arn, recipeOutputFormat="YAML")
    manifests = yaml.safe_load(answer["recipe"])["Manifests"]
    assert [manifest["Platform"]["architecture"] for manifest in manifests] == ["amd64", "aarch64"]
    for place, manifest in zip(places, manifests, strict=True):
        (artifact,) = manifest["Artifacts"]
        assert (
            artifact["Uri"] == f"s3://{bucket.name}/components/two.platforms.SampleUplink/{component.version}/{place}"
        )
        assert base64.b64decode(artifact["Digest"]).hex() == one.digest
        assert bucket.size(artifact["Uri"].removeprefix(f"s3://{bucket.name}/")) == one.size


def test_a_record_of_the_first_format_is_read_still(bucket: Bucket, tmp_path: Path) -> None:
    component = next(build.build(tmp_path, prefix="old.record", only=("SampleUplink",)))
    key = names.component_artifact_key(component.name, component.version, components.CONTENT_RECORD)
    bucket.put(key, canonical({"format": 1, "content": component.content}))
    assert components.publish(component, bucket).created
    with pytest.raises(Conflict, match="other content"):
        components.publish(replace(component, content="sha256:" + "1" * 64), bucket)


def test_epochs_are_never_handed_out_twice(bucket: Bucket) -> None:
    ensure_fleet(bucket, "epochs")
    with ThreadPoolExecutor(6) as pool:
        epochs = list(pool.map(lambda _: record.next_epoch(bucket, "epochs"), range(18)))
    assert sorted(epochs) == list(range(1, 19))


def test_a_fleet_is_made_once_and_keeps_its_prefix(bucket: Bucket) -> None:
    assert ensure_fleet(bucket, "kept", "acme") == ensure_fleet(bucket, "kept", "acme")
    with pytest.raises(Conflict, match="prefix 'acme'"):
        ensure_fleet(bucket, "kept", "other")
    assert "kept" in record.all_fleets(bucket)


def test_without_an_account_one_sentence_names_the_variable(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_GREENGRASSV2", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"AWS_ENDPOINT_URL=http://127\.0\.0\.1:9"):
        bucket.get("anything")
    with pytest.raises(Unavailable, match="AWS_ENDPOINT_URL_GREENGRASSV2"):
        greengrass.component_versions("hybridge.InferenceServer")
    monkeypatch.delenv("HYBRIDGE_BUCKET")
    with pytest.raises(UsageError, match="HYBRIDGE_BUCKET is not set"):
        Bucket.from_environment()


def test_what_the_account_does_not_know_is_told_from_what_it_refuses(bucket: Bucket) -> None:
    assert registry.versions(bucket, "nothing") == ()
    with pytest.raises(HybridgeError, match=r"nothing 1\.0\.0 is not published"):
        registry.get(bucket, "nothing", "1.0.0")
    assert greengrass.find_component("hybridge.model.nothing", "1.0.0") is None
