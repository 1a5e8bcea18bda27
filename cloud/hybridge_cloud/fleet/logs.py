"""The tail of a device's component logs, as the device sent them to CloudWatch Logs.

AWS' log manager (``aws.greengrass.LogManager``) keeps one group a component, and in it one stream a device and day:
``/aws/greengrass/UserComponent/REGION/COMPONENT``, ``/YYYY/MM/DD/thing/THING``, a colon in a thing's name written as a
plus. Sources: its developer guide's "Log manager", and "Monitor AWS IoT Greengrass logs".
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hybridge_cloud.aws import logs
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import Refused, UsageError

MAX_DAYS = 14
LOOK_BACK_DAYS = 2
"""In how much of the past any line at all is looked for, before it is said that a device sends none."""
MAX_GROUPS = 50
"""Components whose logs are looked through where none is named."""
MAX_LINES = 10_000
MAX_TEXT = 8_192
"""Characters of one line that are shown."""
POLL_SECONDS = 2.0
LATE_MS = 10 * 60_000
"""How late a line may come in, while one follows: the log manager sends every five minutes by default."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a component's log; the time is the device's, Unix time, ms."""

    at_ms: int
    component: str
    text: str

    def to_json(self) -> dict[str, object]:
        return {"at_ms": self.at_ms, "component": self.component, "text": self.text}


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for.

    Attributes:
        components: full names; empty for every component that has a log. group: a log group whose stream is the
            device's name, instead of the log manager's. lines: the newest that are wanted, at most MAX_LINES.
    """

    thing: str
    components: tuple[str, ...] = ()
    group: str = ""
    lines: int = 100


def group_prefix(region: str) -> str:
    """What the log manager's groups of components begin with."""
    return f"/aws/greengrass/UserComponent/{region}/"


def stream(thing: str, day: datetime) -> str:
    """The log manager's stream of a device on a day (UTC)."""
    return f"/{day:%Y/%m/%d}/thing/{thing.replace(':', '+')}"


def seconds(text: str) -> int:
    """Read ``90s``, ``15m``, ``2h`` or ``7d``. Raises UsageError."""
    found = re.fullmatch(r"([1-9]\d{0,5})([smhd])", text)
    length = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < length <= MAX_DAYS * _UNITS["d"]:
        raise UsageError(f"{text!r} is no length of time.", f"Write 90s, 15m, 2h or 1d, at most {MAX_DAYS}d.")
    return length


def tail(query: Query, since_ms: int, now_ms: int) -> tuple[Line, ...]:
    """The newest lines since a time, oldest first.

    Raises:
        Refused: no log of this device is there, with what must be deployed for one. Unavailable: no answer.
    """
    found = _lines(query, since_ms, now_ms)
    if not found and not _has_any(query, now_ms):
        raise nothing(query)
    return found


def follow(query: Query, since_ms: int, stop: Callable[[float], bool]) -> Iterator[Line]:
    """Yield lines as they come in, each once, until ``stop`` (which waits that many seconds) says so."""
    told: dict[tuple[int, str, str], int] = {}
    while True:
        now_ms = time.time_ns() // 1_000_000
        found = _lines(query, since_ms, now_ms)
        counts: dict[tuple[int, str, str], int] = {}
        for line in found:
            key = (line.at_ms, line.component, line.text)
            counts[key] = counts.get(key, 0) + 1
            if counts[key] > told.get(key, 0):
                yield line
        told = {key: max(count, told.get(key, 0)) for key, count in counts.items()}
        since_ms = max(since_ms, now_ms - LATE_MS)
        if stop(POLL_SECONDS):
            return


def nothing(query: Query) -> Refused:
    """What is missing where CloudWatch Logs holds nothing of a device."""
    where = query.group or group_prefix(logs.region()) + (",".join(query.components) or "*")
    return Refused(
        f"CloudWatch Logs holds no log of {query.thing!r} in {where} of the last {LOOK_BACK_DAYS} days.",
        "A device sends its logs only where a component for that is deployed to it: aws.greengrass.LogManager on "
        "nucleus classic, aws.greengrass.SystemLogForwarder (then name its group with --group) on nucleus lite. "
        "docs/fleet-updates.md has the configuration and the permissions; without them, use hybridge-edge "
        "support-bundle on the device.",
    )


def _lines(query: Query, since_ms: int, now_ms: int) -> tuple[Line, ...]:
    found = [
        Line(event.at_ms, component, event.text.rstrip("\n")[:MAX_TEXT])
        for component, group, name in _streams(query, since_ms, now_ms)
        for event in logs.newest(group, name, since_ms, min(query.lines, MAX_LINES))
    ]
    found.sort(key=lambda line: line.at_ms)  # stable: what one component said at one time stays in its order
    return tuple(found[-min(query.lines, MAX_LINES) :])


def _has_any(query: Query, now_ms: int) -> bool:
    since_ms = now_ms - LOOK_BACK_DAYS * 86_400_000
    return any(logs.newest(group, name, since_ms, 1) for _, group, name in _streams(query, since_ms, now_ms))


def _streams(query: Query, since_ms: int, now_ms: int) -> list[tuple[str, str, str]]:
    """Component, group and stream of everything that may hold a line since a time."""
    thing = names.thing_name(query.thing)
    if query.group:
        return [(query.group.rpartition("/")[2], query.group, thing.replace(":", "+"))]
    prefix = group_prefix(logs.region())
    groups: Sequence[str] = [prefix + name for name in query.components] or logs.groups(prefix, MAX_GROUPS)
    first, last = (datetime.fromtimestamp(at / 1000, UTC).date() for at in (since_ms, now_ms))
    days = [first + timedelta(days=number) for number in range(min(MAX_DAYS, (last - first).days) + 1)]
    return [
        (group.removeprefix(prefix), group, stream(thing, datetime(day.year, day.month, day.day, tzinfo=UTC)))
        for group in groups
        for day in days
    ]
