"""``hybridge-edge describe``."""

from __future__ import annotations

import argparse

from hybridge_edge.cli import talk
from hybridge_edge.contract.codec import Codec
from hybridge_edge.contract.document import canonical
from hybridge_edge.contract.tensors import TensorSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model")
    talk.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show what a model takes, gives and runs on. Returns the exit code."""
    reader, answer = talk.tell(canonical({"verb": "describe", "model": arguments.model}), talk.ASK_S)
    if talk.shown(arguments, answer):
        return 0
    degraded = reader.text("degraded")
    print(f"{reader.text('model')} {reader.text('version')}  {reader.text('digest')}")
    print(f"runs on   {reader.text('provider')}{', degraded: ' + degraded if degraded else ''}")
    for role in ("inputs", "outputs"):
        for spec in reader.objects(role, TensorSpec.read):
            shape = ", ".join("rows" if size == -1 else str(size) for size in spec.shape)
            print(f"{role[:-1]:<9} {spec.name}  {spec.datatype} ({shape})")
    for codec in reader.objects("codecs", Codec.read, ()):
        print(f"decoded   {codec.input}  {codec.codec} to {codec.decoded.datatype} {list(codec.decoded.item_shape)}")
    print(f"rows      {reader.integer('max_batch')} a run at most")
    print(f"labels    {', '.join(reader.strings('labels')) or 'none'}")
    print(f"in memory {', '.join(reader.strings('resident'))}")
    return 0
