"""A queue of SQS: messages that may come late, twice, or in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hybridge_cloud.aws.session import call

MAX_RECEIVED = 10
"""Messages in one answer (SQS, ReceiveMessage)."""
MAX_WAIT_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Message:
    """One delivery: what it says, and the handle that removes it."""

    body: str
    receipt: str


class Queue:
    """One queue, found by its name."""

    __slots__ = ("_url", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._url = ""

    def receive(self, wait_seconds: int = 0) -> tuple[Message, ...]:
        """Up to ten messages, waiting up to ``wait_seconds`` (at most 20) for the first.

        What is not removed comes again after the queue's visibility timeout.
        """
        answer = call(
            "sqs",
            "receive_message",
            QueueUrl=self._address(),
            MaxNumberOfMessages=MAX_RECEIVED,
            WaitTimeSeconds=min(wait_seconds, MAX_WAIT_SECONDS),
        )
        return tuple(Message(item["Body"], item["ReceiptHandle"]) for item in answer.get("Messages", ()))

    def remove(self, messages: Sequence[Message]) -> None:
        """Remove messages that were dealt with. One that cannot be removed comes again, which must be harmless."""
        for start in range(0, len(messages), MAX_RECEIVED):
            entries = [
                {"Id": str(index), "ReceiptHandle": message.receipt}
                for index, message in enumerate(messages[start : start + MAX_RECEIVED])
            ]
            call("sqs", "delete_message_batch", QueueUrl=self._address(), Entries=entries)

    def send(self, body: str) -> None:
        """Put a message in."""
        call("sqs", "send_message", QueueUrl=self._address(), MessageBody=body)

    def _address(self) -> str:
        if not self._url:
            self._url = str(call("sqs", "get_queue_url", QueueName=self.name)["QueueUrl"])
        return self._url
