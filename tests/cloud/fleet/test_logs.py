"""A device's logs, from its files through the account's CloudWatch Logs to the command line."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hybridge_cloud.aws import session
from hybridge_cloud.fleet import logs
from hybridge_cloud.sandbox.device.log_upload import LogUpload
from hybridge_cloud.sandbox.folder import REGION
from hybridge_edge.contract.errors import Refused, Unavailable, UsageError

SERVER = "hybridge.InferenceServer"


@pytest.fixture
def device(sandbox: Any, tmp_path: Path) -> tuple[str, LogUpload]:
    """A device with two components' logs, that were sent."""
    thing = f"till:{uuid.uuid4().hex[:6]}"
    (tmp_path / f"{SERVER}.log").write_text("first\nsecond\n\x1b[31mthird\nhalf a li")
    (tmp_path / "com.example.Other.log").write_text("other\n")
    (tmp_path / "greengrass.log").write_text("the nucleus' own\n")
    upload = LogUpload(tmp_path, thing, REGION, frozenset({"greengrass.log"}))
    upload.send()
    return thing, upload


def shown(thing: str, **query: Any) -> list[str]:
    now = time.time_ns() // 1_000_000
    found = logs.tail(logs.Query(thing, **query), now - 60_000, now + 1)
    return [f"{line.component}: {line.text}" for line in found]


def test_what_was_written_is_read_once_whole_lines_only_and_the_nucleus_own_log_stays(
    device: tuple[str, LogUpload], tmp_path: Path
) -> None:
    thing, upload = device
    assert shown(thing, components=(SERVER,)) == [f"{SERVER}: {text}" for text in ("first", "second", "\x1b[31mthird")]
    with (tmp_path / f"{SERVER}.log").open("a") as log:
        log.write("ne\n")
    upload.send()
    LogUpload(tmp_path, thing, REGION, frozenset({"greengrass.log"})).send()  # a restart sends nothing twice
    assert shown(thing, components=(SERVER,), lines=2) == [f"{SERVER}: \x1b[31mthird", f"{SERVER}: half a line"]
    assert "com.example.Other: other" in shown(thing)
    assert not any("nucleus" in line for line in shown(thing))


def test_a_log_that_was_set_aside_is_begun_again_and_a_failed_sending_is_repeated(
    device: tuple[str, LogUpload], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thing, upload = device
    path = tmp_path / f"{SERVER}.log"
    path.replace(tmp_path / f"{SERVER}.log.1")
    path.write_text("anew\n")
    real, failures = session.call, [Unavailable("logs does not answer.")]

    def flaky(service: str, operation: str, /, **given: Any) -> Any:
        if operation == "put_log_events" and failures:
            raise failures.pop()
        return real(service, operation, **given)

    monkeypatch.setattr(session, "call", flaky)
    with pytest.raises(Unavailable):
        upload.send()
    upload.send()
    assert shown(thing, components=(SERVER,))[-1] == f"{SERVER}: anew"


def test_the_command_shows_lines_without_control_characters_or_one_object_a_line(
    device: tuple[str, LogUpload], hybridge: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    thing, _ = device
    capfd.readouterr()
    assert hybridge("fleet", "logs", thing, "-c", SERVER, "--since", "5m") == 0
    out = capfd.readouterr().out
    assert f"Z {SERVER}: ?[31mthird\n" in out
    assert "\x1b" not in out
    assert hybridge("fleet", "logs", thing, "-c", SERVER, "--json", "-n", "1") == 0
    assert json.loads(capfd.readouterr().out)["text"] == "\x1b[31mthird"


def test_following_shows_each_line_once_as_it_comes_in(device: tuple[str, LogUpload], tmp_path: Path) -> None:
    thing, upload = device
    looks = [0]

    def stop(_: float) -> bool:
        looks[0] += 1
        if looks[0] == 1:
            with (tmp_path / f"{SERVER}.log").open("a") as log:
                log.write("ne\nhalf a line\n")
            upload.send()
        return looks[0] == 3

    since = time.time_ns() // 1_000_000 - 60_000
    found = [line.text for line in logs.follow(logs.Query(thing, (SERVER,)), since, stop)]
    assert found == ["first", "second", "\x1b[31mthird", "half a line", "half a line"]


def test_following_ends_by_itself(
    device: tuple[str, LogUpload], hybridge: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert hybridge("fleet", "logs", device[0], "-c", SERVER, "--follow", "--for", "1") == 0
    assert capfd.readouterr().out.count("first") == 1


def test_a_group_of_another_forwarder_is_read_by_the_devices_stream(sandbox: Any) -> None:
    group, thing = f"greengrass/systemLogs-{uuid.uuid4().hex[:6]}", "till-9"
    session.call("logs", "create_log_group", logGroupName=group)
    session.call("logs", "create_log_stream", logGroupName=group, logStreamName=thing)
    at = time.time_ns() // 1_000_000
    events = [{"timestamp": at, "message": "from the journal"}]
    session.call("logs", "put_log_events", logGroupName=group, logStreamName=thing, logEvents=events)
    assert shown(thing, group=group) == [f"{group.rpartition('/')[2]}: from the journal"]


def test_where_no_log_is_what_is_missing_is_said(
    sandbox: Any, hybridge: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert hybridge("fleet", "logs", "nobody") == 1
    err = capfd.readouterr().err
    assert "holds no log of 'nobody'" in err
    assert "aws.greengrass.LogManager" in err
    assert "SystemLogForwarder" in err
    with pytest.raises(Refused):
        shown("nobody")


@pytest.mark.parametrize("text", ["", "5", "m", "0m", "-1h", "15d", "1w", "1.5h"])
def test_a_length_of_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no length of time"):
        logs.seconds(text)


def test_streams_are_named_as_the_log_manager_names_them() -> None:
    assert logs.stream("till:1", datetime(2026, 11, 3, tzinfo=UTC)) == "/2026/11/03/thing/till+1"
    assert logs.group_prefix("eu-west-1") + SERVER == f"/aws/greengrass/UserComponent/eu-west-1/{SERVER}"
