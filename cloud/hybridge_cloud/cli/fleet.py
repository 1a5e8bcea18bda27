"""``hybridge fleet``: make fleets, bring devices into them, see what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridge_cloud.cli import fleet_logs

if TYPE_CHECKING:
    from hybridge_cloud.fleet.enrolment import Enrolled
    from hybridge_cloud.fleet.standing import DeviceStanding

app = typer.Typer(help="Make fleets of devices, bring devices into them, see what is in them.", no_args_is_help=True)
Fleet = Annotated[str, typer.Argument(help="The fleet's name.")]
Thing = Annotated[str, typer.Argument(help="The device's name, which is its thing's.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]


@app.command("create")
def create(
    fleet: Fleet,
    prefix: Annotated[str, typer.Option(help="The first part of its components' names.")] = "hybridge",
    as_json: AsJson = False,
) -> None:
    """Make a fleet and its four rings. Making it twice changes nothing."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.fleet.membership import ensure_fleet
    from hybridge_edge.contract import names

    made = ensure_fleet(Bucket.from_environment(), fleet, prefix)
    if as_json:
        groups = [names.ring_group(fleet, ring) for ring in range(names.RINGS)]
        typer.echo(json.dumps({"fleet": made.fleet, "prefix": made.prefix, "epoch": made.epoch, "groups": groups}))
        return
    typer.echo(f"fleet {made.fleet}: rings 0 to {names.RINGS - 1}, component prefix {made.prefix}")


@app.command("enroll")
def enroll(
    thing: Thing,
    fleet: Annotated[str, typer.Option(help="The fleet it joins.")],
    out: Annotated[Path, typer.Option(help="A folder for what the device needs; the same one to finish or repeat.")],
    ring: Annotated[int | None, typer.Option(help="Its ring, 0 to 3, for life; else by a hash of its name.")] = None,
    trust: Annotated[
        Path | None, typer.Option(envvar="HYBRIDGE_TRUST", help="Whose packages it believes: a trust file.")
    ] = None,
    nucleus: Annotated[str, typer.Option(help="Which nucleus it runs: classic or lite.")] = "classic",
    nucleus_version: Annotated[str, typer.Option(help="Of nucleus classic: the installed version.")] = "",
    region: Annotated[str, typer.Option(help="AWS region; else the account's.")] = "",
    data_endpoint: Annotated[str, typer.Option(help="AWS IoT's host; else the account's.")] = "",
    credentials_endpoint: Annotated[str, typer.Option(help="Host of the credentials provider; else as above.")] = "",
    role_alias: Annotated[str, typer.Option(help="By which devices fetch their credentials.")] = "hybridge-core",
    authorities: Annotated[
        Path | None, typer.Option("--ca", help="Who signed those hosts' certificates (PEM); else Amazon's roots.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a device into a fleet: thing, certificate, policy, ring, and a folder of files to copy to the device."""
    from hybridge_cloud.aws.session import bucket_name
    from hybridge_cloud.fleet import enrolment
    from hybridge_cloud.fleet.nucleus import CLASSIC_VERSION, Endpoints, Nucleus
    from hybridge_edge.contract.errors import UsageError
    from hybridge_edge.contract.trust_document import TrustDocument

    if nucleus not in [item.value for item in Nucleus]:
        raise UsageError(f"{nucleus!r} is not a nucleus.", "Use classic or lite.")
    request = enrolment.Request(
        thing,
        fleet,
        Nucleus(nucleus),
        ring,
        TrustDocument.from_bytes(_content(trust)) if trust is not None else None,
        Endpoints(region, data_endpoint, credentials_endpoint, role_alias),
        _content(authorities) if authorities is not None else b"",
        nucleus_version or CLASSIC_VERSION,
    )
    done = enrolment.enrol(request, bucket_name(), out)
    if as_json:
        typer.echo(json.dumps(_enrolled(done)))
        return
    typer.echo(f"{thing} is in ring {done.membership.ring} of {fleet} ({done.membership.group}).")
    typer.echo(f"Copy to the device (nucleus {nucleus}):")
    width = max(len(str(out / place.file)) for place in done.places)
    wide = max(len(place.path) for place in done.places)
    for place in done.places:
        typer.echo(f"  {out / place.file!s:{width}}  {place.path:{wide}}  {place.owner} {place.mode}")
    if not (out / "trust.json").exists():
        typer.echo("There is no trust file, so it will refuse every package: enroll again with --trust.")
    typer.echo(f"Once an account: role alias {role_alias}, with {out / enrolment.ROLE_POLICY}. See docs/enrolment.md.")


@app.command("revoke")
def revoke(thing: Thing, as_json: AsJson = False) -> None:
    """Take a device's certificate, policy, ring and thing away. Doing it twice changes nothing."""
    from hybridge_cloud.fleet import enrolment

    taken = enrolment.revoke(thing)
    if as_json:
        typer.echo(json.dumps({"thing": thing, "certificates": list(taken)}))
        return
    typer.echo(f"{thing} is revoked; certificates taken away: {len(taken)}.")


@app.command("list")
def list_fleets(as_json: AsJson = False) -> None:
    """Name the fleets."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.fleet import record

    bucket = Bucket.from_environment()
    fleets = record.all_fleets(bucket)
    if as_json:
        found = [record.read(bucket, fleet) for fleet in fleets]
        typer.echo(json.dumps([{"fleet": item.fleet, "prefix": item.prefix, "epoch": item.epoch} for item in found]))
        return
    for fleet in fleets:
        typer.echo(fleet)


@app.command("show")
def show(fleet: Fleet, as_json: AsJson = False) -> None:
    """Show a fleet's rings, what each is meant to run, and what each device says it runs."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.fleet.standing import look

    found = look(Bucket.from_environment(), fleet)
    if as_json:
        typer.echo(json.dumps(found.to_json()))
        return
    record = found.record
    typer.echo(f"fleet {record.fleet}, epoch {record.epoch}, component prefix {record.prefix}")
    for ring in found.rings:
        wanted = [f"{name}@{version}" for name, version in ring.components.items()]
        typer.echo(f"ring {ring.number}: {', '.join(wanted) or 'no deployment'}")
        for device in ring.devices:
            typer.echo(f"  {device.thing}: {_line(device)}")


app.command("logs")(fleet_logs.logs)


def _line(device: DeviceStanding) -> str:
    from datetime import UTC, datetime

    if device.last is None:
        said = device.problem or "no report"
    else:
        models = [f"{item.model} {item.version} {item.state.value}" for item in device.last.report.models]
        when = datetime.fromtimestamp(device.last.at_ms / 1000, UTC)
        said = f"{', '.join(models) or 'no model'} (reported {when:%Y-%m-%d %H:%M:%S} UTC)"
    return f"{'online' if device.online else 'offline'}, {said}"


def _content(path: Path) -> bytes:
    from hybridge_edge.contract.errors import UsageError

    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror}.") from None


def _enrolled(done: Enrolled) -> dict[str, object]:
    return {
        "thing": done.membership.thing,
        "fleet": done.membership.fleet,
        "ring": done.membership.ring,
        "group": done.membership.group,
        "certificate": done.certificate,
        "role_alias": done.role_alias,
        "files": [
            {"file": str(done.folder / item.file), "path": item.path, "owner": item.owner, "mode": item.mode}
            for item in done.places
        ],
    }
