"""How an encoded input of a package is decoded before its features graph: declared here, done in ``codecs``.

Callers send an encoded input as BYTES of shape [-1, 1], one picture or one stretch of sound a row. Trainer and device
decode it by the same code; golden encodings and what they decode to travel in the package, so that a device whose
decoder gives something else refuses it.

    jpeg, png      a picture to numbers of [-1, height, width, channels] (HWC) or [-1, channels, height, width] (CHW)
    pcm16          interleaved little-endian 16-bit samples to any shape
    raw            little-endian numbers of ``stored`` to any shape

A value is decoded to UINT8 (pictures) or ``stored`` (the others); where ``decoded`` is FP32, it is then
value * scale + offset, computed in FP32.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, prod

from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.package_file import relative_path
from hybridge_edge.contract.tensors import BYTES, ITEM_BYTES, TensorSpec

IMAGES = ("jpeg", "png")
NUMBERS = ("pcm16", "raw")
COLOURS = {"RGB": 3, "BGR": 3, "GREY": 1}
"""Channels of each order of colours; GREY is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), as JPEG's own luma."""
LAYOUTS = ("HWC", "CHW")
FITS = ("exact", "stretch")
"""exact: a picture has the declared size. stretch: it is resampled to it, bilinear over its whole support."""
MAX_ENCODED_BYTES = 1024 * 1024
"""Of one encoded input: what one element of BYTES may have."""
MAX_PIXELS = 1 << 24
"""Of a picture before it is resampled; also the most that ``max_pixels`` may allow."""
MAX_DECODED_BYTES = 64 * 1024 * 1024
"""Of one row, decoded."""
SCALED = "FP32"


@dataclass(frozen=True, slots=True)
class CodecGolden:
    """Encodings and what they decode to: ``encoded`` and ``decoded`` are .npy files, rows first.

    Attributes:
        atol: how far one decoded element may be from its golden one, in decoded units.
    """

    encoded: str
    decoded: str
    atol: float = 0.0

    @classmethod
    def read(cls, reader: Reader) -> CodecGolden:
        return cls(
            reader.text("encoded", check=relative_path),
            reader.text("decoded", check=relative_path),
            reader.number("atol"),
        )

    def to_json(self) -> dict[str, object]:
        return {"encoded": self.encoded, "decoded": self.decoded, "atol": self.atol}


