"""A stop is never lost, wherever in the program it arrives."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

STOPS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])


def ran(program: str, number: int) -> subprocess.CompletedProcess[str]:
    """Run a program of its own; it must end by itself."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(int(number))],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@STOPS
def test_a_stop_that_comes_while_the_event_s_lock_is_held_is_not_lost(number: int) -> None:
    """What ``Event.wait`` does for a moment each time; a handler that sets the event would stand still here."""
    done = ran(
        """
        import os, sys
        from hybridge_edge.stopping import stop_event
        with stop_event() as stop:
            with stop._cond:
                os.kill(os.getpid(), int(sys.argv[1]))
                for _ in range(100_000):
                    pass  # the interpreter runs pending handlers between instructions
            print(stop.wait(10))
        """,
        number,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_the_check_above_finds_a_handler_that_sets_the_event() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            [
                sys.executable,
                "-c",
                "import os, signal, threading\n"
                "stop = threading.Event()\n"
                "signal.signal(signal.SIGTERM, lambda *_: stop.set())\n"
                "with stop._cond:\n"
                "    os.kill(os.getpid(), signal.SIGTERM)\n"
                "    for _ in range(100_000): pass\n",
            ],
            timeout=1,
            check=False,
        )


@STOPS
def test_a_stop_that_hits_a_library_s_own_thread_arrives_too(number: int) -> None:
    done = ran(
        """
        import signal, sys, threading
        from hybridge_edge.stopping import stop_event
        with stop_event() as stop:
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
            def library():
                signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
                signal.pthread_kill(threading.get_ident(), int(sys.argv[1]))
            threading.Thread(target=library).start()
            print(stop.wait(10))
        """,
        number,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_everything_is_as_before_once_the_context_is_closed() -> None:
    from hybridge_edge.stopping import stop_event

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    with stop_event() as stop:
        assert not stop.is_set()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_the_supervisor_blocks_its_signals_before_a_library_can_start_threads() -> None:
    """Greengrass' SDK starts threads; one with SIGTERM open would end the supervisor and orphan its worker."""
    done = ran(
        """
        import argparse, signal
        from hybridge_edge import greengrass
        from hybridge_edge.cli import serve
        from hybridge_edge.supervisor import Supervisor
        blocked = set()
        def configuration():
            blocked.update(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
            return {}
        greengrass.component_configuration = configuration
        Supervisor.run = lambda self: 0
        parser = argparse.ArgumentParser()
        serve.add_arguments(parser)
        print(serve.run(parser.parse_args(["--configuration", "--store", "x"])))
        print(sorted(number.name for number in blocked), len(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        """,
        0,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "0\n['SIGCHLD', 'SIGINT', 'SIGTERM'] 0\n"
