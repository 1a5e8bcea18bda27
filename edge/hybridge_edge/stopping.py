"""SIGTERM and SIGINT as an event to wait for, of which none is lost.

A handler that set the event itself would run in the main thread between any two instructions. Where it interrupts
``Event.wait`` it would wait for the event's lock, which the interrupted code holds: the process then stands still for
ever. Blocking the signals does not help either, because libraries start threads of their own when they are imported,
and one of those would take the signal and end the process. So the interpreter writes a byte into a socket, whichever
thread was hit (``signal.set_wakeup_fd``), and a thread of ours reads it and sets the event.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOPS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_event() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets, for as long as the context is open. Only in the main thread."""
    stop = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    thread = threading.Thread(target=_listen, args=(reader, stop), name="stop", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    # Without a handler in Python the interpreter has none in C, and the signal would end the process.
    handlers = {number: signal.signal(number, _nothing) for number in STOPS}
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(before)
        writer.close()
        thread.join()
        reader.close()


def _nothing(number: int, frame: object) -> None:
    pass


def _listen(reader: socket.socket, stop: threading.Event) -> None:
    while numbers := reader.recv(64):
        if any(number in numbers for number in STOPS):
            stop.set()
