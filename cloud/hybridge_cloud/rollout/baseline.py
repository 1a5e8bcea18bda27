"""What a ring's devices did before a component was changed there: what they are compared with afterwards."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hybridge_cloud.rollout.observation import DeviceView
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.report import ModelReport
from hybridge_edge.contract.states import PackageState

MINIMUM_REQUESTS = 100
"""Answers of a device before its median duration counts."""


@dataclass(frozen=True, slots=True)
class ModelMedian:
    """How long a model's answers took: the median of the devices' medians, microseconds."""

    model: str
    p50_us: int

    @classmethod
    def read(cls, reader: Reader) -> ModelMedian:
        return cls(reader.text("model", check=names.model_name), reader.integer("p50_us"))

    def to_json(self) -> dict[str, object]:
        return {"model": self.model, "p50_us": self.p50_us}


@dataclass(frozen=True, slots=True)
class Missing:
    """A model that a device did not run already before."""

    thing: str
    model: str

    @classmethod
    def read(cls, reader: Reader) -> Missing:
        return cls(reader.text("thing", check=names.thing_name), reader.text("model", check=names.model_name))

    def to_json(self) -> dict[str, object]:
        return {"thing": self.thing, "model": self.model}


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a ring's devices reported before its wave was written.

    Attributes:
        models: that were ACTIVE on one of them at least. missing: what was not ACTIVE on some all the same.
        requests, failures: of all, since their servers started. medians: of models that answered often enough.
    """

    models: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()
    requests: int = 0
    failures: int = 0
    medians: tuple[ModelMedian, ...] = ()

    def expected(self, thing: str) -> tuple[str, ...]:
        """The models that must be ACTIVE on a device again."""
        lacked = {item.model for item in self.missing if item.thing == thing}
        return tuple(model for model in self.models if model not in lacked)

    def to_json(self) -> dict[str, object]:
        return {
            "models": list(self.models),
            "missing": [item.to_json() for item in self.missing],
            "requests": self.requests,
            "failures": self.failures,
            "medians": [item.to_json() for item in self.medians],
        }

    @classmethod
    def read(cls, reader: Reader) -> Baseline:
        return cls(
            models=reader.strings("models"),
            missing=reader.objects("missing", Missing.read),
            requests=reader.integer("requests"),
            failures=reader.integer("failures"),
            medians=reader.objects("medians", ModelMedian.read),
        )


def measure(views: Iterable[DeviceView]) -> Baseline:
    """The baseline of a ring's devices. Pure."""
    listed = list(views)
    running = {view.thing: active(view.reports) for view in listed}
    models = sorted({item.model for reports in running.values() for item in reports})
    missing = tuple(
        Missing(thing, model)
        for thing, reports in sorted(running.items())
        for model in models
        if model not in {item.model for item in reports}
    )
    reports = [item for found in running.values() for item in found]
    requests, failures = counted(reports)
    return Baseline(tuple(models), missing, requests, failures, medians(reports))


def active(reports: Iterable[ModelReport]) -> tuple[ModelReport, ...]:
    """The entries of models that serve."""
    return tuple(item for item in reports if item.state is PackageState.ACTIVE)


def counted(reports: Sequence[ModelReport]) -> tuple[int, int]:
    """Requests, and those that failed, since the servers started."""
    return sum(item.requests for item in reports), sum(min(item.failures, item.requests) for item in reports)


def medians(reports: Sequence[ModelReport]) -> tuple[ModelMedian, ...]:
    """The medians of models of which a report carries one, made of MINIMUM_REQUESTS or more."""
    found: dict[str, list[int]] = {}
    for item in reports:
        seen = item.evidence
        if seen is not None and seen.p50_us and seen.requests >= MINIMUM_REQUESTS:
            found.setdefault(item.model, []).append(seen.p50_us)
    return tuple(ModelMedian(model, round(statistics.median(values))) for model, values in sorted(found.items()))
