"""HTTP/2 frames as they pass by: where one begins, what it is, what it asks of the server. RFC 9113.

Payloads are never looked at: a frame's nine bytes say everything that is needed to count, and where a frame of the
front's own may stand between two of the server's.
"""

from __future__ import annotations

from collections.abc import Callable

from hybridge_edge.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADER,
    HEADERS,
    PING,
    PREFACE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)

COSTS = {HEADERS: 1, WINDOW_UPDATE: 1, RST_STREAM: 100, SETTINGS: 20, PING: 20}
"""What a frame takes from its host's budget. A call that is opened and cancelled costs the server far more than its
answer would have; pings and settings are answered whatever they are sent for."""
OTHER_COST = 10
EMPTY_DATA_COST = 5

Admit = Callable[[int, int, int, int], bool]
"""Told kind, flags, stream and length of a frame that begins; whether it may pass now."""


def cost(kind: int, length: int) -> int:
    """Of one frame from a client. Data with something in it is free: flow control bounds it."""
    if kind == DATA:
        return 0 if length else EMPTY_DATA_COST
    return COSTS.get(kind, OTHER_COST)


class Frames:
    """Follows one direction of one connection.

    Args:
        admit: asked at each frame. client: whether it is the client's, which begins with a preface and may be held
            back.
    """

    __slots__ = ("_admit", "_block", "_client", "_head", "_left", "_preface", "_said", "border")

    def __init__(self, admit: Admit, *, client: bool) -> None:
        self._admit = admit
        self._client = client
        self._head = b""
        self._left = 0
        self._preface = len(PREFACE) if client else 0
        self._block = False
        """Inside the headers of a message, which no other frame may interrupt (section 6.10)."""
        self._said = False
        self.border = -1
        """In the data of the last ``pass_on``: where another frame may be put in, -1 for nowhere."""

    @property
    def between(self) -> bool:
        """Whether nothing that passed is half a frame, or half of a message's headers."""
        return not (self._left or self._preface or self._head or self._block)

    @property
    def may_interrupt(self) -> bool:
        """Whether another frame may follow what has passed: the very first one is this side's own (section 3.4)."""
        return self._said and self.between

    def pass_on(self, data: bytes) -> int:
        """How many bytes of ``data`` may pass now: all of a server's; of a client's perhaps fewer.

        What did not pass must come again, with what follows it.

        Raises:
            ValueError: it is no HTTP/2.
        """
        at, end = 0, len(data)
        self.border = 0 if self.may_interrupt else -1
        while at < end:
            if self._preface:
                at = self._pass_preface(data, at)
                continue
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
                if not (self._left or self._block):
                    self.border = at
                continue
            missing = HEADER - len(self._head)
            head = self._head + data[at : at + missing]
            if len(head) < HEADER:
                if self._client:
                    return at  # whether the frame may pass is not known yet, so none of it does
                self._head = head
                return end
            length = int.from_bytes(head[:3], "big")
            if not self._admit(head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF, length):
                return at
            at += missing
            self._head, self._left, self._said = b"", length, True
            if head[3] in (HEADERS, PUSH_PROMISE, CONTINUATION):
                self._block = not head[4] & END_HEADERS
            if not (length or self._block):
                self.border = at
        return at

    def _pass_preface(self, data: bytes, at: int) -> int:
        done = len(PREFACE) - self._preface
        step = min(self._preface, len(data) - at)
        if data[at : at + step] != PREFACE[done : done + step]:
            raise ValueError("no HTTP/2 preface")
        self._preface -= step
        return at + step
