"""The retraining pipeline: four CodeBuild actions in a row, told by variables which dataset and by whom."""

from __future__ import annotations

from hybridge_cloud.aws.pipeline import Pipeline, Stage
from hybridge_cloud.retrain.claim import DATASET_VARIABLE

STAGES = ("quality", "train", "evaluate", "publish")
BUILD_PROJECT_PREFIX = "hybridge-"
"""The build project of a stage is this and its name, also in the names of the buildspecs."""
ROLE = "hybridge-retraining"
"""The role CodePipeline acts as, in the account."""


def retraining_pipeline(name: str, role_arn: str, bucket: str, project: str, plan: str, signing_key: str) -> Pipeline:
    """The pipeline of one model.

    Args:
        project: key of the project's zip in ``bucket``, the source CodePipeline demands. plan: key of the plan.
        signing_key: what HYBRIDGE_SIGNING_KEY says in the publish stage; "" where the build brings a secret of its own.
    """
    common = {
        "HYBRIDGE_BUCKET": bucket,
        "HYBRIDGE_DATASET": f"#{{variables.{DATASET_VARIABLE}}}",
        "HYBRIDGE_EXECUTION": "#{codepipeline.PipelineExecutionId}",
        "HYBRIDGE_PLAN": plan,
    }
    publishing = {"HYBRIDGE_SIGNING_KEY": signing_key} if signing_key else {}
    stages = tuple(
        Stage(stage, BUILD_PROJECT_PREFIX + stage, {**common, **(publishing if stage == "publish" else {})})
        for stage in STAGES
    )
    return Pipeline(name, role_arn, bucket, project, (DATASET_VARIABLE,), stages)
