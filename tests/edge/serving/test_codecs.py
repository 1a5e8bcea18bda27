"""Encoded inputs: what is decoded is exactly what was declared, and what cannot be is a sentence and no more."""

from __future__ import annotations

import importlib
import io
import random
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from typing import Any

import numpy
import picture_package as kit
import pytest
from PIL import Image

from hybridge_edge.arrays import for_file, from_file, held_bytes, of_bytes
from hybridge_edge.codecs import headers, images
from hybridge_edge.codecs.decoder import Decoder
from hybridge_edge.contract.codec import MAX_PIXELS, Codec
from hybridge_edge.contract.errors import InvalidInput
from hybridge_edge.contract.tensors import TensorSpec


def codec(kind: str, shape: tuple[int, ...], datatype: str = "UINT8", **options: Any) -> Codec:
    return Codec("picture", kind, TensorSpec("picture", datatype, (-1, *shape)), **options)


def image_codec(kind: str, height: int, width: int, colour: str = "RGB", layout: str = "HWC", **options: Any) -> Codec:
    channels = 1 if colour == "GREY" else 3
    shape = (height, width, channels) if layout == "HWC" else (channels, height, width)
    return codec(kind, shape, colour=colour, layout=layout, **{"fit": "exact", **options})


def decode(one: Codec, *elements: bytes) -> numpy.ndarray:
    return Decoder(one).rows(of_bytes(elements))


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@pytest.mark.parametrize("colour", ["RGB", "BGR", "GREY"])
def test_a_png_is_its_pixels_in_the_declared_order(colour: str, layout: str) -> None:
    pixels = kit.scene(3, 5, 7)
    got = decode(image_codec("png", 5, 7, colour, layout), kit.encode(pixels, "png"))[0]
    red, green, blue = (pixels[:, :, channel].astype(float) for channel in range(3))
    if colour == "GREY":
        want = numpy.round(0.299 * red + 0.587 * green + 0.114 * blue)[:, :, None]
        assert numpy.abs((got if layout == "HWC" else got.transpose(1, 2, 0)) - want).max() <= 1
        return
    want = pixels if colour == "RGB" else pixels[:, :, ::-1]
    numpy.testing.assert_array_equal(got if layout == "HWC" else got.transpose(1, 2, 0), want)


def test_values_are_scaled_in_fp32_and_rows_stay_in_order() -> None:
    one = replace(
        image_codec("png", 4, 4), decoded=TensorSpec("picture", "FP32", (-1, 4, 4, 3)), scale=1 / 127.5, offset=-1
    )
    black, white = numpy.zeros((4, 4, 3), numpy.uint8), numpy.full((4, 4, 3), 255, numpy.uint8)
    got = decode(one, kit.encode(black, "png"), kit.encode(white, "png"))
    assert got.dtype == numpy.float32
    assert (got[0] == -1).all()
    assert (got[1] == numpy.float32(255) * numpy.float32(1 / 127.5) + numpy.float32(-1)).all()


def test_a_picture_is_stretched_as_declared_and_only_then() -> None:
    pixels = numpy.repeat(numpy.repeat(kit.scene(0, 4, 4), 8, 0), 8, 1)
    png = kit.encode(pixels, "png")
    small = decode(image_codec("png", 16, 16, fit="stretch", max_pixels=2000), png)[0]
    wanted = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BILINEAR)
    numpy.testing.assert_array_equal(small, numpy.asarray(wanted))
    with pytest.raises(InvalidInput, match=r"is 32 x 32 pixels\. Send 16 x 16"):
        decode(image_codec("png", 16, 16), png)
    with pytest.raises(InvalidInput, match="Send at most 1000 pixels"):
        decode(image_codec("png", 16, 16, fit="stretch", max_pixels=1000), png)


def test_sound_and_raw_numbers_are_exactly_as_long_as_their_shape() -> None:
    samples = numpy.array([[0, 1], [-32768, 32767], [256, 0]], "<i2")
    sound = codec("pcm16", (3, 2), "FP32", scale=1 / 32768)
    numpy.testing.assert_array_equal(decode(sound, samples.tobytes())[0], samples.astype(numpy.float32) / 32768)
    raw = codec("raw", (3, 2), "INT16", stored="INT16")
    numpy.testing.assert_array_equal(decode(raw, samples.tobytes())[0], samples)
    for length in (0, 11, 13):
        with pytest.raises(InvalidInput):
            decode(raw, samples.tobytes()[:length].ljust(length, b"\0"))


