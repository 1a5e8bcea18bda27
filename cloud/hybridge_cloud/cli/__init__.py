"""The ``hybridge`` command: one file a concern, each imported only when it is called."""

from __future__ import annotations

import os
import sys
import traceback

SHOW_TRACEBACK = "HYBRIDGE_TRACEBACK"
"""Set to anything, an error shows where it came from too."""


def main() -> None:
    """Run the command line. An error of ours ends as one sentence and its exit code, never as a traceback."""
    from hybridge_cloud.cli.application import build
    from hybridge_edge.contract.errors import HybridgeError

    try:
        build()(prog_name="hybridge")
    except HybridgeError as error:
        if os.environ.get(SHOW_TRACEBACK):
            traceback.print_exception(error)
        print(f"hybridge: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:  # a full disk, a folder one may not write, a file that went away meanwhile
        if os.environ.get(SHOW_TRACEBACK):
            traceback.print_exception(error)
        where = f"{str(error.filename)!r}: " if error.filename else ""
        print(f"hybridge: {where}{error.strerror or error}.", file=sys.stderr)
        sys.exit(1)
