"""Chaos kills exactly one process of its own sandbox, and only failures on that device's account are forgiven."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridge_cloud.demo import chaos
from hybridge_cloud.demo.chaos import HOPS, Chaos, Death, Victim, candidates
from hybridge_cloud.sandbox.folder import SandboxFolder, mark


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like the keeper of a sandbox."""
    words = [sys.executable, "-c", "import time; time.sleep(60)", "hybridge_cloud.sandbox.keeper"]
    child = subprocess.Popen(words, env={**os.environ, **mark(SandboxFolder(tmp_path))})
    yield child
    child.kill()
    child.wait()


def seed_of(hop: str) -> int:
    return next(seed for seed in range(1000) if Chaos(seed, Path("/nowhere"))._hop == hop)


def test_every_process_of_the_sandbox_is_a_candidate_and_no_other(
    keeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert candidates(tmp_path) == (Victim("keeper", "", keeper.pid),)
    assert candidates(tmp_path / "other") == ()


def test_the_chosen_process_dies_in_the_chosen_hop_and_is_named(
    keeper: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chaos, "LATEST_SECONDS", 0.01)
    killer = Chaos(seed_of("replay"), tmp_path)
    killer.hop_begins("return")
    assert killer.death is None
    killer.hop_begins("replay")
    assert keeper.wait(10) == -9
    deadline = time.monotonic() + 10
    while killer.death is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "killed the keeper during 'replay'" in killer.sentence


def test_a_seed_chooses_the_same_hop_and_moment_again_and_seeds_reach_every_hop() -> None:
    first, again = (Chaos(7, Path("/nowhere")) for _ in range(2))
    assert (first._hop, first._delay) == (again._hop, again._delay)
    assert {Chaos(seed, Path("/nowhere"))._hop for seed in range(100)} == set(HOPS)


def test_only_the_device_whose_server_died_may_have_failed_answers() -> None:
    death = Death(Victim("server", "watch-1", 1), "replay", 0.0, ())
    assert death.tolerates("watch-1")
    assert not death.tolerates("watch-2")
    assert not Death(Victim("uplink", "watch-1", 1), "replay", 0.0, ()).tolerates("watch-1")
    assert not Death(Victim("account", "", 1), "replay", 0.0, ()).tolerates("watch-1")