def test_bytes_survive_a_file_whatever_they_end_in() -> None:
    for elements in ([b"ab\0\0", b"\0\0\0\0"], [b"abc", b"de"], [b"x"]):
        content = io.BytesIO()
        numpy.save(content, for_file(of_bytes(elements)), allow_pickle=False)
        content.seek(0)
        assert from_file(numpy.load(content, allow_pickle=False)).tolist() == [[one] for one in elements]


def test_what_waits_is_counted_by_its_bytes_and_not_by_its_pointers() -> None:
    assert held_bytes(of_bytes([b"x" * 1000, b"y" * 500])) == 1500
    assert held_bytes(numpy.zeros((2, 3), numpy.float32)) == 24


def png_of(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that says it is so large, and holds nothing."""
    chunks = b""
    for kind, body in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ):
        chunks += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunks


def jpeg_with(**fields: int) -> bytes:
    """A JPEG with other numbers in its frame."""
    data = bytearray(kit.encode(kit.scene(0)))
    place = data.index(b"\xff\xc0") + 4
    for name, value in fields.items():
        offset, form = {"depth": (0, ">B"), "height": (1, ">H"), "width": (3, ">H"), "channels": (5, ">B")}[name]
        struct.pack_into(form, data, place + offset, value)
    return bytes(data)


STRETCHED = {"fit": "stretch", "max_pixels": MAX_PIXELS}


@pytest.mark.parametrize(
    ("kind", "data", "says"),
    [
        ("png", png_of(60_000, 60_000), "60000 x 60000"),
        ("png", png_of(2**31 - 1, 2**31 - 1), "2147483647 x"),
        ("png", png_of(8, 8, depth=16), "16 bits"),
        ("png", png_of(8, 8, colour=6), "transparency"),
        ("png", png_of(0, 8), "no pixels"),
        ("jpeg", jpeg_with(width=65_500, height=65_500), "65500 x 65500"),
        ("jpeg", jpeg_with(depth=12), "12 bits"),
        ("jpeg", jpeg_with(channels=4), "4 channels"),
        ("jpeg", b"\xff\xd8" + b"\xff\xfe\0\2" * 1000, "more than 256 segments"),
        ("jpeg", jpeg_with() + b"\xff\xda" * 40, "more than 32 scans"),
        ("jpeg", jpeg_with().replace(b"\xff\xc0", b"\xff\xc9"), "kind of JPEG"),
        ("jpeg", png_of(8, 8), "is no JPEG"),
        ("png", jpeg_with(), "is no PNG"),
    ],
    ids=range(13),
)
def test_a_bomb_is_refused_before_a_library_sees_it(
    kind: str, data: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "values", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(InvalidInput, match=says):
        decode(image_codec(kind, 8, 8, **STRETCHED), data)


def test_more_bytes_than_declared_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"of 2000 bytes\. Send 1 to 100"):
        decode(image_codec("png", 8, 8, max_bytes=100), b"x" * 2000)


def test_a_picture_of_many_scans_that_is_honest_is_decoded() -> None:
    pixels = kit.scene(2)
    progressive = kit.encode(pixels, "jpeg", progressive=True)
    assert progressive.count(b"\xff\xda") > 5
    assert headers.jpeg(progressive) == headers.Size(kit.WIDTH, kit.HEIGHT)
    assert decode(kit.jpeg_codec(), progressive).shape == (1, kit.HEIGHT, kit.WIDTH, 3)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_damaged_picture_is_a_sentence_whatever_is_damaged(kind: str) -> None:
    one = image_codec(kind, kit.HEIGHT, kit.WIDTH)
    good = kit.encode(kit.scene(1), kind)
    decoded = decode(one, good)
    sentences = []
    rng = random.Random(7)
    for number in range(len(good) + 400):
        if number < len(good):
            data = good[:number] or b"x"  # cut off
        else:
            altered = bytearray(good)
            for _ in range(rng.randrange(1, 6)):
                altered[rng.randrange(len(altered))] = rng.randrange(256)
            data = bytes(altered)
        try:
            assert decode(one, data).shape == decoded.shape
        except InvalidInput as error:
            sentences.append((error.message, error.remedy))
    assert len(sentences) > len(good) * 0.9
    assert all("picture" in message and remedy for message, remedy in sentences)


def test_a_device_that_needs_no_decoder_imports_none() -> None:
    program = (
        "import sys, hybridge_edge.pipeline, hybridge_edge.worker, hybridge_edge.codecs.decoder\n"
        "import hybridge_edge.codecs.images, hybridge_edge.sources.source, hybridge_edge.sources.replay\n"
        "print(sorted({'PIL', 'cv2'} & {name.split('.')[0] for name in sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"[]\n"


def test_pillow_that_is_missing_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(
        Exception, match=r"Pillow.* is not installed\. Install it with: pip install 'hybridge-edge\[images\]'"
    ):
        images.library()
