"""MQTT: messages of a topic, over the connection that results go out by."""

from __future__ import annotations

from hybridge_edge.contract import names
from hybridge_edge.sources.messages import taker
from hybridge_edge.sources.queue import ReadingQueue
from hybridge_edge.sources.source import Context, Source


def open_source(context: Context) -> Source:
    """Settings: sourceTopic (default sensors/THING/windows), sourceQueue, and those of ``messages.taker``.

    The connection comes back by itself and subscribes again; the broker keeps messages of QoS 1 meanwhile.
    """
    topic = context.configuration.topic("sourceTopic", names.windows_topic(context.thing), wildcards=True)
    queue = ReadingQueue.of(context.configuration)
    context.connection().listen(topic, taker(queue, context.configuration, context.thing))
    return queue
