"""``hybridge labels``: say what returned samples are, read it back, and see how it stands."""

from __future__ import annotations

import json
import sys
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hybridge_cloud.data.batches import BatchRefused
    from hybridge_cloud.data.label_import import Report
    from hybridge_cloud.data.label_status import LabelStatus

app = typer.Typer(help="Import and export the labels of returned samples.", no_args_is_help=True)

_Model = Annotated[str, typer.Option("--model", help="The model whose samples are labelled.")]


class Format(str, Enum):
    """How an export is written."""

    csv = "csv"
    jsonl = "jsonl"


@app.command("import")
def import_labels(
    file: Annotated[
        Path | None,
        typer.Argument(help="A .csv or .jsonl: sample_id, label[, source, confidence, labelled_at, model]."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="The model whose samples are labelled, where lines do not say.")
    ] = "",
    source: Annotated[str, typer.Option("--source", help="Who says so, where a line does not.")] = "import",
    confidence: Annotated[
        float, typer.Option("--confidence", min=0.0, max=1.0, help="How sure, where a line does not say.")
    ] = 1.0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Take the good lines of a file that has bad ones.")
    ] = False,
    new_classes: Annotated[
        bool, typer.Option("--new-classes", help="Take labels that no published version of the model knows.")
    ] = False,
    look: Annotated[bool, typer.Option(help="Say how many of the samples have not come back yet.")] = True,
    returned: Annotated[bool, typer.Option("--returned", help="What was said on devices, instead of a file.")] = False,
) -> None:
    """Import labels: all lines or none, unless --skip-bad. The same lines again change nothing."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.data import label_import
    from hybridge_cloud.data.label_file import Given
    from hybridge_cloud.data.label_status import unknown_samples
    from hybridge_edge.contract import names
    from hybridge_edge.contract.errors import Refused, UsageError

    if (file is None) != returned:
        raise UsageError("Labels come from a file or, with --returned, from devices.", "Name one of the two.")
    if returned and not model:
        raise UsageError("What devices said is taken in model by model.", "Name it with --model.")
    if model:
        names.model_name(model)
    bucket, now_ms = Bucket.from_environment(), int(time.time() * 1000)
    if file is None:
        report = label_import.take_returned(bucket, model, now_ms)
        if not (report.taken or report.known or report.bad):
            raise Refused(f"No device has said a label of {model} yet.", "See hybridge-edge feedback.")
    else:
        given = Given(model, source, confidence, now_ms)
        importer = label_import.Importer(bucket, given, lambda words: typer.echo(words, err=True))
        report = importer.take(file, skip_bad=skip_bad, new_classes=new_classes)
    _tell(report)
    if report.bad and not returned:
        typer.echo(f"{report.bad} lines left out: {report.refused()}", err=True)
    for name, samples in sorted(report.samples.items()) if look else ():
        if waiting := unknown_samples(bucket, name, samples):
            typer.echo(f"{waiting} of {len(samples)} sample ids of {name} have not come back: their labels wait.")
    if returned and report.bad:
        raise Refused(
            f"{report.bad} objects of devices hold no labels and were left out: {report.refused()}",
            "Look at the devices; remove the objects.",
        )


def _tell(report: Report) -> None:
    sources = ", ".join(sorted(report.sources))
    for name, count in sorted(report.taken.items()):
        typer.echo(f"{count} labels of {name} from {sources}: {', '.join(k for k in report.keys if f'/{name}/' in k)}")
    if not report.taken:
        typer.echo("Nothing new.")
    for count, what in ((report.known, "known already"), (report.unfilled, "without a label yet")):
        if count:
            typer.echo(f"{count} {what}.")


@app.command("export")
def export_labels(
    model: _Model,
    since: Annotated[str, typer.Option("--since", help="Captured at or after, such as 2026-11-28T09:30:00Z.")] = "",
    until: Annotated[str, typer.Option("--until", help="Captured before.")] = "",
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Only samples without a label that counts.")] = False,
    written_as: Annotated[Format, typer.Option("--format", help="How it is written.")] = Format.csv,
) -> None:
    """Print returned samples for annotators, one a line: what the device answered, and the label there is.

    Fill in the empty labels and import the file.
    """
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.data import label_export
    from hybridge_cloud.data.label_file import moment
    from hybridge_cloud.data.label_rule import declared
    from hybridge_cloud.data.labels import LabelShelf
    from hybridge_edge.contract import names

    since_ms, until_ms = moment(since) if since else 0, moment(until) if until else None
    bucket, refused = Bucket.from_environment(), list[str]()

    def hear(error: BatchRefused) -> None:
        refused.append(error.key)

    known = LabelShelf(bucket, names.model_name(model)).refresh(declared(bucket, model))
    found = label_export.lines(bucket, model, known, hear, since_ms=since_ms, until_ms=until_ms, unlabelled=unlabelled)
    for text in label_export.as_csv(found) if written_as is Format.csv else label_export.as_jsonl(found):
        sys.stdout.write(text)
    if refused:
        typer.echo(f"{len(refused)} batches are not what they say; their samples are left out.", err=True)


@app.command()
def status(model: _Model, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Say which samples have a label, which labels wait for a sample, and what was left out and why."""
    from dataclasses import asdict

    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.data.label_status import label_status
    from hybridge_edge.contract import names

    found = label_status(Bucket.from_environment(), names.model_name(model), int(time.time() * 1000))
    if as_json:
        typer.echo(json.dumps(asdict(found), sort_keys=True))
        return
    for line in _sentences(found):
        typer.echo(line)


def _sentences(found: LabelStatus) -> list[str]:
    joined = found.joined
    by = ", ".join(f"{source} {count}" for source, count in found.by_source.items())
    said = [
        found.rule,
        f"{joined.samples} samples: {joined.labelled} labelled{f' ({by})' if by else ''}, {joined.unlabelled} not.",
        f"{found.labels} labels in {found.imports} imports: {found.waiting} wait for a sample, "
        f"{found.expired} of them longer than the window; {joined.late} late.",
    ]
    if remarks := joined.remarks():
        said.append(f"To look at: {remarks}.")
    said += [
        f"  {item.sample_id}: {', '.join(item.said)} -> {item.counts or 'no label'}" for item in found.disagreements
    ]
    if found.changed:
        said.append(f"{found.changed} samples of the last dataset have another label now; the next dataset has it.")
    if found.refused_batches:
        said.append(f"{found.refused_batches} batches are not what they say; their samples are not counted.")
    return said
