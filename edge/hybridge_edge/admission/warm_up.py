"""Runs a loaded package until it is warm, and holds what it then takes to its budget.

The runs stand beside the traffic as probes do: each waits a moment for an idle place and then queues like one request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hybridge_edge.admission.golden import golden_inputs, steps
from hybridge_edge.contract.errors import Overloaded, PackageRefused
from hybridge_edge.engine import Array
from hybridge_edge.package import Package
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.runner import Runner

STEP = "warm-up"
BUDGET_STEP = "budget"
COLD_RUNS = 5
"""Not counted: the first runs make buffers and choose kernels."""
RUNS = 100
ROUNDS = 3
"""A round beyond the budget is run again, and the best one counts: a busy moment of the device is not the model's."""
SECONDS = 2.0
"""For all of it; after this what was measured so far counts."""
BUDGET_FACTOR = 1.5
"""Times ``budgets.p99_us`` is allowed: a device's warm-up is not the bench where the budget was set."""
_ENTER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Warmth:
    """Of one row, features and model, microseconds: over ``runs`` runs, 0 where none was made in time."""

    p50_us: int
    p99_us: int
    runs: int


def warm_up(
    package: Package,
    fresh: Resident,
    runner: Runner,
    stop: Callable[[], bool],
    seconds: float = SECONDS,
    *,
    measure: bool = True,
) -> Warmth:
    """Run the golden inputs row by row.

    Args:
        fresh: the package, loaded. stop: whether to end early.
        measure: whether more is wanted than that it is warm.

    Raises:
        PackageRefused: step warm-up: a run fails. Step budget: its p99 is over BUDGET_FACTOR times the manifest's.
    """
    allowed = package.manifest.budgets.p99_us * BUDGET_FACTOR
    rows = list(_rows(package))
    until = time.monotonic() + seconds
    best = Warmth(0, 0, 0)
    _run(fresh, rows, runner, COLD_RUNS, lambda: stop() or time.monotonic() > until)
    for _ in range(ROUNDS if measure else 0):
        times = _run(fresh, rows, runner, RUNS, lambda: stop() or time.monotonic() > until)
        if times and (best.runs == 0 or _percentile(times, 0.99) < best.p99_us):
            best = Warmth(_percentile(times, 0.5), _percentile(times, 0.99), len(times))
        if len(times) < RUNS or not allowed or best.p99_us <= allowed:
            break
    if allowed and best.runs and best.p99_us > allowed:
        raise PackageRefused(
            f"One row takes {best.p99_us} us at the 99th percentile of {best.runs} runs; the package's budget is "
            f"{package.manifest.budgets.p99_us} us, {BUDGET_FACTOR:g} times of which are allowed.",
            "Make a smaller model, or raise the budget for this kind of device.",
            step=BUDGET_STEP,
        )
    return best


def _run(
    fresh: Resident, rows: list[dict[str, Array]], runner: Runner, count: int, over: Callable[[], bool]
) -> list[int]:
    times: list[int] = []
    for number in range(count):
        if over():
            break
        try:
            result = runner.beside(fresh, rows[number % len(rows)], _ENTER_SECONDS)
        except Overloaded:
            continue
        except Exception as error:  # the runtime's own errors have no common root
            raise PackageRefused(f"A run of golden inputs fails: {error}", "Compile it again.", step=STEP) from None
        times.append(result.features_us + result.infer_us)
    return times


def _rows(package: Package) -> Iterator[dict[str, Array]]:
    """The golden inputs, a row at a time where the signature has a batch axis; as they are where one has none.

    Of a model with states, its steps, each as the first of a sequence: what a run costs is the same.
    """
    inputs = golden_inputs(package)
    if package.manifest.states:
        yield from steps(package.manifest.inputs, inputs)
        return
    batched = {spec.name for spec in package.manifest.inputs if spec.shape[0] == -1}
    if set(inputs) != batched:
        yield inputs
        return
    for row in range(min(len(array) for array in inputs.values())):
        yield {name: array[row : row + 1] for name, array in inputs.items()}


def _percentile(times: list[int], share: float) -> int:
    """The smallest time that at least ``share`` of them do not exceed."""
    ordered = sorted(times)
    return ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)]
