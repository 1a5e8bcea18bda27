"""``hybridge rollout``: a version of a model or a component onto a fleet, ring by ring, and back again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.rollout.record import Record
    from hybridge_cloud.rollout.state import State

app = typer.Typer(
    help="Roll a version of a model or component out, ring by ring, judged by what devices report; put it back.",
    no_args_is_help=True,
)
_What = Annotated[str, typer.Argument(metavar="NAME@VERSION|ID", help="The rollout: its id, or its version's newest.")]
_Fleet = Annotated[str, typer.Option("--fleet", help="The fleet.")]
_Json = Annotated[bool, typer.Option("--json", help="For programs.")]
_Limits = Annotated[
    Path | None, typer.Option("-f", "--file", metavar="rollout.yaml", help="Limits; the defaults are in the docs.")
]
_Poll = Annotated[float, typer.Option("--poll", min=0.2, max=60.0, help="Seconds between two looks at the account.")]
POLL_SECONDS = 1.0


@app.command()
def plan(
    target: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A model's name, or a component's.")],
    fleet: _Fleet,
    file: _Limits = None,
    as_json: _Json = False,
) -> None:
    """Plan a rollout and store it; nothing is written to any ring."""
    from hybridge_cloud.aws.s3 import Bucket

    _show(_planned(Bucket.from_environment(), target, fleet, file), as_json)


@app.command()
def start(
    what: _What,
    fleet: _Fleet,
    file: _Limits = None,
    watching: Annotated[bool, typer.Option("--watch", help="Drive it until it ends, and show how it stands.")] = False,
    poll: _Poll = POLL_SECONDS,
    as_json: _Json = False,
) -> None:
    """Begin a planned rollout, or plan one and begin it. Exit code 1 with --watch where it did not succeed."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.fleet import record as fleet_record
    from hybridge_cloud.rollout import commands
    from hybridge_cloud.rollout import record as rollouts
    from hybridge_cloud.rollout.lease import holder_name, wall_clock
    from hybridge_cloud.rollout.prepare import adopt, refuse_if_outdated
    from hybridge_edge.contract.errors import UsageError

    bucket = Bucket.from_environment()
    record = _still_planned(bucket, what, fleet)
    if record is None:
        record = _planned(bucket, what, fleet, file)
    elif file is not None:
        raise UsageError(f"{record.plan.id} is planned already, with its own limits.", "Leave -f out, or abort it.")
    commands.start(record.state, 1, 2, 0)  # refuses before anything is taken
    refuse_if_outdated(bucket, record.plan)
    rollouts.claim(bucket, record)
    holder = holder_name()
    if adopted := adopt(bucket, record.plan, holder):
        rollouts.note(bucket, record, wall_clock(), holder, adopted)
    beside = fleet_record.next_epoch(bucket, fleet) if record.plan.limits.shadow is not None else 0
    epoch, put_back_epoch = fleet_record.next_epoch(bucket, fleet), fleet_record.next_epoch(bucket, fleet)
    record = _change(
        bucket, record, "started", lambda state, now: commands.start(state, epoch, put_back_epoch, now, beside)
    )
    if watching:
        _drive(bucket, record, poll, as_json)
    else:
        _show(record, as_json)


@app.command()
def watch(what: _What, fleet: _Fleet, poll: _Poll = POLL_SECONDS, as_json: _Json = False) -> None:
    """Drive a rollout until it ends, and show how it stands. Any number may; each may be stopped at any time."""
    from hybridge_cloud.aws.s3 import Bucket

    bucket = Bucket.from_environment()
    _drive(bucket, _found(bucket, what, fleet), poll, as_json)


@app.command()
def pause(what: _What, fleet: _Fleet, as_json: _Json = False) -> None:
    """Write no new wave, and withdraw the running deployment from devices that have not taken it."""
    from hybridge_cloud.rollout import commands

    _operate(what, fleet, as_json, "paused", commands.pause)


@app.command()
def resume(what: _What, fleet: _Fleet, as_json: _Json = False) -> None:
    """Go on after a pause."""
    from hybridge_cloud.rollout import commands

    _operate(what, fleet, as_json, "resumed", commands.resume)


@app.command()
def advance(what: _What, fleet: _Fleet, as_json: _Json = False) -> None:
    """Cut the rest of the running wave's bake; what a gate holds or fails stays so."""
    from hybridge_cloud.rollout import commands

    _operate(what, fleet, as_json, "advanced", commands.advance)


@app.command()
def approve(
    what: _What,
    fleet: _Fleet,
    ring: Annotated[int | None, typer.Option("--ring", help="Beforehand; else the one that waits now.")] = None,
    as_json: _Json = False,
) -> None:
    """Let a rollout into the ring that waits for it."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.rollout import commands

    bucket = Bucket.from_environment()
    record = _found(bucket, what, fleet)
    text = "approved" if ring is None else f"approved ring {ring}"
    made = record.plan
    _show(_change(bucket, record, text, lambda state, now: commands.approve(made, state, ring, now)), as_json)


@app.command()
def abort(what: _What, fleet: _Fleet, as_json: _Json = False) -> None:
    """End a rollout that is under way, and put the version before back on every ring it reached."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.rollout import commands

    bucket = Bucket.from_environment()
    record = _found(bucket, what, fleet)
    made = record.plan
    _show(_change(bucket, record, "aborted", lambda state, now: commands.abort(made, state, now)), as_json)


