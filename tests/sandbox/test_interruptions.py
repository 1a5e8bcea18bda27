"""Nothing is left behind, and nothing of others is touched, whatever is interrupted when."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridge_cloud.sandbox import lifecycle, processes
from hybridge_cloud.sandbox.folder import MARK_VARIABLE, SandboxFolder, State, environment
from hybridge_edge.contract.trust_document import TRUST_VARIABLE

TRIES = 5
HYBRIDGE = [sys.executable, "-c", "from hybridge_cloud.cli import main; main()"]


@pytest.fixture
def folder() -> Iterator[SandboxFolder]:
    with tempfile.TemporaryDirectory(prefix="hyb") as made:
        yield SandboxFolder(Path(made) / "a folder of its own")


def quiet(folder: SandboxFolder) -> bool:
    return processes.wait_until(lambda: processes.belonging(folder) == [], 30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_start_that_is_interrupted_leaves_no_process(folder: SandboxFolder, number: signal.Signals) -> None:
    command = [*HYBRIDGE, "sandbox", "up", "--dir", str(folder.root)]
    for _ in range(TRIES):
        up = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert processes.wait_until(lambda: len(processes.belonging(folder)) > 1, 30)  # the account has begun
        up.send_signal(number)
        assert "Traceback" not in up.communicate(timeout=60)[1]
        if up.returncode != 0:
            break
        assert lifecycle.down(folder), "on a busy machine it was up before the signal came"
    assert up.returncode != 0, "never interrupted"
    assert quiet(folder)
    assert lifecycle.status(folder).state == "down"


def test_a_service_that_was_started_but_never_written_down_is_ended_by_down(folder: SandboxFolder) -> None:
    folder.make()
    forgotten = started({MARK_VARIABLE: str(folder.root)})
    assert lifecycle.down(folder)
    assert forgotten.wait(10) == -signal.SIGTERM
    assert not lifecycle.down(folder)


def test_components_of_another_sandbox_with_the_same_ports_are_left_alone(folder: SandboxFolder) -> None:
    """A sandbox that is down does not own its ports: another one may have chosen them meanwhile."""
    folder.make()
    ports = processes.free_ports()
    folder.write(State(ports))
    elsewhere = folder.root.with_name("other") / "devices" / "till"
    other = started({**environment(ports), **component(elsewhere / "ipc.socket", elsewhere)})
    inside = folder.device("till")
    own = started({**environment(ports), **component(inside / "ipc.socket", inside)})
    short = started({**environment(ports), **component(Path("/tmp/hybridge-core-0/0123/ipc.socket"), inside)})
    try:
        assert lifecycle.down(folder)
        assert own.wait(10) == short.wait(10) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def component(ipc: Path, home: Path) -> dict[str, str]:
    return {processes.IPC_VARIABLE: str(ipc), TRUST_VARIABLE: str(home / "trust.json")}


def started(variables: dict[str, str]) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(["/bin/sleep", "60"], env={"PATH": "/bin", **variables}, start_new_session=True)
    assert processes.wait_until(lambda: b"sleep" in Path(f"/proc/{child.pid}/cmdline").read_bytes(), 10)
    return child


def test_ports_lie_where_no_outgoing_connection_takes_them() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = processes.free_ports()
    assert all(0 < port < lowest for port in (ports.account, ports.control, ports.mqtt))
    with socket.socket() as other:
        other.bind(("127.0.0.1", ports.account))
        other.listen()
        assert not processes.is_free(ports.account)


def refused(*words: str) -> str:
    done = subprocess.run([*HYBRIDGE, "sandbox", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_folder_of_something_else_is_left_as_it_is(folder: SandboxFolder) -> None:
    folder.root.mkdir()
    (folder.root / "environment").write_text("PATH=/bin\n")
    (folder.root / "passwd").write_text("")
    assert "is not a sandbox's folder: it holds passwd." in refused("up", "--dir", str(folder.root))
    assert (folder.root / "environment").read_text() == "PATH=/bin\n"
    assert len(list(folder.root.iterdir())) == 2


@pytest.mark.parametrize(
    ("command", "name", "said"),
    [
        ("down", "file", "is not a folder"),
        ("status", "file/inside", "Not a directory"),
        ("up", "n" * 300, "File name too long"),
        ("up", "it's", "has a quote"),
    ],
)
def test_a_folder_that_cannot_be_is_refused_in_one_sentence(
    folder: SandboxFolder, command: str, name: str, said: str
) -> None:
    folder.root.mkdir()
    (folder.root / "file").write_text("")
    assert said in refused(command, "--dir", str(folder.root / name))


def test_a_sandbox_whose_owner_has_ended_does_not_start(folder: SandboxFolder) -> None:
    with subprocess.Popen(["/bin/true"]) as ended:
        ended.wait()
    assert "has ended" in refused("up", "--dir", str(folder.root), "--owner", str(ended.pid))
    assert quiet(folder)
