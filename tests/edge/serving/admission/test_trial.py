"""What kills a runtime kills a child of the server, once; the server goes on (S7b, F16)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hybridge_edge import engine
from hybridge_edge.admission import trial
from hybridge_edge.admission.trial import TrialLimits, try_in_child
from hybridge_edge.contract.errors import PackageRefused, Unavailable
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.package import Package
from hybridge_edge.trust import open_package

LIMITS = TrialLimits(seconds=60.0)
SHORT = TrialLimits(seconds=1.5)


def value(name: str, shape: tuple = ("batch", 3), element: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, element, shape)


def graph(nodes: list, constants: tuple = (), functions: tuple = ()) -> bytes:
    made = helper.make_graph(nodes, "g", [value("mean")], [value("scores")], list(constants))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=10, functions=list(functions))
    return onnx.ModelProto.SerializeToString(model)


def of_much_memory() -> bytes:
    """64 GB of zeros, of which it takes the largest."""
    return graph(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            helper.make_node("ReduceMax", ["zeros"], ["largest"], keepdims=0),
            helper.make_node("Add", ["mean", "largest"], ["scores"]),
        ],
        (numpy_helper.from_array(numpy.array([1 << 34], numpy.int64), "shape"),),
    )


def without_end() -> bytes:
    """A Loop that nothing ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [value("number", (), TensorProto.INT64), value("go", (), TensorProto.BOOL), value("x")],
        [value("on", (), TensorProto.BOOL), value("y")],
    )
    true = numpy_helper.from_array(numpy.array(True), "condition")
    return graph([helper.make_node("Loop", ["", "condition", "mean"], ["scores"], body=body)], (true,))


def without_bottom() -> bytes:
    """A function that calls itself: the runtime unfolds it until its stack ends. The lint would have refused it."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    itself = helper.make_function(
        "ours", "f", ["x"], ["y"], [helper.make_node("f", ["x"], ["y"], domain="ours")], opsets
    )
    return graph([helper.make_node("f", ["mean"], ["scores"], domain="ours")], (), (itself,))


def loops(manifest: Any) -> Any:
    return replace(manifest, control_flow=("Loop",))


@pytest.fixture
def believed(packages: Callable, trust: TrustDocument) -> Callable[..., Package]:
    """A package around a graph, believed."""
    return lambda content=None: open_package(packages("1.1.0", 2.0, graph=content, change=loops).folder, trust)


def never() -> bool:
    return False


def test_a_good_package_passes_and_is_measured(believed: Callable[..., Package]) -> None:
    verdict = try_in_child(believed(), 1, never)
    assert 0 < verdict.measured.memory_kib < 256 * 1024
    assert 0 < verdict.measured.trial_ms < LIMITS.seconds * 1000
    assert all("memory" not in missing for missing in verdict.not_enforced)


@pytest.mark.parametrize(
    ("make", "limits", "reason"),
    [
        (of_much_memory, LIMITS, "needs more memory than it is allowed"),
        (without_end, SHORT, r"did not end in 1\.5 s"),
        (without_end, TrialLimits(60.0, cpu_seconds=1), "used more than 1 s of processor time"),
        (without_bottom, LIMITS, "ended its trial by SIG(SEGV|ABRT|BUS)"),
        (None, TrialLimits(60.0, memory_megabytes=1), "needs more memory than it is allowed|ended its trial by"),
    ],
)
def test_what_a_package_does_to_a_runtime_is_a_verdict(
    believed: Callable[..., Package], make: Callable[[], bytes] | None, limits: TrialLimits, reason: str
) -> None:
    with pytest.raises(PackageRefused, match=reason) as refused:
        try_in_child(believed(make() if make else None), 1, never, limits)
    assert refused.value.step == "trial"


def test_what_the_package_itself_says_is_passed_on(packages: Callable, trust: TrustDocument) -> None:
    built = packages("1.1.0", 2.0, golden_error=1.0)
    with pytest.raises(PackageRefused, match="differs by up to 1") as refused:
        try_in_child(open_package(built.folder, trust), 1, never)
    assert refused.value.step == "golden"


def test_a_package_changed_under_the_trial_is_refused(packages: Callable, trust: TrustDocument) -> None:
    built = packages("1.1.0", 2.0)
    package = open_package(built.folder, trust)
    (built.folder / "manifest.json").write_bytes(packages("1.2.0", 3.0).manifest.to_bytes())
    with pytest.raises(PackageRefused, match="changed while it was tried"):
        try_in_child(package, 1, never)


def test_a_refused_trial_is_not_repeated_at_its_epoch_and_the_old_model_serves(
    device: Any, packages: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def really(package: Package, stop: Callable[[], bool]) -> trial.Verdict:
        tried.append(package.digest)
        return try_in_child(package, 1, stop)

    device.trial = really
    device.restart()
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    bad = packages("1.1.0", 2.0, graph=of_much_memory())
    first = device.activation.hand_over(bad.handover(2))
    assert (first.state, first.seen_before) == (PackageState.REFUSED, False)
    assert first.reason.startswith("trial: It needs more memory than it is allowed")
    assert tried.count(bad.digest) == 1
    for _ in range(2):
        again = device.activation.hand_over(bad.handover(2))
        assert (again.state, again.seen_before, again.version) == (PackageState.REFUSED, True, "1.1.0")
        assert "tried again at a higher epoch" in again.reason
        assert device.serves() == ("1.0.0", 1.0)
        device.restart()
        device.activation.resume()
    assert tried.count(bad.digest) == 1
    assert device.activation.hand_over(bad.handover(3)).state is PackageState.REFUSED
    assert tried.count(bad.digest) == 2
    assert device.loads == 3  # the good one, and again after each restart: the bad one was never loaded here


def test_a_package_that_passed_is_not_tried_again_under_the_same_runtime(
    device: Any, packages: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def count(package: Package, stop: Callable[[], bool]) -> trial.Verdict:
        tried.append(package.manifest.version)
        return trial.Verdict(trial.Measured(memory_kib=3000))

    device.trial = count
    device.restart()
    one, two, three = packages("1.0.0", 1.0), packages("1.1.0", 2.0), packages("1.2.0", 3.0)
    device.activation.hand_over(one.handover(1))
    device.activation.hand_over(two.handover(2))
    device.restart()
    device.activation.hand_over(one.handover(3))
    assert tried == ["1.0.0", "1.1.0"]
    assert device.activation.measured(one.digest).memory_kib == 3000
    device.activation.hand_over(three.handover(4, Mode.STAGE))
    assert tried == ["1.0.0", "1.1.0", "1.2.0"]
    device.activation.hand_over(three.handover(5))
    assert tried == ["1.0.0", "1.1.0", "1.2.0"]
    monkeypatch.setattr(engine, "runtime_version", lambda: "onnxruntime 99")
    device.restart()  # its active package is not trusted yet, and the runtime is another one
    assert tried == ["1.0.0", "1.1.0", "1.2.0", "1.2.0"]
    assert device.serves() == ("1.2.0", 3.0)
    (device.folder / "passed.json").write_text("{")
    device.restart()
    assert tried[4:] == ["1.2.0"]


def test_a_server_that_stops_leaves_the_package_for_the_next_start(device: Any, packages: Callable) -> None:
    device.trial = lambda package, stop: try_in_child(package, 1, stop)
    device.restart()
    endless = packages("1.1.0", 2.0, graph=without_end(), change=loops)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(device.activation.hand_over, endless.handover(1))
        child = _child()
        device.stop()
        assert answer.result(10).state is PackageState.BUILDING
    assert not Path(f"/proc/{child}").exists()
    device.start()
    assert device.store.record("watch").refusal_of(endless.digest) is None
    device.trial = lambda package, stop: try_in_child(package, 1, stop, SHORT)
    device.restart()
    device.activation.resume()
    answer = device.activation.hand_over(endless.handover(1))  # waits for what was resumed, which it repeats
    assert "did not end in 1.5 s" in answer.reason
    with pytest.raises(Unavailable):
        try_in_child(device.store.open(endless.digest, device.trust), 1, lambda: True)


def test_a_child_inherits_nothing_and_may_be_killed_from_outside(
    believed: Callable[..., Package], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with (tmp_path / "held").open("w") as held, ThreadPoolExecutor(1) as pool:
        os.set_inheritable(held.fileno(), True)
        verdict = pool.submit(try_in_child, believed(without_end()), 1, never, LIMITS)
        child = _child()
        environment = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
        assert {one.partition("=")[0] for one in environment} <= {
            "", *trial._PASSED_ON, "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE",
        }  # fmt: skip
        files = [str(path.readlink()) for path in Path(f"/proc/{child}/fd").iterdir()]
        assert not [name for name in files if name == str(tmp_path / "held")]
        assert os.getpgid(child) == child
        assert str(Path(f"/proc/{child}/cwd").readlink()) == "/"
        os.kill(child, signal.SIGKILL)
        with pytest.raises(PackageRefused, match="killed from outside"):
            verdict.result(10)


def _child() -> int:
    """The child of this process that tries a package, once it has given up what it gives up."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for path in Path("/proc").glob("[0-9]*/status"):
            try:
                status, command = path.read_text(), (path.parent / "cmdline").read_bytes()
            except OSError:
                continue
            ours = f"PPid:\t{os.getpid()}\n" in status and b"hybridge_edge.admission.trial_child" in command
            if ours and "NoNewPrivs:\t1" in status:
                return int(path.parent.name)
        time.sleep(0.01)
    raise AssertionError("no child was started")


