"""Rules of scripts: variables and braces, paths, what a device does not have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from hybridge_cloud.recipes.document import Table, Text, texts
from hybridge_cloud.recipes.recipe import Recipe, Shell
from hybridge_cloud.recipes.rule import Hit, Nucleus, Rule, Severity
from hybridge_cloud.recipes.shell import CONFIGURATION, PATHS, Brace, braces, commands, unquoted

_SHOWN = 60
_PIECE = 12
"""Letters of a text that a finding shows, and of what follows a brace."""
_ROOTS = re.compile(
    r"/greengrass/v2\b(?:/ipc\.socket)?|/var/lib/greengrass\b(?:/gg-ipc\.socket)?|\b(?:gg-)?ipc\.socket\b"
)
_BASH = re.compile(
    r"(?<![\w$])\[\[\s|(?:^|[;\n])\s*(?:source|declare|shopt)\s|(?:^|[;\n])\s*function\s+\w+|set\s+-\w*o\s+pipefail|<\(|&>"
)
_DOWNLOADERS = {"curl", "wget", "apt", "apt-get", "yum", "dnf", "apk", "npm", "conda", "snap"}
_DECIMALS = 17


@dataclass(frozen=True, slots=True)
class _Use:
    """A brace in a text, and its line in the file."""

    shell: Shell
    brace: Brace
    line: int

    @property
    def pointer(self) -> str:
        """Where in the configuration a variable points; "" where it is none of the configuration's."""
        inner = self.brace.inner
        return inner.removeprefix(CONFIGURATION) if self.brace.is_known and inner.startswith(CONFIGURATION) else ""

    @property
    def shown(self) -> str:
        return f"{{{self.brace.inner[:_SHOWN]}}}"

    @property
    def left(self) -> str:
        """What nucleus lite makes of a text that it cuts at this brace, for the first one that cuts it."""
        text = self.shell.text.value
        if any(other.offset < self.brace.offset and not other.is_known for other in braces(text)):
            return "the text was cut before that already"
        lines = text[: self.brace.offset].splitlines() or [""]
        before = f"after {len(lines) - 1} whole line{'s' * (len(lines) > 2)}, " if len(lines) > 1 else ""
        what = "what runs" if self.shell.is_script else "what is set"
        return f"{what} ends {before}with {lines[-1].strip()[-_SHOWN:]!r}"


def _uses(recipe: Recipe) -> Iterator[_Use]:
    for shell in recipe.shells:
        for brace in braces(shell.text.value):
            yield _Use(shell, brace, recipe.line_of(shell.text, brace.offset, brace.end - brace.offset))


def stray_brace(recipe: Recipe) -> Iterator[Hit]:
    for use in _uses(recipe):
        if not use.brace.is_variable:
            text, at = use.shell.text.value, use.brace.offset
            line = text[at : at + _SHOWN].split("\n")[0]
            piece = line[: line.find("}") + 1] or line[:_PIECE]
            yield Hit(use.line, f"{piece!r} is no variable: on nucleus lite {use.left}")


def unknown_variable(recipe: Recipe) -> Iterator[Hit]:
    for use in _uses(recipe):
        if use.brace.is_variable and not use.brace.is_known and not use.brace.component:
            yield Hit(use.line, f"there is no variable {use.shown}: on lite {use.left}")


def foreign_variable(recipe: Recipe) -> Iterator[Hit]:
    for use in _uses(recipe):
        if not use.brace.is_known and use.brace.component:
            yield Hit(use.line, f"{use.shown} is another component's: on lite {use.left}")


def undeclared_component(recipe: Recipe) -> Iterator[Hit]:
    known = {entry.key for entry in recipe.dependencies} | {recipe.name}
    for use in _uses(recipe):
        if not use.brace.is_known and use.brace.component and use.brace.component not in known:
            yield Hit(use.line, f"{use.brace.component[:_SHOWN]!r} is no dependency of this component")


def slash(recipe: Recipe) -> Iterator[Hit]:
    for use in _uses(recipe):
        follows = re.match(r"[\w.@+-]+", use.shell.text.value[use.brace.end :])
        if use.brace.inner in PATHS and follows:
            yield Hit(use.line, f"{use.shown} and {follows[0][:_PIECE]!r} run together")


