"""What runs a package's two graphs: load, run, close. One file a runtime under ``engines/``, imported when needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from hybridge_edge.contract.errors import PackageRefused
from hybridge_edge.contract.manifest import Manifest, Variant
from hybridge_edge.package import Package
from hybridge_edge.targets.target import Target

_LOG = logging.getLogger(__name__)
Array = NDArray[Any]
Arrays = Mapping[str, Array]
CPU = "CPUExecutionProvider"


class EngineResult(NamedTuple):
    """What a run gave: features and outputs by name, batch first, and how long each graph took in microseconds.

    ``state`` is what the next run of the sequence takes, by the names of the states' inputs; empty without states.
    """

    features: dict[str, Array]
    outputs: dict[str, Array]
    features_us: int
    infer_us: int
    state: Arrays = MappingProxyType({})


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


@dataclass(frozen=True, slots=True)
class Readable:
    """The newest files that the installed runtime reads: IR version, and opset of the standard operators."""

    ir_version: int
    opset: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The variant that this device tries first, and on which provider."""

    variant: Variant
    provider: str

    @property
    def on_cpu(self) -> bool:
        return self.provider == CPU


class Engine(Protocol):
    """A loaded package. ``run`` may be called from several threads at once; ``close`` once, after the last run.

    Attributes:
        provider: where it runs, as the runtime names it. degraded: why not on a better one, "" where it is the best.
    """

    provider: str
    degraded: str

    def run(self, inputs: Arrays, stop: Stop | None = None, state: Arrays | None = None) -> EngineResult:
        """Run raw inputs (checked against the signature, batch first) through features and model.

        Args:
            stop: another thread's way to end it; None where nobody watches.
            state: what the sequence's run before gave; None begins one, and is all that a model without states takes.
        """
        ...

    def close(self) -> None:
        """Free what the runtime holds."""
        ...


class ProviderFailed(PackageRefused):
    """An execution provider of the installed runtime could not take a graph; another one may."""


def runtime_version() -> str:
    """The runtime's name and version: what an examination of a package holds for."""
    from hybridge_edge.engines import onnx

    return f"onnxruntime {onnx.installed_version()}"


def readable() -> Readable:
    """What the installed runtime reads, asked of itself once."""
    from hybridge_edge.engines import onnx

    return onnx.readable()


def choose(manifest: Manifest, target: Target | None = None) -> Choice:
    """What ``load`` would try first of what is there. Raises PackageRefused, step load, where nothing is."""
    from hybridge_edge.engines import onnx

    available = onnx.available_providers()
    for variant, provider in _places(manifest.variants, target, available):
        if provider in available:
            return Choice(variant, provider)
    raise _nothing_fits(manifest, target, available)


def load(package: Package, threads: int, target: Target | None = None, without: str = "") -> Engine:
    """Load the variant of the package that suits this device best.

    Each (provider, variant) that fits is tried, the target's best provider first. One that is tried and fails, or that
    the target has and this machine's runtime has not, is said in the engine's ``degraded``.

    Args:
        threads: intra-op threads a run may use. target: the kind of device; None takes what the runtime offers, in the
            package's own order. without: a provider that failed here while it served, and is not tried.

    Raises:
        PackageRefused: no variant fits, a graph cannot be loaded, or its signature is not the manifest's (step load).
    """
    from hybridge_edge.engines import onnx

    available = onnx.available_providers()
    failed: list[str] = []
    for variant, provider in _places(package.manifest.variants, target, available):
        if provider == without:
            continue
        if provider not in available:
            failed.append(f"This device's ONNX Runtime has no {provider}.")
            continue
        try:
            engine = onnx.OnnxEngine(
                package, variant, provider, threads, spinning=target is not None and target.spinning
            )
        except ProviderFailed as error:
            failed.append(error.message)
            continue
        engine.degraded = " ".join(dict.fromkeys(failed))
        if engine.degraded:
            _LOG.warning("%s runs on %s: %s", package.manifest.name, engine.provider, engine.degraded)
        return _decoding(package.manifest, engine)
    if failed:
        raise PackageRefused(" ".join(dict.fromkeys(failed)), "See hybridge-edge doctor.", step="load")
    raise _nothing_fits(package.manifest, target, available)


def _decoding(manifest: Manifest, engine: Engine) -> Engine:
    if not manifest.codecs:
        return engine
    from hybridge_edge.codecs.engine import DecodingEngine

    return DecodingEngine(engine, manifest.codecs)


def _nothing_fits(manifest: Manifest, target: Target | None, available: Sequence[str]) -> PackageRefused:
    wanted = ", ".join(sorted({name for variant in manifest.variants for name in variant.providers}))
    has = f"the target {target.name} has {', '.join(target.providers)}" if target else f"it has {', '.join(available)}"
    return PackageRefused(
        f"No variant of {manifest.name} runs on this device: it needs {wanted}, {has}.",
        "Compile a variant for this device.",
        step="load",
    )


def _places(variants: Sequence[Variant], target: Target | None, available: Sequence[str]) -> list[tuple[Variant, str]]:
    """Where the package may run, the best first."""
    if target is None:
        return [(variant, name) for variant in variants for name in variant.providers if name in available]
    return [(variant, name) for name in target.providers for variant in variants if name in variant.providers]
