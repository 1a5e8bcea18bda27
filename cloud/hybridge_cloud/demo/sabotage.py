"""Packages that are bad ON PURPOSE, made from a good one, to show and to measure that a rollout stops them.

    python -m hybridge_cloud.demo.sabotage shuffled|slow|good PACKAGE --out OUT --version VERSION --key KEY

Each stands for a fault that crept in after an honest evaluation, such as labels in another order or a graph that lost
an optimisation. So the package is in order in every way that is looked at before it runs: its signature is valid, its
golden outputs are what its graphs give, and its manifest says what the evaluation of the good model against its parent
would have found: that they never disagree. Only how it behaves beside the version before gives it away.

``shuffled`` answers with the classes moved on by one. ``slow`` gives the same answers, bit for bit, many times later.
``good`` is the same model under another version, which a rollout must let pass.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from hybridge_cloud.compile.evaluate import answer_with_graphs
from hybridge_cloud.compile.npy import npy_bytes, read_npy
from hybridge_cloud.demo.sabotaged_graph import calibrated_work, with_classes_in_order, with_work
from hybridge_cloud.package import read_package
from hybridge_cloud.signing import sign_package
from hybridge_cloud.training.output_folder import output_folder, refuse_existing
from hybridge_cloud.training.task import Arrays
from hybridge_edge.contract import names
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.errors import HybridgeError, Refused
from hybridge_edge.contract.expectations import Comparison
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE, FileEntry
from hybridge_edge.package import Package

TIMES = 10.0


@dataclass(frozen=True, slots=True)
class Sabotaged:
    """A package as written and signed, and in one sentence what was done."""

    folder: Path
    manifest: Manifest
    done: str


def shuffled(package_folder: Path, out: Path, version: str, key: Path, order: tuple[int, ...] = ()) -> Sabotaged:
    """The same model with its classes in another order.

    Args:
        package_folder: a good package with probes. version: higher than its own. key: to sign with.
        order: class i gets the value of class ``order[i]``; () moves all on by one, so that no answer stays right.

    Raises:
        Refused: the package has no probes or no such classes, or the version is not higher. Conflict: ``out`` is
        there already. PackageRefused, UsageError: no whole package, or no key.
    """
    package = _read(package_folder, out, version)
    manifest, name = package.manifest, package.manifest.confidence_output
    shapes = {spec.name: spec.item_shape for spec in manifest.outputs}
    classes = range(shapes[name][-1] if shapes.get(name) else 0)
    order = order or (*classes[1:], *classes[:1])
    if len(classes) < 2 or sorted(order) != list(classes):
        raise Refused(f"{manifest.name} {manifest.version} has {len(classes)} classes; they have no order {order}.")
    moved = sum(place != source for place, source in enumerate(order))
    model = with_classes_in_order(_model(package), name, order)
    return _write(package, model, out, version, key, f"{moved} of {len(classes)} classes have changed places")


def slow(package_folder: Path, out: Path, version: str, key: Path, times: float = TIMES) -> Sabotaged:
    """The same answers, and features and model together take at least ``times`` as long on this machine.

    The work is measured here, on one thread, for one row and for a full batch; so the bytes differ from run to run.

    Args and Raises: as ``shuffled``; Refused also where the work cannot be measured.
    """
    package = _read(package_folder, out, version)
    features, inputs = package.read(package.manifest.variants[0].features), _probes(package)
    work = calibrated_work(features, _model(package), inputs, package.manifest.max_batch, times)
    ratios = ", ".join(f"{ratio:.1f} times for {rows} rows" for rows, ratio in work.ratios)
    done = f"{work.multiplications} matrix multiplications change nothing and take time: {ratios}"
    return _write(package, with_work(_model(package), work.multiplications), out, version, key, done)


def good(package_folder: Path, out: Path, version: str, key: Path) -> Sabotaged:
    """The same graphs, byte for byte, as another version. Args and Raises: as ``shuffled``."""
    package = _read(package_folder, out, version)
    return _write(package, _model(package), out, version, key, "the same graphs under another version")


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="sabotage", description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("kind", choices=("shuffled", "slow", "good"))
    parser.add_argument("package", type=Path, help="a good package")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--version", required=True, help="MAJOR.MINOR.PATCH, higher than the package's")
    parser.add_argument("--key", type=Path, required=True, help="private key to sign with")
    parser.add_argument("--times", type=float, default=TIMES, help="how many times as long `slow` takes (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        if options.kind == "slow":
            made = slow(options.package, options.out, options.version, options.key, options.times)
        else:
            make = shuffled if options.kind == "shuffled" else good
            made = make(options.package, options.out, options.version, options.key)
    except HybridgeError as error:
        print(f"sabotage: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{made.manifest.name} {made.manifest.version}: {made.done}")
    print(f"digest {made.manifest.digest}, signed, in {made.folder}")
    return 0


def _read(folder: Path, out: Path, version: str) -> Package:
    refuse_existing(out)
    package = read_package(folder)
    manifest = package.manifest
    if names.version_key(names.version(version)) <= names.version_key(manifest.version):
        raise Refused(f"{version} is not above {manifest.version}, the package's own.", "Give a higher --version.")
    if not manifest.probes:
        raise Refused(f"{manifest.name} {manifest.version} has no probes.", "Compile it again.")
    return package


def _model(package: Package) -> bytes:
    return package.read(package.manifest.variants[0].model)


def _probes(package: Package) -> Arrays:
    return {probe.name: read_npy(package.read(probe.path)) for probe in package.manifest.probes}


def _write(package: Package, model_onnx: bytes, out: Path, version: str, key: Path, done: str) -> Sabotaged:
    """The package with another model and version: golden outputs made again, compared with its parent, signed."""
    manifest, variant = package.manifest, package.manifest.variants[0]
    golden = manifest.golden.tensors
    inputs = {tensor.name: read_npy(package.read(tensor.path)) for tensor in golden if tensor.role == "input"}
    features_onnx = package.read(variant.features)
    answers = answer_with_graphs(features_onnx, model_onnx, inputs, manifest.max_batch, manifest.codecs)
    files = {entry.path: package.read(entry.path) for entry in manifest.files}
    files |= {tensor.path: npy_bytes(answers[tensor.name]) for tensor in golden if tensor.role == "output"}
    files[variant.model] = model_onnx
    rows = len(next(iter(_probes(package).values())))
    bad = replace(
        manifest,
        version=version,
        files=tuple(FileEntry(path, sha256(content), len(content)) for path, content in sorted(files.items())),
        lineage=replace(manifest.lineage, parent=package.digest),
        comparisons=(Comparison(package.digest, rows, 0),),
    )
    with output_folder(out) as folder:
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        (folder / MANIFEST_FILE).write_bytes(bad.to_bytes())
        sign_package(folder, key)
    return Sabotaged(out, bad, done)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
