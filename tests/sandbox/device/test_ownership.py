"""Decision 6's table on a core device of each kind: the real server and the model component's own run step, deployed.

What each row means is spelled out in tests/edge/serving/test_ownership.py; here it is the nucleus that runs things.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from hybridge_cloud.components import checkout
from hybridge_cloud.sandbox.device.mode import Mode
from hybridge_edge import lines
from hybridge_edge.contract.errors import Unavailable

ASK_SECONDS = 20.0


@pytest.fixture(scope="module")
def kit() -> ModuleType:
    """The device tests' packages; they are made there, where the format is."""
    path = checkout.root() / "tests" / "edge" / "conftest.py"
    spec = importlib.util.spec_from_file_location("serving_kit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Fleet:
    """One device of a group of its own, with a server and versions of one model."""

    def __init__(self, account: Any, start: Callable[..., Any], wait_until: Any, mode: Mode, private: Path) -> None:
        self.account, self.start, self.wait_until, self.mode = account, start, wait_until, mode
        self.name = f"Own{mode.value.title()}"
        self.server, self.model = f"{self.name}.Server", f"{self.name}.Model"
        self.runtime = private / "run"
        self.group = account.group()
        self.device: Any = None

    def publish_server(self, trust: Path) -> None:
        python = shlex.quote(sys.executable)
        self.account.publish(
            self.server,
            "1.0.0",
            f"export HYBRIDGE_RUNTIME_DIR={self.runtime} HYBRIDGE_TRUST={trust}; "
            f"exec {python} -m hybridge_edge.cli serve --store '{{work:path}}/store' --spool '{{work:path}}/spool'",
        )

    def publish_model(self, built: Any) -> None:
        """The recipe's own run step and configuration."""
        recipe = yaml.safe_load((checkout.root() / "recipes" / "model.yaml").read_text())
        script = recipe["Manifests"][0]["Lifecycle"]["run"]["Script"].replace(
            "/model/activate.py", "/bundle/activate.py"
        )
        files = {
            f"package/{path.relative_to(built.folder)}": path.read_bytes()
            for path in built.folder.rglob("*")
            if path.is_file()
        }
        files["activate.py"] = (checkout.root() / "components" / "model" / "activate.py").read_bytes()
        self.account.publish(
            self.model,
            built.manifest.version,
            f"export HYBRIDGE_RUNTIME_DIR={self.runtime}; {script}",
            configuration=recipe["ComponentConfiguration"]["DefaultConfiguration"],
            dependencies={self.server: (">=1.0.0", "HARD")},
            files=files,
        )

    def hand_over(self, version: str, epoch: int, mode: str = "activate") -> str:
        """A wave: the latest revision with the model changed, and the three values merged as strings."""
        merge = {"hybridge": {"rollout": f"fleet-{epoch}", "epoch": str(epoch), "mode": mode}}
        return str(self.account.deploy(self.group, {self.server: "1.0.0", self.model: (version, merge)}, "DO_NOTHING"))

    def boot(self) -> None:
        self.device = self.start(self.mode, self.group, again=self.device)

    def ask(self, **request: object) -> dict[str, Any]:
        line = json.dumps(request).encode() + b"\n"
        answer: dict[str, Any] = json.loads(lines.ask(self.runtime / "management.sock", line, ASK_SECONDS))
        return answer

    def reports(self) -> dict[str, tuple[str, int]]:
        """State and epoch by version, as the server reports them; nothing while it does not answer."""
        with contextlib.suppress(Unavailable):
            return {one["version"]: (one["state"], one["epoch"]) for one in self.ask(verb="status")["models"]}
        return {}

    def comes_to(self, reports: dict[str, tuple[str, int]]) -> None:
        self.wait_until(lambda: self.reports() == reports)

    def log(self) -> str:
        return str(self.device.log(self.model))


@pytest.mark.parametrize("mode", list(Mode))
def test_who_owns_the_active_version(
    account: Any, start: Callable[..., Any], wait_until: Any, kit: ModuleType, private: Path, mode: Mode
) -> None:
    fleet = Fleet(account, start, wait_until, mode, private)
    trust = private / "trust.json"
    trust.write_bytes(kit.trust_of(kit.signer()).to_bytes())
    fleet.publish_server(trust)
    fleet.publish_model(kit.build(private / "one", "1.0.0", 1.0, probes=8))
    fleet.publish_model(kit.build(private / "two", "1.1.0", 2.0, probes=8))
    fleet.publish_model(kit.build(private / "bad", "1.9.0", 9.0, golden_error=1.0))

    # First deployment of a digest.
    first = fleet.hand_over("1.0.0", 1)
    fleet.boot()
    thing = fleet.device.thing
    assert account.outcome(thing, first)[0] == "SUCCEEDED"
    fleet.comes_to({"1.0.0": ("ACTIVE", 1)})
    fleet.hand_over("1.9.0", 2)
    fleet.comes_to({"1.0.0": ("ACTIVE", 2), "1.9.0": ("REFUSED", 2)})
    second = fleet.hand_over("1.1.0", 3)
    assert account.outcome(thing, second)[0] == "SUCCEEDED"
    fleet.comes_to({"1.1.0": ("ACTIVE", 3)})

    # Boot: the server restores what it served, the component asserts it again.
    said = fleet.log().count("ACTIVE: watch 1.1.0")
    fleet.boot()
    wait_until(lambda: fleet.log().count("ACTIVE: watch 1.1.0") > said)
    fleet.comes_to({"1.1.0": ("ACTIVE", 3)})

    # A local rollback, and a boot after it.
    assert fleet.ask(verb="rollback", model="watch", reason="too warm")["version"] == "1.0.0"
    fleet.boot()
    wait_until(lambda: "QUARANTINED: watch 1.1.0" in fleet.log())
    fleet.comes_to({"1.0.0": ("ACTIVE", 3), "1.1.0": ("QUARANTINED", 3)})

    # Only a higher epoch lifts it; put back is one more.
    fleet.hand_over("1.1.0", 4)
    fleet.comes_to({"1.1.0": ("ACTIVE", 4)})
    back = fleet.hand_over("1.0.0", 5)
    assert account.outcome(thing, back)[0] == "SUCCEEDED"
    fleet.comes_to({"1.0.0": ("ACTIVE", 5)})

    # Store lost.
    fleet.device.stop()
    shutil.rmtree(fleet.device.root / "work" / fleet.server / "store")
    fleet.boot()
    fleet.comes_to({"1.0.0": ("ACTIVE", 5)})

    # Removed: the tombstone first, then the component.
    tombstone = fleet.hand_over("1.0.0", 6, "retire")
    assert account.outcome(thing, tombstone)[0] == "SUCCEEDED"
    fleet.comes_to({"0.0.0": ("RETIRED", 6)})
    gone = account.deploy(fleet.group, {fleet.server: "1.0.0"})
    assert account.outcome(thing, gone)[0] == "SUCCEEDED"
    assert fleet.reports() == {"0.0.0": ("RETIRED", 6)}
