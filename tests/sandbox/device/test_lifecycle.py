"""One component's life with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hybridge_cloud.sandbox.device.lifecycle import Command, Component, Plan, Presence, Status, Surroundings
from hybridge_cloud.sandbox.device.mode import Limits, Mode
from hybridge_cloud.sandbox.device.processes import Ledger, Log, start_time

PATIENCE = 10.0


class Stage:
    """Components in one folder, and every state they went through."""

    def __init__(self, folder: Path, mode: Mode, limits: Limits) -> None:
        self.folder = folder
        self.components: list[Component] = []
        self.seen: dict[str, list[Status]] = {}
        self.installs: list[str] = []
        self.news = asyncio.Event()
        self.around = Surroundings(
            mode, limits, Ledger(folder / "processes.json"), {}, asyncio.Lock(), self.changed, self.installed
        )

    def changed(self) -> None:
        for component in self.components:
            states = self.seen.setdefault(component.plan.name, [])
            if not states or states[-1] is not component.status:
                states.append(component.status)
        self.news.set()

    async def installed(self, name: str) -> None:
        self.installs.append(name)

    def begin(self, name: str, hard: tuple[str, ...] = (), **steps: str | Command) -> Component:
        commands = {
            key: step if isinstance(step, Command) else Command(step, {"PATH": os.environ["PATH"]})
            for key, step in steps.items()
        }
        plan = Plan(name, "1.0.0", commands, hard, (), False, self.folder, self.folder / f"{name}.log")
        for wanted in (*hard, name):
            self.around.presences.setdefault(wanted, Presence())
        component = Component(plan, self.around)
        self.components.append(component)
        component.start()
        return component

    async def reaches(self, component: Component, *states: Status) -> None:
        async with asyncio.timeout(PATIENCE):
            while component.status not in states:
                self.news.clear()
                await self.news.wait()

    async def has_said(self, name: str, text: str, times: int = 1) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.said(name).count(text) < times:
                await asyncio.sleep(0.01)

    def said(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""


Play = Callable[..., None]


@pytest.fixture
def play(tmp_path: Path, limits: Callable[[Mode], Limits]) -> Play:
    """Run a coroutine with a stage, whose components are stopped afterwards."""

    def run(scene: Callable[[Stage], Awaitable[None]], mode: Mode = Mode.CLASSIC) -> None:
        async def whole() -> None:
            stage = Stage(tmp_path, mode, limits(mode))
            try:
                await scene(stage)
            finally:
                for component in reversed(stage.components):
                    await component.stop()

        asyncio.run(whole())

    return run


@pytest.mark.parametrize("mode", Mode)
def test_three_failures_break_a_component(play: Play, mode: Mode) -> None:  # lite: seen
    async def scene(stage: Stage) -> None:
        component = stage.begin("T", run="echo crashing; exit 3")
        await stage.reaches(component, Status.BROKEN)
        assert stage.said("T") == "crashing\n" * 3
        assert "exit code 3" in component.reason

    play(scene, mode)


@pytest.mark.parametrize("mode", Mode)
def test_exit_0_finishes_a_component_and_it_still_counts_for_others(play: Play, mode: Mode) -> None:
    async def scene(stage: Stage) -> None:
        first = stage.begin("First", run="echo done")
        second = stage.begin("Second", hard=("First",), run="sleep 60")
        await stage.reaches(first, Status.FINISHED)
        await stage.reaches(second, Status.RUNNING)

    play(scene, mode)


@pytest.mark.parametrize("mode", Mode)
def test_install_is_tried_three_times_and_run_never_begins(play: Play, mode: Mode) -> None:  # lite: seen
    async def scene(stage: Stage) -> None:
        component = stage.begin("T", install="echo inst; exit 4", run="echo never")
        await stage.reaches(component, Status.BROKEN)
        assert stage.said("T") == "inst\n" * 3
        assert stage.installs == []

    play(scene, mode)


def test_an_install_step_past_its_timeout_fails_with_all_its_processes(play: Play) -> None:  # lite: seen
    async def scene(stage: Stage) -> None:
        step = Command("echo inst $$; sleep 60 & wait", {"PATH": os.environ["PATH"]}, timeout=0.1)
        component = stage.begin("T", install=step, run="echo never")
        await stage.reaches(component, Status.BROKEN)
        groups = [int(line.split()[1]) for line in stage.said("T").splitlines()]
        assert len(groups) == 3
        assert not any(_members(group) for group in groups)
        assert "Timeout" in component.reason

    play(scene)


def test_a_long_running_step_counts_at_once_on_classic_and_after_a_while_on_lite(play: Play) -> None:
    async def classic(stage: Stage) -> None:
        await stage.reaches(stage.begin("C", run="sleep 60"), Status.RUNNING)

    async def lite(stage: Stage) -> None:
        component = stage.begin("L", run="echo up; sleep 60")
        await stage.has_said("L", "up")
        assert component.status is Status.STARTING
        await stage.reaches(component, Status.RUNNING)

    play(classic, Mode.CLASSIC)
    play(lite, Mode.LITE)


def test_stopping_asks_first_and_then_kills_the_whole_group(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        polite = stage.begin("Polite", run="trap 'echo TERM; exit 0' TERM; echo up; sleep 60 & wait")
        stubborn = stage.begin("Stubborn", run="trap '' TERM; echo up $$; sleep 60; sleep 60")
        await stage.has_said("Polite", "up")
        await stage.has_said("Stubborn", "up")
        await polite.stop()
        await stubborn.stop()
        assert stage.said("Polite") == "up\nTERM\n"
        assert not _members(int(stage.said("Stubborn").split()[1]))

    play(scene)


def test_what_a_finished_script_leaves_in_its_group_ends_with_it(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        component = stage.begin("T", run="sleep 60 & echo $$; exit 0")
        await stage.reaches(component, Status.FINISHED)
        assert not _members(int(stage.said("T")))

    play(scene)


def test_a_hard_dependent_stops_and_starts_with_its_dependency(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        server = stage.begin("Server", run="echo up $$; sleep 60")
        finished = stage.begin("Model", hard=("Server",), run="echo handed over")
        client = stage.begin("Client", hard=("Server",), run="trap 'echo TERM; exit 0' TERM; echo up; sleep 60 & wait")
        await stage.reaches(finished, Status.FINISHED)
        await stage.has_said("Client", "up")
        os.kill(int(stage.said("Server").split()[1]), 9)
        await stage.has_said("Client", "up", times=2)
        await stage.reaches(server, Status.RUNNING)
        assert stage.said("Client") == "up\nTERM\nup\n"
        assert stage.said("Model") == "handed over\n", "a finished component does not run again"
        assert client.status is not Status.BROKEN

    play(scene)


def test_an_update_of_state_to_errored_counts_on_classic_only(play: Play) -> None:
    async def classic(stage: Stage) -> None:
        component = stage.begin("Classic", run="echo up; sleep 60")
        await stage.has_said("Classic", "up")
        await stage.reaches(component, Status.RUNNING)
        component.report("ERRORED")
        await stage.has_said("Classic", "up", times=2)

    async def lite(stage: Stage) -> None:
        component = stage.begin("Lite", run="echo up; sleep 60")
        await stage.has_said("Lite", "up")
        await stage.reaches(component, Status.RUNNING)
        component.report("ERRORED")
        other = stage.begin("Other", run="true")
        await stage.reaches(other, Status.FINISHED)
        assert component.status is Status.RUNNING
        assert stage.said("Lite") == "up\n"

    play(classic, Mode.CLASSIC)
    play(lite, Mode.LITE)


def test_classic_skips_recovers_and_shuts_down_as_the_recipe_says(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        path = {"PATH": os.environ["PATH"]}
        component = stage.begin(
            "T",
            install=Command("echo never", path, skip_if="onpath sh"),
            run=Command("echo run; test -e once || { touch once; exit 1; }; sleep 60", path),
            recover="echo recover",
            shutdown="echo shutdown",
        )
        await stage.has_said("T", "run", times=2)
        await component.stop()
        assert stage.said("T") == "run\nrecover\nrun\nshutdown\n"
        assert stage.installs == ["T"]

    play(scene)


def test_a_log_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    log = Log(tmp_path / "t.log", 1000)
    for number in range(100):
        log.write(b"%05d" % number * 20)
    log.close()
    assert (tmp_path / "t.log").read_bytes().endswith(b"00099")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2000


def _members(group: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and start_time(int(entry.name)) is not None:
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(int(entry.name)) == group:
                    found.append(int(entry.name))
    return found
