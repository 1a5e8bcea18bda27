"""What runs a package's two graphs: load, run, close. One file a runtime under ``engines/``, imported when needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from hybridge_edge.contract.errors import PackageRefused
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


class Stop:
    """Lets another thread end a run: as soon as the runtime looks."""

    __slots__ = ("_end", "asked")

    def __init__(self) -> None:
        self.asked = False
        self._end: Callable[[], None] | None = None

    def when_asked(self, end: Callable[[], None]) -> None:
        """The engine says how, before it begins."""
        self._end = end
        if self.asked:
            end()

    def ask(self) -> None:
        """End the run. It raises whatever the runtime raises then."""
        self.asked = True
        if self._end is not None:
            self._end()


class Engine(Protocol):
    """A loaded package. ``run`` may be called from several threads at once; ``close`` once, after the last run."""

    provider: str

    def run(self, inputs: Arrays, stop: Stop | None = None) -> EngineResult:
        """Run raw inputs (checked against the signature, batch first) through features and model.

        Args:
            stop: another thread's way to end it; None where nobody watches.
        """
        ...

    def close(self) -> None:
        """Free what the runtime holds."""
        ...


def load(package: Package, threads: int) -> Engine:
    """Load the first variant of the package that this machine can run.

    Args:
        threads: intra-op threads a run may use.

    Raises:
        PackageRefused: no variant fits, a graph cannot be loaded, or its signature is not the manifest's (step load).
    """
    from hybridge_edge.engines import onnx

    available = onnx.available_providers()
    for variant in package.manifest.variants:
        providers = tuple(provider for provider in variant.providers if provider in available)
        if providers:
            return onnx.OnnxEngine(package, variant, providers, threads)
    wanted = ", ".join(sorted({name for variant in package.manifest.variants for name in variant.providers}))
    raise PackageRefused(
        f"No variant of {package.manifest.name} runs here: it needs {wanted}, this device has {', '.join(available)}.",
        "Compile a variant for this device.",
        step="load",
    )
