"""Kinds of devices as data, and what happens where the better provider of one is not to be had."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from onnx import TensorProto, helper

from hybridge_edge import engine
from hybridge_edge.contract.errors import InvalidDocument, PackageRefused, Refused, UsageError
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.report import DeviceReport, ModelReport
from hybridge_edge.contract.states import PackageState
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import load
from hybridge_edge.engines import onnx
from hybridge_edge.management import Facts, Management
from hybridge_edge.reporting import fitting
from hybridge_edge.targets import target as targets
from hybridge_edge.targets.target import NAMES, Target, choose, detect, named, usable_cores
from hybridge_edge.trust import open_package

ROOT = Path(__file__).parents[3]
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def on(*providers: str) -> Callable[[Manifest], Manifest]:
    """A package whose only variant runs on these."""
    return lambda manifest: replace(manifest, variants=(replace(manifest.variants[0], providers=providers),))


@pytest.fixture
def listed_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime says that it has CUDA, and this machine has none: the real session cannot be made there."""
    monkeypatch.setattr(onnx, "available_providers", lambda: (CUDA, CPU))


def test_every_file_is_a_target_that_is_known_by_its_own_name() -> None:
    files = {path.stem for path in Path(targets.__file__).parent.glob("*.json")}
    assert files == set(NAMES)
    assert [named(name).name for name in NAMES] == list(NAMES)


def test_the_wheel_for_devices_holds_them(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT / "edge")],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert {f"hybridge_edge/targets/{name}.json" for name in NAMES} <= set(zipfile.ZipFile(wheel).namelist())


def content(**changes: object) -> bytes:
    fields = json.loads((Path(targets.__file__).parent / "cpu-amd64.json").read_text())
    return json.dumps({**fields, **changes}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"surprise": 1},
        {"format": 2},
        {"providers": []},
        {"python": []},
        {"threads": -1},
        {"model_memory_share": 0},
        {"model_memory_share": 1.5},
        {"runtime_minimum": "2.0"},
        {"runtime_minimum": "new"},
        {"opset": 0},
        {"spinning": "no"},
        {"object_store": {"region": "snow"}},
        {"object_store": {"region": "", "addressing": "sideways", "checksums": "none", "conditional_writes": False}},
        {"object_store": {"region": "", "addressing": "path", "checksums": "md5", "conditional_writes": False}},
    ],
)
def test_an_entry_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    assert Target.from_bytes(content()).name == "cpu-amd64"
    with pytest.raises(InvalidDocument):
        Target.from_bytes(content(**changes))


def test_the_best_target_that_fits_is_found() -> None:
    assert detect("x86_64", (CUDA, CPU)).name == "x86-cuda13"
    assert detect("x86_64", (CPU,)).name == "cpu-amd64"
    assert detect("aarch64", (CPU,)).name == "cpu-aarch64"
    assert named("snowball-edge").architecture == "x86_64", "and yet it is found by its name alone"
    with pytest.raises(Refused, match="riscv64"):
        detect("riscv64", (CPU,))


def test_a_target_for_another_machine_or_of_no_name_is_refused() -> None:
    other = "cpu-aarch64" if platform.machine() == "x86_64" else "cpu-amd64"
    with pytest.raises(UsageError, match="this machine is"):
        choose(other)
    with pytest.raises(UsageError, match="x86-cuda13"):
        choose("toaster")


def test_threads_of_a_run_are_those_asked_for_else_the_target_s() -> None:
    target = named("cpu-amd64")
    assert target.threads_of_a_run(0) == 1
    assert target.threads_of_a_run(3) == 3
    assert replace(target, threads=0).threads_of_a_run(0) >= 1


