"""Read JSON documents strictly: every field known, of its type, inside its limits, or a sentence that says where not.

A reader is made per object and closed at the end, so that a field nobody asked for is an error and not a silent loss.
Duplicate keys, NaN, documents over a size limit and deep nesting are refused before anything is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from hybridge_edge.contract.errors import HybridgeError, InvalidDocument

T = TypeVar("T")
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
MAX_ITEMS = 65_536
MAX_TEXT = 4_096
_LARGEST = 1.7976931348623157e308  # what a double holds; JSON itself has no limit
_MISSING: Any = object()


def canonical(value: object) -> bytes:
    """The bytes of a document: sorted keys, no spaces, UTF-8, one newline at the end. Digests are taken over these."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def sha256(data: bytes) -> str:
    """``sha256:`` and the hexadecimal digest of ``data``."""
    import hashlib  # brings OpenSSL, 4 MB; a process that only passes documents on does without

    return "sha256:" + hashlib.sha256(data).hexdigest()


def parse(data: bytes | str, what: str, limit: int = MAX_DOCUMENT_BYTES) -> Reader:
    """Parse a JSON object of at most ``limit`` bytes and return a reader for it, or raise InvalidDocument."""
    if len(data) > limit:
        raise InvalidDocument(f"The {what} is {len(data)} bytes; {limit} are allowed.")
    try:
        value = json.loads(data, object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except (ValueError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidDocument(f"The {what} is not valid JSON: {error}.", "Write it again from its source.") from None
    return Reader(value, what)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _no_constants(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


class Reader:
    """One JSON object, read field by field. ``where`` names it in every error."""

    __slots__ = ("_fields", "_where")

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise InvalidDocument(f"The {where} is not a JSON object.")
        self._fields: dict[str, Any] = dict(value)
        self._where = where

    def close(self) -> None:
        """Refuse fields that nobody read."""
        if self._fields:
            names = ", ".join(sorted(self._fields)[:5])
            raise InvalidDocument(
                f"The {self._where} has fields this version does not know: {names}.",
                "Update Hybridge where it is read, or write the document with the older version.",
            )

    def names(self) -> tuple[str, ...]:
        """The names of the fields not read yet, for objects whose names are data."""
        return tuple(self._fields)

    def ignore(self, name: str) -> None:
        """Leave a field unread on purpose."""
        self._fields.pop(name, None)

    def format(self, *known: int) -> int:
        """The document's format number; unknown ones are refused with what to do."""
        number = self.integer("format", minimum=1)
        if number not in known:
            raise InvalidDocument(
                f"The {self._where} has format {number}; this version reads {', '.join(map(str, known))}.",
                "Update Hybridge where it is read.",
            )
        return number

    def text(self, name: str, default: str = _MISSING, check: Callable[[str], str] | None = None) -> str:
        value: str = self._take(name, default, str)
        if len(value) > MAX_TEXT:
            self._refuse(name, f"is longer than {MAX_TEXT} characters")
        if check is not None:
            try:
                return check(value)
            except HybridgeError as error:
                self._refuse(name, error.message.rstrip("."))
        return value

    def integer(self, name: str, default: int = _MISSING, minimum: int = 0, maximum: int = 2**63 - 1) -> int:
        value: int = self._take(name, default, int)
        if isinstance(value, bool) or not minimum <= value <= maximum:
            self._refuse(name, f"must be a whole number from {minimum} to {maximum}")
        return value

    def number(self, name: str, default: float = _MISSING) -> float:
        value = self._take(name, default, (int, float))
        if isinstance(value, bool) or not -_LARGEST <= value <= _LARGEST:
            self._refuse(name, "must be a finite number")
        return float(value)

    def boolean(self, name: str, default: bool = _MISSING) -> bool:
        value: bool = self._take(name, default, bool)
        return value

    def strings(self, name: str, default: tuple[str, ...] = _MISSING) -> tuple[str, ...]:
        return tuple(self._list(name, default, str))

    def integers(self, name: str, default: tuple[int, ...] = _MISSING) -> tuple[int, ...]:
        return tuple(self._list(name, default, int))

    def objects(self, name: str, read: Callable[[Reader], T], default: tuple[T, ...] = _MISSING) -> tuple[T, ...]:
        """A list of objects, each read by ``read`` and closed."""
        if name not in self._fields and default is not _MISSING:
            return default
        result = []
        for index, item in enumerate(self._list(name, _MISSING, dict)):
            reader = Reader(item, f"{self._where}, {name}[{index}]")
            result.append(read(reader))
            reader.close()
        return tuple(result)

    def object(self, name: str, read: Callable[[Reader], T]) -> T:
        reader = Reader(self._take(name, _MISSING, dict), f"{self._where}, {name}")
        result = read(reader)
        reader.close()
        return result

    def numbers_by_name(self, name: str) -> dict[str, float]:
        """An object of numbers, such as a run's metrics."""
        value = self._take(name, {}, dict)
        reader = Reader(value, f"{self._where}, {name}")
        return {key: reader.number(key) for key in value}

    def strings_by_name(self, name: str) -> dict[str, str]:
        """An object of strings, such as versions of libraries."""
        value = self._take(name, {}, dict)
        reader = Reader(value, f"{self._where}, {name}")
        return {key: reader.text(key) for key in value}

    def _take(self, name: str, default: Any, kind: type | tuple[type, ...]) -> Any:
        if name not in self._fields:
            if default is _MISSING:
                self._refuse(name, "is missing")
            return default
        value = self._fields.pop(name)
        if not isinstance(value, kind):
            self._refuse(name, f"has the wrong type ({type(value).__name__})")
        return value

    def _list(self, name: str, default: Any, kind: type) -> list[Any]:
        value = self._take(name, default, (list, tuple))
        if len(value) > MAX_ITEMS:
            self._refuse(name, f"has more than {MAX_ITEMS} entries")
        if not all(isinstance(item, kind) and not isinstance(item, bool) for item in value):
            self._refuse(name, f"must hold {kind.__name__} only")
        return list(value)

    def _refuse(self, name: str, reason: str) -> NoReturn:
        raise InvalidDocument(f"In the {self._where}, {name!r} {reason}.", "Write it again from its source.")
