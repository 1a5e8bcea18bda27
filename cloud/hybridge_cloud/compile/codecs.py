"""Golden encodings of a package's codecs: held-out rows, and for pictures a card on which decoders differ most."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridge_cloud.compile.npy import npy_bytes
from hybridge_cloud.training.task import Samples
from hybridge_edge.arrays import of_bytes
from hybridge_edge.codecs.decoder import Decoder
from hybridge_edge.contract.codec import IMAGES, SCALED, Codec, CodecGolden
from hybridge_edge.contract.errors import Refused

HELDOUT_ROWS = 4
JPEG_LEVELS = 2.0
"""Of 255: an inverse cosine transform and a change of colours may each be one off (ITU-T T.83)."""
STRETCHED_LEVELS = 1.0
_QUALITY = 90
_COLOURS = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255), (0, 0, 0), (255, 255, 255)],
    np.uint8,
)
_STRIPE_PIXELS = 5


@dataclass(frozen=True, slots=True)
class CodecFiles:
    """The manifest's codecs, with their golden encodings, and the content of those files by path."""

    codecs: tuple[Codec, ...]
    files: dict[str, bytes]


def codec_files(codecs: Sequence[Codec], samples: Samples) -> CodecFiles:
    """Decode HELDOUT_ROWS rows of each encoded input, and a card where it is a picture.

    Raises:
        Refused: the card does not fit into ``max_bytes``. InvalidInput: a row cannot be decoded.
    """
    made, files = [], {}
    for index, codec in enumerate(codecs):
        rows = np.linspace(0, len(samples) - 1, min(HELDOUT_ROWS, len(samples))).astype(np.int64)
        elements = samples.inputs[codec.input][rows].ravel().tolist()
        if codec.codec in IMAGES:
            elements.append(card(codec))
        encoded = of_bytes(elements)
        golden = CodecGolden(f"golden/encoded-{index}.npy", f"golden/decoded-{index}.npy", _tolerance(codec))
        files[golden.encoded] = npy_bytes(encoded)
        files[golden.decoded] = npy_bytes(Decoder(codec).rows(encoded))
        made.append(replace(codec, golden=golden))
    return CodecFiles(tuple(made), files)


def card(codec: Codec) -> bytes:
    """Diagonal stripes of saturated colours: what is made of half as many colours as pixels shows how that is done.

    A picture that is stretched is half as large again as what it is stretched to.
    """
    image: Any = importlib.import_module("PIL.Image")
    factor = 1.0 if codec.fit == "exact" else 1.5
    height, width = round(codec.height * factor), round(codec.width * factor)
    while codec.max_pixels and height * width > codec.max_pixels:
        height, width = max(1, height // 2), max(1, width // 2)
    content = io.BytesIO()
    options = {"quality": _QUALITY, "subsampling": "4:2:0"} if codec.codec == "jpeg" else {"optimize": True}
    image.fromarray(stripes(height, width)).save(content, codec.codec.upper(), **options)
    if content.tell() > codec.max_bytes:
        raise Refused(
            f"A {width} x {height} {codec.codec.upper()} of many colours takes {content.tell()} bytes; the codec of "
            f"input {codec.input!r} allows {codec.max_bytes}.",
            "Raise max_bytes.",
        )
    return content.getvalue()


def stripes(height: int, width: int) -> NDArray[np.uint8]:
    """The card's pixels, (height, width, 3) RGB."""
    down, across = np.mgrid[0:height, 0:width]
    made: NDArray[np.uint8] = _COLOURS[(down + across) // _STRIPE_PIXELS % len(_COLOURS)]
    return made


def _tolerance(codec: Codec) -> float:
    """Decoded units that one element may be off."""
    levels = JPEG_LEVELS if codec.codec == "jpeg" else 0.0
    levels += STRETCHED_LEVELS if codec.fit == "stretch" else 0.0
    # A unit more in the last place: the product is rounded to FP32 twice.
    return levels * abs(codec.scale) * (1 + 1e-6) if codec.decoded.datatype == SCALED else levels
