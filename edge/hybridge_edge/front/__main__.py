"""``python -m hybridge_edge.front LISTENER ALIVE SOCKET``, started by the supervisor.

Descriptors of the listening socket and of a pipe that ends with the supervisor, and the path of the server's socket.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from pathlib import Path

from hybridge_edge.front.relay import Relay

NICENESS = 5
"""Below the server and the device's own programs: what the network asks for comes after them."""


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # A stop may come to the whole group at once; calls that are under way end first, and the supervisor with them.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    relay = Relay(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[3]))
    try:
        relay.run(int(sys.argv[2]))
    finally:
        relay.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
