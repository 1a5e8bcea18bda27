"""Who owns the active version: each row of decision 6's table, through the server's real management socket.

Every row is asserted as the model component does it, which is ``activate.py`` with the arguments its recipe gives,
and by what the server then answers requests with. On core devices of both kinds: tests/sandbox/device.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hybridge_edge.client import Client
from hybridge_edge.contract.errors import ModelNotFound

BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)
ACTIVATE = Path(__file__).resolve().parents[3] / "components" / "model" / "activate.py"


@dataclass
class Ran:
    """What the nucleus sees of one run of a model component."""

    code: int
    said: str


class Components:
    """Model components on one device: a folder of unpacked artifacts each, as the nucleus leaves them."""

    def __init__(self, server: Any, folder: Path) -> None:
        self.server, self.folder = server, folder

    def unpack(self, built: Any) -> Path:
        target = self.folder / f"{built.manifest.name}-{built.manifest.version}"
        if not target.exists():
            shutil.copytree(built.folder, target / "package")
            shutil.copy(ACTIVATE, target)
        return target

    def run(self, built: Any, epoch: int, mode: str = "activate", wait: float = 20.0) -> Ran:
        """The recipe's run step; nucleus lite writes numbers with decimals."""
        command = [BASE_PYTHON, "-I", str(self.unpack(built) / "activate.py"), "--rollout", f"fleet-{epoch}"]
        command += ["--epoch", f"{epoch}.00000", "--mode", mode, "--wait-seconds", str(wait)]
        environment = {"PATH": "/usr/bin:/bin", "HYBRIDGE_RUNTIME_DIR": str(self.server.runtime)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""
        return Ran(done.returncode, done.stdout)

    def remove(self, built: Any) -> None:
        shutil.rmtree(self.unpack(built))


@pytest.fixture
def components(server: Any, tmp_path: Path) -> Iterator[Components]:
    server.start()
    yield Components(server, tmp_path / "artifacts")
    if server.process.poll() is None:
        assert server.stop() == 0


def serves(server: Any, kit: ModuleType) -> str:
    """The version that answers, its numbers checked to be that version's: 1.N.0 multiplies by N + 1."""
    with Client(server.endpoint.inference) as client:
        window = kit.window()
        answer = client.infer("watch", {"window": window})
    factor = int(answer.version.split(".")[1]) + 1
    assert abs(float(answer.outputs["scores"].sum()) - float(kit.scores(window, factor).sum())) < 1e-3
    return str(answer.version)


def reported(server: Any) -> dict[str, tuple[str, int]]:
    """State and epoch by version, as the device's report says them."""
    return {one["version"]: (one["state"], one["epoch"]) for one in server.say(verb="status")["models"]}


@pytest.fixture
def version(packages: Callable) -> Callable[[int], Any]:
    """Packages 1.N.0 by N, each made once, with probes."""
    made: dict[int, Any] = {}

    def get(number: int) -> Any:
        if number not in made:
            made[number] = packages(f"1.{number}.0", 1.0 + number, probes=8)
        return made[number]

    return get


def test_first_deployment_of_a_digest(
    components: Components, version: Callable, packages: Callable, kit: ModuleType
) -> None:
    server = components.server
    first = components.run(version(0), 1)
    assert (first.code, "ACTIVE: watch 1.0.0" in first.said) == (0, True)
    bad = packages("1.9.0", 10.0, golden_error=1.0)
    refused = components.run(bad, 2)
    assert (refused.code, "REFUSED" in refused.said) == (1, True)
    assert serves(server, kit) == "1.0.0"
    assert reported(server) == {"1.0.0": ("ACTIVE", 2), "1.9.0": ("REFUSED", 2)}
    again = components.run(bad, 2)
    assert (again.code, "golden" in again.said) == (0, True)


def test_boot_nucleus_restart_and_touched_configuration(
    components: Components, version: Callable, kit: ModuleType
) -> None:
    server = components.server
    components.run(version(0), 1)
    components.run(version(1), 2)
    touched = components.run(version(1), 2)
    assert (touched.code, "ACTIVE: watch 1.1.0" in touched.said) == (0, True)
    late = components.run(version(0), 1)
    assert (late.code, "superseded by epoch 2" in late.said) == (0, True)
    # The power goes. The server's own store answers again before any component has run.
    server.kill_tree()
    server.start()
    assert serves(server, kit) == "1.1.0"
    assert components.run(version(1), 2).code == 0
    assert reported(server) == {"1.1.0": ("ACTIVE", 2)}


def test_the_component_may_run_before_the_server_listens(
    components: Components, version: Callable, kit: ModuleType
) -> None:
    server = components.server
    assert server.stop() == 0
    ran: list[Ran] = []
    thread = threading.Thread(target=lambda: ran.append(components.run(version(0), 1)))
    thread.start()
    server.start()
    thread.join()
    assert ran[0].code == 0
    assert serves(server, kit) == "1.0.0"


def test_server_restart_and_update(components: Components, version: Callable, kit: ModuleType) -> None:
    server = components.server
    components.run(version(0), 1)
    components.run(version(1), 2)
    components.remove(version(0))
    components.remove(version(1))  # the store needs no artifact of a component
    pid = server.endpoint.pid
    os.kill(pid, signal.SIGKILL)
    server.wait(not_pid=pid)
    assert serves(server, kit) == "1.1.0"
    assert server.stop() == 0
    server.start()
    assert serves(server, kit) == "1.1.0"
    assert reported(server) == {"1.1.0": ("ACTIVE", 2)}


def test_a_local_rollback_outlives_a_reboot_and_only_a_higher_epoch_lifts_it(
    components: Components, version: Callable, kit: ModuleType
) -> None:
    server = components.server
    components.run(version(0), 1)
    components.run(version(1), 2)
    assert server.say(verb="rollback", model="watch", reason="too warm")["version"] == "1.0.0"
    for boot in range(2):
        run = components.run(version(1), 2)
        assert (run.code, "QUARANTINED" in run.said, "too warm" in run.said) == (0, True, True), boot
        assert serves(server, kit) == "1.0.0"
        assert reported(server) == {"1.0.0": ("ACTIVE", 2), "1.1.0": ("QUARANTINED", 2)}
        server.kill_tree()
        server.start()
        assert serves(server, kit) == "1.0.0"
    lifted = components.run(version(1), 3)
    assert (lifted.code, "ACTIVE" in lifted.said) == (0, True)
    assert serves(server, kit) == "1.1.0"


def test_put_back_is_a_switch_of_what_is_loaded(components: Components, version: Callable, kit: ModuleType) -> None:
    server = components.server
    components.run(version(0), 1)
    components.run(version(1), 2)
    # Neither the artifact's package nor the store's copy can be loaded any more: only the resident copy can answer.
    for path in (server.store / "packages" / version(0).digest.removeprefix("sha256:")).glob("*.onnx"):
        path.write_bytes(b"")
    back = components.run(version(0), 3)
    assert (back.code, "ACTIVE: watch 1.0.0" in back.said) == (0, True)
    assert serves(server, kit) == "1.0.0"
    assert reported(server) == {"1.0.0": ("ACTIVE", 3)}
    with Client(server.endpoint.inference) as client, pytest.raises(ModelNotFound):
        client.infer("watch", {"window": kit.window()}, version="1.1.0")
    # What was put back does not come again by itself, however often its old hand-over is repeated.
    late = components.run(version(1), 2)
    assert (late.code, "superseded by epoch 3" in late.said) == (0, True)
    assert serves(server, kit) == "1.0.0"


def test_a_device_that_was_away_converges_when_it_returns(
    components: Components, version: Callable, kit: ModuleType
) -> None:
    server = components.server
    components.run(version(0), 1)
    components.run(version(1), 2)
    assert server.stop() == 0
    server.start()
    # While it was away the rollout was put back, and version 3 came and was put back too: it hears of the last alone.
    assert components.run(version(0), 5).code == 0
    assert serves(server, kit) == "1.0.0"
    assert reported(server) == {"1.0.0": ("ACTIVE", 5)}


def test_model_removed(components: Components, version: Callable, kit: ModuleType) -> None:
    server = components.server
    components.run(version(0), 1)
    components.run(version(1), 2)
    tombstone = components.run(version(1), 3, "retire")
    assert (tombstone.code, "RETIRED" in tombstone.said) == (0, True)
    with pytest.raises(ModelNotFound):
        serves(server, kit)
    assert [state for state, _ in reported(server).values()] == ["RETIRED"]
    assert not list((server.store / "packages").iterdir())
    components.remove(version(1))
    server.kill_tree()
    server.start()
    assert [state for state, _ in reported(server).values()] == ["RETIRED"]
    assert components.run(version(0), 2).code == 0
    with pytest.raises(ModelNotFound):
        serves(server, kit)


def test_store_lost(components: Components, version: Callable, kit: ModuleType) -> None:
    server = components.server
    components.run(version(0), 1)
    components.run(version(1), 2)
    server.kill_tree()
    shutil.rmtree(server.store)
    server.start()
    with pytest.raises(ModelNotFound):
        serves(server, kit)
    assert components.run(version(1), 2).code == 0
    assert serves(server, kit) == "1.1.0"


def test_the_report_of_a_hand_over_carries_its_evidence(
    components: Components, version: Callable, kit: ModuleType
) -> None:
    server = components.server
    components.run(version(0), 1)
    components.run(version(1), 2)
    serves(server, kit)
    (model,) = server.say(verb="status")["models"]
    assert json.dumps(model["evidence"]["against"]) == json.dumps(version(0).digest)
    assert (model["evidence"]["probes"], model["evidence"]["requests"]) == (8, 1)
    assert "probes_disagreed" not in model["evidence"]
