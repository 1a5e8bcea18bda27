"""Format 1 must always load: the files under tests/golden/v1 were written once and are never written again."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from hybridge_edge.contract.batch import BatchManifest
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.feedback import Feedback
from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.report import DeviceReport
from hybridge_edge.contract.sample import Sample
from hybridge_edge.contract.window import Window

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
BINARY = {"sample.bin", "window.bin"}
"""Whose header's length is fixed before it, so that a field cannot simply be put in."""
READERS = {
    "manifest.json": Manifest.from_bytes,
    "manifest-states.json": Manifest.from_bytes,
    "manifest-codecs.json": Manifest.from_bytes,
    "sample.bin": Sample.from_bytes,
    "batch.json": BatchManifest.from_bytes,
    "report.json": DeviceReport.from_bytes,
    "handover.json": Handover.from_line,
    "window.bin": Window.from_bytes,
    "feedback.bin": Feedback.from_bytes,
}


def _documents() -> ModuleType:
    spec = importlib.util.spec_from_file_location("documents", Path(__file__).with_name("documents.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DOCUMENTS = _documents()
VALUES = {
    "manifest.json": DOCUMENTS.MANIFEST,
    "manifest-states.json": DOCUMENTS.STATEFUL,
    "manifest-codecs.json": DOCUMENTS.MANIFEST_CODECS,
    "sample.bin": DOCUMENTS.SAMPLE,
    "batch.json": DOCUMENTS.BATCH,
    "report.json": DOCUMENTS.REPORT,
    "handover.json": DOCUMENTS.HANDOVER,
    "window.bin": DOCUMENTS.WINDOW,
    "feedback.bin": DOCUMENTS.FEEDBACK,
}


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_released_document_reads_as_the_value_it_was_written_from(name: str) -> None:
    assert READERS[name]((GOLDEN / name).read_bytes()) == VALUES[name]


@pytest.mark.parametrize("name", sorted(DOCUMENTS.GOLDEN))
def test_today_s_writer_gives_the_released_bytes(name: str) -> None:
    assert DOCUMENTS.GOLDEN[name] == (GOLDEN / name).read_bytes()


@pytest.mark.parametrize("name", sorted(READERS))
def test_every_single_byte_cut_off_is_refused_and_never_crashes(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    for end in range(len(data) - 1):
        with pytest.raises(InvalidDocument):
            READERS[name](data[:end])


@pytest.mark.parametrize("name", sorted(set(READERS) - {"handover.json"}))
def test_an_unknown_format_is_refused_with_what_to_do(name: str) -> None:
    data = (GOLDEN / name).read_bytes().replace(b'"format":1', b'"format":9')
    with pytest.raises(InvalidDocument, match="Update Hybridge"):
        READERS[name](data)


@pytest.mark.parametrize("name", sorted(set(READERS) - BINARY))
def test_an_unknown_field_is_refused_by_name(name: str) -> None:
    data = (GOLDEN / name).read_bytes().replace(b"{", b'{"surprise":1,', 1)
    with pytest.raises(InvalidDocument, match="surprise"):
        READERS[name](data)


@pytest.mark.parametrize("name", ["codecs", "guards", "probes", "comparisons"])
def test_what_a_manifest_does_not_have_leaves_no_trace_in_its_bytes(name: str) -> None:
    assert f'"{name}"'.encode() not in (GOLDEN / "manifest.json").read_bytes()