def no_default(recipe: Recipe) -> Iterator[Hit]:
    for use in _uses(recipe):
        if use.pointer and recipe.default(use.pointer) is None:
            yield Hit(use.line, f"{use.shown} has no default: on lite {use.left}")


def decimal(recipe: Recipe) -> Iterator[Hit]:
    if not recipe.document.is_json:
        return  # YAML's scalars are texts on lite, and come out as they were written
    for use in _uses(recipe):
        found = recipe.default(use.pointer) if use.pointer else None
        if isinstance(found, Text) and found.kind == "float":
            written = f"{float(found.value):.{_DECIMALS}f}"
            yield Hit(found.line, f"{found.value} comes out as {written} in the {use.shell.step or 'Setenv'} text")


def whole_object(recipe: Recipe) -> Iterator[Hit]:
    for use in _uses(recipe):
        found = recipe.default(use.pointer) if use.pointer else None
        if found is not None and not isinstance(found, Text):
            yield Hit(use.line, f"{use.shown} is no single value")


def unquoted_value(recipe: Recipe) -> Iterator[Hit]:
    for use in _uses(recipe):
        if use.pointer and use.shell.is_script and unquoted(use.shell.text.value)[use.brace.offset] == "{":
            yield Hit(use.line, f"{use.shown} stands outside quotes")


def scalar(recipe: Recipe) -> Iterator[Hit]:
    if recipe.document.is_json:
        return
    for path, text in recipe.configured():
        if text.kind != "text":
            name = "/".join(path)[:_SHOWN]
            yield Hit(text.line, f"{name!r} is {text.value[:_SHOWN] or 'null'}, on classic of type {text.kind}")


def fixed_root(recipe: Recipe) -> Iterator[Hit]:
    for shell in recipe.shells:
        for found in _ROOTS.finditer(shell.text.value):
            line = recipe.line_of(shell.text, found.start(), len(found[0]))
            yield Hit(line, f"the {shell.step or 'Setenv'} text names {found[0]}")
    for entry in recipe.defaults.entries:
        for _, text in texts(entry.value):
            if named := _ROOTS.search(text.value):
                yield Hit(text.line, f"the configuration names {named[0]}")


def bash(recipe: Recipe) -> Iterator[Hit]:
    for shell in recipe.scripts:
        if commands(shell.text.value)[:1] and commands(shell.text.value)[0].program == "bash":
            continue
        found = _BASH.search(shell.text.value)
        if found:
            at = found.start() + len(found[0]) - len(found[0].lstrip(";\n \t"))
            line = recipe.line_of(shell.text, at, 2)
            yield Hit(line, f"the {shell.step} script uses {found[0].strip()!r}")


def index(recipe: Recipe) -> Iterator[Hit]:
    for shell in recipe.scripts:
        for command in commands(shell.text.value):
            words = command.arguments
            is_pip = command.program.startswith("pip") or ("-m" in words and "pip" in words)
            if is_pip and "install" in words and "--no-index" not in words:
                line = recipe.line_of(shell.text, command.offset, len(command.words[0]))
                yield Hit(line, f"the {shell.step} script lets pip ask a package index")


def download(recipe: Recipe) -> Iterator[Hit]:
    for shell in recipe.scripts:
        for command in commands(shell.text.value):
            words = command.arguments
            fetching = command.program == "git" and "clone" in words
            if (command.program in _DOWNLOADERS and not _is_local(words)) or fetching:
                line = recipe.line_of(shell.text, command.offset, len(command.words[0]))
                yield Hit(line, f"the {shell.step} script downloads with {command.program}")


def _is_local(words: tuple[str, ...]) -> bool:
    """Whether a command asks this device itself, as a health check does."""
    return any(word.startswith("--unix-socket") or "localhost" in word or "127.0.0.1" in word for word in words) or any(
        word.startswith("$AWS_CONTAINER_CREDENTIALS") for word in words
    )


def ensurepip(recipe: Recipe) -> Iterator[Hit]:
    for shell in recipe.scripts:
        for command in commands(shell.text.value):
            words = command.arguments
            if "-m" in words[:-1] and words[words.index("-m") + 1] == "venv" and "--without-pip" not in words:
                line = recipe.line_of(shell.text, command.offset, len(command.words[0]))
                yield Hit(line, f"the {shell.step} script makes an environment with pip in it")


