"""docs/device-setup.md: its commands parse by the real parsers, its enrolments are run, its files go where they say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from hybridge_cloud.cli import application, main
from hybridge_cloud.fleet.nucleus import Nucleus, places
from hybridge_cloud.signing import generate_key
from hybridge_edge import cli as edge_cli

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "device-setup.md").read_text()
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def blocks(kind: str) -> list[str]:
    """The page's fenced blocks of one info string, also those inside a list, in order."""
    found = re.findall(r"^( *)```([^\n]*)\n(.*?)^ *```", PAGE, re.M | re.S)
    return [re.sub(f"^{indent}", "", body, flags=re.M) for indent, info, body in found if info == kind]


def lines(kind: str) -> list[str]:
    return [line for block in blocks(kind) for line in block.splitlines() if line.strip()]


FOR_AWS, ON_DEVICE = lines("sh aws"), lines("sh device")
EDGE = [line[line.index("hybridge-edge") :] for line in ON_DEVICE if "hybridge-edge " in line] + re.findall(
    r"^ExecStart=\S+/(hybridge-edge .*)$", PAGE, re.M
)


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command that click finds for ``hybridge WORDS``, its arguments read and nothing run."""
    monkeypatch.setattr("sys.argv", ["hybridge", *words])
    command: Any = typer.main.get_command(application.build())  # type: ignore[arg-type]
    name, context, rest = "hybridge", None, words
    while hasattr(command, "resolve_command"):
        context = command.make_context(name, rest, parent=context)
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    return command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("line", FOR_AWS)
def test_each_command_for_the_account_is_one_that_exists_and_its_options_are_read(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(line)
    if words[0] == "hybridge":
        assert parsed(words[1:], monkeypatch).command is not None
    elif words[0] == "aws":
        assert (ROOT / words[words.index("--template-file") + 1]).exists()
    else:
        assert words[0] == "export"


def test_the_parser_sees_a_command_and_an_option_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (["fleet", "enrol", "x"], ["fleet", "enroll", "x", "--fleet", "f", "--out", "o", "--nuclues", "lite"]):
        with pytest.raises(Exception, match=r"(?i)no such (command|option)"):
            parsed(wrong, monkeypatch)


@pytest.mark.parametrize("line", EDGE)
def test_each_hybridge_edge_of_the_page_is_read_by_its_own_parser(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *words = shlex.split(line)[1:]
    if name == "--version":
        return
    module = __import__(edge_cli._COMMANDS[name][0], fromlist=["run"])
    read: list[Any] = []
    monkeypatch.setattr(module, "run", lambda arguments: read.append(arguments) or 0)
    assert edge_cli.main([name, *words]) == 0
    assert read[0].command == name


def test_every_command_on_the_device_is_one_that_sh_understands() -> None:
    assert len(ON_DEVICE) > 20
    for script in blocks("sh device"):
        checked = subprocess.run(["sh", "-n", "-c", script], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{script}{checked.stderr}"


@pytest.mark.parametrize("nucleus", Nucleus)
def test_the_enrolments_run_and_their_files_are_copied_where_they_belong(
    nucleus: Nucleus,
    sandbox: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "try" / "keys").mkdir(parents=True)
    generate_key(tmp_path / "try" / "keys" / "signing-key.pem", tmp_path / "try" / "keys" / "trust.json")
    (enroll,) = [
        line for line in FOR_AWS if line.startswith("hybridge fleet enroll") and f"--nucleus {nucleus.value}" in line
    ]
    (create,) = [line for line in FOR_AWS if line.startswith("hybridge fleet create")]
    thing, fleet = shlex.split(enroll)[3], f"watches-{nucleus.value}"
    for line in (create, enroll, enroll):  # enrolling can be repeated
        monkeypatch.setattr(sys, "argv", shlex.split(re.sub(r"\bwatches\b", fleet, line)))
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, capsys.readouterr().err
    assert f"{thing} is in ring 0 of {fleet} ({fleet}-r0)." in capsys.readouterr().out
    copied = re.findall(rf"install -D -o (\w+) -g (\w+) -m (\d+) {thing}/(\S+) (\S+)", PAGE)
    said = {(file, path, f"{owner}:{group}", mode) for owner, group, mode, file, path in copied}
    assert said == {(one.file, one.path, one.owner, one.mode) for one in places(nucleus, trusting=True)}
    assert all((tmp_path / "enrolled" / thing / file).is_file() for file, *_ in said)


def test_no_page_names_a_version_of_our_components_that_the_checkout_may_have_left() -> None:
    written = re.compile(r"(?:InferenceServer|SensorPipeline|SampleUplink)@\d")
    assert written.search("hybridge deploy InferenceServer@1.0.0")
    for path in DOCUMENTS:
        assert not written.search(path.read_text()), path


def test_what_the_page_links_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