def test_the_limits_of_graphs_are_those_of_the_oldest_runtime_in_the_range() -> None:
    target = named("cpu-amd64")
    if not onnxruntime.__version__.startswith(target.runtime_minimum + "."):
        pytest.skip("another runtime is installed than the oldest one of the range")

    def loads(opset: int, ir_version: int) -> bool:
        value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
        graph = helper.make_graph([helper.make_node("Add", ["a", "a"], ["b"])], "g", value[:1], value[1:])
        opsets = [helper.make_opsetid("", opset)]
        try:
            onnxruntime.InferenceSession(
                helper.make_model(graph, opset_imports=opsets, ir_version=ir_version).SerializeToString()
            )
        except Exception:
            return False
        return True

    assert loads(target.opset, target.ir_version)
    assert not loads(target.opset + 1, target.ir_version)
    assert not loads(target.opset, target.ir_version + 1)


def test_cuda_that_is_listed_and_fails_falls_back_to_the_cpu_and_says_so(
    packages: Callable, trust: TrustDocument, listed_cuda: None, kit: Any
) -> None:
    package = open_package(packages("1.0.0", 2.0, change=on(CUDA, CPU)).folder, trust)
    for target in (None, named("x86-cuda13")):
        engine = load(package, 1, target)
        assert engine.provider == CPU
        assert CUDA in engine.degraded
        window = kit.window()
        assert engine.run({"window": window}).outputs["scores"] == pytest.approx(kit.scores(window, 2.0), rel=1e-5)
        engine.close()


def test_without_a_variant_for_the_cpu_it_is_refused_at_the_step_that_failed(
    packages: Callable, trust: TrustDocument, listed_cuda: None
) -> None:
    package = open_package(packages(change=on(CUDA)).folder, trust)
    with pytest.raises(PackageRefused, match=CUDA) as refused:
        load(package, 1, named("x86-cuda13"))
    assert refused.value.step == "load"


def test_a_target_s_provider_that_the_runtime_lacks_is_degraded_and_what_no_target_wants_is_not(
    packages: Callable, trust: TrustDocument
) -> None:
    package = open_package(packages(change=on(CUDA, CPU)).folder, trust)
    assert "has no CUDAExecutionProvider" in load(package, 1, named("x86-cuda13")).degraded
    assert load(package, 1, named("cpu-amd64")).degraded == ""
    only = open_package(packages(change=on(CUDA)).folder, trust)
    with pytest.raises(PackageRefused, match="the target cpu-amd64 has CPUExecutionProvider"):
        load(only, 1, named("cpu-amd64"))


