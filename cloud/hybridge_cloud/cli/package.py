"""``hybridge package``: keys, signatures, what a package says of itself, and images that hold some."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridge_cloud.cli.components import Only, Platform, Prefix, Python, Version, chosen_targets

app = typer.Typer(help="Sign, verify and show model packages.", no_args_is_help=True)

_Package = Annotated[Path, typer.Argument(help="A package's folder, as `hybridge compile` wrote it.")]


@app.command()
def keygen(
    key: Annotated[Path, typer.Option("--key", help="New private key, mode 0600; never overwritten.")],
    trust: Annotated[Path, typer.Option("--trust", help="New trust file for devices; never overwritten.")],
) -> None:
    """Make an ed25519 key to sign packages with, and the trust file that devices check them with."""
    from hybridge_cloud.signing import generate_key

    keyid = generate_key(key, trust)
    typer.echo(f"key {keyid}")
    typer.echo(f"{key} is the private key: keep it where packages are signed. {trust} goes to devices.")


@app.command()
def sign(
    package: _Package,
    key: Annotated[Path, typer.Option("--key", help="The private key, as `keygen` wrote it.")],
) -> None:
    """Sign a package, if every file of it is what its manifest says."""
    from hybridge_cloud.signing import sign_package

    typer.echo(f"signed with key {sign_package(package, key)}")


@app.command()
def verify(
    package: _Package,
    trust: Annotated[Path, typer.Option("--trust", help="The trust file to check it with.")],
) -> None:
    """Check a package exactly as a device does: signature, listing, every file."""
    from hybridge_cloud.package import verify_package
    from hybridge_edge.trust import read_trust

    manifest = verify_package(package, read_trust(trust))
    typer.echo(f"{manifest.name} {manifest.version} is signed and unaltered, digest {manifest.digest}")


@app.command()
def show(
    package: _Package,
    as_json: Annotated[bool, typer.Option("--json", help="The manifest as it is.")] = False,
) -> None:
    """Say what a package is, where it comes from and who signed it (unchecked: see verify)."""
    from hybridge_cloud.package import read_package

    read = read_package(package)
    if as_json:
        typer.echo(read.manifest.to_bytes().decode(), nl=False)
        return
    from rich.console import Console

    from hybridge_cloud.cli.metrics_table import metrics_table
    from hybridge_cloud.signing import signers

    manifest, lineage = read.manifest, read.manifest.lineage
    roles = (("input", manifest.inputs), ("feature", manifest.features), ("output", manifest.outputs))
    lines = [
        ("package", f"{manifest.name} {manifest.version}"),
        ("digest", read.digest),
        ("features", manifest.features_digest),
        ("signed by", ", ".join(signers(read.signature)) or "nobody yet"),
        *((role, f"{s.name} {s.datatype} {list(s.shape)} {s.unit}".rstrip()) for role, specs in roles for s in specs),
        *(
            ("state", f"{s.input} from {s.output} of {s.graph}, {s.datatype} {list(s.shape)}, at first {s.initial:g}")
            for s in manifest.states
        ),
        *([("control", ", ".join(manifest.control_flow))] if manifest.control_flow else []),
        *(("codec", f"{c.input} {c.codec} to {c.decoded.datatype} {list(c.decoded.shape)}") for c in manifest.codecs),
        ("labels", ", ".join(manifest.labels) or "none"),
        ("variants", ", ".join(f"{v.name} ({v.precision}, {v.providers[0]})" for v in manifest.variants)),
        *(("guard", f"{g.output} {g.minimum:g} to {g.maximum:g}, {g.action}") for g in manifest.guards),
        *(("compared", f"{c.disagreed} of {c.rows} rows otherwise than {c.against}") for c in manifest.comparisons),
        ("probes", ", ".join(probe.path for probe in manifest.probes) or "none: its rollout will be held"),
        ("run", f"{lineage.run}, {lineage.created_at}"),
        ("dataset", lineage.dataset or "none: a first training"),
        ("parent", lineage.parent or "none: a first training"),
        ("size", f"{sum(entry.size for entry in manifest.files):,} bytes in {len(manifest.files)} files"),
    ]
    for name, value in lines:
        typer.echo(f"{name:10} {value}")
    if manifest.metrics:
        Console().print(metrics_table(manifest.metrics))


@app.command("import")
def import_(
    model: Annotated[Path, typer.Argument(help="An ONNX file, its weights inside.")],
    name: Annotated[str, typer.Option("--name", help="The model's name on devices.")],
    golden: Annotated[
        Path,
        typer.Option(
            "--golden", help="An .npz of raw inputs by name, rows first (of a model with states: steps); outputs too."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The package's folder; it must not exist yet.")],
    features: Annotated[
        Path | None, typer.Option("--features", help="An ONNX file that makes the model's inputs of the raw ones.")
    ] = None,
    version: Annotated[str, typer.Option("--version", help="MAJOR.MINOR.PATCH.")] = "1.0.0",
    state: Annotated[
        list[str] | None,
        typer.Option("--state", help="INPUT=OUTPUT[:INITIAL]: kept for each sequence by the server; may be repeated."),
    ] = None,
    fix: Annotated[
        list[str] | None, typer.Option("--fix", help="INPUT=VALUE: an input that is always the same; may be repeated.")
    ] = None,
    labels: Annotated[str, typer.Option("--labels", help="Names of the classes, with commas between.")] = "",
    confidence: Annotated[str, typer.Option("--confidence", help="The output whose largest value is it.")] = "",
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, max=1024, help="Rows of one run at the most.")] = 32,
    rtol: Annotated[float, typer.Option("--rtol", min=0.0, help="How far a device's golden outputs may be.")] = 1e-3,
    atol: Annotated[float, typer.Option("--atol", min=0.0, help="The same, absolutely.")] = 1e-5,
    created_at: Annotated[str, typer.Option("--created-at", help="UTC, ISO 8601; now by default.")] = "",
) -> None:
    """Make a package of an ONNX model that was made elsewhere, proven on golden inputs."""
    from hybridge_cloud.compile.foreign import Wanted, import_package
    from hybridge_cloud.compile.foreign_states import StateWanted
    from hybridge_edge.contract.errors import UsageError

    fixed = {}
    for text in fix or ():
        its_name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{text!r} fixes nothing.", "Write INPUT=VALUE, such as sr=16000.")
        fixed[its_name] = value
    wanted = Wanted(
        name=name,
        version=version,
        states=tuple(StateWanted.read(text) for text in state or ()),
        fixed=fixed,
        labels=tuple(label.strip() for label in labels.split(",") if label.strip()),
        confidence=confidence,
        max_batch=max_batch,
        rtol=rtol,
        atol=atol,
        created_at=created_at,
    )
    manifest = import_package(model, golden, out, wanted, features)
    for role, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            typer.echo(f"{role} {spec.name}: {spec.datatype} {list(spec.shape)}")
    for one in manifest.states:
        typer.echo(f"state {one.input}: {one.datatype} {list(one.shape)}, from {one.output}")
    if manifest.control_flow:
        typer.echo(f"control flow, declared: {', '.join(manifest.control_flow)}")
    typer.echo(f"imported {manifest.name} {manifest.version}, digest {manifest.digest}")
    typer.echo(f"the package is in {out}; next: hybridge package sign {out} --key KEY")


@app.command()
def fetch(
    package: Annotated[str, typer.Argument(metavar="MODEL@VERSION", help="A published package.")],
    out: Annotated[Path, typer.Option("--out", help="New folder.")],
    trust: Annotated[
        Path | None, typer.Option("--trust", help="Whose signatures to believe; HYBRIDGE_TRUST by default.")
    ] = None,
) -> None:
    """Bring a published package back from the account, checked as a device checks it."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.publish import fetch as fetch_package
    from hybridge_edge.contract.errors import UsageError
    from hybridge_edge.trust import read_trust

    model, at, version = package.partition("@")
    if not at:
        raise UsageError(f"{package!r} names no version.", "Write MODEL@VERSION, such as watch@1.0.0.")
    manifest = fetch_package(model, version, out, read_trust(trust), Bucket.from_environment())
    typer.echo(f"{manifest.name} {manifest.version}, digest {manifest.digest}, is in {out}")


@app.command()
def bake(
    packages: Annotated[list[Path], typer.Argument(help="Signed packages' folders, one a model.")],
    out: Annotated[Path, typer.Option("--out", help="New folder.")],
    trust: Annotated[
        Path | None, typer.Option("--trust", help="The devices' trust file; HYBRIDGE_TRUST by default.")
    ] = None,
    prefix: Prefix = "hybridge",
    version: Version = "",
    only: Only = None,
    platform: Platform = None,
    python: Python = None,
) -> None:
    """Bake an offline image folder: factory packages, components and how to install both without a network."""
    from hybridge_cloud.bake import bake as bake_image
    from hybridge_edge.trust import trust_file

    wanted = chosen_targets(platform, python, only)
    image = bake_image(out, packages, trust or trust_file(), prefix, version, tuple(only or ()), wanted)
    for model, its_version in image.packages:
        typer.echo(f"{model} {its_version}")
    for name, its_version, size in image.components:
        typer.echo(f"{name} {its_version}: {size / 1e6:.1f} MB")
    typer.echo(f"{image.size / 1e6:.1f} MB in {out}; its README.md says what lies where")
