"""CodePipeline: pipelines of CodeBuild actions, and their executions."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hybridge_cloud.aws.session import NotFound, call, calling, client

_CREATE_IT = "Create it with hybridge retrain pipeline create."
RUNNING = frozenset({"InProgress", "Stopping"})


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of one CodeBuild action: its name, the CodeBuild project, and the environment of its build."""

    name: str
    build_project: str
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline of type V2 in execution mode QUEUED.

    Attributes:
        role_arn: what CodePipeline acts as. bucket: where it keeps its artifacts, and where the source lies.
        source_key: the zip that the first stage takes, as CodePipeline demands one.
        variables: names of the variables an execution is started with.
    """

    name: str
    role_arn: str
    bucket: str
    source_key: str
    variables: tuple[str, ...]
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution: its status in CodePipeline's words, and the variables it was started with."""

    execution_id: str
    status: str
    variables: Mapping[str, str]


def create_or_update(pipeline: Pipeline) -> bool:
    """Make the pipeline as it should be. Returns whether it is new."""
    declaration = describe(pipeline)
    try:
        _call("get_pipeline", name=pipeline.name)
    except NotFound:
        _call("create_pipeline", pipeline=declaration)
        return True
    _call("update_pipeline", pipeline=declaration)
    return False


def check_exists(name: str) -> None:
    """Raise NotFound where there is no pipeline of this name."""
    _call("get_pipeline", name=name)


def start(name: str, variables: Mapping[str, str]) -> str:
    """Start an execution and return its id. Called twice, it starts two: nothing here promises otherwise."""
    given = [{"name": key, "value": value} for key, value in variables.items()]
    return str(_call("start_pipeline_execution", name=name, variables=given)["pipelineExecutionId"])


def execution(name: str, execution_id: str) -> Execution:
    """One execution with its variables. Raises NotFound."""
    found = _call("get_pipeline_execution", pipelineName=name, pipelineExecutionId=execution_id)["pipelineExecution"]
    variables = {item["name"]: item.get("resolvedValue", "") for item in found.get("variables", ())}
    return Execution(found["pipelineExecutionId"], found["status"], variables)


def executions(name: str, limit: int) -> Iterator[Execution]:
    """The latest ``limit`` executions, newest first, each with its variables."""
    with calling("codepipeline"):
        paginator = client("codepipeline").get_paginator("list_pipeline_executions")
        pages = paginator.paginate(pipelineName=name, PaginationConfig={"MaxItems": limit})
        found = [item["pipelineExecutionId"] for page in pages for item in page.get("pipelineExecutionSummaries", ())]
    yield from (execution(name, execution_id) for execution_id in itertools.islice(found, limit))


def describe(pipeline: Pipeline) -> dict[str, object]:
    """The declaration CreatePipeline and CloudFormation take (AWS CodePipeline, pipeline structure reference)."""
    source = {
        "name": "source",
        "actions": [
            {
                "name": "project",
                "actionTypeId": {"category": "Source", "owner": "AWS", "provider": "S3", "version": "1"},
                "configuration": {
                    "S3Bucket": pipeline.bucket,
                    "S3ObjectKey": pipeline.source_key,
                    "PollForSourceChanges": "false",
                },
                "outputArtifacts": [{"name": "project"}],
            }
        ],
    }
    return {
        "name": pipeline.name,
        "roleArn": pipeline.role_arn,
        "artifactStore": {"type": "S3", "location": pipeline.bucket},
        "pipelineType": "V2",
        "executionMode": "QUEUED",
        "variables": [{"name": name} for name in pipeline.variables],
        "stages": [source, *(_stage(stage) for stage in pipeline.stages)],
    }


def _stage(stage: Stage) -> dict[str, object]:
    # CodePipeline takes at most 1,000 characters here.
    environment = [{"name": name, "value": value} for name, value in sorted(stage.environment.items())]
    return {
        "name": stage.name,
        "actions": [
            {
                "name": stage.name,
                "actionTypeId": {"category": "Build", "owner": "AWS", "provider": "CodeBuild", "version": "1"},
                "configuration": {
                    "ProjectName": stage.build_project,
                    "EnvironmentVariables": json.dumps(environment),
                },
                "inputArtifacts": [{"name": "project"}],
            }
        ],
    }


def _call(operation: str, **parameters: object) -> Any:
    try:
        return call("codepipeline", operation, **parameters)
    except NotFound as error:
        raise NotFound(error.message, _CREATE_IT) from None


def account_role(role: str) -> str:
    """The ARN of a role of the account that is spoken to."""
    account = call("sts", "get_caller_identity")["Account"]
    return f"arn:aws:iam::{account}:role/{role}"
