"""What a codec may say: each thing it may not is refused with the reason, and nothing that it says is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hybridge_edge.contract.codec import MAX_ENCODED_BYTES, MAX_PIXELS, Codec, CodecGolden
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.tensors import TensorSpec

GOLDEN = CodecGolden("golden/encoded-0.npy", "golden/decoded-0.npy", 2.0)
PICTURE = Codec(
    "x", "jpeg", TensorSpec("x", "UINT8", (-1, 4, 6, 3)), colour="RGB", layout="HWC", fit="exact", golden=GOLDEN
)
SCALED = replace(PICTURE, decoded=TensorSpec("x", "FP32", (-1, 4, 6, 3)), scale=0.5)
SOUND = Codec("x", "pcm16", TensorSpec("x", "FP32", (-1, 160, 2)), scale=1 / 32768, golden=GOLDEN)
RAW = Codec("x", "raw", TensorSpec("x", "UINT16", (-1, 5)), stored="UINT16", golden=GOLDEN)
STRETCHED = replace(SCALED, fit="stretch", max_pixels=1000)


@pytest.mark.parametrize("codec", [PICTURE, SCALED, SOUND, RAW, STRETCHED], ids=range(5))
def test_a_codec_survives_its_document(codec: Codec) -> None:
    reader = parse(canonical(codec.to_json()), "codec")
    assert Codec.read(reader) == codec
    reader.close()


@pytest.mark.parametrize(
    ("codec", "changes", "says"),
    [
        (PICTURE, {"codec": "webp"}, "Use one of jpeg, png, pcm16, raw"),
        (PICTURE, {"input": "y"}, "decodes to another tensor"),
        (PICTURE, {"decoded": TensorSpec("x", "UINT8", (4, 6, 3))}, "batch axis"),
        (PICTURE, {"decoded": TensorSpec("x", "BYTES", (-1, 4, 6, 3))}, "decodes to another tensor"),
        (PICTURE, {"decoded": TensorSpec("x", "INT16", (-1, 4, 6, 3))}, "gives UINT8 and declares INT16"),
        (PICTURE, {"decoded": TensorSpec("x", "UINT8", (-1, 3, 4, 6))}, "not to 3 channels in HWC"),
        (PICTURE, {"decoded": TensorSpec("x", "UINT8", (-1, 24, 3))}, "not to 3 channels"),
        (PICTURE, {"decoded": TensorSpec("x", "UINT8", (-1, 5000, 5000, 3))}, "more than 67108864 bytes"),
        (PICTURE, {"colour": "YUV"}, "Colours: RGB, BGR, GREY"),
        (PICTURE, {"colour": "GREY"}, "not to 1 channels"),
        (PICTURE, {"layout": ""}, "Layouts: HWC, CHW"),
        (PICTURE, {"fit": "crop"}, "Fits: exact, stretch"),
        (PICTURE, {"stored": "UINT8"}, "has `stored`"),
        (PICTURE, {"scale": 0.5}, "Declare FP32 to scale"),
        (PICTURE, {"max_pixels": 5}, "Say max_pixels"),
        (SCALED, {"scale": 0.0}, "or by 0"),
        (SCALED, {"offset": float("nan")}, "no finite number"),
        (SCALED, {"max_bytes": MAX_ENCODED_BYTES + 1}, "Allow 1 to"),
        (STRETCHED, {"max_pixels": 0}, "Say max_pixels"),
        (STRETCHED, {"max_pixels": MAX_PIXELS + 1}, "Say max_pixels"),
        (SOUND, {"colour": "RGB"}, "what only a picture has"),
        (SOUND, {"stored": "INT16"}, "`stored`"),
        (SOUND, {"max_bytes": 639}, "needs 640 bytes and allows 639"),
        (RAW, {"stored": "BYTES"}, "`stored`"),
        (RAW, {"stored": "INT16"}, "gives INT16 and declares UINT16"),
    ],
    ids=range(25),
)
def test_a_codec_that_cannot_be_is_refused(codec: Codec, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidDocument, match=says):
        replace(codec, **changes)


def _documents() -> Any:
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location("documents", Path(__file__).with_name("documents.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "changes",
    [
        {"codecs": (replace(PICTURE, golden=None),)},
        {"inputs": (TensorSpec("x", "UINT8", (-1, 4, 6, 3)),)},
        {"inputs": (TensorSpec("x", "BYTES", (-1, 2)),)},
        {"inputs": (TensorSpec("y", "BYTES", (-1, 1)),)},
        {"codecs": (PICTURE, PICTURE)},
        {"files": ()},
    ],
    ids=range(6),
)
def test_a_manifest_s_codecs_fit_its_inputs_and_bring_their_goldens(changes: dict[str, Any]) -> None:
    good = _documents().MANIFEST
    from hybridge_edge.contract.package_file import FileEntry

    files = (*good.files, *(FileEntry(path, good.digest, 10) for path in (GOLDEN.encoded, GOLDEN.decoded)))
    inputs = (TensorSpec("x", "BYTES", (-1, 1)),)
    with_codec = replace(good, inputs=inputs, files=files, codecs=(PICTURE,))
    assert with_codec.graph_inputs == (PICTURE.decoded,)
    with pytest.raises(InvalidDocument):
        replace(with_codec, **changes)
