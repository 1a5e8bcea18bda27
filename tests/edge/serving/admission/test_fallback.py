"""What answers when the active package may not: previous, history, factory, nothing (F15, F28)."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridge_edge.admission.fallback import MAX_SWITCHES, SWITCH_SECONDS
from hybridge_edge.contract.errors import ModelNotFound, PackageRefused, Refused, Unavailable
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.engine import Engine, load
from hybridge_edge.ledger import Installed, ModelRecord, Verdict, Wanted
from hybridge_edge.package import Package

HOUR = SWITCH_SECONDS


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def installed(number: int) -> Installed:
    return Installed(digest(number), f"1.{number}.0")


def run_through(*numbers: int) -> ModelRecord:
    record = ModelRecord("watch")
    for number in numbers:
        record = record.activated(installed(number))
    return record


def order(record: ModelRecord) -> list[int]:
    return [int(one.digest.removeprefix("sha256:"), 16) for one in record.fallbacks()]


def test_the_order_of_fallbacks() -> None:
    assert order(run_through(1)) == []
    assert order(run_through(1, 2, 3)) == [2, 1]
    # 2 was left behind for what it had replaced: nothing to go back to.
    assert order(run_through(1, 2, 1)) == []
    assert order(run_through(1, 2, 1, 3)) == [1]
    assert order(run_through(1, 2, 3, 4).condemned(Verdict(digest(2), "1.2.0", "hot", 1))) == [3, 1]
    assert order(run_through(1, 2, 3, 4).with_refusal(Verdict(digest(3), "1.3.0", "no", 1))) == [2, 1]
    retired = ModelRecord("watch", wanted=Wanted(digest(1), "r", 2, Mode.RETIRE), history=(installed(1),))
    assert order(retired) == []
    assert not retired.should_answer
    assert run_through(1, 2).succeeded(None, 7, trusted=False).should_answer
    assert order(run_through(1, 2).condemned(Verdict(digest(2), "", "", 1)).succeeded(None, 7, trusted=False)) == [1]


@pytest.fixture
def version(packages: Callable) -> Callable[[int], Any]:
    made: dict[int, Any] = {}

    def get(number: int) -> Any:
        if number not in made:
            made[number] = packages(f"1.{number}.0", 1.0 + number)
        return made[number]

    return get


@pytest.fixture
def factory(device: Any, packages: Callable, tmp_path: Path) -> Any:
    """A factory package of the model, 0.9.0, with its factory folder given to the device."""
    built = packages("0.9.0", 9.0)
    folder = tmp_path / "factory"
    folder.mkdir()
    shutil.copytree(built.folder, folder / "watch")
    device.factory = str(folder)
    return built


def quarantine(device: Any, built: Any, reason: str = "it hung") -> Any:
    return device.activation.quarantine("watch", built.digest, reason)


def test_from_previous_to_history_to_factory_to_nothing(device: Any, version: Callable, factory: Any) -> None:
    now = time.time()
    device.clock = lambda: now
    device.restart()
    for number in range(3):
        device.activation.hand_over(version(number).handover(number + 1))
    answer = quarantine(device, version(2))
    assert (answer.state, answer.version, answer.reason) == (PackageState.ACTIVE, "1.1.0", "it hung")
    assert device.serves() == ("1.1.0", 2.0)
    assert quarantine(device, version(2)) == answer  # once is enough
    assert quarantine(device, version(1)).version == "1.0.0"
    assert device.serves() == ("1.0.0", 1.0)
    now += HOUR
    device.restart()
    assert quarantine(device, version(0)).version == "0.9.0"
    assert device.serves() == ("0.9.0", 9.0)
    device.restart()
    assert device.serves() == ("0.9.0", 9.0)
    answer = quarantine(device, factory)
    assert (answer.state, answer.version) == (PackageState.QUARANTINED, "0.9.0")
    for _ in range(2):
        with pytest.raises(ModelNotFound):
            device.serves()
        assert device.store.record("watch").should_answer  # so health says NOT_SERVING
        device.restart()
    assert device.activation.hand_over(version(2).handover(3)).state is PackageState.QUARANTINED
    assert device.activation.hand_over(version(2).handover(4)).state is PackageState.ACTIVE
    assert device.serves() == ("1.2.0", 3.0)


def test_a_device_switches_by_itself_twice_an_hour(device: Any, version: Callable, factory: Any) -> None:
    now = time.time()
    device.clock = lambda: now
    device.restart()
    for number in range(3):
        device.activation.hand_over(version(number).handover(number + 1))
    quarantine(device, version(2))
    quarantine(device, version(1))
    answer = quarantine(device, version(0))
    assert answer.state is PackageState.QUARANTINED
    with pytest.raises(ModelNotFound):
        device.serves()
    now += HOUR - 10
    device.restart()  # the count is on the disk
    device.activation.resume()
    with pytest.raises(ModelNotFound):
        device.serves()
    now += 10
    device.restart()
    assert device.serves() == ("0.9.0", 9.0)


def test_what_was_held_back_comes_when_its_time_is_over(device: Any, version: Callable, factory: Any) -> None:
    now = time.time()
    device.clock = lambda: now
    device.restart()
    for number in range(3):
        device.activation.hand_over(version(number).handover(number + 1))
    quarantine(device, version(2))
    quarantine(device, version(1))
    now += HOUR - 1
    quarantine(device, version(0))
    time.sleep(1.3)  # the clock stands still, as one does that is set back a little: it is looked at again and again
    assert device.service.residents.active("watch") is None
    now += 2
    until = time.monotonic() + 20
    while device.service.residents.active("watch") is None and time.monotonic() < until:
        time.sleep(0.05)
    assert device.serves() == ("0.9.0", 9.0)


def test_a_clock_that_was_set_back_holds_nothing_back(device: Any, version: Callable) -> None:
    now = time.time()
    device.clock = lambda: now
    for number in range(4):
        device.activation.hand_over(version(number).handover(number + 1))
    quarantine(device, version(3))
    now -= 10 * 365 * 24 * HOUR
    assert quarantine(device, version(2)).state is PackageState.ACTIVE
    assert device.serves() == ("1.1.0", 2.0)


def test_a_digest_that_does_not_answer_is_only_barred(device: Any, version: Callable) -> None:
    device.activation.hand_over(version(0).handover(1))
    device.activation.hand_over(version(1).handover(2))
    assert quarantine(device, version(0)).version == "1.1.0"
    assert device.serves() == ("1.1.0", 2.0)
    assert device.service.residents.versions("watch") == ("1.1.0",)
    assert device.activation.hand_over(version(0).handover(2)).state is PackageState.REFUSED  # superseded
    with pytest.raises(Refused, match="no previous"):
        device.activation.rollback("watch", "too warm")
    assert device.serves() == ("1.1.0", 2.0)


def test_a_server_that_stops_says_so(device: Any, version: Callable) -> None:
    device.stop()
    for ask in (
        lambda: device.activation.hand_over(version(0).handover(1)),
        lambda: device.activation.rollback("watch", "too warm"),
        lambda: quarantine(device, version(0)),
    ):
        with pytest.raises(Unavailable, match="The server stops"):
            ask()
    device.start()


def test_a_previous_package_that_cannot_be_loaded_is_passed_over(device: Any, version: Callable) -> None:
    for number in range(3):
        device.activation.hand_over(version(number).handover(number + 1))
    damage(device, version(1))
    device.restart()
    assert quarantine(device, version(2)).version == "1.0.0"
    assert device.serves() == ("1.0.0", 1.0)


def test_a_factory_package_begins_and_gives_way(device: Any, version: Callable, factory: Any) -> None:
    device.restart()
    assert device.serves() == ("0.9.0", 9.0)
    device.restart()
    assert device.serves() == ("0.9.0", 9.0)
    assert not device.store.holds(factory.digest)
    assert device.activation.hand_over(version(0).handover(0)).state is PackageState.ACTIVE
    assert device.serves() == ("1.0.0", 1.0)
    assert device.activation.rollback("watch", "too warm").version == "0.9.0"
    for number in (1, 2, 3):
        device.activation.hand_over(version(number).handover(number))
    assert (Path(device.factory) / "watch" / "manifest.json").exists()
    device.activation.hand_over(version(3).handover(4, Mode.RETIRE))
    device.restart()
    with pytest.raises(ModelNotFound):
        device.serves()


def test_a_factory_package_is_believed_like_any_other(
    device: Any, factory: Any, packages: Callable, kit: Any, tmp_path: Path
) -> None:
    path = Path(device.factory) / "watch" / "model.onnx"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"\xff")
    shutil.copytree(packages("0.1.0", 7.0, name="bearing", signers=(kit.signer(3),)).folder, tmp_path / "factory" / "a")
    device.restart()
    assert device.service.residents.names() == ()
    path.write_bytes(good)
    device.restart()
    assert device.service.residents.names() == ("watch",)
    device.factory = str(tmp_path / "nowhere")
    device.restart()
    assert device.service.residents.names() == ()


def damage(device: Any, built: Any) -> Path:
    path = device.folder / "packages" / built.digest.removeprefix("sha256:") / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    return path


def test_a_copy_that_rots_is_removed_and_installed_again(device: Any, version: Callable) -> None:
    device.activation.hand_over(version(0).handover(1))
    device.activation.hand_over(version(1).handover(2))
    damage(device, version(1))
    device.restart()
    assert device.serves() == ("1.0.0", 1.0)
    assert not device.store.holds(version(1).digest)
    assert device.store.record("watch").active.version == "1.1.0"  # what is wanted has not changed
    assert device.activation.hand_over(version(1).handover(2)).state is PackageState.ACTIVE
    assert device.serves() == ("1.1.0", 2.0)


def test_a_trust_file_that_is_gone_costs_no_package(device: Any, version: Callable) -> None:
    """Nothing can be believed then, and nothing is damaged."""
    device.activation.hand_over(version(0).handover(1))
    good = device.trust

    def gone() -> Any:
        raise PackageRefused("The trust file cannot be read.", "Enrol the device.")

    device.stop()
    device.start()
    device.activation._steps.trust = gone
    device.service.residents.unload("watch")
    device.activation.restore()
    with pytest.raises(ModelNotFound):
        device.serves()
    assert device.store.holds(version(0).digest)
    device.trust = good
    device.restart()
    assert device.serves() == ("1.0.0", 1.0)


def test_a_byte_that_changes_between_check_and_load_is_noticed(device: Any, version: Callable) -> None:
    """What is loaded is what was hashed: the bytes that the digest was taken over, not the file's of a moment later."""
    device.activation.hand_over(version(0).handover(1))
    seen: list[str] = []

    def hooked(package: Package, without: str = "") -> Engine:
        seen.append(package.manifest.version)
        damage(device, version(1))
        return load(package, 1)

    device.activation._steps._load = hooked
    answer = device.activation.hand_over(version(1).handover(2))
    assert (answer.state, seen) == (PackageState.REFUSED, ["1.1.0"])
    assert "'model.onnx' of the package is not the file that was signed" in answer.reason
    assert device.serves() == ("1.0.0", 1.0)


