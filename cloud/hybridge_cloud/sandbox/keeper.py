"""The keeper: the one process that owns a sandbox. It holds the folder's lock, starts the others, restarts what dies
and stops them in order.

    python -m hybridge_cloud.sandbox.keeper --dir DIR --ready-descriptor N [--buildspecs FOLDER] [--owner PID]

On the ready descriptor it writes one JSON line: ``{"ok": true}``, or ``{"ok": false, "message", "remedy"}``.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from botocore.exceptions import BotoCoreError, ClientError

from hybridge_cloud.sandbox import account, devices, logs, processes, provision
from hybridge_cloud.sandbox.folder import HOST, Recorded, SandboxFolder, State, process_environment
from hybridge_edge import durable
from hybridge_edge.contract.errors import HybridgeError, Refused, Unavailable

TICK_SECONDS = 0.2
LOG_SECONDS = 10.0
"""How often logs are looked at for their size."""
CONTROL_READY_SECONDS = 60.0
DEVICE_GRACE_SECONDS = 30.0
SERVICE_GRACE_SECONDS = 15.0
RETRY_SECONDS = 1.0
RESTART_SECONDS = (1.0, 2.0, 5.0, 10.0)
"""How long to wait before a process that ended is started again, by how often it ended of late."""
STEADY_SECONDS = 60.0
"""A process that ran this long has no restarts counted against it any more."""


@dataclass(slots=True)
class Kept:
    """A child process, and what a restart needs to know."""

    child: subprocess.Popen[bytes]
    since: float = field(default_factory=time.monotonic)
    ended: int = 0
    again_at: float = 0.0


class Keeper:
    """The processes of one sandbox."""

    def __init__(self, folder: SandboxFolder, buildspecs: str, owner: Recorded | None) -> None:
        self.folder = folder
        self.owner = owner
        previous = folder.read()
        self.buildspecs = buildspecs or (previous.buildspecs if previous else "")
        self.ports = previous.ports if previous else processes.free_ports()
        self.kept: dict[str, Kept] = {}
        self.stopping = False

    def start(self) -> None:
        """Bring everything up, after ending what an earlier, killed sandbox left behind.

        Raises:
            Refused: a port is taken. Unavailable: a service did not start, or it was told to stop meanwhile.
        """
        self._record("starting")
        processes.stop(processes.belonging(self.folder), DEVICE_GRACE_SECONDS)
        processes.check_ports(self.ports, self.folder)
        self.kept["account"] = Kept(account.start(self.folder, self.ports))
        self._record("starting")
        self._fill_account()
        self.kept["control"] = Kept(self._start_control())
        self._record("starting")
        self._wait_control()
        self._tend_devices()
        self._record("up")

    def tend(self) -> None:
        """Restart what ended, start devices that were added, stop those that were removed.

        Returns when told to stop, or when the owner has ended.
        """
        bounded_at = time.monotonic()
        while not self.unwanted():
            try:
                self._tend_services()
                self._tend_devices()
                if time.monotonic() - bounded_at > LOG_SECONDS:
                    bounded_at = time.monotonic()
                    logs.bound(self.folder.logs)
            except (HybridgeError, OSError) as error:
                # A service that died once more while it came back, a full disk: it is tried again at the next tick.
                print(f"keeper: {error}", flush=True)
                time.sleep(RETRY_SECONDS)
            time.sleep(TICK_SECONDS)

    def unwanted(self) -> bool:
        """Whether it was told to stop, or its owner has ended."""
        return self.stopping or (self.owner is not None and not processes.alive(self.owner))

    def stop(self) -> None:
        """Devices first, then the control service, then the account; nothing is left, whatever the disk says."""
        self._try_record("stopping")
        running = [name for name in self.kept if name not in ("account", "control")]
        self._stop_children(running, DEVICE_GRACE_SECONDS)
        self._stop_children(["control"], SERVICE_GRACE_SECONDS)
        self._stop_children(["account"], SERVICE_GRACE_SECONDS)
        processes.stop(processes.belonging(self.folder), processes.KILL_WAIT_SECONDS)
        self.kept.clear()
        self._try_record("down")

    def _try_record(self, state: str) -> None:
        try:
            self._record(state)
        except (HybridgeError, OSError) as error:
            print(f"keeper: the state {state} is not recorded: {error}", flush=True)

    def _fill_account(self) -> None:
        """Wait for a new account process and make things and queues in it: it knows nothing of them."""
        account.wait_ready(self.kept["account"].child, self.folder, self.ports, self.unwanted)
        try:
            provision.provision(self.ports)
            devices.enrol_all(self.folder, self.ports)
        except (BotoCoreError, ClientError) as error:
            raise Unavailable(f"The embedded account does not take its contents: {error}.", "Read its log.") from None

    def _record(self, state: str) -> None:
        found: dict[str, Recorded] = {}
        for name, pid in [("keeper", os.getpid())] + [(name, kept.child.pid) for name, kept in self.kept.items()]:
            if (process := processes.recorded(pid)) is not None and state != "down":
                found[name] = process
        self.folder.write(State(self.ports, state, found, self.buildspecs))

    def _start_control(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "hybridge_cloud.sandbox.control", "--dir", str(self.folder.root)]
        return self._spawn(command + (["--buildspecs", self.buildspecs] if self.buildspecs else []), "control")

    def _start_device(self, device: devices.Device) -> subprocess.Popen[bytes]:
        home = self.folder.device(device.name)
        command = [sys.executable, "-m", "hybridge_cloud.sandbox.device", "--root", str(home)]
        child = self._spawn([*command, "--thing", device.name, "--mode", device.mode], f"device-{device.name}")
        try:
            if (process := processes.recorded(child.pid)) is not None:
                durable.write(home / "process", f"{process.pid} {process.started}\n".encode())
                durable.write(home / "pid", f"{process.pid}\n".encode())
        except (HybridgeError, OSError):
            child.kill()  # a device that nobody can find again must not run
            child.wait()
            raise
        return child

    def _spawn(self, command: list[str], log_name: str) -> subprocess.Popen[bytes]:
        log = logs.open_log(self.folder.logs / f"{log_name}.log")
        try:
            return subprocess.Popen(
                command,
                cwd=self.folder.root,
                env=process_environment(self.folder, self.ports),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)

    def _wait_control(self) -> None:
        child = self.kept["control"].child

        def answers() -> bool:
            if child.poll() is not None or self.unwanted():
                return True
            try:
                with urllib.request.urlopen(
                    f"http://{HOST}:{self.ports.control}/sandbox/ready", timeout=account.ANSWER_SECONDS
                ) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        answered = processes.wait_until(answers, CONTROL_READY_SECONDS)
        if self.unwanted():
            raise Unavailable("The sandbox was told to stop while it started.")
        if not answered or child.poll() is not None:
            raise Unavailable("The control service did not start.", f"Read {self.folder.logs / 'control.log'}.")

    def _tend_services(self) -> None:
        if self._due("account"):
            self._replace("account", account.start(self.folder, self.ports))
            try:
                self._fill_account()
            except HybridgeError:
                self.kept["account"].child.kill()  # an account without its things is worse than none
                raise
            self._record("up")
        if self._due("control"):
            self._replace("control", self._start_control())
            self._wait_control()
            self._record("up")

    def _tend_devices(self) -> None:
        wanted = {f"device:{device.name}": device for device in devices.registered(self.folder)}
        for name in [name for name in self.kept if name.startswith("device:") and name not in wanted]:
            self._stop_children([name], DEVICE_GRACE_SECONDS)
            del self.kept[name]
            self._record("up")
        for name, device in wanted.items():
            if name not in self.kept:
                self.kept[name] = Kept(self._start_device(device))
                self._record("up")
            elif self._due(name):
                self._replace(name, self._start_device(device))
                self._record("up")

    def _due(self, name: str) -> bool:
        """Whether a child has ended and its wait is over."""
        kept = self.kept[name]
        if kept.child.poll() is None:
            return False
        now = time.monotonic()
        if not kept.again_at:
            kept.ended = 1 if now - kept.since > STEADY_SECONDS else kept.ended + 1
            kept.again_at = now + RESTART_SECONDS[min(kept.ended, len(RESTART_SECONDS)) - 1]
            print(f"keeper: {name} ended with code {kept.child.returncode}; starting it again", flush=True)
        return now >= kept.again_at

    def _replace(self, name: str, child: subprocess.Popen[bytes]) -> None:
        self.kept[name] = Kept(child, ended=self.kept[name].ended)

    def _stop_children(self, chosen: list[str], grace_seconds: float) -> None:
        children = [self.kept[name].child for name in chosen if name in self.kept]
        for child in children:
            if child.poll() is None:
                child.terminate()
        processes.wait_until(lambda: all(child.poll() is not None for child in children), grace_seconds)
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
        for name in chosen:
            if name.startswith("device:"):
                home = self.folder.device(name.removeprefix("device:"))
                (home / "pid").unlink(missing_ok=True)
                (home / "process").unlink(missing_ok=True)


def lock(folder: SandboxFolder) -> int:
    """Take the folder's lock for the life of this process.

    Raises:
        Refused: another sandbox has it.
    """
    descriptor = os.open(folder.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Refused(
            f"Another sandbox is running, starting or stopping in {folder.root}.",
            "Wait for it, stop it with 'hybridge sandbox down', or name another folder with --dir.",
        ) from None
    return descriptor


def main() -> int:
    parser = argparse.ArgumentParser(prog="keeper")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--ready-descriptor", type=int, required=True)
    parser.add_argument("--buildspecs", default="")
    parser.add_argument("--owner", type=int, help="stop when this process ends")
    options = parser.parse_args()
    folder = SandboxFolder(options.dir)
    try:
        folder.make()
        held = lock(folder)
        keeper = Keeper(folder, options.buildspecs, _owner(options.owner))
    except HybridgeError as error:
        _answer(options.ready_descriptor, error)
        return 1

    def told_to_stop(_number: int, _frame: FrameType | None) -> None:
        keeper.stopping = True  # every wait of the keeper is short, or looks at this

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, told_to_stop)
    try:
        keeper.start()
    except Exception as error:
        if not isinstance(error, HybridgeError):
            traceback.print_exc()
            error = Unavailable(f"The sandbox did not start ({error}).", f"Read {folder.logs / 'keeper.log'}.")
        keeper.stop()  # before the answer: what was refused has left nothing behind
        _answer(options.ready_descriptor, error)
        return 1
    try:
        if _answer(options.ready_descriptor, None):
            keeper.tend()
    finally:
        keeper.stop()
        os.close(held)
    return 0


def _owner(pid: int | None) -> Recorded | None:
    """The process to end with. Raises Refused where it has ended already."""
    if pid is None:
        return None
    if (found := processes.recorded(pid)) is None:
        raise Refused(f"Process {pid}, with which the sandbox shall end, has ended.", "Name a running process.")
    return found


def _answer(descriptor: int, error: HybridgeError | None) -> bool:
    """Tell who waits for the start how it went; whether somebody still waits.

    Whoever was interrupted meanwhile has not got a sandbox, so it must not go on without them.
    """
    fields = {"ok": True} if error is None else {"ok": False, "message": error.message, "remedy": error.remedy}
    try:
        os.write(descriptor, json.dumps(fields).encode() + b"\n")
        os.close(descriptor)
    except OSError as refused:
        print(f"keeper: nobody waits for the start any more ({refused.strerror})", flush=True)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
