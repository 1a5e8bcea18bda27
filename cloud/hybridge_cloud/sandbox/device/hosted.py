"""A core device on a thread of this process, for tests of components: no cloud, no account, quick waits.

What runs in it is real: recipes read as the nucleus reads them, scripts as processes, IPC on a Unix socket for the
unmodified ``awsiotsdk``. The fixtures of ``testing`` make these.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hybridge_cloud.sandbox.device.cloud_link import ComponentUpdate
from hybridge_cloud.sandbox.device.core import CoreDevice
from hybridge_cloud.sandbox.device.local import Folders, LocalOutcome
from hybridge_cloud.sandbox.device.mode import Limits, Mode, limits_of
from hybridge_cloud.sandbox.device.recipe import name_and_version
from hybridge_edge.contract.errors import Unavailable

PATIENCE_SECONDS = 60.0
"""How long every wait of a test may take."""
_POLL_SECONDS = 0.02
_Result = TypeVar("_Result")


def quick(mode: Mode) -> Limits:
    """A nucleus' limits with short pauses: what is decided stays the same, only sooner."""
    return replace(
        limits_of(mode),
        running_after=0.3 if mode is Mode.LITE else 0.0,
        restart_after=0.02,
        stop_within=5.0,
        status_after=0.02,
        poll_seconds=2,
        retry_longest=0.2,
    )


@dataclass(frozen=True, slots=True)
class Deployed:
    """How a deployment ended; ``reason`` is the nucleus' own where it failed."""

    succeeded: bool
    reason: str


class HostedCore:
    """One device; ``close`` it, or take it from the ``core_device`` fixture, which does.

    Args:
        root: its folder, used by nothing else. limits: ``quick`` ones by default.
    """

    def __init__(self, root: Path, mode: Mode, thing: str = "test-core", limits: Limits | None = None) -> None:
        self.root = root
        self.mode = mode
        self.thing = thing
        self._limits = limits or quick(mode)
        self._staging = root / "staging"
        self._deployments = 0
        root.mkdir(parents=True, exist_ok=True)
        self._start()

    def deploy(
        self,
        recipes: Path | str,
        *,
        artifacts: Path | None = None,
        roots: Mapping[str, str] | None = None,
        merge: Mapping[str, Mapping[str, Any]] | None = None,
        reset: Mapping[str, Sequence[str]] | None = None,
        remove: Sequence[str] = (),
        rollback: bool = True,
    ) -> Deployed:
        """Deploy as the Greengrass command lines do, and wait for the end.

        Args:
            recipes: a folder of ``NAME-VERSION.yaml``, one recipe's file, or a recipe's text.
            artifacts: a folder of ``NAME/VERSION/FILE``.
            roots: component to version; by default every recipe that is given.
            merge: component to what is merged into its configuration. reset: component to JSON pointers.
            remove: root components to take away.

        Raises:
            InvalidDocument: a recipe names no component. Unavailable: no end within PATIENCE_SECONDS.
        """
        folder, found = self._stage(recipes)
        merged, resets = merge or {}, reset or {}
        wanted = {
            name: ComponentUpdate(version, merged.get(name), tuple(resets.get(name, ())))
            for name, version in (found if roots is None else roots).items()
        }
        local = self.core.local

        async def submit() -> str:
            return local.submit(wanted, tuple(remove), Folders(folder, artifacts), rollback=rollback)

        deployment = self._call(submit())
        outcome = wait_for(lambda: _ended(local.outcome(deployment)), "the deployment's end")
        return Deployed(outcome.status == "SUCCEEDED", outcome.reason)

    def remove(self, *names: str) -> Deployed:
        """Take root components away."""
        (self._staging / "none").mkdir(parents=True, exist_ok=True)
        return self.deploy(self._staging / "none", roots={}, remove=names)

    def status(self, name: str) -> str:
        """A component's state: NEW INSTALLED STARTING RUNNING ERRORED BROKEN FINISHED STOPPING."""
        return str(self.core.components.status(name)[0])

    def reason(self, name: str) -> str:
        """Why a component is ERRORED or BROKEN, else ""."""
        return self.core.components.status(name)[1]

    def wait_for_status(self, name: str, status: str) -> None:
        wait_for(lambda: self.status(name) == status, f"{name} being {status}")

    def log(self, name: str) -> str:
        """All that a component's processes said."""
        path = self.core.device.layout.log(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for_log(self, name: str, text: str) -> None:
        wait_for(lambda: text in self.log(name), f"{name} saying {text!r}")

    def configuration(self, name: str) -> Mapping[str, Any]:
        """A component's configuration as it is now; empty where it is not on the device."""
        return self.core.read_configuration(name) or {}

    def environment(self, name: str) -> Mapping[str, str]:
        """The variables by which a process is this component to the nucleus: set them to test code in-process."""
        return self.core.environment(name)

    def client(self, name: str) -> Any:
        """An IPC client of the unmodified SDK (GreengrassCoreIPCClientV2) that speaks as a component; close it."""
        from awsiot.greengrasscoreipc import connect
        from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

        variables = self.environment(name)
        socket, token = variables["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"], variables["SVCUID"]
        return GreengrassCoreIPCClientV2(connect(ipc_socket=socket, authtoken=token, timeout=PATIENCE_SECONDS))

    def restart(self) -> None:
        """Stop the device in order and start it again, as a boot does: finished components run again."""
        self.close()
        self._start()

    def close(self) -> None:
        """Stop every component and the device."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()
        if not self._loop.is_closed():
            self._loop.close()

    def _start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self.core = CoreDevice(self.root.resolve(), self.thing, self.mode, self._limits, "")
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self.core.run(self._end),), name="core-device"
        )
        self._thread.start()
        wait_for(lambda: self.core.ready.is_set() or not self._thread.is_alive(), "the device's start")
        if not self._thread.is_alive():
            raise Unavailable("The core device ended while it started.", "Read what its thread said.")

    def _call(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    def _stage(self, recipes: Path | str) -> tuple[Path, Mapping[str, str]]:
        """The folder of a deployment's recipes, under the names that the device wants, and what it holds."""
        if isinstance(recipes, Path) and recipes.is_dir():
            files = [path for path in sorted(recipes.iterdir()) if path.suffix in (".yaml", ".yml", ".json")]
            texts = [path.read_bytes() for path in files]
        else:
            texts = [recipes.read_bytes() if isinstance(recipes, Path) else recipes.encode()]
        self._deployments += 1
        folder = self._staging / str(self._deployments)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        found = {}
        for text in texts:
            name, version = name_and_version(text)
            found[name] = version
            suffix = "json" if text.lstrip().startswith(b"{") else "yaml"
            (folder / f"{name}-{version}.{suffix}").write_bytes(text)
        return folder, found


def wait_for(condition: Callable[[], _Result], what: str) -> _Result:
    """The first true answer. Raises Unavailable after PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise Unavailable(f"{what} did not come within {PATIENCE_SECONDS:g} s.")
        time.sleep(_POLL_SECONDS)
    return found


def _ended(outcome: LocalOutcome | None) -> Any:
    return outcome if outcome is not None and outcome.status else None
