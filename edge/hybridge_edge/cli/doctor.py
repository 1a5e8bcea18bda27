"""``hybridge-edge doctor``."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict

from hybridge_edge import doctor, settings

_WIDTH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    settings.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Say what this device can run and what is missing. Returns 1 if something needed is missing, else 0."""
    logging.getLogger("hybridge_edge").setLevel(logging.ERROR)  # what the parts say to a log stands in the table
    wanted = settings.read(arguments)
    findings = doctor.examine(wanted.target, wanted.store, wanted.spool)
    if arguments.json:
        print(
            json.dumps({"healthy": doctor.healthy(findings), "findings": [asdict(one) for one in findings]}, indent=2)
        )
    else:
        for one in findings:
            print(f"{one.verdict.value:<8} {one.subject:<{_WIDTH}} {one.found}")
            if one.remedy:
                print(f"{'':<8} {'':<{_WIDTH}} -> {one.remedy}")
    return 0 if doctor.healthy(findings) else 1
