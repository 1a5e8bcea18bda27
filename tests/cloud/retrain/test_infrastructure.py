"""The template for a real account and the buildspecs: they parse, fit the code and each other, and grant little.

Nothing here proves that AWS takes the template; it was never applied.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridge_cloud.aws.pipeline import describe
from hybridge_cloud.cli.application import build as command_line
from hybridge_cloud.retrain.pipeline import STAGES, retraining_pipeline

INFRA = Path(__file__).resolve().parents[3] / "cloud" / "infra"


class Template(yaml.SafeLoader):
    """CloudFormation's YAML: its short functions become {"Ref": ..} and {"Fn::X": ..}."""


def _function(loader: Template, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]
    return {"Ref" if suffix == "Ref" else f"Fn::{suffix}": value}


Template.add_multi_constructor("!", _function)


def referred(value: Any) -> Iterator[str]:
    """Every logical name that a part of the template refers to."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "Ref":
                yield inner
            elif key == "Fn::GetAtt":
                yield inner.split(".")[0]
            elif key == "Fn::Sub":
                yield from (name.split(".")[0] for name in re.findall(r"\$\{([A-Za-z:.]+)\}", inner))
            else:
                yield from referred(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from referred(inner)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load((INFRA / "retraining.yaml").read_text(), Loader=Template)
    return loaded


def resources(template: dict[str, Any], kind: str) -> dict[str, Any]:
    return {name: made["Properties"] for name, made in template["Resources"].items() if made["Type"] == kind}


def test_every_reference_of_the_template_leads_to_something_in_it(template: dict[str, Any]) -> None:
    known = {*template["Resources"], *template["Parameters"]}
    wanted = {name for name in referred([template["Resources"], template["Outputs"]]) if not name.startswith("AWS::")}
    assert wanted <= known
    assert set(template["Parameters"]) <= wanted, "a parameter nobody uses"
    assert set(referred({"Ref": "Nowhere"})) == {"Nowhere"}, "the control: a reference is found"


def test_the_template_s_pipeline_is_the_one_the_command_makes(template: dict[str, Any]) -> None:
    (declared,) = resources(template, "AWS::CodePipeline::Pipeline").values()
    made: Any = describe(retraining_pipeline("hybridge-m", "role", "${Bucket}", "key", "${PlanKey}", ""))
    assert (declared["PipelineType"], declared["ExecutionMode"]) == (made["pipelineType"], made["executionMode"])
    assert [item["Name"] for item in declared["Variables"]] == [item["name"] for item in made["variables"]]
    assert [stage["Name"] for stage in declared["Stages"]] == [stage["name"] for stage in made["stages"]]
    for ours, theirs in zip(made["stages"], declared["Stages"], strict=True):
        for mine, other in zip(ours["actions"], theirs["Actions"], strict=True):
            assert {key.lower(): value for key, value in other["ActionTypeId"].items()} == {
                key.lower(): value for key, value in mine["actionTypeId"].items()
            }
            if "EnvironmentVariables" in mine["configuration"]:
                text = other["Configuration"]["EnvironmentVariables"]["Fn::Sub"]
                assert json.loads(text) == json.loads(mine["configuration"]["EnvironmentVariables"])


def test_each_stage_has_a_buildspec_and_a_build_project_that_run_a_command_there_is(template: dict[str, Any]) -> None:
    from typer.testing import CliRunner

    for stage in STAGES:
        spec = yaml.safe_load((INFRA / "buildspecs" / f"hybridge-{stage}.yml").read_text())
        project = resources(template, "AWS::CodeBuild::Project")[f"{stage.capitalize()}Project"]
        assert str(spec["version"]) == "0.2"
        assert yaml.safe_load(project["Source"]["BuildSpec"]) == spec
        (command,) = spec["phases"]["build"]["commands"]
        assert command == f"hybridge retrain stage {stage}"
        answer = CliRunner().invoke(command_line(), [*command.split()[1:], "--help"])  # type: ignore[arg-type]
        assert answer.exit_code == 0, answer.output


def test_no_role_may_do_everything_or_anything_to_everything(template: dict[str, Any]) -> None:
    unscoped = {"ecr:GetAuthorizationToken"}  # the one action here that takes no resource
    for name, role in resources(template, "AWS::IAM::Role").items():
        for policy in role["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
                assert not any("*" in action for action in actions), name
                assert statement["Resource"] != "*" or set(actions) <= unscoped, (name, actions)


def test_only_publishing_sees_the_signing_key_and_no_build_may_write_where_devices_do(
    template: dict[str, Any],
) -> None:
    projects = resources(template, "AWS::CodeBuild::Project")
    assert [name for name, made in projects.items() if "SigningKeySecret" in set(referred(made))] == ["PublishProject"]
    roles = resources(template, "AWS::IAM::Role")
    assert [name for name, made in roles.items() if "SigningKeySecret" in set(referred(made))] == ["PublishRole"]
    for name, role in roles.items():
        for policy in role["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                if "s3:PutObject" in statement["Action"]:
                    places = json.dumps(statement["Resource"])
                    assert "devices" not in places, name
                    assert "labels" not in places, name


def test_batches_wake_the_queue_and_what_cannot_be_taken_is_kept(template: dict[str, Any]) -> None:
    rules = resources(template, "AWS::Events::Rule")
    (wildcard,) = rules["BatchRule"]["EventPattern"]["detail"]["object"]["key"]
    assert wildcard == {"wildcard": {"Fn::Sub": "devices/*/batches/${Model}/*.json"}}
    assert rules["BatchRule"]["Targets"][0]["Arn"] == {"Fn::GetAtt": "Queue.Arn"}
    queue = resources(template, "AWS::SQS::Queue")["Queue"]
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": "DeadLetterQueue.Arn"}
    bucket = template["Resources"]["Bucket"]
    assert bucket["Properties"]["NotificationConfiguration"]["EventBridgeConfiguration"]["EventBridgeEnabled"] is True
    assert bucket["Properties"]["VersioningConfiguration"]["Status"] == "Enabled"
    assert bucket["DeletionPolicy"] == "Retain"


def test_the_gate_may_call_every_operation_of_codepipeline_that_it_calls(template: dict[str, Any]) -> None:
    called = {"GetPipeline", "StartPipelineExecution", "ListPipelineExecutions", "GetPipelineExecution"}
    roles = [resource for resource in template["Resources"].values() if resource["Type"] == "AWS::IAM::Role"]
    granted = [{name for name in called if f'"codepipeline:{name}"' in json.dumps(role)} for role in roles]
    assert called in granted
