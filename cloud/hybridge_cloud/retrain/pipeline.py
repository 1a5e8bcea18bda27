"""The retraining pipeline: four CodeBuild actions in a row, told by variables which dataset and by whom."""

from __future__ import annotations

from collections.abc import Mapping

from hybridge_cloud.aws.pipeline import Pipeline, Stage
from hybridge_cloud.retrain.claim import DATASET_VARIABLE

STAGES = ("quality", "train", "evaluate", "publish")
BUILD_PROJECT_PREFIX = "hybridge-"
"""The build project of a stage is this and its name, also in the names of the buildspecs."""
ROLE = "hybridge-retraining"
"""The role CodePipeline acts as, in the account."""


def retraining_pipeline(
    name: str,
    role_arn: str,
    bucket: str,
    project_key: str,
    environment: Mapping[str, str],
    publishing: Mapping[str, str],
) -> Pipeline:
    """The pipeline of one model.

    Args:
        project_key: the project's zip in ``bucket``: what is trained with, and the source CodePipeline demands.
        environment: for the builds of every stage. publishing: for the publish stage alone, such as where the key is.
    """
    common = {
        "HYBRIDGE_BUCKET": bucket,
        "HYBRIDGE_PROJECT": project_key,
        "HYBRIDGE_DATASET": f"#{{variables.{DATASET_VARIABLE}}}",
        "HYBRIDGE_EXECUTION": "#{codepipeline.PipelineExecutionId}",
        **environment,
    }
    stages = tuple(
        Stage(stage, BUILD_PROJECT_PREFIX + stage, {**common, **(publishing if stage == "publish" else {})})
        for stage in STAGES
    )
    return Pipeline(name, role_arn, bucket, project_key, (DATASET_VARIABLE,), stages)
