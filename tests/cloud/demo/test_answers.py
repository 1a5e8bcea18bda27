"""The demo's detector: which version answered is read from the numbers, whatever the server says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hybridge_cloud.demo.answers import LoadRecord, distinct, prove
from hybridge_cloud.demo.load import Ledger
from hybridge_edge.contract.errors import Refused

RNG = np.random.default_rng(5)
FIRST, SECOND = (RNG.dirichlet(np.ones(7), 12).astype(np.float32) for _ in range(2))
SECOND[11] = FIRST[11]  # one window on which both versions say the same
EXPECTED = {"1.0.0": FIRST, "2.0.0": SECOND}
KNOWN = distinct(EXPECTED)


def record(*rows: tuple[int, str, int, str]) -> LoadRecord:
    """Rows of (gRPC code, claimed version, window, version whose numbers were sent or 'none')."""
    answers = [
        EXPECTED[sent][probe] + 1e-6 if sent in EXPECTED else np.full(7, 0.9, np.float32) for _, _, probe, sent in rows
    ]
    return LoadRecord(
        device="watch-1",
        sent_at=np.arange(len(rows), dtype=np.float64),
        latency=np.full(len(rows), 0.01),
        code=np.array([code for code, *_ in rows], np.int16),
        probe=np.array([probe for _, _, probe, _ in rows], np.int16),
        version=np.array([version for _, version, *_ in rows], "<U16"),
        answer=np.stack(answers).astype(np.float32),
    )


def test_answers_are_counted_by_the_version_whose_numbers_they_carry() -> None:
    proof = prove(record((0, "1.0.0", 0, "1.0.0"), (0, "1.0.0", 1, "1.0.0"), (0, "2.0.0", 2, "2.0.0")), KNOWN)
    assert proof.proven == {"1.0.0": 2, "2.0.0": 1}
    assert (proof.failed, proof.unknown, proof.mislabelled, proof.either, proof.last) == (0, 0, 0, 0, "2.0.0")
    assert proof.switched_at == {"1.0.0": 0.0, "2.0.0": 2.0}


def test_a_server_that_claims_a_version_it_does_not_run_is_found() -> None:
    assert prove(record((0, "2.0.0", 0, "1.0.0")), KNOWN).mislabelled == 1


def test_an_answer_that_both_versions_give_proves_neither_and_accuses_nobody() -> None:
    proof = prove(record((0, "2.0.0", 11, "1.0.0")), KNOWN)
    assert (proof.either, proof.mislabelled, proof.proven) == (1, 0, {"1.0.0": 0, "2.0.0": 0})


def test_an_answer_of_no_version_is_found() -> None:
    assert prove(record((0, "1.0.0", 0, "none")), KNOWN).unknown == 1


def test_a_failed_request_is_failed_whatever_it_carries() -> None:
    proof = prove(record((14, "", 0, "1.0.0"), (0, "1.0.0", 0, "1.0.0")), KNOWN)
    assert (proof.failed, proof.proven["1.0.0"], proof.requests) == (1, 1, 2)


def test_versions_that_give_the_same_numbers_stand_together() -> None:
    known = distinct({**EXPECTED, "4.0.0": SECOND + 1e-6})
    assert [item.name for item in known] == ["1.0.0", "2.0.0 = 4.0.0"]
    proof = prove(record((0, "2.0.0", 2, "2.0.0")), known)
    assert (proof.proven["2.0.0 = 4.0.0"], proof.mislabelled) == (1, 0)


def test_versions_that_differ_on_too_few_windows_prove_nothing_and_are_refused() -> None:
    nearly = FIRST.copy()
    nearly[0] = SECOND[0]
    with pytest.raises(Refused, match="proves nothing"):
        distinct({"1.0.0": FIRST, "2.0.0": nearly})


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    ledger = Ledger([1.0], [0.1], [0], [2], ["1.0.0"], [FIRST[2]])
    ledger.write(tmp_path / "watch-9.npz", 7)
    read = LoadRecord.read(tmp_path / "watch-9.npz")
    assert (read.device, read.version[0], read.probe[0]) == ("watch-9", "1.0.0", 2)
    assert prove(read, KNOWN).proven == {"1.0.0": 1, "2.0.0": 0}


def test_an_empty_ledger_is_read_too(tmp_path: Path) -> None:
    Ledger().write(tmp_path / "watch-9.npz", 7)
    assert prove(LoadRecord.read(tmp_path / "watch-9.npz"), KNOWN).requests == 0
