"""Pipelines: declared, started and watched through unmodified boto3; builds run as processes."""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hybridge_cloud.sandbox.lifecycle import RunningSandbox
from hybridge_cloud.sandbox.processes import wait_until


@pytest.fixture(scope="module")
def codepipeline(client: Any) -> Any:
    return client("codepipeline")


@pytest.fixture(scope="module")
def source(sandbox: RunningSandbox, client: Any) -> str:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("source.txt", "from the archive\n")
    client("s3").put_object(Bucket=sandbox.bucket, Key="pipelines/source.zip", Body=packed.getvalue())
    return "pipelines/source.zip"


CODEBUILD = {"category": "Build", "owner": "AWS", "provider": "CodeBuild", "version": "1"}


def declaration(bucket: str, key: str, *projects: str, result: Path) -> dict[str, Any]:
    variables = [{"name": "DATASET", "value": "#{variables.DATASET}"}, {"name": "RESULT", "value": str(result)}]
    return {
        "name": f"p-{uuid.uuid4().hex[:8]}",
        "roleArn": "arn:aws:iam::000000000000:role/pipeline",
        "artifactStore": {"type": "S3", "location": bucket},
        "pipelineType": "V2",
        "executionMode": "QUEUED",
        "variables": [{"name": "DATASET", "defaultValue": "none"}],
        "stages": [
            {
                "name": "source",
                "actions": [
                    {
                        "name": "fetch",
                        "actionTypeId": {"category": "Source", "owner": "AWS", "provider": "S3", "version": "1"},
                        "configuration": {
                            "S3Bucket": bucket, "S3ObjectKey": key, "AllowOverrideForS3ObjectKey": "true",
                        },
                        "outputArtifacts": [{"name": "code"}],
                    }
                ],
            },
            *(
                {
                    "name": f"stage{number}",
                    "actions": [
                        {
                            "name": project,
                            "actionTypeId": CODEBUILD,
                            "configuration": {"ProjectName": project, "EnvironmentVariables": json.dumps(variables)},
                            "inputArtifacts": [{"name": "code"}],
                        }
                    ],
                }
                for number, project in enumerate(projects)
            ),
        ],
    }  # fmt: skip


def finished(codepipeline: Any, name: str, execution: str, seconds: float = 30) -> dict[str, Any]:
    def look() -> dict[str, Any]:
        found: dict[str, Any] = codepipeline.get_pipeline_execution(pipelineName=name, pipelineExecutionId=execution)
        return found["pipelineExecution"]  # type: ignore[no-any-return]

    assert wait_until(lambda: look()["status"] != "InProgress", seconds)
    return look()


def test_a_started_pipeline_runs_its_builds_with_variables_and_source(
    sandbox: RunningSandbox, codepipeline: Any, source: str, tmp_path: Path
) -> None:
    pipeline = declaration(sandbox.bucket, source, "green", result=tmp_path / "result")
    made = codepipeline.create_pipeline(pipeline=pipeline)["pipeline"]
    assert made["version"] == 1
    assert codepipeline.get_pipeline(name=made["name"])["pipeline"] == made
    execution = codepipeline.start_pipeline_execution(
        name=made["name"], variables=[{"name": "DATASET", "value": "datasets/000001.json"}]
    )["pipelineExecutionId"]
    ended = finished(codepipeline, made["name"], execution)
    assert ended["status"] == "Succeeded"
    assert ended["variables"] == [{"name": "DATASET", "resolvedValue": "datasets/000001.json"}]
    assert len(ended["artifactRevisions"]) == 1
    assert (tmp_path / "result").read_text().split("\n")[:-1] == [
        "from the archive", "datasets/000001.json", "succeeding=1 over",
    ]  # fmt: skip
    state = codepipeline.get_pipeline_state(name=made["name"])
    assert [(stage["stageName"], stage["latestExecution"]["status"]) for stage in state["stageStates"]] == [
        ("source", "Succeeded"), ("stage0", "Succeeded"),
    ]  # fmt: skip
    (build,) = state["stageStates"][1]["actionStates"]
    assert build["latestExecution"]["externalExecutionId"].startswith("green:")
    logs = list((sandbox.folder.logs / "builds").glob("green-*.log"))
    assert any("hello datasets/000001.json over" in log.read_text() for log in logs)
    listed = codepipeline.list_pipeline_executions(pipelineName=made["name"])["pipelineExecutionSummaries"]
    assert [entry["pipelineExecutionId"] for entry in listed] == [execution]


def test_a_failed_build_fails_its_stage_and_the_execution_with_the_reason(
    sandbox: RunningSandbox, codepipeline: Any, source: str, tmp_path: Path
) -> None:
    pipeline = declaration(sandbox.bucket, source, "red", "green", result=tmp_path / "result")
    codepipeline.create_pipeline(pipeline=pipeline)
    execution = codepipeline.start_pipeline_execution(name=pipeline["name"])["pipelineExecutionId"]
    ended = finished(codepipeline, pipeline["name"], execution)
    assert ended["status"] == "Failed"
    assert "red" in ended["statusSummary"]
    assert (tmp_path / "result").read_text() == "succeeding=0\n"  # post_build ran, the second stage did not
    assert not (tmp_path / "result.never").exists()
    source_stage, red, green = codepipeline.get_pipeline_state(name=pipeline["name"])["stageStates"]
    assert source_stage["latestExecution"]["status"] == "Succeeded"
    assert red["latestExecution"]["status"] == "Failed"
    assert "this goes wrong" in red["actionStates"][0]["latestExecution"]["errorDetails"]["message"]
    assert "latestExecution" not in green


