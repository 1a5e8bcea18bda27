"""The README's commands: the local ones are run in its order, those for AWS are parsed and their options looked up."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SECONDS = 420


def blocks(kind: str) -> list[str]:
    """The README's fenced blocks of one info string, in order."""
    return [body for info, body in re.findall(r"^```([^\n]*)\n(.*?)^```", README, re.M | re.S) if info == kind]


def journey() -> str:
    """The local commands as one shell script: sh blocks as they stand, Python blocks through the interpreter."""
    parts = ["set -euo pipefail -m", "trap 'jobs -p | xargs -r kill' EXIT"]
    for info, body in re.findall(r"^```(sh|python)\n(.*?)^```", README, re.M | re.S):
        parts.append(body if info == "sh" else f"python - <<'PYTHON'\n{body}PYTHON")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return "\n".join(parts).replace("18001", str(free.getsockname()[1]))


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder that looks like the checkout to the README's commands; what they leave running is ended."""
    for name in ("examples", "cloud", "recipes", "components", "edge", "locks"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "HYBRIDGE_")) or "CACHE" in key
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    yield tmp_path, environment
    subprocess.run(
        [Path(sys.executable).parent / "hybridge", "sandbox", "down", "--dir", str(tmp_path / "try" / "sandbox")],
        env=environment,
        check=False,
        capture_output=True,
    )


@pytest.mark.system
@pytest.mark.timeout(SECONDS + 30)
def test_every_local_command_of_the_readme_works_in_its_order(workplace: tuple[Path, dict[str, str]]) -> None:
    folder, environment = workplace
    (folder / "try").mkdir()
    done = subprocess.run(
        ["bash", "-c", journey()],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    server = folder / "try" / "server.log"
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{server.read_text() if server.exists() else ''}"
    assert "watch 1.0.0  ACTIVE" in done.stdout
    assert "1 devices done" in done.stdout


def test_the_two_commands_stand_in_the_readme_and_exist() -> None:
    (first, *_) = blocks("")
    named = re.findall(r"^(scripts/\w+)", first, re.M)
    assert named == ["scripts/demo", "scripts/test"]
    assert all(os.access(ROOT / name, os.X_OK) for name in named)


@pytest.mark.parametrize("line", [line for block in blocks("sh aws") for line in block.splitlines() if line.strip()])
def test_each_command_for_aws_parses_and_its_options_exist(line: str) -> None:
    words = shlex.split(line)
    options = {word for word in words if word.startswith("--")}
    if words[0] == "aws":
        assert words[1:3] == ["cloudformation", "deploy"]
        assert options <= {"--template-file", "--stack-name", "--capabilities"}
        template = (ROOT / words[words.index("--template-file") + 1]).read_text()
        assert "AWSTemplateFormatVersion" in yaml.load(template, Loader=yaml.BaseLoader)
    elif words[0] == "hybridge":
        verbs = [word for word in words[1:3] if re.fullmatch(r"[a-z]+", word) and not (ROOT / word).exists()]
        helped = subprocess.run(
            [Path(sys.executable).parent / "hybridge", *verbs[:2], "--help"],
            env={**os.environ, "COLUMNS": "200", "TERM": "dumb"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert helped.returncode == 0, helped.stderr
        assert all(option in helped.stdout for option in options)
    else:
        assert words[0] == "export"


def test_files_and_folders_that_the_readme_links_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
