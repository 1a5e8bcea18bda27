"""What a pipeline's declaration must be beyond its shape (CodePipeline user guide, pipeline structure reference)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from hybridge_cloud.sandbox.control.wire import Document, ServiceError

_REFERENCE = re.compile(r"#\{([^}]*)\}")
MINIMUM_STAGES = 2


def check(pipeline: Document) -> None:
    """Raise the service's error where a declaration could not run.

    The sandbox runs S3 sources and CodeBuild actions, in execution mode QUEUED; anything else is refused here rather
    than ignored later.
    """
    stages = pipeline["stages"]
    if len(stages) < MINIMUM_STAGES:
        raise ServiceError("InvalidStructureException", "A pipeline needs at least two stages.")
    if pipeline.get("executionMode", "SUPERSEDED") != "QUEUED":
        raise ServiceError("InvalidStructureException", "The sandbox runs pipelines in executionMode QUEUED only.")
    if pipeline.get("variables") and pipeline.get("pipelineType") != "V2":
        raise ServiceError("InvalidStructureException", "Pipeline variables need pipelineType V2.")
    names = [stage["name"] for stage in stages]
    if len(set(names)) != len(names):
        raise ServiceError("InvalidStructureException", "Two stages have the same name.")
    made: set[str] = set()
    for index, stage in enumerate(stages):
        if not stage["actions"]:
            raise ServiceError("InvalidStageDeclarationException", f"Stage {stage['name']} has no action.")
        if len({action["name"] for action in stage["actions"]}) != len(stage["actions"]):
            raise ServiceError(
                "InvalidStageDeclarationException", f"Two actions of stage {stage['name']} share a name."
            )
        for action in ordered(stage):
            _check_action(action, first=index == 0, made=made)
            made |= {artifact["name"] for artifact in action.get("outputArtifacts", [])}


def _check_action(action: Document, *, first: bool, made: set[str]) -> None:
    kind, configuration = action["actionTypeId"], action.get("configuration", {})
    what = (kind["category"], kind["owner"], kind["provider"])
    name = action["name"]
    if (kind["category"] == "Source") != first:
        raise ServiceError(
            "InvalidStructureException", "The first stage holds source actions only, and only the first stage does."
        )
    if what == ("Source", "AWS", "S3"):
        needed: tuple[str, ...] = ("S3Bucket", "S3ObjectKey")
    elif what in (("Build", "AWS", "CodeBuild"), ("Test", "AWS", "CodeBuild")):
        needed = ("ProjectName",)
        if not action.get("inputArtifacts"):
            raise ServiceError("InvalidActionDeclarationException", f"Action {name} has no input artifact.")
    else:
        raise ServiceError(
            "InvalidActionDeclarationException", f"The sandbox does not run {'/'.join(what)} (action {name})."
        )
    for key in needed:
        if not configuration.get(key):
            raise ServiceError("InvalidActionDeclarationException", f"Action {name} has no {key} in its configuration.")
    for artifact in action.get("inputArtifacts", []):
        if artifact["name"] not in made:
            raise ServiceError(
                "InvalidActionDeclarationException", f"No earlier action makes {artifact['name']}, which {name} reads."
            )
    build_variables(action)


def ordered(stage: Document) -> list[Document]:
    """A stage's actions in the order they run: by runOrder, and as declared within one."""
    return sorted(stage["actions"], key=lambda action: int(action.get("runOrder", 1)))


def build_variables(action: Document) -> list[tuple[str, str]]:
    """The EnvironmentVariables of a CodeBuild action, still with references in them.

    Raises:
        ServiceError: they are not the JSON list that CodeBuild takes, or of a type the sandbox has no store for.
    """
    text = action.get("configuration", {}).get("EnvironmentVariables", "[]")
    try:
        entries = [
            (str(entry["name"]), str(entry["value"]), entry.get("type", "PLAINTEXT")) for entry in json.loads(text)
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ServiceError(
            "InvalidActionDeclarationException", f"EnvironmentVariables of action {action['name']} is not a JSON list."
        ) from None
    if any(kind != "PLAINTEXT" for _, _, kind in entries):
        raise ServiceError(
            "InvalidActionDeclarationException", f"Action {action['name']}: the sandbox has PLAINTEXT variables only."
        )
    return [(name, value) for name, value, _ in entries]


def resolve(text: str, values: Mapping[str, str]) -> str:
    """Replace ``#{namespace.name}`` by its value.

    Raises:
        KeyError: a reference that nothing gives a value.
    """
    return _REFERENCE.sub(lambda match: values[match.group(1)], text)


def variables(pipeline: Document, given: list[Document]) -> dict[str, str]:
    """The values of a pipeline's variables in one execution: what was given, else the default.

    Raises:
        ServiceError: a variable that is not declared, or one without default that was not given.
    """
    declared = {entry["name"]: entry.get("defaultValue") for entry in pipeline.get("variables", [])}
    sent = {entry["name"]: str(entry["value"]) for entry in given}
    for name in sent:
        if name not in declared:
            raise ServiceError("ValidationException", f"The pipeline declares no variable {name}.")
    values = {name: sent.get(name, default) for name, default in declared.items()}
    for name, value in values.items():
        if value is None:
            raise ServiceError("ValidationException", f"Variable {name} has no default and was not given.")
    return {name: str(value) for name, value in values.items()}
