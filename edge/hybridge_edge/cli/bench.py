"""``hybridge-edge bench``."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy

from hybridge_edge import runtime
from hybridge_edge.bench.load import MAX_CALLERS, MAX_SECONDS, load
from hybridge_edge.bench.tally import STAGES, Tally
from hybridge_edge.bench.transports import checked
from hybridge_edge.cli import network
from hybridge_edge.cli.infer import inputs_of, read_input
from hybridge_edge.client import endpoint
from hybridge_edge.contract.errors import Refused, UsageError
from hybridge_edge.contract.manifest import MAX_BATCH_LIMIT
from hybridge_edge.engine import Array
from hybridge_edge.front.tls_status import TlsStatus
from hybridge_edge.version import installed_version

SECONDS = 5.0
_LIBRARIES = ("grpcio", "numpy", "onnxruntime", "onnxruntime-gpu", "protobuf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", required=True, action="append", metavar="[NAME=]FILE.npy", help="a raw input")
    parser.add_argument("--rows", type=int, default=0, help="rows a request; default: those of the files")
    parser.add_argument("--callers", type=int, default=1, help=f"processes that ask, 1 to {MAX_CALLERS} (default 1)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long (default {SECONDS:g})")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--stream", action="store_true", help="one stream a caller instead of a call a request")
    way.add_argument("--direct", action="store_true", help="the direct socket of our client, without grpc")
    parser.add_argument("--tcp", action="store_true", help="over the server's TCP address instead of its socket")
    parser.add_argument("--json", action="store_true", help="print numbers, versions and machine as JSON")
    network.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Load the running server and print what it took. Returns 1 where a request failed, else 0."""
    if not 1 <= arguments.callers <= MAX_CALLERS:
        raise UsageError(f"--callers is {arguments.callers}.", f"Write a number from 1 to {MAX_CALLERS}.")
    if not 0.1 <= arguments.seconds <= MAX_SECONDS:
        raise UsageError(f"--seconds is {arguments.seconds:g}.", f"Write seconds from 0.1 to {MAX_SECONDS:g}.")
    if not 0 <= arguments.rows <= MAX_BATCH_LIMIT:
        raise UsageError(f"--rows is {arguments.rows}.", f"Write a number from 1 to {MAX_BATCH_LIMIT}.")
    if arguments.direct and arguments.tcp:
        raise UsageError("The direct socket is not reached over TCP.", "Leave --tcp or --direct out.")
    remote = network.remote(arguments)
    if remote is not None and (arguments.direct or arguments.tcp):
        raise UsageError("--address names a server on the network.", "Leave --tcp and --direct out.")
    transport = checked("stream" if arguments.stream else "direct" if arguments.direct else "unary")
    specs = inputs_of(arguments.model) if remote is None else remote.inputs_of(arguments.model)
    arrays = dict(read_input(text, specs) for text in arguments.input)
    if arguments.rows:
        arrays = {
            name: _rows(array, arguments.rows) if name in specs and specs[name].shape[0] == -1 else array
            for name, array in arrays.items()
        }
    address = remote.address if remote is not None else _tcp() if arguments.tcp else endpoint()
    tls = remote.tls if remote is not None else None
    tally = load(
        address, transport, arguments.model, arrays, callers=arguments.callers, seconds=arguments.seconds, tls=tls
    )
    if arguments.json:
        print(json.dumps(_document(arguments, transport, address, tally), indent=2))
    else:
        print("\n".join(_table(arguments, transport, address, tally)))
    return 1 if tally.failed or not tally.answered else 0


def _rows(array: Array, rows: int) -> Array:
    """The first rows, from the beginning again where the file has fewer."""
    return numpy.ascontiguousarray(numpy.take(array, numpy.arange(rows) % len(array), axis=0))


def _tcp() -> str:
    tcp = runtime.Endpoint.read(runtime.folder()).tcp
    if not tcp:
        raise Refused("The server does not listen on TCP.", "Start it with --tcp 127.0.0.1:8001, or leave --tcp out.")
    if TlsStatus.read(runtime.folder()) is not None:
        raise Refused(
            "The server's TCP is under TLS.", f"Name it: --address HOST:{tcp.rpartition(':')[2]} --tls-ca ..."
        )
    return tcp


def _table(arguments: argparse.Namespace, transport: str, address: str, tally: Tally) -> list[str]:
    callers = f"{arguments.callers} caller{'s' if arguments.callers > 1 else ''}"
    versions = ", ".join(f"{one} ({count:,})" for one, count in sorted(tally.versions.items())) or "none"
    failed = "".join(f", {count:,} {code}" for code, count in sorted(tally.errors.items()))
    shares = "  ".join(f"p{share * 100:g} {tally.quantile(share):,} us" for share in (0.5, 0.9, 0.99))
    inside = "  ".join(f"{stage} {tally.mean_us(stage):,.0f} us" for stage in STAGES)
    outside = max(tally.mean_us() - tally.mean_us("total"), 0.0)
    return [
        f"{arguments.model}: {callers} for {tally.seconds:.1f} s, {transport} over {address}",
        f"versions   {versions} on {', '.join(sorted(tally.providers)) or 'nothing'}",
        f"requests   {tally.answered:,} answered, {tally.answered / max(tally.seconds, 1e-9):,.0f} a second, "
        f"{tally.failed:,} failed{failed}",
        f"latency    {shares}  longest {tally.quantile(1.0):,} us",
        f"inside     {inside}  (means, as the server measured)",
        f"outside    {outside:,.0f} us  (mean: caller, socket and gRPC)",
    ]


def _document(arguments: argparse.Namespace, transport: str, address: str, tally: Tally) -> dict[str, object]:
    return {
        "model": arguments.model,
        "rows": arguments.rows,
        "callers": arguments.callers,
        "transport": transport,
        "over": "tcp" if arguments.tcp else "unix" if address.startswith("unix:") else address,
        "seconds": round(tally.seconds, 3),
        "answered": tally.answered,
        "requests_per_second": round(tally.answered / max(tally.seconds, 1e-9), 1),
        "errors": tally.errors,
        "guarded": tally.guarded,
        "versions": tally.versions,
        "providers": tally.providers,
        "latency_us": {
            "mean": round(tally.mean_us(), 1),
            **{f"p{share * 100:g}": tally.quantile(share) for share in (0.5, 0.9, 0.99, 0.999)},
            "longest": tally.quantile(1.0),
        },
        "server_mean_us": {stage: round(tally.mean_us(stage), 1) for stage in STAGES},
        "machine": {"architecture": platform.machine(), "system": platform.platform(), "processor": _processor(),
                    "cores": os.cpu_count()},
        "installed": {"hybridge": installed_version(), "python": platform.python_version(), **_libraries()},
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _libraries() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
