"""A device whose decoder sees another picture than training did refuses the package; the real one does not."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy
import picture_package
import pytest
from PIL import Image

from hybridge_edge.arrays import Array, of_bytes
from hybridge_edge.codecs import images
from hybridge_edge.contract.codec import Codec
from hybridge_edge.contract.errors import InvalidInput, Unavailable
from hybridge_edge.contract.handover import Handover, HandoverAnswer
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.serving.call import Call
from hybridge_edge.serving.service import Answer, Inference

MODEL = picture_package.MODEL
REAL = images.values


def swapped(codec: Codec, data: bytes) -> Array:
    """Red for blue."""
    return REAL(codec, data)[:, :, ::-1]


def blocky(codec: Codec, data: bytes) -> Array:
    """Chroma repeated where libjpeg interpolates it ("fancy upsampling" off)."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("YCbCr", image.size)
        planes = numpy.asarray(image.convert("YCbCr")).copy()
    for channel in (1, 2):
        few = planes[::2, ::2, channel]
        planes[:, :, channel] = numpy.repeat(numpy.repeat(few, 2, 0), 2, 1)[: planes.shape[0], : planes.shape[1]]
    return numpy.asarray(Image.fromarray(planes, "YCbCr").convert("RGB"))


def brighter(codec: Codec, data: bytes) -> Array:
    """Video levels taken for full ones: a tenth more."""
    return numpy.clip(REAL(codec, data).astype(float) * 255 / 235, 0, 255).astype(numpy.uint8)


def shifted(codec: Codec, data: bytes) -> Array:
    """One pixel to the right."""
    return numpy.roll(REAL(codec, data), 1, axis=1)


def one_level_off(codec: Codec, data: bytes) -> Array:
    """Another, equally good inverse transform."""
    return numpy.minimum(REAL(codec, data), 254) + 1


def opencv(codec: Codec, data: bytes) -> Array:
    """The decoder of OpenCV's wheel, another build of libjpeg-turbo."""
    return cv2.imdecode(numpy.frombuffer(data, numpy.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


@pytest.fixture
def handed_over(device: Any, kit: ModuleType, tmp_path: Path) -> Callable[..., HandoverAnswer]:
    count = iter(range(100))

    def give(codec: Codec | None = None, version: str = "1.0.0", factor: float = 1.0) -> HandoverAnswer:
        number = next(count)
        folder = tmp_path / f"picture-{number}"
        manifest = picture_package.build(folder, kit, codec or picture_package.jpeg_codec(), version, factor)
        handover = Handover(MODEL, str(folder), manifest.digest, f"r-{number}", number + 1, Mode.ACTIVATE)
        answer: HandoverAnswer = device.activation.hand_over(handover)
        return answer

    return give


def ask(device: Any, *pictures: bytes) -> Answer:
    answer: Answer = device.service.infer(Inference(MODEL, "", "", {"picture": of_bytes(pictures)}), Call(5.0))
    return answer


@pytest.mark.parametrize("decoder", [swapped, blocky, brighter, shifted])
def test_a_decoder_that_sees_otherwise_is_caught_by_name_and_the_old_version_goes_on(
    decoder: Any, device: Any, handed_over: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert handed_over().state is PackageState.ACTIVE
    with monkeypatch.context() as patch:
        patch.setattr(images, "values", decoder)
        answer = handed_over_with_the_real_goldens(handed_over, patch, decoder)
    assert answer.state is PackageState.REFUSED
    assert "The codec jpeg of input 'picture' gives other numbers here" in answer.reason
    assert "libjpeg-turbo" in answer.reason
    assert ask(device, picture_package.encode(picture_package.scene(0))).version == "1.0.0"


def handed_over_with_the_real_goldens(handed_over: Any, patch: pytest.MonkeyPatch, decoder: Any) -> HandoverAnswer:
    """Packed by the real decoder, activated with the other one."""
    real_build = picture_package.build

    def build(*arguments: Any) -> Any:
        patch.setattr(images, "values", REAL)
        manifest = real_build(*arguments)
        patch.setattr(images, "values", decoder)
        return manifest

    patch.setattr(picture_package, "build", build)
    answer: HandoverAnswer = handed_over(version="2.0.0", factor=2.0)
    return answer


@pytest.mark.parametrize("decoder", [REAL, one_level_off, opencv])
def test_a_decoder_as_good_as_training_s_is_taken(
    decoder: Any, handed_over: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert handed_over_with_the_real_goldens(handed_over, monkeypatch, decoder).state is PackageState.ACTIVE


def test_a_device_without_the_decoder_says_what_to_install(handed_over: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> str:
        raise Unavailable("Pillow, which decodes pictures, is not installed.", f"Install it with: {images.EXTRA}.")

    monkeypatch.setattr(images, "library", absent)
    answer = handed_over()
    assert answer.state is PackageState.REFUSED
    assert "Pillow" in answer.reason


def test_the_device_answers_what_its_graph_gives_for_the_decoded_picture(device: Any, handed_over: Any) -> None:
    handed_over(factor=3.0)
    pixels = [picture_package.scene(seed) for seed in range(3)]
    answer = ask(device, *[picture_package.encode(one) for one in pixels])
    ((_, scores),) = answer.outputs
    wanted = [numpy.asarray(Image.open(io.BytesIO(picture_package.encode(one)))) for one in pixels]
    numpy.testing.assert_allclose(scores, numpy.stack(wanted).mean(axis=(1, 2)) / 255 * 3, rtol=1e-4)
    assert answer.features_us > 0


def test_a_damaged_picture_is_its_caller_s_fault_and_nobody_else_s(device: Any, handed_over: Any) -> None:
    handed_over()
    good = picture_package.encode(picture_package.scene(1))
    damaged = good[: len(good) - 200]
    outcomes: list[str] = []

    def caller(number: int) -> None:
        try:
            ask(device, damaged if number % 4 == 0 else good)
            outcomes.append("answered")
        except InvalidInput as error:
            outcomes.append(f"{error.code}: {error.message[:33]}")

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = "INVALID_ARGUMENT: Input 'picture' is a damaged JPEG"
    assert sorted(outcomes) == [refused] * 4 + ["answered"] * 12
    assert device.service.counters(MODEL).failures == 0
    assert (
        device.service.residents.active(MODEL).tally.evidence("", device.service.residents.active(MODEL).paired).errors
        == 0
    )


def test_damaged_pictures_do_not_take_a_model_off_its_accelerator(device: Any, handed_over: Any) -> None:
    handed_over()
    resident = device.service.residents.active(MODEL)
    resident.engine.provider = "CUDAExecutionProvider"
    damaged = picture_package.encode(picture_package.scene(1))[:-200]
    for _ in range(5):
        with pytest.raises(InvalidInput):
            ask(device, damaged)
    assert resident.failures == 0


def test_png_without_loss_has_no_tolerance(device: Any, handed_over: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TensorSpec("picture", "FP32", (-1, picture_package.HEIGHT, picture_package.WIDTH, 3))
    png = replace(picture_package.jpeg_codec(), codec="png", decoded=spec)
    assert handed_over(png).state is PackageState.ACTIVE
    resident = device.service.residents.active(MODEL)
    assert resident.manifest.codecs[0].golden.atol == 0
    answer = handed_over_with_the_real_goldens(
        lambda **options: handed_over(png, **options), monkeypatch, one_level_off
    )
    assert "The codec png" in answer.reason
