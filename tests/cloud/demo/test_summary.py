"""The demo's summary refuses a run that broke a promise, and its page shows what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hybridge_cloud.demo import page
from hybridge_cloud.demo.answers import LoadRecord, Numbers, Proof
from hybridge_cloud.demo.rollouts import Told
from hybridge_cloud.demo.summary import Accuracy, Samples, Summary
from hybridge_edge.contract.errors import Refused

PROOF = Proof("watch-1", 100, 0, {"1.0.0": 60, "2.0.0": 40}, 0, 0, 0, {"1.0.0": 1.0, "2.0.0": 61.0}, "2.0.0")
UP = Told("good", "2.0.0", "r-1", "SUCCEEDED", 2, ("watch-1",), 0.0, 0.0, "every wave passed")
BACK = Told("shuffled", "3.0.0", "r-2", "PUT_BACK", 1, ("watch-1",), 5.5, 2.5, "disagreement on probes")
GOOD = Summary(
    split=0,
    fleet="watches",
    devices=("watch-1",),
    before=Accuracy(0.80, 0.77, 0.83),
    after=Accuracy(0.93, 0.91, 0.95),
    frozen_windows=700,
    samples=Samples(replayed=900, captured=500, returned=500, duplicated=0),
    proofs=(PROOF,),
    executions={"000001": 1},
    rollouts=(UP, BACK),
    chaos=None,
    seconds={"train": 9.5, "deploy": 20.0},
    load_rate=50.0,
)


def test_a_run_that_kept_its_promises_passes() -> None:
    GOOD.check("2.0.0")


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (replace(GOOD, proofs=(replace(PROOF, failed=1),)), "1 of 100 requests failed"),
        (replace(GOOD, proofs=(replace(PROOF, last="1.0.0"),)), "ends on 1.0.0"),
        (replace(GOOD, proofs=(replace(PROOF, unknown=3),)), "3 answers of no version"),
        (replace(GOOD, proofs=(replace(PROOF, mislabelled=2),)), "2 mislabelled"),
        (replace(GOOD, samples=Samples(900, 500, 499, 0)), "1 samples lost"),
        (replace(GOOD, samples=Samples(900, 500, 500, 4)), "4 duplicated"),
        (replace(GOOD, samples=Samples(900, 0, 0, 0)), "no sample was captured"),
        (replace(GOOD, executions={"000001": 2}), "executions per dataset"),
        (replace(GOOD, executions={}), "executions per dataset"),
        (replace(GOOD, rollouts=(replace(UP, status="PUT_BACK"),)), "the good rollout ended as PUT_BACK"),
        (replace(GOOD, rollouts=(UP, replace(BACK, status="SUCCEEDED"))), "the shuffled rollout ended as SUCCEEDED"),
        (replace(GOOD, rollouts=(UP, replace(BACK, rings=2))), "after 2 rings"),
        (replace(GOOD, after=GOOD.before), "accuracy went from"),
    ],
)
def test_each_broken_promise_is_refused_by_name(broken: Summary, named: str) -> None:
    with pytest.raises(Refused, match=named):
        broken.check("2.0.0")


def test_the_report_has_the_figures_by_their_names(tmp_path: Path) -> None:
    GOOD.write(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    wanted = {
        "failed_requests": 0,
        "captured": 500,
        "returned": 500,
        "lost": 0,
        "duplicated": 0,
        "devices": ["watch-1"],
    }
    assert {name: report[name] for name in wanted} == wanted
    assert report["accuracy"]["before"]["value"] == 0.8
    assert "true" in report["accuracy"]["statement"] or "annotations" in report["accuracy"]["statement"]


def test_the_page_draws_every_plot_and_names_the_figures(tmp_path: Path) -> None:
    times = np.arange(100.0) * 0.5
    record = LoadRecord(
        "watch-1",
        times,
        np.full(100, 0.004),
        np.zeros(100, np.int16),
        np.zeros(100, np.int16),
        np.array(["1.0.0"] * 100),
        np.zeros((100, 7), np.float32),
    )
    known = (Numbers(("1.0.0",), np.zeros((1, 7), np.float32)), Numbers(("2.0.0",), np.ones((1, 7), np.float32)))
    page.write(GOOD, [record], known, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.count("<svg") == 5
    assert "0.800 → 0.930" in text
    assert "found in 5.5 s, back in 2.5 s" in text
    assert "<script" not in text
