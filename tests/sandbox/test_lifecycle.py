"""Up, down, twice, and after kill -9."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridge_cloud.aws import session
from hybridge_cloud.sandbox import lifecycle, processes, provision, things
from hybridge_cloud.sandbox.folder import Ports, Recorded, SandboxFolder, State
from hybridge_cloud.sandbox.lifecycle import RunningSandbox, running
from hybridge_edge.contract.errors import Refused


@pytest.fixture
def folder() -> Iterator[SandboxFolder]:
    with tempfile.TemporaryDirectory(prefix="hyb") as made:
        yield SandboxFolder(Path(made))


def hybridge(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from hybridge_cloud.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_up_again_says_so_and_succeeds(sandbox: RunningSandbox) -> None:
    done = hybridge("sandbox", "up", "--dir", str(sandbox.folder.root))
    assert done.returncode == 0
    assert "up already" in done.stdout


def test_status_and_env_tell_what_runs_and_where(sandbox: RunningSandbox) -> None:
    told = json.loads(hybridge("sandbox", "status", "--json", "--dir", str(sandbox.folder.root)).stdout)
    assert told["up"]
    assert set(told["pids"]) == {"keeper", "account", "control"}
    lines = hybridge("sandbox", "env", "--dir", str(sandbox.folder.root)).stdout
    assert f"export AWS_ENDPOINT_URL_GREENGRASSV2=http://127.0.0.1:{sandbox.ports.control}\n" in lines
    written = sandbox.folder.environment_file.read_text()
    assert dict(line.split("=", 1) for line in written.splitlines()) == sandbox.environment


def test_a_second_sandbox_in_a_folder_that_is_starting_is_refused_in_one_sentence(folder: SandboxFolder) -> None:
    folder.make()
    with folder.lock_file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = hybridge("sandbox", "up", "--dir", str(folder.root))
    assert done.returncode == 1
    assert f"Another sandbox is running, starting or stopping in {folder.root}." in done.stderr
    assert "Traceback" not in done.stderr
    assert not folder.state_file.exists()


def test_a_kept_port_that_another_program_took_is_named(folder: SandboxFolder) -> None:
    folder.make()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        free = processes.free_ports()
        folder.write(State(Ports(free.account, free.control, port)))
        done = hybridge("sandbox", "up", "--dir", str(folder.root))
    assert done.returncode == 1
    assert f"Port {port}, which this sandbox uses for mqtt, is taken by another program." in done.stderr
    assert "Traceback" not in done.stderr
    assert not lifecycle.status(folder).processes


def test_down_of_what_is_not_up_is_fine_and_a_device_needs_a_sandbox(folder: SandboxFolder) -> None:
    assert hybridge("sandbox", "down", "--dir", str(folder.root)).returncode == 0
    done = hybridge("sandbox", "device", "add", "one", "--fleet", "f", "--dir", str(folder.root))
    assert done.returncode == 1
    assert "Start it with 'hybridge sandbox up'." in done.stderr


def test_a_state_file_that_is_none_is_refused_in_one_sentence(folder: SandboxFolder) -> None:
    folder.state_file.write_text('{"format": 9}')
    done = hybridge("sandbox", "up", "--dir", str(folder.root))
    assert done.returncode == 1
    assert "has format 9" in done.stderr
    assert "Traceback" not in done.stderr


def source_zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("source.txt", "from the archive\n")
    return packed.getvalue()


def start_slow_pipeline(codepipeline: Any, bucket: str, result: Path) -> tuple[str, str]:
    variables = json.dumps([{"name": "RESULT", "value": str(result)}])
    kinds = [("Source", "S3"), ("Build", "CodeBuild")]
    fetch, build = (
        {"category": category, "owner": "AWS", "provider": provider, "version": "1"} for category, provider in kinds
    )
    pipeline = {
        "name": "slow-pipeline",
        "roleArn": "arn:aws:iam::000000000000:role/pipeline",
        "artifactStore": {"type": "S3", "location": bucket},
        "pipelineType": "V2",
        "executionMode": "QUEUED",
        "stages": [
            {
                "name": "source",
                "actions": [
                    {
                        "name": "fetch",
                        "actionTypeId": fetch,
                        "configuration": {"S3Bucket": bucket, "S3ObjectKey": "source.zip"},
                        "outputArtifacts": [{"name": "code"}],
                    }
                ],
            },
            {
                "name": "build",
                "actions": [
                    {
                        "name": "slow",
                        "actionTypeId": build,
                        "configuration": {"ProjectName": "slow", "EnvironmentVariables": variables},
                        "inputArtifacts": [{"name": "code"}],
                    }
                ],
            },
        ],
    }
    codepipeline.create_pipeline(pipeline=pipeline)
    execution = codepipeline.start_pipeline_execution(name="slow-pipeline")["pipelineExecutionId"]
    assert processes.wait_until(result.exists, 20)
    return "slow-pipeline", execution


def test_everything_killed_at_once_is_recovered_by_up_and_ended_by_down(
    folder: SandboxFolder,
    buildspecs: Path,
    make_clients: Callable[[RunningSandbox], Callable[[str], Any]],
    make_recipe: Callable[..., bytes],
    device_type: Any,
    tmp_path: Path,
) -> None:
    with running(folder.root, str(buildspecs)) as sandbox:
        client = make_clients(sandbox)
        greengrass, codepipeline, s3 = client("greengrassv2"), client("codepipeline"), client("s3")
        with session.using(sandbox.environment):
            things.ensure_fleet("fleet")
        uri = f"s3://{sandbox.bucket}/components/tests.Kept/a"
        s3.put_object(Bucket=sandbox.bucket, Key="components/tests.Kept/a", Body=b"artifact")
        s3.put_object(Bucket=sandbox.bucket, Key="source.zip", Body=source_zip())
        arn = greengrass.create_component_version(inlineRecipe=make_recipe("tests.Kept", "1.0.0", uri))["arn"]
        deployment = greengrass.create_deployment(
            targetArn="arn:aws:iot:us-east-1:000000000000:thinggroup/fleet-r0",
            components={"tests.Kept": {"componentVersion": "1.0.0"}},
        )["deploymentId"]
        pipeline, execution = start_slow_pipeline(codepipeline, sandbox.bucket, tmp_path / "began")

        killed = list(lifecycle.status(folder).processes.values())
        for process in killed:
            os.kill(process.pid, signal.SIGKILL)
        os.waitpid(next(iter(lifecycle_children(killed))), 0)
        assert processes.wait_until(lambda: not any(processes.alive(process) for process in killed), 10)
        assert not lifecycle.status(folder).up

        assert lifecycle.up(folder)  # with the build folder it was started with
        again = folder.read()
        assert again is not None
        assert again.ports == sandbox.ports
        assert greengrass.describe_component(arn=arn)["status"]["componentState"] == "DEPLOYABLE"
        assert greengrass.get_deployment(deploymentId=deployment)["deploymentStatus"] == "ACTIVE"
        ended = codepipeline.get_pipeline_execution(pipelineName=pipeline, pipelineExecutionId=execution)
        assert ended["pipelineExecution"]["status"] == "Failed"
        assert "was killed" in ended["pipelineExecution"]["statusSummary"]
        assert s3.get_object(Bucket=sandbox.bucket, Key="components/tests.Kept/a")["Body"].read() == b"artifact"
        key = f"devices/thing/batches/watch/{uuid.uuid4().hex}.json"
        s3.put_object(Bucket=sandbox.bucket, Key=key, Body=b"{}")
        sqs = client("sqs")
        queue = sqs.get_queue_url(QueueName=provision.QUEUE)["QueueUrl"]
        assert key in sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=10)["Messages"][0]["Body"]
        joined = device_type(sandbox, tmp_path, "fleet")  # the groups it joins were forgotten by the account
        assert joined.next()[1]["document"]["deploymentId"] == deployment

        left = list(lifecycle.status(folder).processes.values())
        assert len(left) == 3
        assert hybridge("sandbox", "down", "--dir", str(folder.root)).returncode == 0
        assert not any(processes.alive(process) for process in left)
        assert build_processes(tmp_path / "began") == []
        assert hybridge("sandbox", "status", "--dir", str(folder.root)).returncode == 1


def lifecycle_children(killed: list[Any]) -> set[int]:
    """Those of some processes whose parent we are."""
    return {
        process.pid
        for process in killed
        if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1] == str(os.getpid())
    }


def build_processes(result: Path) -> list[str]:
    """Command lines of processes that have the build's variable in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"RESULT={result}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_text())
            except OSError:
                continue
    return found


