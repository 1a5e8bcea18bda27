"""``hybridge retrain``: the gate, the pipeline, its stages, and how it all stands."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Annotated

import typer

from hybridge_cloud.retrain import decision, plan
from hybridge_cloud.retrain.pipeline import ROLE

app = typer.Typer(help="Train again on what devices returned.", no_args_is_help=True)
pipeline_app = typer.Typer(help="The retraining pipeline in CodePipeline.", no_args_is_help=True)
stage_app = typer.Typer(help="One stage of an execution, as a build runs it.", no_args_is_help=True)
app.add_typer(pipeline_app, name="pipeline")
app.add_typer(stage_app, name="stage")

DEFAULT_QUEUE = "hybridge-batches"
_Model = Annotated[str, typer.Option("--model", help="The model.")]
_Pipeline = Annotated[str, typer.Option("--pipeline", help="The retraining pipeline's name.")]
_Queue = Annotated[str, typer.Option("--queue", envvar="HYBRIDGE_QUEUE", help="The queue of batch events.")]
_Share = Annotated[
    float, typer.Option("--device-share", min=0.0, max=1.0, help="The most one device may hold of what is trained on.")
]


@app.command()
def gate(
    model: _Model,
    pipeline: _Pipeline,
    queue: _Queue = DEFAULT_QUEUE,
    once: Annotated[bool, typer.Option("--once", help="Sweep, take what the queue has, decide once, end.")] = False,
    until_started: Annotated[bool, typer.Option("--until-started", help="End once an execution was started.")] = False,
    min_samples: Annotated[
        int, typer.Option(min=1, help="New samples that are enough.")
    ] = decision.DEFAULT_MINIMUM_SAMPLES,
    min_labelled_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of the new samples.")
    ] = decision.DEFAULT_MINIMUM_LABELLED_SHARE,
    min_devices: Annotated[int, typer.Option(min=1)] = decision.DEFAULT_MINIMUM_DEVICES,
    min_interval_seconds: Annotated[
        float, typer.Option(min=0.0, help="Between two datasets.")
    ] = decision.DEFAULT_MINIMUM_INTERVAL_SECONDS,
    device_share: _Share = decision.DEFAULT_DEVICE_SHARE,
    sweep_seconds: Annotated[float, typer.Option(min=1.0, help="Between two looks at the whole bucket.")] = 300.0,
    timeout_seconds: Annotated[float, typer.Option(min=0.0, help="End with an error after this long; 0: never.")] = 0.0,
) -> None:
    """Start one execution for each dataset worth training on. Any number of gates may run at once."""
    from hybridge_cloud.aws import pipeline as codepipeline
    from hybridge_cloud.aws.queue import Queue
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.retrain.claim import Starter
    from hybridge_cloud.retrain.gate import Gate
    from hybridge_edge.contract.errors import Unavailable
    from hybridge_edge.stopping import stop_event

    bucket = Bucket.from_environment()
    codepipeline.check_exists(pipeline)
    policy = decision.Policy(min_samples, min_labelled_share, min_devices, min_interval_seconds, device_share)
    starter = Starter(bucket, pipeline, f"gate-{uuid.uuid4()}", lambda: int(time.time() * 1000))
    running = Gate(bucket, Queue(queue), model, policy, starter, typer.echo)
    if once:
        running.sweep()
        running.take_events(0)
        running.turn()
        return
    with stop_event() as stop:
        timer = threading.Timer(timeout_seconds or threading.TIMEOUT_MAX, stop.set)
        timer.daemon = True
        timer.start()
        try:
            started = running.run(stop, until_started=until_started, sweep_seconds=sweep_seconds)
        finally:
            timer.cancel()
    if until_started and not started:
        raise Unavailable("No execution was started in time.", "See hybridge retrain status for what is missing.")


@app.command()
def sweep(model: _Model, pipeline: _Pipeline, queue: _Queue = DEFAULT_QUEUE) -> None:
    """Start datasets whose starter died, and say which batches no event named. Decides nothing new."""
    from hybridge_cloud.aws import pipeline as codepipeline
    from hybridge_cloud.aws.queue import Queue
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.retrain.claim import Starter
    from hybridge_cloud.retrain.gate import Gate

    bucket = Bucket.from_environment()
    codepipeline.check_exists(pipeline)
    starter = Starter(bucket, pipeline, f"sweep-{uuid.uuid4()}", lambda: int(time.time() * 1000))
    never = decision.Policy(minimum_samples=2**62)
    running = Gate(bucket, Queue(queue), model, never, starter, lambda _: None)
    running.sweep()
    turn = running.turn()
    begun = [found for found in turn.started if found.here]
    typer.echo(f"{len(running.arrivals.all())} new batches, {len(running.arrivals.refused)} quarantined.")
    for found in begun:
        typer.echo(f"Started {found.execution} for {found.dataset.key}.")


@app.command()
def status(
    model: _Model,
    pipeline: Annotated[str, typer.Option("--pipeline", help="Show this pipeline's executions too.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what came back and what became of each dataset."""
    from dataclasses import asdict

    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.retrain import status as standing

    bucket = Bucket.from_environment()
    returned, found = standing.returned(bucket, model), standing.datasets(bucket, model)
    executions = standing.executions(pipeline) if pipeline else {}
    if as_json:
        listed = [
            {
                **asdict(item),
                "key": item.dataset.key,
                "stands": item.stands,
                "executions": [
                    {"id": execution.execution_id, "status": execution.status}
                    for execution in executions.get(item.dataset.key, ())
                ],
            }
            for item in found
        ]
        typer.echo(json.dumps({"returned": asdict(returned), "datasets": listed}, sort_keys=True))
        return
    typer.echo(
        f"{returned.samples} samples of {len(returned.by_device)} devices in {returned.batches} batches, "
        f"{returned.labelled} labelled (by {', '.join(returned.label_sources) or 'nobody'}), "
        f"{returned.duplicates} duplicates removed, {returned.quarantined} quarantined."
    )
    if remarks := returned.joined.remarks():
        typer.echo(f"Labels to look at: {remarks}; see hybridge labels status.")
    for item in found:
        typer.echo(
            f"{item.dataset.key}  {item.stands}  execution {item.execution or '-'}  duplicates {item.duplicates}"
        )
        for execution in executions.get(item.dataset.key, ()):
            typer.echo(f"  execution {execution.execution_id}: {execution.status}")


