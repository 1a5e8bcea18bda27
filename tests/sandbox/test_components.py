"""Component versions through unmodified boto3."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError

from hybridge_cloud.sandbox.lifecycle import RunningSandbox

LINUX = {"name": "here", "attributes": {"os": "linux", "architecture": "amd64"}}


@pytest.fixture(scope="module")
def greengrass(client: Callable[[str], Any]) -> Any:
    return client("greengrassv2")


@pytest.fixture
def name() -> str:
    return f"tests.Component{uuid.uuid4().hex[:8]}"


def code(caught: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_a_component_version_is_created_described_and_read_back_with_its_artifacts_digest(
    sandbox: RunningSandbox, client: Any, greengrass: Any, name: str, make_recipe: Any
) -> None:
    data = b"artifact" * 1000
    client("s3").put_object(Bucket=sandbox.bucket, Key=f"components/{name}/a.zip", Body=data)
    made = greengrass.create_component_version(
        inlineRecipe=make_recipe(name, "1.0.0", f"s3://{sandbox.bucket}/components/{name}/a.zip"), tags={"team": "ml"}
    )
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert made["arn"].endswith(f":components:{name}:versions:1.0.0")
    described = greengrass.describe_component(arn=made["arn"])
    assert described["status"]["componentState"] == "DEPLOYABLE"
    assert described["publisher"] == "tests"
    assert described["tags"] == {"team": "ml"}
    assert described["platforms"][0]["attributes"]["os"] == "linux"
    read = json.loads(greengrass.get_component(arn=made["arn"])["recipe"])
    artifact = read["Manifests"][0]["Artifacts"][0]
    assert artifact["Digest"] == base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert artifact["Algorithm"] == "SHA-256"
    as_yaml = greengrass.get_component(arn=made["arn"], recipeOutputFormat="YAML")
    assert yaml.safe_load(as_yaml["recipe"]) == read


def test_a_yaml_recipe_is_taken(greengrass: Any, name: str, make_recipe: Any) -> None:
    text = yaml.safe_dump(json.loads(make_recipe(name, "1.0.0"))).encode()
    assert greengrass.create_component_version(inlineRecipe=text)["componentName"] == name


def test_an_existing_version_is_a_conflict_whatever_its_content(greengrass: Any, name: str, make_recipe: Any) -> None:
    greengrass.create_component_version(inlineRecipe=make_recipe(name, "1.0.0"))
    for content in (make_recipe(name, "1.0.0"), make_recipe(name, "1.0.0", dependencies={})):
        with pytest.raises(greengrass.exceptions.ConflictException) as caught:
            greengrass.create_component_version(inlineRecipe=content)
        assert code(caught) == ("ConflictException", 409)


def test_a_request_sent_again_with_its_client_token_gets_its_answer_again(
    greengrass: Any, name: str, make_recipe: Any
) -> None:
    request = {"inlineRecipe": make_recipe(name, "1.0.0"), "clientToken": uuid.uuid4().hex}
    first, again = (greengrass.create_component_version(**request) for _ in range(2))
    assert (first["arn"], first["creationTimestamp"]) == (again["arn"], again["creationTimestamp"])


def with_manifest(manifest: str) -> bytes:
    head = 'RecipeFormatVersion: "2020-01-25"\nComponentName: tests.Odd\nComponentVersion: "1.0.0"\n'
    return f"{head}Manifests: [{manifest}]".encode()


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        (b"][", "neither JSON nor YAML"),
        (b"[]", "not an object"),
        (b'{"RecipeFormatVersion": "2020-01-25"}', "ComponentName"),
        (b"x" * 16_001, "16001 bytes"),
        (with_manifest('{Platform: {os: "/[/"}}'), "unterminated character set"),
        (with_manifest("{Platform: linux}"), "malformed"),
        (with_manifest('{Artifacts: [{Uri: "s3://["}]}'), "malformed"),
        (with_manifest("{Made: 2020-01-01}"), "malformed"),
    ],
)
def test_what_is_no_recipe_is_refused_with_the_reason(greengrass: Any, recipe: bytes, word: str) -> None:
    with pytest.raises(ClientError, match=word) as caught:
        greengrass.create_component_version(inlineRecipe=recipe)
    assert code(caught) == ("ValidationException", 400)


def test_a_missing_artifact_is_named(sandbox: RunningSandbox, greengrass: Any, name: str, make_recipe: Any) -> None:
    uri = f"s3://{sandbox.bucket}/components/{name}/missing.zip"
    with pytest.raises(ClientError, match=f"components/{name}/missing.zip"):
        greengrass.create_component_version(inlineRecipe=make_recipe(name, "1.0.0", uri))
    with pytest.raises(greengrass.exceptions.ResourceNotFoundException):
        greengrass.list_component_versions(arn=f"arn:aws:greengrass:us-east-1:000000000000:components:{name}")


def test_versions_are_listed_newest_first_over_pages(greengrass: Any, name: str, make_recipe: Any) -> None:
    for version in ("1.0.0", "1.10.0", "1.9.0"):
        made = greengrass.create_component_version(inlineRecipe=make_recipe(name, version))
    arn = made["arn"].rpartition(":versions:")[0]
    pages = greengrass.get_paginator("list_component_versions").paginate(arn=arn, PaginationConfig={"PageSize": 2})
    assert [entry["componentVersion"] for page in pages for entry in page["componentVersions"]] == [
        "1.10.0", "1.9.0", "1.0.0",
    ]  # fmt: skip
    components = greengrass.get_paginator("list_components").paginate(PaginationConfig={"PageSize": 2})
    latest = {entry["componentName"]: entry["latestVersion"] for page in components for entry in page["components"]}
    assert latest[name]["componentVersion"] == "1.10.0"
    greengrass.delete_component(arn=f"{arn}:versions:1.10.0")
    with pytest.raises(greengrass.exceptions.ResourceNotFoundException):
        greengrass.describe_component(arn=f"{arn}:versions:1.10.0")


def test_candidates_resolve_to_the_newest_version_that_fits_all(greengrass: Any, name: str, make_recipe: Any) -> None:
    for version in ("1.0.0", "1.5.0", "2.0.0"):
        greengrass.create_component_version(inlineRecipe=make_recipe(name, version))

    def resolve(**wanted: str) -> str:
        candidate = {"componentName": name, "versionRequirements": wanted}
        found = greengrass.resolve_component_candidates(platform=LINUX, componentCandidates=[candidate])
        (one,) = found["resolvedComponentVersions"]
        assert json.loads(one["recipe"])["ComponentVersion"] == one["componentVersion"]
        return str(one["componentVersion"])

    assert resolve() == "2.0.0"
    assert resolve(a=">=1.0.0 <2.0.0") == "1.5.0"
    assert resolve(a=">=1.0.0", b="==1.0.0".removeprefix("=")) == "1.0.0"
    with pytest.raises(greengrass.exceptions.ResourceNotFoundException, match=r"a wants >=3\.0\.0"):
        resolve(a=">=3.0.0")
    with pytest.raises(greengrass.exceptions.ResourceNotFoundException, match="platform"):
        greengrass.resolve_component_candidates(
            platform={"attributes": {"os": "linux", "architecture": "aarch64"}},
            componentCandidates=[{"componentName": name, "versionRequirements": {}}],
        )


def test_an_operation_the_sandbox_lacks_says_so(greengrass: Any) -> None:
    with pytest.raises(ClientError, match="does not serve"):
        greengrass.get_service_role_for_account()


def test_a_value_outside_the_models_enumeration_is_refused_by_the_service(greengrass: Any) -> None:
    with pytest.raises(ClientError, match="must be one of") as caught:
        greengrass.list_components(scope="EVERYTHING")
    assert code(caught) == ("ValidationException", 400)
