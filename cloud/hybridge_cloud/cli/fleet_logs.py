"""``hybridge fleet logs``: the tail of a device's component logs, from CloudWatch Logs."""

from __future__ import annotations

import json
from typing import Annotated

import typer

MAX_FOLLOW_SECONDS = 3600


def logs(
    thing: Annotated[str, typer.Argument(metavar="DEVICE", help="The device's name, which is its thing's.")],
    component: Annotated[
        list[str] | None,
        typer.Option(
            "--component", "-c", help="By its full name, such as hybridge.InferenceServer; again for more. Else all."
        ),
    ] = None,
    since: Annotated[str, typer.Option(help="How far back: 90s, 15m, 2h, 1d.")] = "1h",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=10_000, help="The newest so many.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes in.")] = False,
    seconds: Annotated[
        int, typer.Option("--for", min=1, max=MAX_FOLLOW_SECONDS, help="With --follow: stop after so many seconds.")
    ] = MAX_FOLLOW_SECONDS,
    group: Annotated[
        str, typer.Option(help="A log group whose stream is the device's name, instead of the log manager's groups.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show the tail of a device's component logs, as it sent them to CloudWatch Logs."""
    import time

    from hybridge_cloud.fleet import logs as fleet_logs
    from hybridge_edge.contract import names

    named = tuple(names.component_name(name) for name in component or ())
    query = fleet_logs.Query(names.thing_name(thing), named, group, lines)
    now_ms = time.time_ns() // 1_000_000
    since_ms = now_ms - fleet_logs.seconds(since) * 1000
    if not follow:
        for line in fleet_logs.tail(query, since_ms, now_ms):
            _show(line, as_json)
        return
    deadline = time.monotonic() + seconds

    def stop(wait_seconds: float) -> bool:
        time.sleep(max(0.0, min(wait_seconds, deadline - time.monotonic())))
        return time.monotonic() >= deadline

    try:
        for line in fleet_logs.follow(query, since_ms, stop):
            _show(line, as_json)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _show(line: object, as_json: bool) -> None:
    import sys
    from datetime import UTC, datetime

    from hybridge_cloud.fleet.logs import Line

    assert isinstance(line, Line)
    if as_json:
        typer.echo(json.dumps(line.to_json(), sort_keys=True))
    else:
        at = datetime.fromtimestamp(line.at_ms / 1000, UTC)
        # What a device sent is shown, never obeyed: no control character reaches the terminal.
        text = "".join(letter if letter.isprintable() or letter == "\t" else "?" for letter in line.text)
        typer.echo(f"{at:%Y-%m-%dT%H:%M:%S}Z {line.component}: {text}")
    sys.stdout.flush()