@pipeline_app.command("create")
def create_pipeline(
    name: Annotated[str, typer.Option("--name", help="The pipeline's name.")],
    project: Annotated[Path, typer.Option("--project", help="The project's folder, such as examples/watch.")],
    fleet: Annotated[str, typer.Option("--fleet", help="The fleet whose champion is challenged.")],
    signing_key: Annotated[
        str, typer.Option("--signing-key", envvar="HYBRIDGE_SIGNING_KEY", help="Path of the key where builds run.")
    ],
    trust: Annotated[Path | None, typer.Option("--trust", help="The fleet's trust file; HYBRIDGE_TRUST else.")] = None,
    split: Annotated[int, typer.Option(min=0)] = 0,
    seed: Annotated[int, typer.Option(min=-1, help="Of the training; -1: the project's own.")] = -1,
    device_share: _Share = decision.DEFAULT_DEVICE_SHARE,
    suspect_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Labels that may contradict others.")
    ] = plan.DEFAULT_SUSPECT_SHARE,
    minimum_gain: Annotated[float, typer.Option(min=-1.0, max=1.0, help="What a challenger must gain.")] = 0.0,
    role: Annotated[str, typer.Option("--role", help="The role CodePipeline acts as.")] = ROLE,
    store_only: Annotated[
        bool, typer.Option("--store-only", help="Store project and plan and print their keys; make no pipeline.")
    ] = False,
) -> None:
    """Create the pipeline, or bring it up to date: after a change of the project too."""
    from hybridge_cloud.aws import pipeline as codepipeline
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.data import label_rule
    from hybridge_cloud.fleet import record
    from hybridge_cloud.retrain import archive
    from hybridge_cloud.retrain.pipeline import retraining_pipeline
    from hybridge_cloud.training.project import load_project
    from hybridge_edge.contract.errors import UsageError
    from hybridge_edge.trust import read_trust

    bucket = Bucket.from_environment()
    believed = read_trust(trust).to_bytes().decode()
    record.read(bucket, fleet)
    key_file = Path(signing_key)
    # An absolute path may be where builds run, not here; with --store-only nobody is told of it.
    if not (store_only or key_file.is_absolute() or key_file.is_file()):
        raise UsageError(f"There is no signing key {signing_key!r}.", "Name it by its absolute path where builds run.")
    loaded = load_project(project)
    source = archive.upload(bucket, loaded)
    label_rule.declare(bucket, loaded.name, loaded.labels)
    wanted = plan.Plan(source, fleet, believed, split, seed, device_share, suspect_share, minimum_gain)
    key = plan.store(bucket, wanted)
    if store_only:
        typer.echo(f"{source}\n{key}")
        return
    role_arn = codepipeline.account_role(role)
    if key_file.is_file():  # a build runs in a folder of its own
        signing_key = str(key_file.resolve())
    new = codepipeline.create_or_update(retraining_pipeline(name, role_arn, bucket.name, source, key, signing_key))
    typer.echo(f"Pipeline {name} {'created' if new else 'updated'}; it trains {source}. {loaded.labels.sentence()}")


def _stage(name: str, help_text: str) -> None:
    def run(
        dataset: Annotated[str, typer.Option("--dataset", envvar="HYBRIDGE_DATASET", help="Key of the dataset.")],
        execution: Annotated[str, typer.Option("--execution", envvar="HYBRIDGE_EXECUTION", help="Id that claims it.")],
        plan_key: Annotated[str, typer.Option("--plan", envvar="HYBRIDGE_PLAN", help="Key of the retraining plan.")],
    ) -> None:
        from hybridge_cloud.aws.s3 import Bucket
        from hybridge_cloud.retrain.stages import Stages

        bucket = Bucket.from_environment()
        with tempfile.TemporaryDirectory(prefix="hybridge-stage-") as work:
            stages = Stages(bucket, plan.fetch(bucket, plan_key), dataset, execution, Path(work), typer.echo)
            if name == "publish":
                stages.publish(_signing_key(Path(work)))
            else:
                {"quality": stages.quality, "train": stages.train, "evaluate": stages.evaluate}[name]()

    stage_app.command(name, help=help_text)(run)


def _signing_key(work: Path) -> Path:
    """HYBRIDGE_SIGNING_KEY names a file; HYBRIDGE_SIGNING_KEY_PEM, as a build's secret, holds the key itself."""
    from hybridge_edge.contract.errors import UsageError

    text, path = os.environ.get("HYBRIDGE_SIGNING_KEY_PEM", ""), os.environ.get("HYBRIDGE_SIGNING_KEY", "")
    if text:
        written = work / "signing-key.pem"
        descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        return written
    if not path:
        raise UsageError("No signing key is named.", "Set HYBRIDGE_SIGNING_KEY to its path.")
    return Path(path)


_stage("quality", "Claim the dataset and judge whether it is fit to train on.")
_stage("train", "Train the challenger, the champion's features frozen.")
_stage("evaluate", "Compile the challenger and compare it with the champion on the frozen slice.")
_stage("publish", "Sign the challenger that was judged better, and publish it.")
