"""Rules of lifecycle steps: what each nucleus does with them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

from hybridge_cloud.recipes.document import Table
from hybridge_cloud.recipes.recipe import Recipe
from hybridge_cloud.recipes.rule import Hit, Nucleus, Rule, Severity
from hybridge_cloud.recipes.shell import Command, commands

INSTALL_SECONDS = 120
_INTERPRETERS = re.compile(r"(?:python|node|java|ruby|perl|dotnet|gunicorn|uvicorn|mosquitto|nginx)[\d.]*")
_LONG_SLEEP_SECONDS = 60
_TRAP = re.compile(r"\btrap\b[^\n]*\b(?:SIG)?TERM\b|\btrap\b[^\n]*\s15\b")
_IGNORED = ("shutdown", "recover")
_ACCOUNTS = ("useradd", "adduser", "groupadd", "addgroup")


def empty(recipe: Recipe) -> Iterator[Hit]:
    if recipe.root.find("Lifecycle") is not None:
        return
    for manifest in recipe.manifests:
        if manifest.is_for_linux and not any(step.name not in _IGNORED for step in manifest.steps):
            yield Hit(manifest.line, "a manifest has no lifecycle step that lite runs")


def script_missing(recipe: Recipe) -> Iterator[Hit]:
    for _, step in recipe.steps:
        if (step.table is not None and step.script is None) or (step.script is not None and not step.script.value):
            yield Hit(step.line, f"the {step.name} step has no Script")


def timeout_missing(recipe: Recipe) -> Iterator[Hit]:
    for _, step, _ in recipe.step("install"):
        if step.table is None or step.table.find("Timeout") is None:
            yield Hit(step.line, "install has no Timeout")


def timeout_value(recipe: Recipe) -> Iterator[Hit]:
    for _, step in recipe.steps:
        found = step.table.text("Timeout") if step.table is not None else None
        if found is not None and not _is_seconds(found.value):
            yield Hit(found.line, f"the Timeout of {step.name} is {found.value[:40]!r}")


def _is_seconds(text: str) -> bool:
    try:
        seconds = float(text)
    except ValueError:
        return False
    return math.isfinite(seconds) and seconds > 0 and seconds == int(seconds)


def idempotent(recipe: Recipe) -> Iterator[Hit]:
    for _, step, script in recipe.step("install"):
        for command in commands(script):
            why = _fails_again(command)
            if why and command.end != "||" and step.script is not None:
                yield Hit(recipe.line_of(step.script, command.offset, len(command.name)), why)


def _fails_again(command: Command) -> str:
    """Why a command that worked once fails or does harm when it runs again; "" where nothing shows it."""
    flags = "".join(word.lstrip("-") for word in command.arguments[1:] if word.startswith("-") and word[:2] != "--")
    long = {word for word in command.arguments if word.startswith("--")}
    if command.program == "mkdir" and "p" not in flags and "--parents" not in long:
        return "'mkdir' without -p fails where the folder is there"
    if command.program == "ln" and "f" not in flags and "--force" not in long:
        return "'ln' without -f fails where the link is there"
    if command.program == "git" and "clone" in command.arguments:
        return "'git clone' fails where the folder is there"
    if command.program in _ACCOUNTS:
        return f"{command.program!r} fails where the account is there"
    return "a file grows with every run of install (>>)" if command.appends else ""


def startup(recipe: Recipe) -> Iterator[Hit]:
    for _, step, script in recipe.step("startup"):
        last = [command.words for command in commands(script)[-2:]]
        if len(last) < 2 or last[0][0] != "systemd-notify" or "--ready" not in last[0] or last[1] != ("exit", "0"):
            yield Hit(step.line, "startup does not end with `systemd-notify --ready; exit 0`")


def present(name: str) -> Callable[[Recipe], Iterator[Hit]]:
    """A rule of recipes that have a step of that name at all."""

    def check(recipe: Recipe) -> Iterator[Hit]:
        for _, step in recipe.steps:
            if step.name == name:
                yield Hit(step.line, f"there is a {name} step")

    return check


def skip_if(recipe: Recipe) -> Iterator[Hit]:
    for _, step in recipe.steps:
        found = step.table.find("Skipif") if step.table is not None else None
        if found is not None:
            yield Hit(found.line, f"the {step.name} step has a Skipif")


def privilege(recipe: Recipe) -> Iterator[Hit]:
    for _, step in recipe.steps:
        found = step.table.text("RequiresPrivilege") if isinstance(step.table, Table) else None
        if found is not None and found.value.lower() not in ("false", ""):
            yield Hit(found.line, f"the {step.name} step runs as root")


def shell_stays(recipe: Recipe) -> Iterator[Hit]:
    for _, step, script in recipe.step("run"):
        found = commands(script)
        if not found or _TRAP.search(script) or step.script is None:
            continue
        last = found[-1]
        if last.words[0] != "exec" and last.end != "&" and _stays(last):
            line = recipe.line_of(step.script, last.offset, len(last.words[0]))
            yield Hit(line, f"{last.program[:40]!r} runs below a shell that nobody told of SIGTERM")


def _stays(command: Command) -> bool:
    """Whether a command is by its name one that serves, or a program of the component."""
    name = command.name
    if command.program == "sleep":
        given = command.arguments[1] if len(command.arguments) > 1 else ""
        return given == "infinity" or (given.isdigit() and int(given) >= _LONG_SLEEP_SECONDS)
    if _INTERPRETERS.fullmatch(command.program):
        return "-c" not in command.arguments
    return name.startswith(("./", "{", "/opt/")) and "/" in name


def background(recipe: Recipe) -> Iterator[Hit]:
    for _, step, script in recipe.step("run"):
        found = commands(script)
        if found and found[-1].end == "&" and step.script is not None:
            line = recipe.line_of(step.script, found[-1].offset, len(found[-1].words[0]))
            yield Hit(line, f"{found[-1].program[:40]!r} is left in the background when the script ends")


_LITE, _BOTH = Nucleus.LITE, Nucleus.BOTH
_ERROR, _WARNING = Severity.ERROR, Severity.WARNING

RULES = (
    Rule("lifecycle-empty", _LITE, _ERROR, "Nucleus lite refuses a component without a lifecycle step.",
         "Write a run step; `exit 0` will do, and counts as FINISHED.", empty),
    Rule("step-script", _BOTH, _ERROR, "A step without a script does nothing; nucleus lite refuses it.",
         "Write its Script as a text, or leave the step out.", script_missing),
    Rule("install-timeout", _BOTH, _WARNING,
         f"An install step is ended after {INSTALL_SECONDS} s by default, which a slow SD card takes for less.",
         "Write Timeout in seconds: several times what it takes.", timeout_missing),
    Rule("timeout-value", _BOTH, _ERROR, "A Timeout is a whole number of seconds above 0.",
         "Write the number alone, such as Timeout: 900.", timeout_value),
    Rule("install-idempotent", _BOTH, _WARNING,
         "install is tried three times on lite, and runs again whenever the configuration changes.",
         "Write it so that a second run does nothing: mkdir -p, ln -sfn, a check before.", idempotent),
    Rule("startup", _LITE, _ERROR,
         "On systemd below 253 (Debian 12, JetPack 5 and 6) nucleus lite takes such a startup for BROKEN.",
         "Use run, or end the script with these two commands.", startup),
    Rule("shutdown-ignored", _LITE, _WARNING, 
         "Nucleus lite does not run it, and stops with SIGTERM, then SIGKILL after 120 s.",
         "Clean up in the program itself when SIGTERM comes.", present("shutdown")),
    Rule("recover-ignored", _LITE, _WARNING, "Nucleus lite does not run it.",
         "Have the run step itself put things right when it starts.", present("recover")),
    Rule("skipif-ignored", _LITE, _ERROR, "Nucleus lite runs the step anyway.",
         "Test for it at the beginning of the script.", skip_if),
    Rule("bootstrap", _LITE, _ERROR, "Nucleus lite reboots the device after it.",
         "Do it in install, where no reboot is needed.", present("bootstrap")),
    Rule("requires-privilege", _BOTH, _WARNING, "Whoever takes this script over owns the device.",
         "Prepare at provisioning what needs root, or give gg_component a group (video, render).", privilege),
    Rule("run-exec", _BOTH, _WARNING,
         "A nucleus stops a component with SIGTERM; a shell in between does not hand it on, and SIGKILL follows.",
         "Write exec before it, or trap TERM in the script.", shell_stays),
    Rule("run-background", _BOTH, _WARNING,
         "The step counts as FINISHED at once, and nobody restarts the process it left.",
         "Leave the & out and write exec before it, or wait for it at the end.", background),
)  # fmt: skip
