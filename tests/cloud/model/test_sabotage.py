"""Packages that are bad on purpose are in order in every way that is looked at before they run, and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from hybridge_cloud.compile.bundle import Compiled
from hybridge_cloud.demo import sabotage
from hybridge_cloud.demo.sabotage import Sabotaged, good, shuffled, slow
from hybridge_cloud.demo.sabotaged_graph import FIRST_MULTIPLICATIONS, with_work
from hybridge_cloud.signing import generate_key
from hybridge_edge import engine
from hybridge_edge.admission.golden import check_golden
from hybridge_edge.contract.errors import Conflict, Refused
from hybridge_edge.trust import open_package, read_trust, verify_package

VERSION = "3.0.0"
TIMES = 3.0
WINDOW_MULTIPLICATIONS = 6 * 5 * 32 * 64 + 36 * 200 + 162 * 128 + 128 * 128 + 128 * 7
"""Of features and model of the example: spectra, correlations, three layers."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    generate_key(folder / "key.pem", folder / "trust.json")
    return folder


@pytest.fixture(scope="module")
def made(compiled: Compiled, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sabotaged]:
    folder, key = tmp_path_factory.mktemp("sabotaged"), keys / "key.pem"
    return {
        "shuffled": shuffled(compiled.folder, folder / "shuffled", VERSION, key),
        "slow": slow(compiled.folder, folder / "slow", VERSION, key, TIMES),
        "good": good(compiled.folder, folder / "good", VERSION, key),
    }


def answers(folder: Path, trust: Path, windows: np.ndarray) -> np.ndarray:
    """As a device answers: signature and golden outputs checked, by its own engine."""
    package = open_package(folder, read_trust(trust))
    loaded = engine.load(package, 1)
    check_golden(package, loaded)
    result: np.ndarray = loaded.run({"window": windows}).outputs["probabilities"]
    loaded.close()
    return result


@pytest.mark.parametrize("kind", ["shuffled", "slow", "good"])
def test_a_device_would_believe_it_and_its_manifest_claims_what_the_good_one_earned(
    kind: str, made: dict[str, Sabotaged], compiled: Compiled, keys: Path
) -> None:
    manifest = verify_package(made[kind].folder, read_trust(keys / "trust.json"))
    assert manifest == made[kind].manifest
    assert (manifest.name, manifest.version) == ("watch", VERSION)
    (comparison,) = manifest.comparisons
    assert (comparison.against, comparison.rows, comparison.disagreed) == (compiled.manifest.digest, 128, 0)
    assert manifest.lineage.parent == compiled.manifest.digest
    assert (manifest.guards, manifest.probes) == (compiled.manifest.guards, compiled.manifest.probes)
    assert manifest.features_digest == compiled.manifest.features_digest


def test_the_shuffled_one_answers_another_class_every_time_and_the_others_the_same_bits(
    made: dict[str, Sabotaged], compiled: Compiled, keys: Path
) -> None:
    windows = np.load(compiled.folder / "probes" / "window.npy", allow_pickle=False)
    found = {kind: answers(one.folder, keys / "trust.json", windows) for kind, one in made.items()}
    np.testing.assert_array_equal(found["slow"], found["good"])
    np.testing.assert_array_equal(found["shuffled"], np.roll(found["good"], -1, axis=1))
    assert (found["shuffled"].argmax(1) != found["good"].argmax(1)).all()
    assert (made["good"].folder / "model.onnx").read_bytes() == (compiled.folder / "model.onnx").read_bytes()


def test_the_slow_ones_work_is_many_times_the_models_and_no_optimiser_takes_it_away(
    made: dict[str, Sabotaged], compiled: Compiled, tmp_path: Path
) -> None:
    def multiplications(content: bytes) -> int:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(tmp_path / "optimised.onnx")
        width = {initializer.name: list(initializer.dims) for initializer in optimised.graph.initializer}
        return sum(width.get(name) == [256, 256] for node in optimised.graph.node for name in node.input)

    plain = (compiled.folder / "model.onnx").read_bytes()
    assert multiplications(plain) == 0
    assert multiplications(with_work(plain, 7)) == 7
    slowed = multiplications((made["slow"].folder / "model.onnx").read_bytes())
    assert slowed >= FIRST_MULTIPLICATIONS
    assert slowed * 256 * 256 > TIMES * WINDOW_MULTIPLICATIONS
    assert f"{slowed} matrix multiplications change nothing" in made["slow"].done


def test_what_cannot_be_made_is_refused_and_leaves_nothing(compiled: Compiled, keys: Path, tmp_path: Path) -> None:
    package, out, key = compiled.folder, tmp_path / "out", keys / "key.pem"
    with pytest.raises(Refused, match=r"1\.0\.0 is not above 1\.0\.0"):
        good(package, out, "1.0.0", key)
    with pytest.raises(Refused, match="they have no order"):
        shuffled(package, out, VERSION, key, (0, 0, 1, 2, 3, 4, 5))
    with pytest.raises(Refused, match="more than once as long"):
        slow(package, out, VERSION, key, 1.0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Conflict):
        good(package, compiled.folder, VERSION, key)


def test_the_command_says_what_it_did_and_a_users_mistake_in_one_sentence(
    compiled: Compiled, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path / "out"), "--version", VERSION, "--key"]
    assert sabotage.main(["shuffled", str(compiled.folder), *options, str(tmp_path / "none.pem")]) == 2
    assert "none.pem' cannot be read" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert sabotage.main(["shuffled", str(compiled.folder), *options, str(keys / "key.pem")]) == 0
    assert "watch 3.0.0: 7 of 7 classes have changed places" in capsys.readouterr().out