def setenv_text(recipe: Recipe) -> Iterator[Hit]:
    for manifest in recipe.manifests:
        lifecycle = manifest.lifecycle
        holders = [lifecycle, *(step.table for step in manifest.steps)] if lifecycle is not None else []
        for holder in holders:
            found = holder.table("Setenv") if isinstance(holder, Table) else None
            for entry in found.entries if found is not None else ():
                if re.fullmatch(r"[A-Za-z_]\w*", entry.key) is None or not isinstance(entry.value, Text):
                    yield Hit(entry.line, f"{entry.key[:_SHOWN]!r} is no variable with a text")


_LITE, _CLASSIC, _BOTH = Nucleus.LITE, Nucleus.CLASSIC, Nucleus.BOTH
_ERROR, _WARNING = Severity.ERROR, Severity.WARNING

RULES = (
    Rule("script-brace", _LITE, _ERROR,
         "Nucleus lite cuts a script or a Setenv value at any brace but a variable's, and executes what is left.",
         "Write $VAR instead of ${VAR}, and move awk, JSON and functions into a file of an artifact.", stray_brace),
    Rule("unknown-variable", _BOTH, _ERROR,
         "Nucleus lite cuts the script there and executes what is left; classic hands the text on as it is.",
         "Variables are {artifacts:path}, {artifacts:decompressedPath}, {work:path}, {kernel:rootPath}, "
         "{iot:thingName} and {configuration:/KEY}.", unknown_variable),
    Rule("other-component-variable", _LITE, _ERROR, "Nucleus lite knows a component's own variables, and cuts here.",
         "Ask the other component while running, or repeat the value in this one's configuration.", foreign_variable),
    Rule("other-component-undeclared", _CLASSIC, _ERROR, "Classic replaces variables of direct dependencies only.",
         "Name the component in ComponentDependencies.", undeclared_component),
    Rule("path-variable-slash", _CLASSIC, _ERROR,
         "Folders end with a slash on nucleus lite and without one on classic.",
         "Write a slash behind the variable, such as {work:path}/venv: it is right on both.", slash),
    Rule("configuration-default", _BOTH, _ERROR,
         "Where a deployment does not set it, nucleus lite cuts the script there, and classic hands the text on.",
         "Give it a value in DefaultConfiguration.", no_default),
    Rule("decimal-interpolated", _LITE, _WARNING, "Nucleus lite writes a JSON number with 17 decimals.",
         "Write it as a text in quotes, and read it as a number in code.", decimal),
    Rule("object-interpolated", _BOTH, _WARNING, "A list or mapping becomes JSON text, full of quotes and braces.",
         "Ask for single values, or read the configuration over IPC.", whole_object),
    Rule("unquoted-variable", _BOTH, _WARNING,
         "A value with a space or a semicolon becomes several words or another command.",
         "Put it in single quotes: '{configuration:/KEY}'.", unquoted_value),
    Rule("yaml-scalar", _LITE, _WARNING,
         "In a YAML recipe nucleus lite makes every value a text, so code meets two types.",
         'Write it in quotes, and read it as number or boolean in code.', scalar),
    Rule("fixed-root", _BOTH, _ERROR,
         "Nucleus lite lives in /var/lib/greengrass with gg-ipc.socket, classic in /greengrass/v2 with ipc.socket.",
         "Use {artifacts:path}, {work:path}, {kernel:rootPath}, or the environment, which names the socket.",
         fixed_root),
    Rule("bash-only", _BOTH, _WARNING, "Scripts run by sh, which is dash on Debian and Ubuntu.",
         "Write it in the words of POSIX sh, or start bash with a script file of an artifact.", bash),
    Rule("pip-index", _BOTH, _WARNING, "A device has no package index in the field, and gets what lies there that day.",
         "Bring the wheels as an artifact and write --no-index --find-links FOLDER.", index),
    Rule("download", _BOTH, _WARNING, "A device may have no internet, and gets what lies there that day.",
         "Bring the file as an artifact.", download),
    Rule("venv-with-pip", _BOTH, _WARNING, "Ubuntu's and JetPack's Python come without ensurepip, so this fails there.",
         "Write python3 -m venv --without-pip, and run pip from its wheel.", ensurepip),
    Rule("setenv", _BOTH, _ERROR, "Setenv holds names of variables and a text for each.",
         "Correct the name, or put the value into one text.", setenv_text),
)  # fmt: skip