def test_the_target_s_best_provider_is_taken_before_the_package_s_first_variant(
    packages: Callable, trust: TrustDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two(manifest: Manifest) -> Manifest:
        (only,) = manifest.variants
        return replace(manifest, variants=(replace(only, name="a", providers=(CPU,)),
                                           replace(only, name="b", providers=("AzureExecutionProvider",))))  # fmt: skip

    package = open_package(packages(change=two).folder, trust)
    target = replace(named("cpu-amd64"), providers=("AzureExecutionProvider", CPU))
    if "AzureExecutionProvider" not in onnx.available_providers():
        pytest.skip("this build of ONNX Runtime has one provider only")
    assert load(package, 1, target).provider == "AzureExecutionProvider"
    assert load(package, 1).provider == CPU


def test_a_degraded_model_says_so_in_report_and_describe(device: Any, packages: Callable, listed_cuda: None) -> None:
    built = packages("1.0.0", 2.0, change=on(CUDA, CPU))
    assert device.activation.hand_over(built.handover(1)).state is PackageState.ACTIVE
    (report,) = device.reports().values()
    assert report.provider == CPU
    assert CUDA in report.degraded
    management = Management(device.service, device.store, device.activation, Facts("1", "", ""))
    answer = json.loads(management.answer(b'{"verb":"describe","model":"watch"}\n'))
    assert answer["degraded"] == report.degraded


def report_of(degraded: str) -> DeviceReport:
    digest = "sha256:" + "0" * 64
    model = ModelReport("watch", "1.0.0", digest, PackageState.ACTIVE, "r", 1, CPU, degraded=degraded)
    return DeviceReport("watch-1", 1, "1.1.0", (model,))


def test_the_report_carries_the_reason_and_without_one_has_the_bytes_it_always_had() -> None:
    assert b"degraded" not in report_of("").to_bytes()
    assert DeviceReport.from_bytes(report_of("no GPU").to_bytes()).models[0].degraded == "no GPU"
    many = replace(report_of("x"), models=report_of("y" * 500).models * 9)
    assert len(fitting(many).to_bytes()) <= 3 * 1024


class Accelerator:
    """An engine on a GPU that is gone after so many runs."""

    provider = "CUDAExecutionProvider"
    degraded = ""

    def __init__(self, inner: Any, runs: int) -> None:
        self.inner, self.runs = inner, runs

    def run(self, inputs: Any, stop: Any = None) -> Any:
        self.runs -= 1
        if self.runs < 0:
            raise RuntimeError("CUDA failure 719: unspecified launch failure")
        return self.inner.run(inputs, stop)

    def close(self) -> None:
        self.inner.close()


def lose_the_gpu(device: Any, runs: int, *, only_gpu: bool = False) -> None:
    def load(package: Any, without: str = "") -> Any:
        if without == "" and package.manifest.version != "1.0.0":
            return Accelerator(engine.load(package, 1), runs)
        if without and only_gpu:
            raise PackageRefused("No variant runs on this device.", "Compile one.", step="load")
        return engine.load(package, 1)

    device.activation._steps._load = load


def ask_until(device: Any, kit: Any, wanted: Callable[[Any], bool]) -> int:
    """Ask until an answer is as wanted; returns how many requests failed meanwhile."""
    failed, until = 0, time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if wanted(device.ask(kit.window())):
                return failed
        except RuntimeError:
            failed += 1
        time.sleep(0.01)
    raise AssertionError(device.states())


def test_a_gpu_that_is_lost_while_it_serves_costs_three_answers_and_the_cpu_goes_on(
    device: Any, packages: Callable, kit: Any
) -> None:
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    runs_of_warm_up = 10_000
    lose_the_gpu(device, runs_of_warm_up)
    assert device.activation.hand_over(packages("2.0.0", 2.0).handover(2)).state.value == "ACTIVE"
    lost = device.service.residents.active("watch").engine
    assert device.ask(kit.window()).provider == "CUDAExecutionProvider"
    lost.runs = 0
    failed = ask_until(device, kit, lambda answer: answer.provider == "CPUExecutionProvider")
    assert failed >= 3
    assert device.serves() == ("2.0.0", 2.0)
    report = device.reports()["2.0.0"]
    assert report.provider == "CPUExecutionProvider"
    assert "CUDA failure 719" in report.degraded
    assert report.evidence.errors == failed  # its counts went with it


def test_without_a_variant_for_anything_else_the_version_before_answers(
    device: Any, packages: Callable, kit: Any
) -> None:
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    lose_the_gpu(device, 10_000, only_gpu=True)
    device.activation.hand_over(packages("2.0.0", 2.0).handover(2))
    device.service.residents.active("watch").engine.runs = 0
    ask_until(device, kit, lambda answer: answer.version == "1.0.0")
    assert {version: state.value for version, state in device.states().items()} == {
        "1.0.0": "ACTIVE",
        "2.0.0": "QUARANTINED",
    }


def test_two_failures_and_an_answer_are_no_lost_gpu(device: Any, packages: Callable, kit: Any) -> None:
    lose_the_gpu(device, 10_000)
    device.activation.hand_over(packages("2.0.0", 2.0).handover(1))
    engine_now = device.service.residents.active("watch").engine
    for _ in range(4):
        engine_now.runs = 0
        for _ in range(2):
            with pytest.raises(RuntimeError):
                device.ask(kit.window())
        engine_now.runs = 1
        assert device.ask(kit.window()).provider == "CUDAExecutionProvider"
    assert device.service.residents.active("watch").engine is engine_now


def test_cores_that_this_process_may_not_use_do_not_count() -> None:
    one = min(os.sched_getaffinity(0))
    program = "from hybridge_edge.targets.target import usable_cores; print(usable_cores())"
    command = ["taskset", "--cpu-list", str(one), sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip() == "1"
    assert usable_cores() == len(os.sched_getaffinity(0))