@dataclass(frozen=True, slots=True)
class Codec:
    """How one input is decoded.

    Attributes:
        input: its name, in the public signature and in the features graph. codec: one of IMAGES or NUMBERS.
        decoded: what the features graph gets, batch first, under the same name; UINT8 or FP32 for a picture.
        colour, layout, fit: of a picture, see COLOURS, LAYOUTS, FITS; "" for the others.
        stored: the type of a raw element; "" for the others.
        scale, offset: where ``decoded`` is FP32 and the value is not.
        max_bytes: of one encoded input. max_pixels: of a picture that is stretched; 0 for the others.
        golden: None only in a task; a package without it is refused.
    """

    input: str
    codec: str
    decoded: TensorSpec
    colour: str = ""
    layout: str = ""
    fit: str = ""
    stored: str = ""
    scale: float = 1.0
    offset: float = 0.0
    max_bytes: int = MAX_ENCODED_BYTES
    max_pixels: int = 0
    golden: CodecGolden | None = None

    def __post_init__(self) -> None:
        if self.codec not in IMAGES + NUMBERS:
            self._refuse(f"is {self.codec[:20]!r}", f"Use one of {', '.join(IMAGES + NUMBERS)}.")
        if self.decoded.name != self.input or self.decoded.shape[0] != -1 or self.decoded.datatype == BYTES:
            self._refuse("decodes to another tensor", "Give `decoded` the input's name, numbers, and a batch axis.")
        if prod(self.decoded.item_shape) * ITEM_BYTES[self.decoded.datatype] > MAX_DECODED_BYTES:
            self._refuse(f"decodes to more than {MAX_DECODED_BYTES} bytes a row", "Declare a smaller tensor.")
        if not 1 <= self.max_bytes <= MAX_ENCODED_BYTES:
            self._refuse(f"allows {self.max_bytes} bytes", f"Allow 1 to {MAX_ENCODED_BYTES}.")
        if not (isfinite(self.scale) and isfinite(self.offset)) or self.scale == 0:
            self._refuse("scales by no finite number, or by 0", "Correct `scale` and `offset`.")
        if self.codec in IMAGES:
            self._check_image()
        else:
            self._check_numbers()
        if self.value_type != self.decoded.datatype != SCALED:
            self._refuse(
                f"gives {self.value_type} and declares {self.decoded.datatype}", f"Declare it, or {SCALED} to scale it."
            )
        if self.decoded.datatype != SCALED and (self.scale, self.offset) != (1.0, 0.0):
            self._refuse(f"scales {self.decoded.datatype}", f"Declare {SCALED} to scale.")

    def _check_image(self) -> None:
        if self.colour not in COLOURS or self.layout not in LAYOUTS or self.fit not in FITS or self.stored:
            self._refuse(
                "is of a picture and lacks one of colour, layout and fit, or has `stored`",
                f"Colours: {', '.join(COLOURS)}. Layouts: {', '.join(LAYOUTS)}. Fits: {', '.join(FITS)}.",
            )
        shape = self.decoded.item_shape
        if len(shape) != 3 or shape[2 if self.layout == "HWC" else 0] != COLOURS[self.colour]:
            self._refuse(
                f"decodes to {list(self.decoded.shape)}, not to {COLOURS[self.colour]} channels in {self.layout}",
                "Declare height, width and channels.",
            )
        limit = 0 if self.fit == "exact" else MAX_PIXELS
        if self.width * self.height > MAX_PIXELS or not bool(limit) <= self.max_pixels <= limit:
            self._refuse(
                f"allows {self.max_pixels} pixels",
                f"Say max_pixels, 1 to {MAX_PIXELS}, where a picture is stretched, and 0 where it is not.",
            )

    def _check_numbers(self) -> None:
        if self.colour or self.layout or self.fit or self.max_pixels:
            self._refuse("is of no picture, and has what only a picture has", "Leave it out.")
        if (self.stored not in ITEM_BYTES) if self.codec == "raw" else bool(self.stored):
            self._refuse(f"has `stored` {self.stored[:20]!r}", f"For raw, one of {', '.join(ITEM_BYTES)}; else none.")
        if self.encoded_bytes > self.max_bytes:
            self._refuse(f"needs {self.encoded_bytes} bytes and allows {self.max_bytes}", "Declare a smaller tensor.")

    def _refuse(self, reason: str, remedy: str) -> None:
        raise InvalidDocument(f"The codec of input {self.input[:80]!r} {reason}.", remedy)

    @property
    def value_type(self) -> str:
        """The datatype of a value before it is scaled."""
        if self.codec in IMAGES:
            return "UINT8"
        return "INT16" if self.codec == "pcm16" else self.stored

    @property
    def encoded_bytes(self) -> int:
        """Bytes that a row of ``pcm16`` or ``raw`` has, exactly."""
        return prod(self.decoded.item_shape) * ITEM_BYTES[self.value_type]

    @property
    def height(self) -> int:
        """Of the decoded picture, pixels."""
        return self.decoded.item_shape[self.layout.index("H")]

    @property
    def width(self) -> int:
        """Of the decoded picture, pixels."""
        return self.decoded.item_shape[self.layout.index("W")]

    def fits(self, spec: TensorSpec) -> bool:
        """Whether ``spec`` is how the public signature declares this input."""
        return (spec.name, spec.datatype, spec.shape) == (self.input, BYTES, (-1, 1))

    def to_json(self) -> dict[str, object]:
        fields: dict[str, object] = {
            "input": self.input,
            "codec": self.codec,
            "decoded": self.decoded.to_json(),
            "max_bytes": self.max_bytes,
        }
        if self.codec in IMAGES:
            fields |= {"colour": self.colour, "layout": self.layout, "fit": self.fit}
        if self.stored:
            fields["stored"] = self.stored
        if self.decoded.datatype == SCALED:
            fields |= {"scale": self.scale, "offset": self.offset}
        if self.max_pixels:
            fields["max_pixels"] = self.max_pixels
        if self.golden is not None:
            fields["golden"] = self.golden.to_json()
        return fields

    @classmethod
    def read(cls, reader: Reader) -> Codec:
        return cls(
            input=reader.text("input"),
            codec=reader.text("codec"),
            decoded=reader.object("decoded", TensorSpec.read),
            colour=reader.text("colour", ""),
            layout=reader.text("layout", ""),
            fit=reader.text("fit", ""),
            stored=reader.text("stored", ""),
            scale=reader.number("scale", 1.0),
            offset=reader.number("offset", 0.0),
            max_bytes=reader.integer("max_bytes", minimum=1),
            max_pixels=reader.integer("max_pixels", 0),
            golden=reader.object("golden", CodecGolden.read),
        )