@app.command()
def rollback(what: _What, fleet: _Fleet, as_json: _Json = False) -> None:
    """Put the version before back on every ring of a rollout that has succeeded."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.fleet import record as fleet_record
    from hybridge_cloud.rollout import commands, prepare
    from hybridge_cloud.rollout import record as rollouts
    from hybridge_cloud.rollout.state import Status
    from hybridge_edge.contract.errors import Refused

    bucket = Bucket.from_environment()
    record = _found(bucket, what, fleet)
    made = record.plan
    if record.state.status is Status.SUCCEEDED:
        runs, is_ours = prepare.runs_now(bucket, made)
        if not is_ours:
            raise Refused(
                f"The fleet {fleet!r} is meant to run {made.model} {runs or 'not at all'}, not {made.version}.",
                "Roll back what it runs, or roll out the version you want.",
            )
        rollouts.claim(bucket, record)
    epoch = fleet_record.next_epoch(bucket, fleet)
    _show(
        _change(bucket, record, "rolled back", lambda state, now: commands.rollback(made, state, epoch, now)), as_json
    )


@app.command()
def why(what: _What, fleet: _Fleet, as_json: _Json = False) -> None:
    """Say why a rollout stands where it stands: what failed or holds, with its numbers, and its history."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.cli import rollout_table
    from hybridge_cloud.rollout import record as rollouts

    bucket = Bucket.from_environment()
    record = _found(bucket, what, fleet)
    entries = rollouts.audit(bucket, fleet, record.plan.id)
    if as_json:
        typer.echo(rollout_table.document(record, entries))
        return
    for line in rollout_table.why(record, entries):
        typer.echo(line)


@app.command("list")
def list_rollouts(fleet: _Fleet, as_json: _Json = False) -> None:
    """List a fleet's rollouts, oldest first."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.cli import rollout_table
    from hybridge_cloud.rollout import record as rollouts

    found = rollouts.all_rollouts(Bucket.from_environment(), fleet)
    if as_json:
        typer.echo(json.dumps([json.loads(rollout_table.document(record)) for record in found], sort_keys=True))
        return
    for record in found:
        typer.echo(rollout_table.headline(record))


@app.command()
def show(what: _What, fleet: _Fleet, as_json: _Json = False) -> None:
    """Show a rollout's plan, waves, verdicts, and devices that are not where it wants them."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.cli import rollout_table
    from hybridge_cloud.rollout import record as rollouts

    bucket = Bucket.from_environment()
    record = _found(bucket, what, fleet)
    if as_json:
        typer.echo(rollout_table.document(record, rollouts.audit(bucket, fleet, record.plan.id)))
    else:
        _show(record, as_json)


def _found(bucket: Bucket, what: str, fleet: str) -> Record:
    from hybridge_cloud.rollout import record as rollouts

    return rollouts.find(bucket, fleet, what)


def _planned(bucket: Bucket, what: str, fleet: str, file: Path | None) -> Record:
    from hybridge_cloud.deploy import Target
    from hybridge_cloud.rollout import record as rollouts
    from hybridge_cloud.rollout.lease import holder_name, wall_clock
    from hybridge_cloud.rollout.plan import read_limits
    from hybridge_cloud.rollout.prepare import prepare

    limits = read_limits(file)
    record = rollouts.create(bucket, prepare(bucket, fleet, Target.parse(what), limits, wall_clock()))
    rollouts.note(bucket, record, wall_clock(), holder_name(), ("planned",))
    return record


def _still_planned(bucket: Bucket, what: str, fleet: str) -> Record | None:
    """The rollout that was planned and not begun: the one of an id, or the newest of NAME@VERSION if it is that."""
    from hybridge_cloud.rollout import record as rollouts
    from hybridge_cloud.rollout.state import Status

    if "@" not in what:
        return rollouts.read(bucket, fleet, what)
    newest = rollouts.newest(bucket, fleet, what)
    return newest if newest is not None and newest.state.status is Status.PLANNED else None


def _operate(what: str, fleet: str, as_json: bool, text: str, command: Callable[[State, int], State]) -> None:
    from hybridge_cloud.aws.s3 import Bucket

    bucket = Bucket.from_environment()
    _show(_change(bucket, _found(bucket, what, fleet), text, command), as_json)


def _change(bucket: Bucket, record: Record, text: str, command: Callable[[State, int], State]) -> Record:
    """Apply an operator's command to the stored state, and note it where it changed something."""
    from hybridge_cloud.rollout import record as rollouts
    from hybridge_cloud.rollout.lease import holder_name, wall_clock
    from hybridge_cloud.rollout.prepare import operator

    now = wall_clock()
    before, after = rollouts.change(bucket, record, lambda found: command(found.state, now))
    if after.state != before.state:
        rollouts.note(bucket, after, now, holder_name(), (f"{text} by {operator()}",))
    return after


def _drive(bucket: Bucket, record: Record, poll: float, as_json: bool) -> None:
    import signal
    import threading

    from hybridge_cloud.cli import rollout_table
    from hybridge_cloud.rollout.controller import Controller
    from hybridge_cloud.rollout.state import Status
    from hybridge_edge.contract.errors import Refused

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    fleet, rollout = record.plan.fleet, record.plan.id
    with rollout_table.shown(as_json) as told:
        record = Controller(bucket, fleet, rollout, told=told).run(stop, poll)
    if not record.state.is_over:
        raise Refused(
            f"Stopped watching {rollout}, which is {record.state.status.value}.",
            rollout_table.NOTHING_MOVES.format(id=rollout, fleet=fleet),
        )
    if record.state.status is not Status.SUCCEEDED:
        raise Refused(
            f"{rollout} ended as {record.state.status.value}: {record.state.reason}.",
            f"See hybridge rollout why {rollout} --fleet {fleet}",
        )


def _show(record: Record, as_json: bool) -> None:
    from hybridge_cloud.cli import rollout_table

    if as_json:
        typer.echo(rollout_table.document(record))
        return
    for line in rollout_table.lines(record):
        typer.echo(line)
