"""Before a switch, both versions answer the new package's probes, in turns, beside the traffic.

A run waits a moment for an idle place and then queues like one request, so requests keep their way; time and rows are
bounded, and what was not answered is not counted.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator

from hybridge_edge.admission.golden import load_array
from hybridge_edge.contract.errors import HybridgeError, Overloaded, PackageRefused
from hybridge_edge.contract.expectations import MAX_PROBES
from hybridge_edge.contract.report import SLOWER
from hybridge_edge.engine import Array, Arrays, EngineResult
from hybridge_edge.package import Package
from hybridge_edge.serving.evidence import Paired, comparable, disagreements
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.runner import Runner

_LOG = logging.getLogger(__name__)
PROBE_SECONDS = 10.0
"""After this the rest is left out."""
PAUSE_SECONDS = 0.0005
"""Between two rows: whoever waits for the interpreter gets it."""
_COMPILE_AGAIN = "Compile the package again."


def answer_probes(
    package: Package,
    now: Resident,
    before: Resident,
    runner: Runner,
    stop: Callable[[], bool],
    seconds: float = PROBE_SECONDS,
) -> Paired:
    """Run the probes of ``package`` through both, row by row, who goes first alternating.

    Args:
        now: the package, loaded. before: the version that answers. stop: whether to end early.

    Raises:
        PackageRefused: step probes: the probes cannot be read, do not fit, or the new version fails on one.
    """
    if not package.manifest.probes:
        return Paired()
    if not comparable(now.manifest, before.manifest):
        _LOG.warning("%s cannot be compared with %s.", now.manifest.version, before.manifest.version)
        return Paired()
    rows = list(_rows(package))
    _check(now, rows[0])
    until = time.monotonic() + seconds
    times: list[tuple[int, int]] = []
    disagreed = 0
    states: tuple[Arrays | None, Arrays | None] = (None, None)
    for number, row in enumerate((rows[0], *rows)):
        if stop() or time.monotonic() > until:
            _LOG.warning("%d of %d probes were answered in time.", len(times), len(rows))
            break
        pair = _pair(now, before, row, runner, states, new_first=number % 2 == 0)
        if number > 0 and pair is not None:  # the first pair warms both up
            times.append((_us(pair[0]), _us(pair[1])))
            states = pair[0].state or None, pair[1].state or None  # of models with states the rows are one sequence
            disagreed += disagreements(now.manifest.confidence_output, 1, pair[0].outputs, pair[1].outputs)
        time.sleep(PAUSE_SECONDS)
    if not times:
        return Paired()
    return Paired(
        rows=len(times),
        disagreed=disagreed,
        slower=sum(us > SLOWER * us_before for us, us_before in times),
        median_us=round(statistics.median(us for us, _ in times)),
        median_us_before=round(statistics.median(us_before for _, us_before in times)),
    )


def _check(now: Resident, row: Arrays) -> None:
    try:
        now.signature.check(row)
    except HybridgeError as error:
        raise PackageRefused(f"The probes do not fit: {error.message}", _COMPILE_AGAIN, step="probes") from None


def _pair(
    now: Resident,
    before: Resident,
    row: Arrays,
    runner: Runner,
    states: tuple[Arrays | None, Arrays | None],
    *,
    new_first: bool,
) -> tuple[EngineResult, EngineResult] | None:
    """Both answers, or None where the device is overloaded or the version before fails on this row."""
    found: dict[bool, EngineResult] = {}
    for new in (new_first, not new_first):
        resident = now if new else before
        try:
            found[new] = runner.beside(resident, row, PROBE_SECONDS, states[0 if new else 1])
        except Overloaded:
            return None
        except Exception as error:  # the runtime's own errors have no common root
            if not new:
                return None
            raise PackageRefused(f"A probe cannot be run: {error}", _COMPILE_AGAIN, step="probes") from None
    return found[True], found[False]


def _us(result: EngineResult) -> int:
    return result.features_us + result.infer_us


def _rows(package: Package) -> Iterator[dict[str, Array]]:
    """One input a row, batch first where the signature has a batch axis."""
    batched = {spec.name: spec.shape[0] == -1 for spec in package.manifest.inputs}
    arrays = {probe.name: load_array(package, probe.path, "probes") for probe in package.manifest.probes}
    sizes = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise PackageRefused("The probes have different numbers of rows, or none.", _COMPILE_AGAIN, step="probes")
    for row in range(min(sizes.pop(), MAX_PROBES)):
        yield {name: array[row : row + 1] if batched[name] else array[row] for name, array in arrays.items()}
