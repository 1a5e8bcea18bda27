"""Take out of text what must not leave a device: secrets, keys, samples, and what tells whose device and network it is.

What is taken out leaves a mark that says what it was. A rule that takes too much costs a support engineer a guess; one
that takes too little costs somebody a key: so the rules take what only looks like a secret, too.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Callable, Mapping

MIN_VALUE = 6
"""Characters of a value of the environment before it is looked for everywhere: "on" stands in every text."""
MAX_NUMBERS = 8
"""Numbers in a row that are counts or versions; more are a tensor or a sample."""
MAX_DEPTH = 16
SHORTEST_RANDOM = 24
"""Characters of what may be a key."""
AWS_SECRET_LENGTH = 40
_SENSITIVE = (
    r"[\w.-]{0,48}(?:secret|token|passw(?:or)?d|passphrase|credential|authorization|api[_-]?key|access[_-]?key|"
    r"private[_-]?key|signature|cookie|svcuid|psk)[\w.-]{0,48}"
)
_SENSITIVE_NAME = re.compile(_SENSITIVE, re.IGNORECASE)
_PEM = (
    r"-----BEGIN [^-\n]{1,64}-----"
    r"(?:.{0,8192}?-----END [^-\n]{1,64}-----|(?:\n[A-Za-z0-9+/= ]+$)*)"  # one that was cut ends with its last line
)
_NUMBER = r"[-+]?(?:\d{1,24}(?:\.\d{0,24})?|\.\d{1,24})(?:[eE][-+]?\d{1,4})?"
_Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


def _network(found: re.Match[str]) -> str:
    text = found[0]
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return text
    return text if address.is_loopback or address.is_unspecified else "[address]"


def _numbers(found: re.Match[str]) -> str:
    count = len(re.findall(_NUMBER, found[0]))
    return f"[{count} numbers]"


def _random(found: re.Match[str]) -> str:
    """Long letters and digits mixed are a key or a token; a word, a path or a digest in hexadecimal is none."""
    text = found[0]
    kinds = sum(bool(re.search(kind, text)) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
    parts = text.split("/")
    is_path = len(text) != AWS_SECRET_LENGTH and len(parts) > 2 and max(map(len, parts)) < SHORTEST_RANDOM
    return text if kinds < 3 or is_path else "[secret]"


_RULES: tuple[_Rule, ...] = (
    (re.compile(_PEM, re.DOTALL | re.MULTILINE), "[key or certificate]"),
    (re.compile(r"(\b\w[\w+.-]{0,20}://)[^/\s:@]{1,256}:[^/\s@]{1,256}@"), r"\1[secret]@"),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\1 [secret]"),
    (
        re.compile(rf"""(["']?\b{_SENSITIVE}["']?\s*[:=]\s*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s,;&"'\]}}]+)""", re.I),
        r"\1[secret]",
    ),
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b"), "[secret]"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{8,4096}(?:\.[A-Za-z0-9_-]{0,4096})?"), "[secret]"),
    (re.compile(rf"(?:{_NUMBER}[\s,;]+){{{MAX_NUMBERS},}}{_NUMBER}"), _numbers),
    (re.compile(r"(?:\\x[0-9a-fA-F]{2}){8,}"), "[bytes]"),
    (re.compile(r"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/=_-]{24,}(?![A-Za-z0-9+/=_-])"), _random),
    (re.compile(r"(arn:[\w-]{1,20}:[\w-]{0,32}:[\w-]{0,32}:)\d{12}"), r"\1[account]"),
    (re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,8}\b"), "[mail]"),
    (re.compile(r"\b(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\b"), "[address]"),
    (re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\w)"), _network),
    (re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])"), _network),
    (re.compile(r"/(?:home|Users)/[^/\s\"':]+"), "/home/[user]"),
)
"""In this order. Each repetition is bounded or cannot begin again inside itself: a hostile log costs no more time."""


class Redactor:
    """Redacts text and JSON values by the rules, and by what this process knows to be secret or somebody's.

    Args:
        environment: whose values of sensitive names are taken out wherever they stand. names: of the host and the user.
    """

    def __init__(self, environment: Mapping[str, str], names: Mapping[str, str]) -> None:
        secrets = {
            value: "[secret]"
            for name, value in environment.items()
            if _SENSITIVE_NAME.fullmatch(name) and len(value) >= MIN_VALUE
        }
        home = environment.get("HOME", "")
        known = {**({home.rstrip("/"): "[home]"} if len(home) > 2 else {}), **secrets}
        self._known = sorted(known.items(), key=lambda item: -len(item[0]))
        self._names = [
            (re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])"), mark)
            for name, mark in names.items()
            if len(name) >= 3 and name not in ("root", "localhost")
        ]

    def text(self, text: str) -> str:
        """The text with everything that must not leave the device taken out."""
        for value, mark in self._known:
            text = text.replace(value, mark)
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
        for pattern, mark in self._names:
            text = pattern.sub(mark, text)
        return text

    def value(self, value: object, depth: int = 0) -> object:
        """The same of a JSON value: by its keys as well, and no long list of numbers stays."""
        if depth > MAX_DEPTH:
            return "[too deep]"
        if isinstance(value, dict):
            return {
                self.text(str(key)): "[secret]" if _is_secret(str(key), item) else self.value(item, depth + 1)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            if len(value) > MAX_NUMBERS and all(isinstance(item, int | float) for item in value):
                return f"[{len(value)} numbers]"
            return [self.value(item, depth + 1) for item in value]
        return self.text(value) if isinstance(value, str) else value

    def json(self, value: object) -> str:
        """The value as indented JSON text, redacted."""
        return json.dumps(self.value(value), indent=2, sort_keys=True, default=lambda item: self.text(str(item))) + "\n"


def _is_secret(key: str, item: object) -> bool:
    return _SENSITIVE_NAME.fullmatch(key) is not None and not isinstance(item, bool | int | float) and bool(item)


def of_this_process() -> Redactor:
    """A redactor that knows this process' environment, its user's name and its host's."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = ""
    return Redactor(dict(os.environ), {user: "[user]", socket.gethostname(): "[host]"})
