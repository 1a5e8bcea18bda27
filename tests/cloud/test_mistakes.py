"""What a person gets for a mistake: one sentence that says what to do, exit code 1 or 2, nothing half-written."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.cli import application

WATCH = Path(__file__).resolve().parents[2] / "examples" / "watch"
Command = Callable[..., int]
COMMANDS = sorted((*application._GROUPS, *application._COMMANDS))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with a cache of its own."""
    monkeypatch.setenv("HYBRIDGE_CACHE", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def said(hybridge: Command, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command that must fail with one line of ours; returns its exit code and that line."""

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = hybridge(*arguments)
        errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("epoch ")]
        assert len(errors) == 1, errors
        assert errors[0].startswith("hybridge: ")
        return code, errors[0]

    return run


Said = Callable[..., tuple[int, str]]


def fresh(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [str(Path(sys.executable).parent / "hybridge"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_without_arguments_it_shows_its_help_and_with_version_its_version() -> None:
    alone, asked = fresh(), fresh("--help")
    assert alone.returncode == 2
    assert asked.returncode == 0
    for name in COMMANDS:
        assert f" {name} " in asked.stdout
        assert f" {name} " in alone.stdout + alone.stderr
    version = fresh("--version")
    assert (version.returncode, version.stdout.count(".")) == (0, 2)


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom hybridge_cloud.cli import main\n"
        "sys.argv = ['hybridge', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'boto3', 'botocore', 'onnx', 'onnxruntime', 'matplotlib'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, hybridge: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert hybridge(name, "--help") == 0
    assert "Usage: hybridge" in capsys.readouterr().out


def own_project(here: Path, file: str, old: str, new: str) -> Path:
    """The example with one thing changed, trained for one epoch."""
    project = Path(shutil.copytree(WATCH, here / "own", ignore=shutil.ignore_patterns("__pycache__")))
    settings = project / "project.toml"
    settings.write_text(settings.read_text().replace("epochs = 30", "epochs = 1"))
    text = (project / file).read_text()
    assert old in text
    (project / file).write_text(text.replace(old, new))
    return project


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("project.toml", "learning_rate = 0.002", "learning_rate = -1.0", "learning_rate"),
        ("project.toml", "weight_decay = 0.01", "weight_decay = -1.0", "weight_decay"),
        ("project.toml", 'metric = "accuracy"', 'metric = "beauty"', "no metric 'beauty'"),
        ("splits.json", "[\n", "[[\n", "task.py, line"),
        ("task.py", "class WatchTask", "raise ValueError('boom')\nclass WatchTask", "ValueError: boom"),
        ("task.py", "return nn.Sequential(", "return nothing(", "task.py, line"),
        ("task.py", "nn.Linear(width, following)", "nn.Linear(width + 1, following)", "shapes cannot be multiplied"),
    ],
)
def test_a_mistake_in_a_project_is_named_with_its_place(
    file: str, old: str, new: str, sentence: str, here: Path, said: Said
) -> None:
    code, line = said("train", own_project(here, file, old, new), "--out", here / "run")
    assert code == 1
    assert sentence in line
    assert [path.name for path in here.iterdir()] == ["own"]


def test_the_whole_trace_is_there_for_who_asks(
    here: Path, hybridge: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYBRIDGE_TRACEBACK", "1")
    project = own_project(here, "task.py", "class WatchTask", "raise ValueError('boom')\nclass WatchTask")
    assert hybridge("train", project, "--out", here / "run") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["2147483648", "99999999999999999999"])
def test_a_seed_that_no_generator_takes_is_a_usage_error(seed: str, here: Path, said: Said) -> None:
    code, line = said("train", WATCH, "--out", here / "run", "--seed", seed)
    assert (code, seed in line) == (2, True)
    assert list(here.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_before_training(here: Path, said: Said) -> None:
    (here / "file").write_text("")
    code, line = said("train", WATCH, "--out", here / "file" / "run")
    assert code == 1
    assert "cannot be made" in line


@pytest.mark.parametrize(
    "command",
    [
        ("fleet", "list"),
        ("fleet", "create", "f"),
        ("deploy", "watch@1.0.0", "--fleet", "f"),
        ("labels", "export", "--model", "watch"),
        ("retrain", "status", "--model", "watch"),
        ("retrain", "gate", "--model", "watch", "--pipeline", "p", "--once"),
    ],
    ids=" ".join,
)
def test_without_a_bucket_credentials_or_anybody_who_answers(
    command: tuple[str, ...], said: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "HYBRIDGE_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith("AWS_ENDPOINT_URL")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    code, line = said(*command)
    assert (code, "HYBRIDGE_BUCKET is not set." in line) == (2, True)
    monkeypatch.setenv("HYBRIDGE_BUCKET", "bucket")
    code, line = said(*command)
    assert (code, "Unable to locate credentials." in line) == (2, True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with socket.socket() as taken:  # bound and never listening: nobody answers, and nobody else can take the port
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        code, line = said(*command)
    assert (code, "does not answer at AWS_ENDPOINT_URL=" in line) == (1, True)


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("AWS_ENDPOINT_URL", "foo", "Invalid endpoint: foo"),
        ("HYBRIDGE_BUCKET", "a b/c", "Invalid bucket name"),
        ("AWS_PROFILE", "nobody", "profile (nobody) could not be found"),
    ],
)
def test_a_wrong_variable_is_named_for_what_it_is(
    variable: str, value: str, sentence: str, said: Said, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    code, line = said("fleet", "list")
    assert code == 2
    assert sentence in line


def test_what_the_account_does_not_have_is_named(said: Said, bucket: Bucket, here: Path, hybridge: Command) -> None:
    assert hybridge("fleet", "create", "mistakes") == 0
    keys = ("--signing-key", "key.pem", "--trust", here / "trust.json")
    assert hybridge("package", "keygen", "--key", "key.pem", "--trust", here / "trust.json") == 0
    create = ("retrain", "pipeline", "create", "--name", "p", "--project", WATCH, *keys)
    stored = set(bucket.list("projects/watch"))  # other tests of this account store some
    for command, code, sentence in (
        (("fleet", "show", "nowhere"), 1, "no fleet 'nowhere'. Make it: hybridge fleet create nowhere"),
        (("deploy", "watch@1.0.0", "--fleet", "nowhere"), 1, "no fleet 'nowhere'"),
        (("deploy", "nothing@1.0.0", "--fleet", "mistakes"), 1, "nothing 1.0.0 is not published"),
        (("deploy", "InferenceServer@9.9.9", "--fleet", "mistakes"), 1, "hybridge components publish"),
        (("deploy", "watch", "--fleet", "mistakes"), 2, "Write NAME@VERSION"),
        (("retrain", "gate", "--model", "m", "--pipeline", "nowhere", "--once"), 1, "retrain pipeline create"),
        (("retrain", "sweep", "--model", "m", "--pipeline", "nowhere"), 1, "retrain pipeline create"),
        ((*create, "--fleet", "nowhere"), 1, "no fleet 'nowhere'"),
        ((*create, "--fleet", "mistakes", "--signing-key", "no.pem"), 2, "no signing key 'no.pem'"),
        (("package", "fetch", "m@1.0.0", "--out", "m", "--trust", "trust.json"), 1, "m 1.0.0 is not published"),
        (("package", "verify", "nowhere", "--trust", "trust.json"), 2, "is not a package"),
        (("publish", "nowhere", "--fleet", "mistakes", "--trust", "trust.json"), 2, "is not a package"),
    ):
        found, line = said(*command)
        assert (found, sentence in line) == (code, True), line
    assert sorted(path.name for path in here.iterdir()) == ["key.pem", "trust.json"]
    assert set(bucket.list("projects/watch")) == stored, "a refused pipeline stores nothing"


def test_labels_that_are_no_csv_are_refused_with_the_line(said: Said, here: Path) -> None:
    (here / "long.csv").write_text("sample_id,label\na,b\nc," + "x" * 200_000 + "\n")
    code, line = said("labels", "import", "long.csv", "--model", "watch")
    assert code == 1
    assert "is not CSV after line" in line


def test_a_full_disk_is_one_sentence(said: Said, monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    def full(key: Path, trust: Path) -> str:
        raise OSError(28, "No space left on device", str(key))

    monkeypatch.setattr("hybridge_cloud.signing.generate_key", full)
    code, line = said("package", "keygen", "--key", "key.pem", "--trust", "trust.json")
    assert (code, line) == (1, "hybridge: 'key.pem': No space left on device.")
