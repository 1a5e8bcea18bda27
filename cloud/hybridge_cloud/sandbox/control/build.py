"""A CodeBuild project run as a process: its buildspec's phases in bash, in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from hybridge_cloud.sandbox import logs, processes
from hybridge_cloud.sandbox.folder import Recorded

TIMEOUT_SECONDS = 3600
"""CodeBuild's default."""
SOURCE_LIMIT_BYTES = 1 << 30
"""How large a source may be once it is unpacked."""
KILL_GRACE_SECONDS = 10
SUMMARY_CHARACTERS = 1000
LOG_TAIL_BYTES = 4096
_PHASES = ("install", "pre_build", "build")


class BuildFailed(Exception):
    """The build did not succeed; the message is what an action's summary shows."""


@dataclass(frozen=True, slots=True)
class Project:
    """A buildspec, version 0.2.

    Args:
        variables: env.variables. phases: (name, commands) of install, pre_build and build. post: post_build's commands.
    """

    variables: dict[str, str]
    phases: tuple[tuple[str, tuple[str, ...]], ...]
    post: tuple[str, ...]


def load(path: Path) -> Project:
    """Read a project's buildspec.

    Raises:
        BuildFailed: there is none, or it is not of version 0.2.
    """
    try:
        document = yaml.safe_load(path.read_bytes())
        if str(document["version"]) != "0.2":
            raise BuildFailed(f"{path.name} is not a buildspec of version 0.2.")
        phases = document["phases"]
        unknown = set(phases) - {*_PHASES, "post_build"}
        if unknown:
            raise BuildFailed(f"{path.name} has phases that CodeBuild does not know: {', '.join(sorted(unknown))}.")
        variables = {str(key): str(value) for key, value in (document.get("env", {}).get("variables") or {}).items()}
        listed = tuple(
            (name, tuple(str(one) for one in phases[name]["commands"])) for name in _PHASES if name in phases
        )
        return Project(variables, listed, tuple(str(one) for one in phases.get("post_build", {}).get("commands", ())))
    except FileNotFoundError:
        raise BuildFailed(f"There is no build project {path.stem}: {path} does not exist.") from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise BuildFailed(f"{path.name} is not a buildspec: {error!r}.") from None


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a source archive; nothing of it may land outside ``folder``.

    Raises:
        BuildFailed: it is no zip, too large, or names a path outside.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            if sum(entry.file_size for entry in source.infolist()) > SOURCE_LIMIT_BYTES:
                raise BuildFailed(f"The source is larger than {SOURCE_LIMIT_BYTES >> 20} MiB once unpacked.")
            for entry in source.infolist():
                if not (folder / entry.filename).resolve().is_relative_to(folder.resolve()):
                    raise BuildFailed(f"The source holds {entry.filename!r}, a path outside the build's folder.")
            source.extractall(folder)
    except zipfile.BadZipFile:
        raise BuildFailed("The source is not a zip archive, which CodeBuild needs.") from None


def run(
    project: Project,
    folder: Path,
    variables: dict[str, str],
    log: Path,
    began: Callable[[Recorded], None],
    stopping: Callable[[], bool],
) -> None:
    """Run the phases in ``folder/src``; ``post_build`` runs too once ``build`` was reached, as CodeBuild does it.

    Args:
        folder: the build's own, with its source in ``src``. variables: the action's, which win over the project's.
        log: where both outputs go. began: told each process, so that it can be found after kill -9.
        stopping: whether the service is going down.

    Raises:
        BuildFailed: a command failed, time ran out, or the service stops.
    """
    source, reached, exported = folder / "src", folder / "reached-build", folder / "exported"
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    environment = {**kept, "PATH": path, **project.variables, **variables, "CODEBUILD_SRC_DIR": str(source)}
    lines = [f"trap 'export -p > \"{exported}\"' EXIT"]
    for phase, commands in project.phases:
        lines += [f": > '{reached}'"] if phase == "build" else []
        lines += [f"echo '[Container] Entering phase {phase}'", *commands]
    failure = _bash("\n".join(lines), source, environment, log, began, stopping)
    if project.post and reached.exists():
        environment["CODEBUILD_BUILD_SUCCEEDING"] = "0" if failure else "1"
        lines = [f"source '{exported}'", "echo '[Container] Entering phase post_build'", *project.post]
        afterwards = _bash("\n".join(lines), source, environment, log, began, stopping)
        failure = failure or afterwards
    if failure:
        raise BuildFailed(failure)


def _bash(
    script: str,
    folder: Path,
    environment: dict[str, str],
    log: Path,
    began: Callable[[Recorded], None],
    stopping: Callable[[], bool],
) -> str:
    """Run a script with ``bash -eu``; returns why it failed, or ""."""
    descriptor = logs.open_log(log)
    try:
        child = subprocess.Popen(
            ["bash", "-eu", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    if (process := processes.recorded(child.pid)) is not None:
        began(process)
    try:
        ended = processes.wait_until(lambda: child.poll() is not None or stopping(), TIMEOUT_SECONDS)
        if child.poll() is not None:
            return "" if child.returncode == 0 else f"Exit code {child.returncode}. {_tail(log)}"[:SUMMARY_CHARACTERS]
        return "The sandbox was stopped while the build ran." if ended else f"No end within {TIMEOUT_SECONDS} s."
    finally:
        end_session(child.pid)
        child.wait()


def end_session(leader: int) -> None:
    """End a build's whole process group, which its first process leads."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(leader, number)
        except ProcessLookupError:
            return
        if processes.wait_until(lambda: not _group_lives(leader), KILL_GRACE_SECONDS):
            return


def _group_lives(leader: int) -> bool:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == leader and fields[0] not in "ZX":
            return True
    return False


def _tail(log: Path) -> str:
    """The last lines of a log, for the summary a person reads first."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return " | ".join(line.strip() for line in lines[-3:])
