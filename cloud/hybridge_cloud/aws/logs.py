"""CloudWatch Logs: groups, streams and the newest events of a stream."""

from __future__ import annotations

from dataclasses import dataclass

from hybridge_cloud.aws import session

SERVICE = "logs"
MAX_EVENTS = 10_000
"""Events in one answer (CloudWatch Logs, GetLogEvents)."""


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One line: when, by the device's clock (Unix time, ms), and what it says."""

    at_ms: int
    text: str


def region() -> str:
    """The region whose logs are read."""
    return str(session.client(SERVICE).meta.region_name)


def groups(prefix: str, limit: int) -> tuple[str, ...]:
    """At most ``limit`` names of log groups that begin with ``prefix``, sorted."""
    found = session.pages(SERVICE, "describe_log_groups", "logGroups", logGroupNamePrefix=prefix)
    return tuple(sorted(str(item["logGroupName"]) for item in found)[:limit])


def newest(group: str, stream: str, since_ms: int, limit: int) -> tuple[LogEvent, ...]:
    """The newest events of a stream since a time, oldest first; empty where there is no such stream.

    Args:
        limit: how many, at most MAX_EVENTS.
    """
    try:
        answer = session.call(
            SERVICE,
            "get_log_events",
            logGroupName=group,
            logStreamName=stream,
            startTime=since_ms,
            startFromHead=False,
            limit=min(limit, MAX_EVENTS),
        )
    except session.NotFound:
        return ()
    return tuple(LogEvent(int(item["timestamp"]), str(item["message"])) for item in answer["events"])
