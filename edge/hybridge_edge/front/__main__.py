"""``python -m hybridge_edge.front LISTENER ALIVE SOCKET [SETTINGS]``, started by the supervisor.

Descriptors of the listening socket and of a pipe that ends with the supervisor, the path of the server's socket, and
that of the settings of TLS, where there is TLS.
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
    guests = None
    if len(sys.argv) > 4:
        from hybridge_edge.front.guests import Guests  # brings hashlib; who has no TLS does without

        settings = Path(sys.argv[4])
        guests = Guests(settings, settings.parent)
    relay = Relay(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[3]), guests)
    try:
        relay.run(int(sys.argv[2]))
    finally:
        relay.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