GIVEN_UP = """
import json, resource, socket, sys, threading
from hybridge_edge.admission import trial_child
not_enforced = trial_child.give_up(7) if sys.argv[2] == "given up" else None
found = {"not_enforced": not_enforced}
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5).close()
    found["network"] = True
except OSError:
    found["network"] = False
try:
    with open(sys.argv[3], "wb") as file:
        file.write(b"x" * 100)
    found["writes"] = True
except OSError:
    found["writes"] = False
found["core"] = resource.getrlimit(resource.RLIMIT_CORE)[0]
found["cpu"] = resource.getrlimit(resource.RLIMIT_CPU)[0]
found["status"] = open("/proc/self/status").read()
found["score"] = open("/proc/self/oom_score_adj").read().strip()
print(json.dumps(found))
"""


def test_what_a_child_gives_up_is_gone(tmp_path: Path) -> None:
    """With its control: a process that gives nothing up reaches the port and writes the file."""
    found = {}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for what in ("nothing", "given up"):
            arguments = [str(listening.getsockname()[1]), what, str(tmp_path / what)]
            done = subprocess.run([sys.executable, "-c", GIVEN_UP, *arguments], capture_output=True, check=True)
            found[what] = json.loads(done.stdout)
    assert (found["nothing"]["network"], found["nothing"]["writes"]) == (True, True)
    given_up = found["given up"]
    assert given_up["writes"] is False
    assert (given_up["core"], given_up["cpu"], given_up["score"]) == (0, 7, "1000")
    assert "NoNewPrivs:\t1" in given_up["status"]
    # Where a kernel lets nobody make a network namespace, that is said, and it is the only thing that may be missing.
    assert given_up["network"] is any("no network" in missing for missing in given_up["not_enforced"])
    assert len(given_up["not_enforced"]) <= 1
