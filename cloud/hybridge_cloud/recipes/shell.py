"""What can be read off a recipe's shell scripts without running them: variables, quotes, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

PATHS = ("artifacts:path", "artifacts:decompressedPath", "work:path")
VARIABLES = (*PATHS, "kernel:rootPath", "iot:thingName")
CONFIGURATION = "configuration:"
_VARIABLE = re.compile(r"\{([^{}\s]*)\}")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_KEYWORDS = {"if", "then", "else", "elif", "while", "until", "do", "fi", "done", "!", "{", "}"}
_SEPARATORS = set(";|&()`\n")


@dataclass(frozen=True, slots=True)
class Brace:
    """A ``{`` in a script.

    Attributes:
        offset: of the ``{``. inner: what stands up to the ``}``; "" where it is not closed or no variable at all.
        end: behind the ``}``, or behind the ``{`` where it is no variable.
    """

    offset: int
    end: int
    inner: str

    @property
    def is_variable(self) -> bool:
        """Whether it has the form ``{namespace:key}``."""
        return re.fullmatch(r"[\w.-]+(:[^:]+)+", self.inner) is not None

    @property
    def is_known(self) -> bool:
        return self.inner in VARIABLES or re.fullmatch(r"configuration:/[^:]+", self.inner) is not None

    @property
    def component(self) -> str:
        """Whose variable it is: the component's name where it is another's, else ""."""
        name, colon, rest = self.inner.partition(":")
        return name if colon and (rest in VARIABLES or rest.startswith(CONFIGURATION)) else ""


def braces(script: str) -> Iterator[Brace]:
    """Every ``{`` of a script."""
    offset = script.find("{")
    while offset >= 0:
        found = _VARIABLE.match(script, offset)
        end = found.end() if found else offset + 1
        yield Brace(offset, end, found[1] if found else "")
        offset = script.find("{", end)


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command.

    Attributes:
        words: without quotes, without leading assignments and shell keywords. offset: of its first character.
        end: the character that ended it, "" for the script's end. appends: it writes with ``>>``.
    """

    words: tuple[str, ...]
    offset: int
    end: str
    appends: bool = False

    @property
    def name(self) -> str:
        """The program, without ``exec``."""
        return self.arguments[0] if self.arguments else ""

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.words[1:] if self.words[:1] == ("exec",) else self.words

    @property
    def program(self) -> str:
        """The last part of the program's path."""
        return self.name.rpartition("/")[2]


class _Scanner:
    def __init__(self, script: str) -> None:
        self.script = script
        self.found: list[Command] = []
        self._words: list[str] = []
        self._word: list[str] | None = None
        self._start = 0

    def scan(self) -> list[Command]:
        script, at, quote = self.script, 0, ""
        while at < len(script):
            letter = script[at]
            following = script[at + 1 : at + 2]
            if quote:
                if letter == quote:
                    quote = ""
                elif letter == "\\" and quote == '"' and following:
                    self._put(at, following)
                    at += 1
                else:
                    self._put(at, letter)
            elif letter in "'\"":
                quote = letter
                self._put(at, "")
            elif letter == "\\":
                if following != "\n":
                    self._put(at, following)
                at += 1
            elif letter == "#" and self._word is None:
                at = script.find("\n", at)
                if at < 0:
                    break
                continue
            elif letter in " \t":
                self._close_word()
            elif letter in _SEPARATORS and not (letter == "&" and script[at - 1 : at] == ">"):
                double = letter in "|&" and following == letter
                self._close_command(letter * 2 if double else letter)
                at += 1 if double else 0
            else:
                self._put(at, letter)
            at += 1
        self._close_command("")
        return self.found

    def _put(self, at: int, letters: str) -> None:
        if self._word is None:
            self._word = []
            if not self._words:
                self._start = at
        self._word.append(letters)

    def _close_word(self) -> None:
        if self._word is not None:
            self._words.append("".join(self._word))
            self._word = None

    def _close_command(self, end: str) -> None:
        self._close_word()
        words = self._words
        appends = any(word.lstrip("012").startswith(">>") for word in words)
        while words and (words[0] in _KEYWORDS or _ASSIGNMENT.match(words[0])):
            words = words[1:]
        if words:
            self.found.append(Command(tuple(words), self._start, end, appends))
        elif end == "&" and self.found:  # behind a `)` or the like
            self.found[-1] = Command(self.found[-1].words, self.found[-1].offset, end)
        self._words = []


def commands(script: str) -> list[Command]:
    """The simple commands of a script, in order. A reading for a linter: here-documents are taken for commands."""
    return _Scanner(script).scan()


def unquoted(script: str) -> str:
    """The script with everything inside quotes, and comments, blanked out; offsets stay."""
    result, quote, comment = [], "", False
    escaped = False
    for at, letter in enumerate(script):
        if comment:
            comment = letter != "\n"
        elif escaped:
            escaped = False
        elif letter == "\\" and quote != "'":
            escaped = True
        elif quote:
            if letter == quote:
                quote = ""
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and (at == 0 or script[at - 1] in " \t\n;"):
            comment = True
        else:
            result.append(letter)
            continue
        result.append("\n" if letter == "\n" else " ")
    return "".join(result)
