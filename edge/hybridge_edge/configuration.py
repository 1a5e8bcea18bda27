"""A component's settings: flags of the command line over the configuration of the Greengrass deployment.

Nucleus lite turns every value into a string, and an empty string stands for "not set", so values are coerced here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from hybridge_edge.contract.errors import UsageError

MAX_FILE_BYTES = 1024 * 1024
MAX_TOPIC_BYTES = 256
"""AWS IoT Core takes no longer topic (AWS IoT Core quotas, topic size)."""


class Configuration:
    """Settings by name, each read with its type, its limits and a default."""

    __slots__ = ("_values",)

    def __init__(self, *layers: Mapping[str, object]) -> None:
        """Later layers win; None and "" in a layer leave the earlier one's value."""
        self._values: dict[str, object] = {}
        for layer in layers:
            self._values.update({name: value for name, value in layer.items() if value is not None and value != ""})

    def given(self) -> Mapping[str, object]:
        """What is set, as it was given."""
        return dict(self._values)

    def text(self, name: str, default: str = "") -> str:
        value = self._values.get(name, default)
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise self._wrong(name, value, "a text")
        return str(value)

    def required(self, name: str) -> str:
        """A text without a default."""
        value = self.text(name)
        if not value:
            raise UsageError(f"{name} is not set.", "Give its flag, or set it in the component's configuration.")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str = "") -> str:
        """One of ``allowed``; ``default``, or else the first, where it is not set."""
        value = self.text(name, default or allowed[0])
        if value not in allowed:
            raise self._wrong(name, value, f"one of {', '.join(allowed)}")
        return value

    def boolean(self, name: str, default: bool) -> bool:
        value = self._values.get(name, default)
        words = {"true": True, "false": False}
        if isinstance(value, bool):
            return value
        if not isinstance(value, str) or value.strip().lower() not in words:
            raise self._wrong(name, value, "true or false")
        return words[value.strip().lower()]

    def integer(self, name: str, default: int, minimum: int, maximum: int) -> int:
        number = self.number(name, default, minimum, maximum)
        if number != int(number):
            raise self._wrong(name, number, "a whole number")
        return int(number)

    def number(self, name: str, default: float, minimum: float, maximum: float) -> float:
        value = self._values.get(name, default)
        if isinstance(value, str) and "_" in value:  # Python's own way of writing numbers, and nobody else's
            raise self._wrong(name, value, "a number")
        try:
            number = float(value)  # type: ignore[arg-type]  # anything else is a TypeError, caught here
        except (TypeError, ValueError, OverflowError):
            raise self._wrong(name, value, "a number") from None
        if isinstance(value, bool) or not math.isfinite(number) or not minimum <= number <= maximum:
            raise self._wrong(name, value, f"a number from {minimum} to {maximum}")
        return number

    def topic(self, name: str, default: str = "", *, wildcards: bool = False) -> str:
        """An MQTT topic, or with ``wildcards`` a filter of topics (MQTT 5, 4.7); "" where it is not set."""
        value = self.text(name, default)
        if "\0" in value or len(value.encode(errors="replace")) > MAX_TOPIC_BYTES:
            raise self._wrong(name, value, f"a topic of at most {MAX_TOPIC_BYTES} bytes")
        if not wildcards and set("+#") & set(value):
            raise self._wrong(name, value, "a topic without wildcards")
        levels = value.split("/")
        if any(set("+#") & set(level) and level not in ("+", "#") for level in levels) or "#" in levels[:-1]:
            raise self._wrong(name, value, "a topic filter: + stands for one level, # for all that follow at the end")
        return value

    def path(self, name: str) -> Path | None:
        """An existing file, or None where it is not set."""
        value = self.text(name)
        if not value:
            return None
        if not Path(value).is_file():
            raise UsageError(f"{name} names {value[:200]!r}, which is no file.", "Correct the path.")
        return Path(value)

    def _wrong(self, name: str, value: object, wanted: str) -> UsageError:
        return UsageError(f"{name} is {str(value)[:80]!r}, not {wanted}.", "Correct the flag or the configuration.")


def read_file(path: Path) -> Mapping[str, object]:
    """Settings from a JSON object in a file. Raises UsageError where it is none."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path} is larger than {MAX_FILE_BYTES} bytes.", "Name a configuration file.")
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"The configuration file {path} cannot be read: {error}.", "Correct it.") from None
    if not isinstance(values, dict):
        raise UsageError(f"The configuration file {path} holds no JSON object.", "Correct it.")
    return values
