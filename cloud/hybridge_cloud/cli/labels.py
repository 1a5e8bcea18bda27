"""``hybridge labels``: say what returned samples are, and read it back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Import and export the labels of returned samples.", no_args_is_help=True)

_Model = Annotated[str, typer.Option("--model", help="The model whose samples are labelled.")]


@app.command("import")
def import_labels(
    model: _Model,
    file: Annotated[
        Path | None, typer.Argument(help="A .csv (sample_id, label[, source, confidence]) or .jsonl.")
    ] = None,
    source: Annotated[str, typer.Option("--source", help="Who says so, where a line does not.")] = "import",
    returned: Annotated[bool, typer.Option("--returned", help="What was said on devices, instead of a file.")] = False,
) -> None:
    """Import labels. All lines or none: a line that is no label is named, and nothing is taken."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.data import labels
    from hybridge_edge.contract.errors import Refused, UsageError

    if (file is None) != returned:
        raise UsageError("Labels come from a file or, with --returned, from devices.", "Name one of the two.")
    found = labels.read_file(file, source) if file is not None else ()
    bucket = Bucket.from_environment()
    if file is None and not (found := labels.returned(bucket, model)):
        raise Refused(f"No device has said a label of {model} yet.", "See hybridge-edge feedback.")
    key, new = labels.store(bucket, model, found)
    sources = ", ".join(sorted({label.source for label in found}))
    typer.echo(f"{len(found)} labels of {model} from {sources}: {key}{'' if new else ' (was there already)'}")


@app.command("export")
def export_labels(
    model: _Model,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="The returned samples that have no label, for those who label.")
    ] = False,
) -> None:
    """Print the labels of a model as JSON lines, or the ids of returned samples that have none."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.data import labels
    from hybridge_cloud.retrain.status import returned_samples

    bucket = Bucket.from_environment()
    found = tuple(labels.load(bucket, labels.keys(bucket, model)))
    if not unlabelled:
        for label in found:
            typer.echo(label.to_line(), nl=False)
        return
    joined = labels.join(found)
    for batch in returned_samples(bucket, model):
        for sample in batch.sample_ids:
            if sample not in joined.labels:
                typer.echo(sample)
