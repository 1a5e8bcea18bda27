"""Logs stay bounded while their writers go on writing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hybridge_cloud.sandbox import logs


def test_a_log_that_grew_too_large_is_set_aside_under_its_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOG_LIMIT_BYTES", 10)
    writer = logs.open_log(tmp_path / "control.log")
    try:
        os.write(writer, b"0123456789abc\n")
        logs.bound(tmp_path)
        os.write(writer, b"next\n")
    finally:
        os.close(writer)
    assert (tmp_path / "control.log").read_bytes() == b"next\n"
    assert (tmp_path / "control.log.1").read_bytes() == b"0123456789abc\n"


def test_only_the_newest_build_logs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "KEPT_BUILD_LOGS", 2)
    for number in range(4):
        log = tmp_path / "builds" / f"{number}.log"
        os.close(logs.open_log(log))
        os.utime(log, (number, number))
    logs.bound(tmp_path)
    assert sorted(log.name for log in (tmp_path / "builds").iterdir()) == ["2.log", "3.log"]