def accounts(folder: SandboxFolder) -> list[Recorded]:
    """The embedded account's process, also while nobody has written it down yet."""
    found = []
    for process in processes.belonging(folder):
        try:
            if b"loopback.py" in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                found.append(process)
        except OSError:
            continue
    return found


def test_a_service_that_dies_is_started_again_with_what_it_held(
    sandbox: RunningSandbox, client: Any, make_recipe: Any
) -> None:
    name = f"tests.Survivor{uuid.uuid4().hex[:8]}"
    arn = client("greengrassv2").create_component_version(inlineRecipe=make_recipe(name, "1.0.0"))["arn"]
    before = lifecycle.status(sandbox.folder).processes
    for service in ("control", "account"):
        os.kill(before[service].pid, signal.SIGKILL)
    assert processes.wait_until(lambda: accounts(sandbox.folder) not in ([], [before["account"]]), 30)
    (second,) = accounts(sandbox.folder)
    os.kill(second.pid, signal.SIGKILL)  # and once more, while it comes back

    def replaced() -> bool:
        now = lifecycle.status(sandbox.folder).processes
        known = {*before.values(), second}
        return all(service in now and now[service] not in known for service in ("control", "account"))

    assert processes.wait_until(replaced, 60)
    ready = f"http://127.0.0.1:{sandbox.ports.control}/sandbox/ready"
    assert processes.wait_until(lambda: _answers(ready), 20)
    assert client("greengrassv2").describe_component(arn=arn)["componentName"] == name
    assert client("sqs").get_queue_url(QueueName=provision.QUEUE)["QueueUrl"]


def _answers(url: str) -> bool:
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_running_refuses_a_folder_that_is_locked(folder: SandboxFolder) -> None:
    folder.make()
    with folder.lock_file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Refused), running(folder.root):
            pass


def test_a_sandbox_of_a_program_that_is_killed_ends_with_it(folder: SandboxFolder) -> None:
    program = f"""
import os, signal
from pathlib import Path
from hybridge_cloud.sandbox.lifecycle import running
with running(Path({str(folder.root)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert processes.wait_until(lambda: lifecycle.status(folder).state == "down", 20)
    assert not lifecycle.status(folder).processes
