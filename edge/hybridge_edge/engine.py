"""What runs a package's two graphs: load, run, close. One file a runtime under ``engines/``, imported when needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from hybridge_edge.contract.errors import PackageRefused
from hybridge_edge.contract.manifest import Manifest, Variant
from hybridge_edge.package import Package

Array = NDArray[Any]
Arrays = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class EngineResult:
    """What a run gave: features and outputs by name, batch first, and how long each graph took in microseconds."""

    features: dict[str, Array]
    outputs: dict[str, Array]
    features_us: int
    infer_us: int


@dataclass(frozen=True, slots=True)
class Readable:
    """The newest files that the installed runtime reads: IR version, and opset of the standard operators."""

    ir_version: int
    opset: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The variant that this device runs, and on which of its providers, in order of preference."""

    variant: Variant
    providers: tuple[str, ...]

    @property
    def on_cpu(self) -> bool:
        return self.providers == ("CPUExecutionProvider",)


class Engine(Protocol):
    """A loaded package. ``run`` may be called from several threads at once; ``close`` once, after the last run."""

    provider: str

    def run(self, inputs: Arrays) -> EngineResult:
        """Run raw inputs (checked against the signature, batch first) through features and model."""
        ...

    def close(self) -> None:
        """Free what the runtime holds."""
        ...


def runtime_version() -> str:
    """The runtime's name and version: what an examination of a package holds for."""
    from hybridge_edge.engines import onnx

    return f"onnxruntime {onnx.installed_version()}"


def readable() -> Readable:
    """What the installed runtime reads, asked of itself once."""
    from hybridge_edge.engines import onnx

    return onnx.readable()


def choose(manifest: Manifest) -> Choice:
    """The first variant of a package that this machine can run. Raises PackageRefused, step load."""
    from hybridge_edge.engines import onnx

    available = onnx.available_providers()
    for variant in manifest.variants:
        providers = tuple(provider for provider in variant.providers if provider in available)
        if providers:
            return Choice(variant, providers)
    wanted = ", ".join(sorted({name for variant in manifest.variants for name in variant.providers}))
    raise PackageRefused(
        f"No variant of {manifest.name} runs here: it needs {wanted}, this device has {', '.join(available)}.",
        "Compile a variant for this device.",
        step="load",
    )


def load(package: Package, threads: int) -> Engine:
    """Load the first variant of the package that this machine can run.

    Args:
        threads: intra-op threads a run may use.

    Raises:
        PackageRefused: no variant fits, a graph cannot be loaded, or its signature is not the manifest's (step load).
    """
    from hybridge_edge.engines import onnx

    choice = choose(package.manifest)
    return onnx.OnnxEngine(package, choice.variant, choice.providers, threads)
