"""A package's own examination: inputs with known outputs, run on this device before it answers anybody."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy

from hybridge_edge.arrays import from_file
from hybridge_edge.codecs.decoder import Decoder
from hybridge_edge.contract.errors import HybridgeError, PackageRefused
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.engine import Array, Engine
from hybridge_edge.package import Package
from hybridge_edge.serving.signature import Signature

_COMPILE_AGAIN = "Compile the package again and compare it on a machine of this kind."


def check_golden(package: Package, engine: Engine) -> None:
    """Run the golden inputs and compare: |got - want| <= atol + rtol * |want| for every element.

    Raises:
        PackageRefused: step golden, with the output and its largest difference.
    """
    check_codecs(package)
    golden = package.manifest.golden
    inputs = golden_inputs(package)
    wanted = {
        tensor.name: load_array(package, tensor.path, "golden") for tensor in golden.tensors if tensor.role == "output"
    }
    if not inputs or not wanted:
        raise PackageRefused("The package brings no golden inputs and outputs.", _COMPILE_AGAIN, step="golden")
    try:
        outputs = _outputs(package, engine, inputs)
    except HybridgeError as error:
        raise PackageRefused(f"The golden inputs do not fit: {error.message}", _COMPILE_AGAIN, step="golden") from None
    except Exception as error:  # the runtime's own errors have no common root
        raise PackageRefused(f"The golden inputs cannot be run: {error}", _COMPILE_AGAIN, step="golden") from None
    for name, want in wanted.items():
        _compare(name, outputs.get(name), want, golden.rtol, golden.atol)


def _outputs(package: Package, engine: Engine, inputs: dict[str, Array]) -> dict[str, Array]:
    """What the golden inputs give: in one run, or of a model with states step by step, each after the one before."""
    signature = Signature(package.manifest)
    if not package.manifest.states:
        signature.check(inputs)
        return engine.run(inputs).outputs
    state = None
    found: list[dict[str, Array]] = []
    for step in steps(package.manifest.inputs, inputs):
        signature.check(step)
        result = engine.run(step, None, state)
        state = result.state
        found.append(result.outputs)
    return joined(package.manifest.outputs, found)


def steps(specs: Sequence[TensorSpec], arrays: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """What each request of a sequence holds, from arrays that have its steps first (see ``contract.examination``).

    Raises PackageRefused, step golden, where they have none, or not the same number each.
    """
    sizes = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise PackageRefused(
            "The golden inputs have different numbers of steps, or none.", _COMPILE_AGAIN, step="golden"
        )
    batched = {spec.name for spec in specs if spec.shape[0] == -1}
    for number in range(sizes.pop()):
        yield {name: array[number : number + 1] if name in batched else array[number] for name, array in arrays.items()}


def joined(specs: Sequence[TensorSpec], found: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The other way round for outputs: steps first."""
    return {
        spec.name: (numpy.concatenate if spec.shape[0] == -1 else numpy.stack)([one[spec.name] for one in found])
        for spec in specs
    }


def check_codecs(package: Package) -> None:
    """Decode the golden encodings and compare: this device must see what the model was trained on.

    Raises:
        PackageRefused: step golden, naming the codec, what decodes here, and the largest difference.
    """
    for codec in package.manifest.codecs:
        what = f"The codec {codec.codec} of input {codec.input!r}"
        assert codec.golden is not None  # the manifest sees to it
        want = load_array(package, codec.golden.decoded, "golden")
        decoder = Decoder(codec)
        try:
            library = decoder.library()
            got = decoder.rows(load_array(package, codec.golden.encoded, "golden"))
        except PackageRefused:
            raise
        except HybridgeError as error:
            raise PackageRefused(
                f"{what} cannot decode its golden inputs: {error.message}", error.remedy, step="golden"
            ) from None
        if got.shape != want.shape or got.dtype != want.dtype or not len(want):
            raise PackageRefused(f"{what} has golden inputs of another shape.", _COMPILE_AGAIN, step="golden")
        largest = _largest_difference(got, want)
        if not largest <= codec.golden.atol:
            raise PackageRefused(
                f"{what} gives other numbers here than where the model was trained: its golden inputs differ by up to "
                f"{largest:.3g}; {codec.golden.atol:g} is allowed. What decodes here: {library}.",
                "Install the decoder's wheel from the component's lock, or compile the package with this one.",
                step="golden",
            )


def golden_inputs(package: Package) -> dict[str, Array]:
    """The inputs by name, batch first. PackageRefused, step golden, where a file holds none."""
    tensors = package.manifest.golden.tensors
    return {tensor.name: load_array(package, tensor.path, "golden") for tensor in tensors if tensor.role == "input"}


def load_array(package: Package, path: str, step: str) -> Array:
    """A .npy file of the package; PackageRefused, at that step, where it is none."""
    try:
        array: Array = numpy.lib.format.read_array(io.BytesIO(package.read(path)), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise PackageRefused(f"{path} is not a plain numpy array: {error}", _COMPILE_AGAIN, step=step) from None
    return from_file(array)


def _compare(name: str, got: Array | None, want: Array, rtol: float, atol: float) -> None:
    if got is None or got.shape != want.shape or got.dtype != want.dtype:
        found = "nothing" if got is None else f"{got.dtype} {list(got.shape)}"
        raise PackageRefused(
            f"The golden output {name!r} is {want.dtype} {list(want.shape)}; the model gave {found}.",
            _COMPILE_AGAIN,
            step="golden",
        )
    if got.dtype.hasobject:
        if numpy.array_equal(got, want):
            return
        raise PackageRefused(f"The golden output {name!r} has other texts.", _COMPILE_AGAIN, step="golden")
    if not numpy.allclose(got, want, rtol=rtol, atol=atol):
        raise PackageRefused(
            f"The golden output {name!r} differs by up to {_largest_difference(got, want):.3g}; rtol {rtol:g} and "
            f"atol {atol:g} are allowed.",
            _COMPILE_AGAIN,
            step="golden",
        )


def _largest_difference(got: Array, want: Array) -> float:
    difference: Any = numpy.abs(got.astype(numpy.float64) - want.astype(numpy.float64))
    return float(numpy.max(difference))
