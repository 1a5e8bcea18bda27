"""The ``hybridge`` command: one file a concern, each imported only when it is called."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. An error of ours ends as one sentence and its exit code, never as a traceback."""
    from hybridge_cloud.cli.application import build
    from hybridge_edge.contract.errors import HybridgeError

    try:
        build()()
    except HybridgeError as error:
        print(f"hybridge: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