@settings(
    max_examples=25,
    deadline=None,
    print_blob=True,
    derandomize=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.sampled_from(["new", "bad", "later", "restart", "back"]), st.integers(0, 3)), max_size=14))
def test_whatever_happens_a_device_serves_what_is_good_and_never_goes_back_and_forth(
    device: Any, version: Callable, factory: Any, steps: list[tuple[str, int]]
) -> None:
    """Against a model: the automatic switches of any hour are at most two, and nothing quarantined ever answers."""
    shutil.rmtree(device.folder, ignore_errors=True)
    now, epoch = [1_000_000.0], [0]
    device.clock = lambda: now[0]
    device.restart()
    barred: dict[str, int] = {}
    switched: list[float] = []
    for what, number in steps:
        before = device.service.residents.active("watch")
        if what == "new":
            epoch[0] += 1
            answer = device.activation.hand_over(version(number).handover(epoch[0]))
            assert answer.state is PackageState.ACTIVE
            barred.pop(version(number).digest, None)
        elif what == "bad" and before is not None:
            device.activation.quarantine("watch", before.digest, "it hung")
            barred[before.digest] = epoch[0]
            if device.service.residents.active("watch") is not None:
                switched.append(now[0])
        elif what == "back" and before is not None:
            try:
                device.activation.rollback("watch", "too warm")
                barred[before.digest] = epoch[0]
            except Refused:
                assert device.service.residents.active("watch") is before
        elif what == "later":
            now[0] += HOUR / (number + 1)
        elif what == "restart":
            device.restart()
            after = device.service.residents.active("watch")
            if after is not None and before is None:
                switched.append(now[0])
        active = device.service.residents.active("watch")
        assert active is None or active.digest not in barred
        assert all(sum(at - HOUR < one <= at for one in switched) <= MAX_SWITCHES for at in switched), (switched, steps)
        record = device.store.record("watch")
        assert (record.active is None) == (active is None)
        # Where it was held back, a timer of real seconds brings it; that the test's clock jumps wakes nobody.
        acted = what in ("bad", "restart") and record.should_answer
        if acted and active is None and not device.activation._fallback.held_for(record):
            assert factory.digest in barred  # nothing answers only where nothing is left
