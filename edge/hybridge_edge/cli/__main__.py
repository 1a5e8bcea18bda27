"""``python -m hybridge_edge.cli`` is ``hybridge-edge``."""

import sys

from hybridge_edge.cli import main

sys.exit(main())
