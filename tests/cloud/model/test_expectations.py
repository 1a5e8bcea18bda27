"""What a package says of its own answers: guards, probes, and how often it disagrees with another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from hybridge_cloud.compile.bundle import Compiled, compile_run
from hybridge_cloud.compile.disagreement import disagreements
from hybridge_cloud.compile.guards import broken, choose_guards
from hybridge_cloud.compile.probes import PROBE_ROWS, spread
from hybridge_cloud.demo.sabotage import shuffled
from hybridge_cloud.signing import generate_key
from hybridge_cloud.training.project import load_project
from hybridge_cloud.training.run import read_run
from hybridge_cloud.training.train import train_run
from hybridge_edge.contract.budgets import Budgets
from hybridge_edge.contract.errors import InvalidDocument, PackageRefused, Refused, UsageError
from hybridge_edge.contract.expectations import Comparison, Guard
from hybridge_edge.contract.manifest import Manifest


def answers_by_hand(package: Path, windows: np.ndarray) -> np.ndarray:
    """One row at a time through plain ONNX Runtime sessions."""
    features, model = (onnxruntime.InferenceSession(package / f"{name}.onnx") for name in ("features", "model"))
    rows = [model.run(None, {"features": features.run(None, {"window": row[None]})[0]})[0][0] for row in windows]
    return np.stack(rows)


@pytest.fixture(scope="module")
def frozen(run: Path) -> np.ndarray:
    slice_ = read_run(run).frozen
    assert slice_ is not None
    return np.asarray(slice_.inputs["window"])


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    generate_key(folder / "key.pem", folder / "trust.json")
    return folder / "key.pem"


@pytest.fixture(scope="module")
def other_run(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "other"
    train_run(project, folder, seed=1)
    return folder


def test_a_first_package_carries_a_guard_and_probes_and_no_comparison(compiled: Compiled) -> None:
    manifest = Manifest.from_bytes((compiled.folder / "manifest.json").read_bytes())
    assert manifest.guards == (Guard("probabilities", 0.0, 1.0, "flag"),)
    assert manifest.comparisons == ()
    assert [(probe.name, probe.path) for probe in manifest.probes] == [("window", "probes/window.npy")]


def test_probes_are_held_out_windows_of_every_recording(run: Path, compiled: Compiled) -> None:
    probes = np.load(compiled.folder / "probes" / "window.npy", allow_pickle=False)
    heldout = read_run(run).heldout
    assert probes.shape == (PROBE_ROWS, 200, 6)
    known = {row.tobytes(): str(group) for row, group in zip(heldout.inputs["window"], heldout.groups, strict=True)}
    assert {known[row.tobytes()] for row in probes} == set(heldout.groups)
    assert compiled.probes.size == (compiled.folder / "probes" / "window.npy").stat().st_size


@pytest.mark.parametrize(
    ("sizes", "limit", "quotas"),
    [
        ({"a": 100, "b": 2, "c": 4}, 12, {"a": 6, "b": 2, "c": 4}),
        ({"a": 3, "b": 2}, 12, {"a": 3, "b": 2}),
        ({f"{group:03}": 2 for group in range(101)}, 3, {"000": 1, "050": 1, "100": 1}),
    ],
    ids=["small groups give all", "fewer rows than wanted", "more groups than wanted"],
)
def test_rows_are_spread_over_groups(sizes: dict[str, int], limit: int, quotas: dict[str, int]) -> None:
    groups = np.repeat(list(sizes), list(sizes.values()))
    rows = spread(groups, limit)
    assert dict(zip(*np.unique(groups[rows], return_counts=True), strict=True)) == quotas
    assert len(set(rows.tolist())) == len(rows)
    if "a" in quotas and len(groups) > limit:
        assert {0, 99} <= set(rows.tolist()), "a group's rows are taken from its beginning to its end"


def test_disagreements_of_a_known_order_are_counted_as_by_hand(
    run: Path, compiled: Compiled, key: Path, frozen: np.ndarray, tmp_path: Path
) -> None:
    """Against itself with two classes swapped, a package disagrees where it answers one of the two, and only there."""
    swapped = shuffled(compiled.folder, tmp_path / "swapped", "1.0.1", key, (1, 0, 2, 3, 4, 5, 6))
    moved = shuffled(compiled.folder, tmp_path / "moved", "1.0.1", key)
    made = compile_run(run, tmp_path / "out", "2.0.0", [swapped.folder, moved.folder, compiled.folder])
    answered = answers_by_hand(compiled.folder, frozen).argmax(1)
    found = {one.comparison.against: {c.slice: (c.disagreed, c.rows) for c in one.counts} for one in made.measured}
    assert found[swapped.manifest.digest]["frozen"] == (int(np.isin(answered, (0, 1)).sum()), len(frozen))
    assert 0 < found[swapped.manifest.digest]["frozen"][0] < len(frozen)
    assert found[moved.manifest.digest]["frozen"] == (len(frozen), len(frozen))
    assert {counts[0] for counts in found[compiled.manifest.digest].values()} == {0}
    again = [compiled.folder, swapped.folder, moved.folder, swapped.folder]
    assert compile_run(run, tmp_path / "again", "2.0.0", again).manifest.digest == made.manifest.digest


def test_the_manifest_says_what_was_counted_on_the_slice_where_it_was_most(
    other_run: Path, compiled: Compiled, tmp_path: Path
) -> None:
    made = compile_run(other_run, tmp_path / "out", "2.0.0", [compiled.folder])
    (comparison,) = Manifest.from_bytes((tmp_path / "out" / "manifest.json").read_bytes()).comparisons
    counts = {}
    run = read_run(other_run)
    for name, samples in (("held-out", run.heldout), ("frozen", run.frozen)):
        assert samples is not None
        ours, theirs = (answers_by_hand(p, samples.inputs["window"]) for p in (tmp_path / "out", compiled.folder))
        counts[name] = (sum(int(a.argmax() != b.argmax()) for a, b in zip(ours, theirs, strict=True)), len(samples))
    assert {c.slice: (c.disagreed, c.rows) for c in made.measured[0].counts} == counts
    disagreed, rows = max(counts.values(), key=lambda count: count[0] / count[1])
    assert comparison == Comparison(compiled.manifest.digest, rows, disagreed)
    assert 0 < disagreed < rows


def test_a_run_without_frozen_windows_is_compared_on_its_held_out_ones(
    other_run: Path, compiled: Compiled, tmp_path: Path
) -> None:
    older = Path(shutil.copytree(other_run, tmp_path / "older"))
    (older / "frozen.npz").unlink()
    made = compile_run(older, tmp_path / "out", "2.0.0", [compiled.folder])
    assert [count.slice for count in made.measured[0].counts] == ["held-out"]
    assert made.manifest.comparisons[0].rows == len(read_run(older).heldout)


def test_a_package_that_cannot_be_compared_with_is_one_sentence_and_leaves_nothing(
    run: Path,
    package: Path,
    compiled: Compiled,
    tmp_path: Path,
    hybridge: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = package / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"name":"watch"', b'"name":"clock"'))
    assert hybridge("compile", run, "--out", tmp_path / "out", "--against", package) == 1
    assert "it is a package of 'clock', not of 'watch'" in capsys.readouterr().err
    manifest.write_bytes((compiled.folder / "manifest.json").read_bytes())
    (package / "model.onnx").write_bytes(b"")
    with pytest.raises(PackageRefused, match="not the file that was signed"):
        compile_run(run, tmp_path / "out", against=[package])
    with pytest.raises(UsageError, match="is not a package"):
        compile_run(run, tmp_path / "out", against=[tmp_path])
    assert not (tmp_path / "out").exists()


def test_the_command_says_guards_probes_and_disagreement(
    other_run: Path,
    compiled: Compiled,
    tmp_path: Path,
    hybridge: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    against = ("--against", compiled.folder)
    assert hybridge("compile", other_run, "--out", tmp_path / "out", "--version", "2.0.0", *against) == 0
    output = capsys.readouterr().out
    assert "guard of probabilities: 0 to 1, flag" in output
    assert "probes: 128 held-out rows, 614,528 bytes" in output
    assert "compared with watch 1.0.0: answers otherwise on" in output
    assert hybridge("package", "show", tmp_path / "out") == 0
    assert f"rows otherwise than {compiled.manifest.digest}" in capsys.readouterr().out


def test_a_difference_that_is_not_a_number_is_counted() -> None:
    assert disagreements(np.array([[0.1, 0.9], [0.9, 0.1]]), np.array([[np.nan, 0.9], [0.9, 0.1]])) == 1


def test_an_output_that_is_no_probability_gets_no_guard_by_itself() -> None:
    logits = {"logits": np.array([[-1.0, 2.0]], np.float32)}
    assert choose_guards((), logits, "logits") == ()
    assert choose_guards((), logits, "") == ()


def test_the_projects_own_guards_and_budgets_are_the_packages(own_project: Path, tmp_path: Path) -> None:
    settings = own_project / "project.toml"
    guards = '[[guards]]\noutput = "probabilities"\nminimum = 0\nmaximum = 1.5\naction = "refuse"\n'
    guards += "[budgets]\np99_us = 5000\n"
    settings.write_text(settings.read_text().replace("epochs = 4", "epochs = 1") + "\n" + guards)
    train_run(own_project, tmp_path / "run")
    made = compile_run(tmp_path / "run", tmp_path / "package")
    assert made.manifest.guards == (Guard("probabilities", 0.0, 1.5, "refuse"),)
    assert made.manifest.budgets == Budgets(p99_us=5000)
    settings.write_text(settings.read_text().replace("minimum = 0\n", ""))
    with pytest.raises(InvalidDocument, match=r"guards\[0\], 'minimum' is missing"):
        load_project(own_project)


def test_a_guard_that_held_out_answers_break_is_refused() -> None:
    outputs = {"probabilities": np.array([[0.25, 0.75], [np.nan, np.inf]], np.float32)}
    assert broken(Guard("probabilities", 0.0, 0.5), outputs["probabilities"]) == 3
    with pytest.raises(
        PackageRefused, match=r"3 of 4 held-out values of 'probabilities' lie outside its guard, 0 to 0\.5"
    ):
        choose_guards((Guard("probabilities", 0.0, 0.5),), outputs, "probabilities")
    with pytest.raises(Refused, match=r"guards 'score', which is not an output; the outputs are probabilities"):
        choose_guards((Guard("score", 0.0, 0.5),), outputs, "probabilities")
