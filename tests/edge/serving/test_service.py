"""The heart without a transport: what is offered to the capture, who gets a place, what a full disk costs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest

from hybridge_edge import durable, trials
from hybridge_edge.capture import Observation
from hybridge_edge.contract.errors import SpoolFull
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.engine import EngineResult, Stop
from hybridge_edge.serving.call import Call
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.service import Inference, Service
from hybridge_edge.trials import Table


class Kept:
    """A capture that keeps everything in memory."""

    def __init__(self) -> None:
        self.observations: list[Observation] = []

    def offer(self, observation: Observation) -> None:
        self.observations.append(observation)


class Engine:
    """Answers the mean of a window, and one confidence for the whole batch, which has no batch axis."""

    provider = "test"
    degraded = ""

    def run(self, inputs: Mapping[str, Any], stop: Stop | None = None) -> EngineResult:
        mean = inputs["window"].mean(axis=1)
        whole = numpy.array([0.25, 0.75, 0.5], numpy.float32)
        return EngineResult({"mean": mean}, {"scores": mean, "whole": whole}, 1, 1)

    def close(self) -> None:
        pass


@pytest.fixture
def service(packages: Callable) -> Service:
    def whole(manifest: Manifest) -> Manifest:
        outputs = (*manifest.outputs, TensorSpec("whole", "FP32", (3,)))
        return replace(manifest, outputs=outputs, confidence_output="whole")

    built = packages(change=whole)
    one = Service(Gate(1), lambda model, digest: None)
    one.capture = Kept()  # type: ignore[assignment]
    one.residents.switch(Resident(built.manifest, built.digest, Engine()))
    return one


@pytest.mark.parametrize("rows", [1, 2])
def test_a_confidence_without_a_batch_axis_is_every_row_s(service: Service, kit: ModuleType, rows: int) -> None:
    service.infer(Inference("watch", "", "a", {"window": kit.window(rows)}), Call(1.0))
    assert [one.confidence for one in service.capture.observations] == [0.75] * rows  # type: ignore[union-attr]


def test_a_row_that_is_kept_does_not_keep_its_batch_in_memory(service: Service, kit: ModuleType) -> None:
    service.infer(Inference("watch", "", "a", {"window": kit.window(4)}), Call(1.0))
    for one in service.capture.observations:  # type: ignore[union-attr]
        for array in (*one.features.values(), *one.outputs.values()):
            assert array.base is None or array.base.nbytes == array.nbytes


def test_a_table_that_the_disk_has_no_room_for_costs_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with Table(tmp_path).trial("sha256:" + "a" * 64):
        assert "No space left" in caplog.text
    trials.count_crash(tmp_path)
    assert trials.crashes(tmp_path, "sha256:" + "a" * 64) == 0


def test_a_death_that_a_full_disk_cannot_count_ends_no_supervisor_and_is_counted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / trials.FOLDER).mkdir()
    digest = "sha256:" + "a" * 64
    Table(tmp_path).trial(digest).__enter__()

    def full(path: Path, data: bytes) -> None:
        raise SpoolFull("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "write", full)
        trials.count_crash(tmp_path)
    assert trials.crashes(tmp_path, digest) == 0
    trials.count_crash(tmp_path)
    assert trials.crashes(tmp_path, digest) == 1