def test_executions_of_one_pipeline_run_one_after_the_other_in_order(
    sandbox: RunningSandbox, codepipeline: Any, source: str, tmp_path: Path
) -> None:
    pipeline = declaration(sandbox.bucket, source, "green", result=tmp_path / "result")
    codepipeline.create_pipeline(pipeline=pipeline)
    started = [
        codepipeline.start_pipeline_execution(
            name=pipeline["name"], variables=[{"name": "DATASET", "value": str(number)}]
        )["pipelineExecutionId"]
        for number in range(3)
    ]
    assert {finished(codepipeline, pipeline["name"], one)["status"] for one in started} == {"Succeeded"}
    assert (tmp_path / "result").read_text().split("\n")[1] == "2"  # each replaces the file: the last one won


def test_the_same_start_sent_again_with_its_token_starts_once(
    sandbox: RunningSandbox, codepipeline: Any, source: str, tmp_path: Path
) -> None:
    pipeline = declaration(sandbox.bucket, source, "green", result=tmp_path / "result")
    codepipeline.create_pipeline(pipeline=pipeline)
    token = uuid.uuid4().hex
    started = {
        codepipeline.start_pipeline_execution(name=pipeline["name"], clientRequestToken=token)["pipelineExecutionId"]
        for _ in range(2)
    }
    assert len(started) == 1
    finished(codepipeline, pipeline["name"], started.pop())


def test_another_source_object_can_be_chosen_and_a_missing_one_fails_the_execution(
    sandbox: RunningSandbox, codepipeline: Any, source: str, tmp_path: Path
) -> None:
    pipeline = declaration(sandbox.bucket, source, "green", result=tmp_path / "result")
    codepipeline.create_pipeline(pipeline=pipeline)
    revision = {"actionName": "fetch", "revisionType": "S3_OBJECT_KEY", "revisionValue": "pipelines/missing.zip"}
    execution = codepipeline.start_pipeline_execution(name=pipeline["name"], sourceRevisions=[revision])
    ended = finished(codepipeline, pipeline["name"], execution["pipelineExecutionId"])
    assert ended["status"] == "Failed"
    assert "pipelines/missing.zip does not exist" in ended["statusSummary"]


def test_an_update_is_a_new_version(sandbox: RunningSandbox, codepipeline: Any, source: str, tmp_path: Path) -> None:
    pipeline = declaration(sandbox.bucket, source, "green", result=tmp_path / "result")
    codepipeline.create_pipeline(pipeline=pipeline)
    assert codepipeline.update_pipeline(pipeline=pipeline)["pipeline"]["version"] == 2
    assert codepipeline.get_pipeline(name=pipeline["name"], version=1)["pipeline"]["version"] == 1
    with pytest.raises(codepipeline.exceptions.PipelineVersionNotFoundException):
        codepipeline.get_pipeline(name=pipeline["name"], version=3)
    with pytest.raises(codepipeline.exceptions.PipelineNameInUseException):
        codepipeline.create_pipeline(pipeline=pipeline)


def test_what_is_not_there_is_named(codepipeline: Any) -> None:
    for call in (
        lambda: codepipeline.get_pipeline(name="absent"),
        lambda: codepipeline.get_pipeline_state(name="absent"),
        lambda: codepipeline.start_pipeline_execution(name="absent"),
    ):
        with pytest.raises(codepipeline.exceptions.PipelineNotFoundException, match="absent"):
            call()


def test_an_undeclared_variable_is_refused(
    sandbox: RunningSandbox, codepipeline: Any, source: str, tmp_path: Path
) -> None:
    pipeline = declaration(sandbox.bucket, source, "green", result=tmp_path / "result")
    codepipeline.create_pipeline(pipeline=pipeline)
    with pytest.raises(ClientError, match="declares no variable OTHER"):
        codepipeline.start_pipeline_execution(name=pipeline["name"], variables=[{"name": "OTHER", "value": "1"}])
    assert codepipeline.list_pipeline_executions(pipelineName=pipeline["name"])["pipelineExecutionSummaries"] == []


def spoil(pipeline: dict[str, Any], part: str) -> None:
    build = pipeline["stages"][1]["actions"][0]
    if part == "one stage":
        del pipeline["stages"][1:]
    elif part == "no source":
        del pipeline["stages"][0]
        pipeline["stages"].append({**pipeline["stages"][0], "name": "another"})
    elif part == "mode":
        pipeline["executionMode"] = "SUPERSEDED"
    elif part == "variables":
        build["configuration"]["EnvironmentVariables"] = "{"
    elif part == "provider":
        build["actionTypeId"]["provider"] = "Jenkins"
    else:
        build["inputArtifacts"] = [{"name": "nothing"}]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("one stage", "InvalidStructureException"),
        ("no source", "InvalidStructureException"),
        ("mode", "InvalidStructureException"),
        ("variables", "InvalidActionDeclarationException"),
        ("provider", "InvalidActionDeclarationException"),
        ("artifact", "InvalidActionDeclarationException"),
    ],
)
def test_a_declaration_that_could_not_run_is_refused(
    sandbox: RunningSandbox, codepipeline: Any, source: str, tmp_path: Path, part: str, kind: str
) -> None:
    pipeline = declaration(sandbox.bucket, source, "green", result=tmp_path / "result")
    spoil(pipeline, part)
    with pytest.raises(ClientError) as caught:
        codepipeline.create_pipeline(pipeline=pipeline)
    assert caught.value.response["Error"]["Code"] == kind
