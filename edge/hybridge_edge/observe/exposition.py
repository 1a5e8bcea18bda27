"""Metrics as Prometheus reads them: its text format, version 0.0.4 (prometheus.io, exposition formats)."""

from __future__ import annotations

from collections.abc import Iterable

from hybridge_edge.observe.families import Family, Labels

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def to_text(found: Iterable[Family]) -> bytes:
    """The page of these families, each with its HELP and TYPE, also where it has no samples."""
    lines: list[str] = []
    for family in found:
        text = family.text.replace("\\", r"\\").replace("\n", r"\n")
        lines += [f"# HELP {family.name} {text}", f"# TYPE {family.name} {family.kind}"]
        lines += [
            f"{family.name}{sample.suffix}{_labels(sample.labels)} {_number(sample.value)}" for sample in family.samples
        ]
    return ("\n".join(lines) + "\n").encode()


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
