"""Hops of the demo: what runs, how long it took, where it stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from hybridge_edge.contract.errors import Refused

COMMAND_SECONDS = 900
_TAIL_LINES = 12


@dataclass(slots=True)
class Progress:
    """Runs the commands a user would type, shows them, and keeps the seconds of each hop."""

    out: Path
    environment: dict[str, str]
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)
    current: str = ""
    on_hop: Callable[[str], None] = lambda name: None

    @contextmanager
    def hop(self, name: str, what: str) -> Iterator[None]:
        """One hop: named while it runs, timed when it ends, named in the error when it does not."""
        self.current = name
        self.console.print(f"\n[bold]{len(self.seconds) + 1:2d}. {name}[/bold]  {what}")
        begin = time.monotonic()
        self.on_hop(name)
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - begin, 2)
        self.console.print(f"    [green]done[/green] in {self.seconds[name]:.1f} s")

    def command(self, *words: str | Path, fails: bool | None = False) -> str:
        """Run ``hybridge WORDS...``, log it whole, and return what it printed.

        Args:
            fails: whether it must end with exit code 1, as a rollout does that put back a bad model; None: either.

        Raises:
            Refused: it ended otherwise; with its last lines.
        """
        texts = [str(word) for word in words]
        shown = " ".join(self._short(text) for text in texts)
        self.console.print(f"    $ hybridge {shown}", highlight=False)
        log = self.out / "logs" / "commands.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            done = subprocess.run(
                [program("hybridge"), *texts],
                env=self.environment,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Refused(f"'hybridge {shown}' did not end within {COMMAND_SECONDS} s.", f"See {log}.") from None
        with log.open("a") as file:
            file.write(f"$ hybridge {' '.join(texts)}\n{done.stdout}{done.stderr}[exit {done.returncode}]\n\n")
        if done.returncode not in ((0, 1) if fails is None else (int(fails),)):
            tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_TAIL_LINES:])
            raise Refused(f"'hybridge {shown}' ended with {done.returncode}:\n{tail}", f"The whole output is in {log}.")
        return done.stdout

    def say(self, text: str) -> None:
        self.console.print(f"    {text}", highlight=False)

    def wait(self, what: str, seconds: float, look: Callable[[], str | None], every: float = 0.5) -> str:
        """Call ``look`` until it returns a text, showing that we wait; raises Refused after ``seconds``."""
        begin = time.monotonic()
        with self.console.status(f"    {what}"):
            while True:
                found = look()
                if found is not None:
                    return found
                if time.monotonic() - begin > seconds:
                    raise Refused(
                        f"{what}: not within {seconds:.0f} s.",
                        f"Logs are in {self.out / 'logs'} and the sandbox's logs folder.",
                    )
                time.sleep(every)

    def _short(self, text: str) -> str:
        for base in (self.out, Path.cwd()):
            text = text.replace(f"{base}/", "" if base == Path.cwd() else "OUT/")
        return text


def program(name: str) -> str:
    """The path of a command of this installation."""
    return str(Path(sys.executable).parent / name)


@dataclass(slots=True)
class Background:
    """A process of the demo's own that runs beside it, with its log; always ended."""

    name: str
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, name: str, words: list[str], environment: Mapping[str, str], log: Path) -> Background:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            process = subprocess.Popen(
                words, env=dict(environment), stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
            )
        return cls(name, process)

    def check(self) -> None:
        """Raise Refused if it ended by itself."""
        if self.process.poll() is not None:
            raise Refused(f"The {self.name} ended by itself with {self.process.returncode}.", "See its log.")

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM, then SIGKILL; returns the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode


def sandbox_environment(sandbox: Path | None) -> dict[str, str]:
    """This process' environment, with a sandbox's endpoints in it once there is one."""
    environment = dict(os.environ)
    if sandbox is not None:
        for line in (sandbox / "environment").read_text().splitlines():
            name, _, value = line.partition("=")
            environment[name] = value
        environment["HYBRIDGE_SANDBOX"] = str(sandbox)
    return environment
