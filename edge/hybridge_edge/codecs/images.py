"""Pictures, by Pillow: its wheels bring their own libjpeg-turbo and zlib to every machine (docs/adr, on decoders)."""

from __future__ import annotations

import importlib
import io
from typing import Any

import numpy

from hybridge_edge.arrays import Array
from hybridge_edge.codecs import headers
from hybridge_edge.codecs.headers import NotSuch
from hybridge_edge.contract.codec import Codec
from hybridge_edge.contract.errors import InvalidInput, Unavailable

EXTRA = "pip install 'hybridge-edge[images]'"
_HEADERS = {"jpeg": headers.jpeg, "png": headers.png}
_READERS = {"jpeg": ("PIL.JpegImagePlugin", "JpegImageFile"), "png": ("PIL.PngImagePlugin", "PngImageFile")}


def library() -> str:
    """Pillow's name and version, and its JPEG library's. Raises Unavailable where it is not installed."""
    try:
        pillow, features = importlib.import_module("PIL"), importlib.import_module("PIL.features")
    except ImportError:
        raise Unavailable("Pillow, which decodes pictures, is not installed.", f"Install it with: {EXTRA}.") from None
    turbo = features.version_feature("libjpeg_turbo")
    return f"Pillow {pillow.__version__}, {f'libjpeg-turbo {turbo}' if turbo else 'an unknown libjpeg'}"


def check(codec: Codec, data: bytes) -> None:
    """Refuse by its first bytes what is not to be decoded. Raises InvalidInput."""
    try:
        size = _HEADERS[codec.codec](data)
    except NotSuch as reason:
        raise InvalidInput(
            f"Input {codec.input!r} {reason}.", f"Send a {codec.codec.upper()} of {_wanted(codec)}."
        ) from None
    exact = codec.fit == "exact"
    if exact and (size.width, size.height) != (codec.width, codec.height):
        raise InvalidInput(f"Input {codec.input!r} is {size.width} x {size.height} pixels.", f"Send {_wanted(codec)}.")
    if not exact and size.width * size.height > codec.max_pixels:
        raise InvalidInput(
            f"Input {codec.input!r} is {size.width} x {size.height} pixels.", f"Send at most {codec.max_pixels} pixels."
        )


def values(codec: Codec, data: bytes) -> Array:
    """The picture as UINT8 of the codec's item shape; ``data`` has passed ``check``. Raises InvalidInput."""
    module, name = _READERS[codec.codec]
    image_module: Any = importlib.import_module("PIL.Image")
    reader = getattr(importlib.import_module(module), name)
    size = (codec.width, codec.height)
    try:
        with reader(io.BytesIO(data)) as image:
            declared = _HEADERS[codec.codec](data)
            if image.size != (declared.width, declared.height):
                raise ValueError("two headers say different sizes")
            plain = image.convert("L" if codec.colour == "GREY" else "RGB")
        if plain.size != size:
            plain = plain.resize(size, image_module.Resampling.BILINEAR)
        pixels: Array = numpy.asarray(plain, numpy.uint8)
    except Exception as error:  # a library that reads what strangers send raises whatever it meets
        raise InvalidInput(
            f"Input {codec.input!r} is a damaged {codec.codec.upper()}: {_said(error)}.", "Encode it again."
        ) from None
    if codec.colour == "GREY":
        pixels = pixels[:, :, numpy.newaxis]
    elif codec.colour == "BGR":
        pixels = pixels[:, :, ::-1]
    return pixels.transpose(2, 0, 1) if codec.layout == "CHW" else pixels


def _wanted(codec: Codec) -> str:
    size = f"{codec.width} x {codec.height} pixels"
    return size if codec.fit == "exact" else f"at most {codec.max_pixels} pixels"


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120].rstrip(".")
