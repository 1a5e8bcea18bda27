"""Activation over a real store and real ONNX Runtime sessions; the old model serves whatever happens to the new one."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from hybridge_edge.contract.errors import ModelNotFound, PackageRefused, Refused
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.ledger import Verdict, Wanted
from hybridge_edge.serving.residents import TRIAL_RUNS


def test_a_first_package_answers_and_survives_a_restart_without_its_source(device: Any, packages: Callable) -> None:
    built = packages("1.0.0", 3.0)
    answer = device.activation.hand_over(built.handover(1))
    assert (answer.state, answer.version, answer.epoch) == (PackageState.ACTIVE, "1.0.0", 1)
    assert device.serves() == ("1.0.0", 3.0)
    shutil.rmtree(built.folder)
    device.restart()
    assert device.serves() == ("1.0.0", 3.0)
    assert device.activation.hand_over(built.handover(1)).state is PackageState.ACTIVE


def test_a_higher_epoch_wins_a_lower_one_is_superseded_an_equal_one_changes_nothing(
    device: Any, packages: Callable
) -> None:
    one, two = packages("1.0.0", 1.0), packages("1.1.0", 2.0)
    device.activation.hand_over(one.handover(5))
    resident = device.service.residents.active("watch")
    assert device.activation.hand_over(one.handover(5)).state is PackageState.ACTIVE
    assert device.service.residents.active("watch") is resident
    late = device.activation.hand_over(two.handover(4))
    assert (late.state, late.seen_before) == (PackageState.REFUSED, True)
    assert "superseded by epoch 5" in late.reason
    assert device.serves() == ("1.0.0", 1.0)
    assert device.activation.hand_over(two.handover(6)).state is PackageState.ACTIVE
    assert device.serves() == ("1.1.0", 2.0)


def test_put_back_needs_no_source(device: Any, packages: Callable) -> None:
    one, two = packages("1.0.0", 1.0), packages("1.1.0", 2.0)
    device.activation.hand_over(one.handover(1))
    device.activation.hand_over(two.handover(2))
    shutil.rmtree(one.folder)
    assert device.activation.hand_over(one.handover(3)).state is PackageState.ACTIVE
    assert device.serves() == ("1.0.0", 1.0)


def test_packages_nobody_needs_are_removed(device: Any, packages: Callable) -> None:
    for number in range(4):
        device.activation.hand_over(packages(f"1.{number}.0", 1.0 + number).handover(number + 1))
    # What answers, what answered before, and one more to fall back on.
    assert len(list((device.folder / "packages").iterdir())) == 3


def broken_graph(packages: Callable, kit: ModuleType) -> object:
    return packages("1.1.0", 2.0, graph=b"no graph at all")


def wrong_golden(packages: Callable, kit: ModuleType) -> object:
    return packages("1.1.0", 2.0, golden_error=0.01)


def other_signature(packages: Callable, kit: ModuleType) -> object:
    spec = TensorSpec("scores", "FP32", (-1, 4))
    return packages("1.1.0", 2.0, change=lambda manifest: replace(manifest, outputs=(spec,)))


def unknown_provider(packages: Callable, kit: ModuleType) -> object:
    return packages(
        "1.1.0",
        2.0,
        change=lambda manifest: replace(
            manifest, variants=tuple(replace(one, providers=("NoProvider",)) for one in manifest.variants)
        ),
    )


def unsigned(packages: Callable, kit: ModuleType) -> object:
    built = packages("1.1.0", 2.0)
    (built.folder / "signature.json").unlink()
    return built


def stranger(packages: Callable, kit: ModuleType) -> object:
    return packages("1.1.0", 2.0, signers=(kit.signer(3),))


def altered(packages: Callable, kit: ModuleType) -> object:
    built = packages("1.1.0", 2.0)
    (built.folder / "model.onnx").write_bytes(kit.model_graph(9.0))
    return built


def other_model(packages: Callable, kit: ModuleType) -> object:
    built = packages("1.1.0", 2.0, name="bearing")
    built.manifest = replace(built.manifest, name="watch")
    return built


def gone(packages: Callable, kit: ModuleType) -> object:
    built = packages("1.1.0", 2.0)
    shutil.rmtree(built.folder)
    return built


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (broken_graph, r"lint: model\.onnx is not an ONNX file"),
        (wrong_golden, "golden: .* differs by up to 0.01"),
        (other_signature, r"lint: model\.onnx: output 'scores'"),
        (unknown_provider, "load: No variant"),
        (unsigned, r"verify: The package has no 'signature\.json'"),
        (stranger, "verify: The package is not signed"),
        (altered, r"verify: 'model\.onnx' of the package is not the file that was signed"),
        (other_model, "verify: The package is of model 'bearing'"),
        (gone, "verify: "),
    ],
)
def test_a_package_that_fails_a_step_is_refused_and_the_old_one_keeps_serving(
    device: Any, packages: Callable, kit: ModuleType, make: Callable, reason: str
) -> None:
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    resident = device.service.residents.active("watch")
    bad = make(packages, kit)
    answer = device.activation.hand_over(bad.handover(2))
    assert (answer.state, answer.seen_before) == (PackageState.REFUSED, False)
    with pytest.raises(PackageRefused, match=reason):
        raise PackageRefused(answer.reason)
    assert device.service.residents.active("watch") is resident
    assert PackageState.REFUSED in device.states().values()
    assert device.states()["1.0.0"] is PackageState.ACTIVE
    again = device.activation.hand_over(bad.handover(2))
    assert (again.state, again.seen_before) == (PackageState.REFUSED, True)
    device.restart()
    assert device.serves() == ("1.0.0", 1.0)
    assert not list((device.folder / "trials").iterdir())


def test_retiring_unloads_and_a_higher_epoch_brings_it_back(device: Any, packages: Callable) -> None:
    built = packages("1.0.0", 1.0)
    device.activation.hand_over(built.handover(1))
    assert device.activation.hand_over(built.handover(2, Mode.RETIRE)).state is PackageState.RETIRED
    with pytest.raises(ModelNotFound):
        device.serves()
    assert list(device.states().values()) == [PackageState.RETIRED]
    assert not list((device.folder / "packages").iterdir())
    device.restart()
    assert device.activation.hand_over(built.handover(1)).seen_before
    assert device.activation.hand_over(built.handover(2, Mode.RETIRE)).state is PackageState.RETIRED
    assert device.activation.hand_over(built.handover(3)).state is PackageState.ACTIVE


def test_a_local_rollback_holds_until_a_higher_epoch(device: Any, packages: Callable) -> None:
    one, two = packages("1.0.0", 1.0), packages("1.1.0", 2.0)
    device.activation.hand_over(one.handover(1))
    with pytest.raises(Refused, match="no previous"):
        device.activation.rollback("watch", "too warm")
    device.activation.hand_over(two.handover(2))
    assert device.activation.rollback("watch", "too warm").version == "1.0.0"
    for _ in range(2):
        answer = device.activation.hand_over(two.handover(2))
        assert (answer.state, answer.reason) == (PackageState.QUARANTINED, "too warm")
        assert device.serves() == ("1.0.0", 1.0)
        assert device.states()["1.1.0"] is PackageState.QUARANTINED
        device.restart()
    assert device.activation.hand_over(two.handover(3)).state is PackageState.ACTIVE
    assert device.serves() == ("1.1.0", 2.0)


def test_a_lost_store_is_filled_again_by_the_components_hand_over(device: Any, packages: Callable) -> None:
    built = packages("1.0.0", 1.0)
    device.activation.hand_over(built.handover(7))
    shutil.rmtree(device.folder)
    device.restart()
    with pytest.raises(ModelNotFound):
        device.serves()
    assert device.activation.hand_over(built.handover(7)).state is PackageState.ACTIVE
    assert device.serves() == ("1.0.0", 1.0)


def test_an_unreadable_ledger_is_set_aside(device: Any, packages: Callable) -> None:
    built = packages("1.0.0", 1.0)
    device.activation.hand_over(built.handover(1))
    (device.folder / "state.json").write_text('{"format": 1, "models": [{')
    device.restart()
    assert list(device.folder.glob("state.json.unreadable-*"))
    assert device.activation.hand_over(built.handover(1)).state is PackageState.ACTIVE


def test_a_package_that_rots_in_the_store_is_never_served_and_is_repaired(device: Any, packages: Callable) -> None:
    one, two = packages("1.0.0", 1.0), packages("1.1.0", 2.0)
    device.activation.hand_over(one.handover(1))
    device.activation.hand_over(two.handover(2))
    rotten = device.folder / "packages" / two.digest.removeprefix("sha256:") / "model.onnx"
    rotten.write_bytes(rotten.read_bytes()[:-1] + b"\xff")
    device.restart()
    assert device.serves() == ("1.0.0", 1.0)
    assert device.activation.hand_over(two.handover(2)).state is PackageState.ACTIVE
    assert device.serves() == ("1.1.0", 2.0)


def test_a_staged_package_is_installed_and_not_switched_to(device: Any, packages: Callable) -> None:
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    two = packages("1.1.0", 2.0)
    assert device.activation.hand_over(two.handover(2, Mode.STAGE)).state is PackageState.STAGED
    assert device.serves() == ("1.0.0", 1.0)
    assert device.store.holds(two.digest)


def test_a_digest_is_trusted_after_its_first_runs(device: Any, packages: Callable) -> None:
    built = packages("1.0.0", 1.0)
    device.activation.hand_over(built.handover(1))
    for _ in range(TRIAL_RUNS):
        assert not device.store.record("watch").trusted
        device.serves()
    device.activation.hand_over(built.handover(1))  # waits behind the work that ends the trial
    assert device.store.record("watch").trusted


def test_every_change_is_told(device: Any, packages: Callable) -> None:
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    assert device.changes == 1


def test_what_cannot_be_tidied_up_behind_a_switch_refuses_nothing(
    device: Any, packages: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*, spare: bool = True) -> None:
        raise OSError(5, "Input/output error")

    assert device.activation.hand_over(packages("1.0.0", 1.0).handover(1)).state is PackageState.ACTIVE
    monkeypatch.setattr(device.store, "collect_garbage", fails)
    assert device.activation.hand_over(packages("2.0.0", 2.0).handover(2)).state is PackageState.ACTIVE
    assert device.serves() == ("2.0.0", 2.0)
    record = device.store.record(device.kit.MODEL)
    assert not record.refused
    assert not record.quarantined
    # back to the version before, which is resident: the same
    assert device.activation.hand_over(packages("1.0.0", 1.0).handover(3)).state is PackageState.ACTIVE
    assert device.serves() == ("1.0.0", 1.0)


def test_a_package_refused_at_an_earlier_hand_over_is_resumed_at_a_later_one(
    device: Any, packages: Callable[..., Any]
) -> None:
    first, second = packages("1.0.0", 1.0), packages("2.0.0", 2.0)
    assert device.activation.hand_over(first.handover(1)).state is PackageState.ACTIVE
    assert device.activation.hand_over(replace(second.handover(2), mode=Mode.STAGE)).state is PackageState.STAGED
    record = device.store.record(device.kit.MODEL)
    device.store.refuse(record, Verdict(second.digest, "2.0.0", "a busy moment", 2, "warm-up"))
    # handed over anew, and cut off by a crash before it was activated
    device.store.want(device.store.record(device.kit.MODEL), Wanted.of(second.handover(3)))
    device.restart()
    device.activation.resume()
    until = time.monotonic() + 30
    while device.serves()[0] != "2.0.0":
        assert time.monotonic() < until
        time.sleep(0.02)
