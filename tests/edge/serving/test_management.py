"""The verbs of the management socket: what each does, what each refuses before it does anything, and its page."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hybridge_edge import cli
from hybridge_edge.batches import make
from hybridge_edge.capture import Capture, CapturePolicy
from hybridge_edge.client import Client
from hybridge_edge.contract import errors
from hybridge_edge.contract.errors import InvalidDocument, ModelNotFound
from hybridge_edge.contract.feedback import Feedback
from hybridge_edge.contract.states import PackageState
from hybridge_edge.management import VERBS, Facts, Management
from hybridge_edge.spool import Cursor
from hybridge_edge.spool_reader import SpoolReader
from hybridge_edge.spool_writer import SpoolWriter
from hybridge_edge.traces import Traces, Where
from hybridge_edge.uplink import Uplink

PAGE = (Path(__file__).parents[3] / "docs" / "management.md").read_text()
EDGE_MANAGER = (
    "LoadModel", "UnLoadModel", "ListModels", "DescribeModel", "Predict", "CaptureData", "GetCaptureDataStatus",
)  # fmt: skip


@pytest.fixture
def ask(device: Any, packages: Callable, tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """A device that serves 1.0.0 and captures everything, asked by its management."""
    assert device.activation.hand_over(packages("1.0.0", 1.0).handover(1)).state is PackageState.ACTIVE
    device.service.capture = Capture(CapturePolicy(1.0, 0.0), tmp_path / "spool")
    management = Management(device.service, device.store, device.activation, Facts("1.1.0", "unix:x", ""))

    def say(**request: object) -> dict[str, Any]:
        answer = management.answer(json.dumps(request).encode() + b"\n")
        assert answer.endswith(b"\n")
        found: dict[str, Any] = json.loads(answer)
        return found

    yield say
    device.service.capture.close()


def test_unload_takes_a_model_out_of_memory_and_load_brings_it_back(ask: Callable, device: Any) -> None:
    assert ask(verb="unload", model="watch") == {"ok": True, "model": "watch", "version": "1.0.0"}
    with pytest.raises(ModelNotFound):
        device.serves()
    assert ask(verb="list")["models"][0]["resident"] == []
    answer = ask(verb="load", model="watch")
    assert (answer["version"], answer["was_loaded"]) == ("1.0.0", False)
    assert device.serves() == ("1.0.0", 1.0)
    loads = device.loads
    assert ask(verb="load", model="watch", version="1.0.0")["was_loaded"] is True
    assert device.loads == loads


def test_load_refuses_another_version_and_an_unknown_model(ask: Callable, device: Any) -> None:
    ask(verb="unload", model="watch")
    assert ask(verb="load", model="watch", version="0.9.0")["error"] == "REFUSED"
    assert ask(verb="load", model="other")["error"] == "NOT_FOUND"
    assert ask(verb="list")["models"][0]["resident"] == []


def test_load_believes_the_package_again_and_refuses_an_altered_one(ask: Callable, device: Any) -> None:
    ask(verb="unload", model="watch")
    (model,) = device.folder.glob("packages/*/model.onnx")
    model.chmod(0o600)
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    assert ask(verb="load", model="watch")["error"] == "PACKAGE_REFUSED"


def test_rollback_puts_the_version_before_back(ask: Callable, device: Any, packages: Callable) -> None:
    assert ask(verb="rollback", model="watch")["error"] == "REFUSED"
    device.activation.hand_over(packages("1.1.0", 2.0).handover(2))
    answer = ask(verb="rollback", model="watch", reason="It looked wrong.")
    assert (answer["state"], answer["version"]) == ("ACTIVE", "1.0.0")
    assert device.serves() == ("1.0.0", 1.0)
    assert ask(verb="list")["models"][0]["quarantined"][0]["reason"] == "It looked wrong."


@pytest.mark.parametrize(
    ("verb", "fields"),
    [
        ("activate", {"model": "watch", "package": "/x", "digest": "sha256:" + "0" * 64, "epoch": 1}),
        ("install", {"model": "watch", "package": "/x", "digest": "sha256:" + "0" * 64}),
        ("status", {}),
        ("list", {}),
        ("describe", {"model": "watch"}),
        ("shadow", {"model": "watch"}),
        ("load", {"model": "watch"}),
        ("unload", {"model": "watch"}),
        ("rollback", {"model": "watch"}),
        ("feedback", {"model": "watch", "sample_id": "a", "label": "left"}),
        ("capture", {"on": False}),
        ("captured", {"sample_id": "a"}),
    ],
)
def test_a_field_nobody_knows_is_refused_before_anything_is_done(
    ask: Callable, device: Any, packages: Callable, verb: str, fields: dict[str, object]
) -> None:
    device.activation.hand_over(packages("1.1.0", 2.0).handover(2))  # so that a rollback could be
    answer = ask(verb=verb, surprise=1, **fields)
    assert (answer["ok"], answer["error"]) == (False, "INVALID_DOCUMENT")
    assert "surprise" in answer["message"]
    assert device.serves() == ("1.1.0", 2.0)
    assert ask(verb="status")["capture"]["offered"] == ask(verb="status")["capture"]["kept"] == 1
    assert device.service.capture.counters().spool_records <= 1  # the answer above, and no label


def test_every_verb_has_a_refusal_of_unknown_fields() -> None:
    (mark,) = test_a_field_nobody_knows_is_refused_before_anything_is_done.pytestmark
    assert {verb for verb, _ in mark.args[1]} == set(VERBS)


def test_an_unknown_verb_names_the_known_ones(ask: Callable) -> None:
    answer = ask(verb="explode")
    assert answer["error"] == "INVALID_DOCUMENT"
    assert all(verb in answer["remedy"] for verb in VERBS)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": "other"}, "NOT_FOUND"),
        ({"label": "sideways"}, "INVALID_ARGUMENT"),
        ({"label": ""}, "INVALID_DOCUMENT"),
        ({"label": "le\nft"}, "INVALID_DOCUMENT"),
        ({"sample_id": "a b"}, "INVALID_DOCUMENT"),
        ({"confidence": 1.5}, "INVALID_DOCUMENT"),
        ({"confidence": True}, "INVALID_DOCUMENT"),
        ({"at_ms": -1}, "INVALID_DOCUMENT"),
        ({"source": "x" * 129}, "INVALID_DOCUMENT"),
    ],
)
def test_feedback_that_could_never_be_joined_is_refused(ask: Callable, changes: dict[str, object], code: str) -> None:
    fields = {"verb": "feedback", "model": "watch", "sample_id": "a", "label": "left", **changes}
    assert ask(**fields)["error"] == code
    assert ask(verb="status")["capture"]["spool_records"] == 0


def test_feedback_is_on_the_disk_when_it_is_answered(ask: Callable, device: Any, tmp_path: Path) -> None:
    answer = ask(verb="feedback", model="watch", sample_id="a/7", label="left", source="nurse", confidence=0.5, at_ms=9)
    assert answer == {"ok": True, "model": "watch", "sample_id": "a/7", "label": "left", "sample": "unknown"}
    reader = SpoolReader(tmp_path / "spool")  # a second process would see the same: nothing is closed yet
    (entry,) = reader.read(10, 1 << 20)
    reader.close()
    assert Feedback.from_bytes(entry.body) == Feedback("a/7", "watch", "left", "nurse", 0.5, 9)


def test_without_capturing_verbs_that_need_it_say_so(ask: Callable, device: Any) -> None:
    capture, device.service.capture = device.service.capture, None
    for request in ({"verb": "capture", "on": True}, {"verb": "captured", "sample_id": "a"},
                    {"verb": "feedback", "model": "watch", "sample_id": "a", "label": "left"}):  # fmt: skip
        answer = ask(**request)
        assert answer["error"] == "REFUSED"
        assert "captureShare" in answer["remedy"]
    device.service.capture = capture


class Kept:
    """A bucket in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, key: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        new = key not in self.objects
        self.objects.setdefault(key, data)
        return new


def test_a_sample_and_its_label_reach_the_bucket_and_the_sample_s_place_is_known_on_the_way(
    ask: Callable, device: Any, kit: ModuleType, tmp_path: Path
) -> None:
    sample_id = device.ask(kit.window()).sample_id
    capture = device.service.capture
    until = threading.Event()
    for _ in range(200):
        if capture.where(sample_id).where is Where.CAPTURED:
            break
        until.wait(0.05)
    assert ask(verb="captured", sample_id=sample_id)["sample"] == "captured"
    assert ask(verb="feedback", model="watch", sample_id=sample_id, label="still")["sample"] == "captured"
    bucket, stop = Kept(), threading.Event()
    uplink = Uplink(tmp_path / "spool", bucket, "watch-1", batch_seconds=0.05)
    thread = threading.Thread(target=uplink.run, args=(stop,))
    thread.start()
    for _ in range(200):
        if any(key.endswith(".jsonl") for key in bucket.objects):
            break
        until.wait(0.05)
    stop.set()
    thread.join()
    uplink.close()
    (labels,) = (key for key in bucket.objects if key.endswith(".jsonl"))
    assert labels.startswith("devices/watch-1/labels/watch/")
    (line,) = bucket.objects[labels].splitlines()
    assert json.loads(line)["sample_id"] == sample_id
    assert sum(key.endswith(".npz") for key in bucket.objects) == 1
    assert ask(verb="captured", sample_id=sample_id)["sample"] == "returned"
    assert ask(verb="captured", sample_id="nobody")["sample"] == "unknown"


def test_the_same_labels_make_the_same_object_and_a_broken_one_is_set_aside(tmp_path: Path) -> None:
    said = [Feedback(f"a/{number}", model, "left", "device", 1.0, 5) for number, model in enumerate(("one", "two"))]
    writer = SpoolWriter(tmp_path / "spool")
    writer.append([*(one.to_bytes() for one in said), b"HYF1{}"])
    writer.close()
    reader = SpoolReader(tmp_path / "spool")
    entries = reader.read(10, 1 << 20)
    reader.close()
    first, again = make("watch-1", entries), make("watch-1", entries)
    assert first == again
    assert [one.key.split("/")[3] for one in first.labels] == ["one", "two"]
    assert len(first.unreadable) == 1
    assert not first.batches


def test_what_was_lost_says_why_and_the_table_of_samples_is_bounded() -> None:
    traces = Traces(limit=3)
    traces.waiting("a")
    traces.dropped(["a"], "queue-full")
    assert traces.find("a", Cursor()).reason == "queue-full"
    traces.captured(["b", "c", "d"], "e" * 16, 10)
    assert traces.find("a", Cursor()).where is Where.UNKNOWN
    places = [traces.find(name, Cursor(epoch="e" * 16, seq=11)).where for name in "bcd"]
    assert places == [Where.RETURNED, Where.RETURNED, Where.CAPTURED]
    assert traces.find("b", Cursor(epoch="f" * 16, seq=99)).where is Where.CAPTURED  # another life of the spool


def test_a_label_record_of_another_format_is_refused() -> None:
    data = Feedback("a", "watch", "left", "device", 1.0, 0).to_bytes()
    with pytest.raises(InvalidDocument, match="Update Hybridge"):
        Feedback.from_bytes(data.replace(b'"format":1', b'"format":2'))


def test_every_verb_stands_in_the_page_and_the_page_names_no_other() -> None:
    assert set(re.findall(r"^### `(\w+)`", PAGE, re.M)) == set(VERBS)


def test_every_error_code_stands_in_the_page_and_the_page_names_no_other() -> None:
    known = {getattr(errors, name).code for name in errors.__all__} - {
        "ERROR",
        "USAGE",
        "CONFLICT",
        "DEADLINE_EXCEEDED",
    }
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", PAGE, re.M)) == known | {"INTERNAL"}


def test_every_verb_of_edge_manager_s_agent_is_mapped() -> None:
    for verb in EDGE_MANAGER:
        assert re.search(rf"^\| `{verb}` \|", PAGE, re.M), verb


def test_the_command_line_has_them_all(
    server: Any, packages: Callable, kit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(server.runtime))
    monkeypatch.delenv("HYBRIDGE_ENDPOINT", raising=False)
    server.arguments += ["--capture-share", "1", "--spool", str(server.store / "spool")]
    server.start()
    server.hand_over(packages("1.0.0", 1.0).handover(1))
    server.hand_over(packages("1.1.0", 2.0).handover(2))

    def said(*words: str) -> str:
        assert cli.main(words) == 0, words
        return capsys.readouterr().out

    with Client(server.endpoint.inference) as client:
        sample_id = client.infer("watch", {"window": kit.window()}).sample_id
    assert "active 1.1.0  before 1.0.0  in memory 1.1.0, 1.0.0" in said("list")
    assert "runs on   CPUExecutionProvider\n" in said("describe", "watch")
    assert "is 'left'" in said("feedback", sample_id, "left", "--model", "watch")
    assert sample_id in said("capture", "sample", sample_id)
    assert "offered" in said("capture", "status")
    assert said("capture", "off") == "capturing is off\n"
    assert said("capture", "on") == "capturing is on\n"
    assert "1.0.0 is ACTIVE again" in said("rollback", "watch")
    assert "out of memory" in said("unload", "watch")
    assert "is in memory and answers" in said("load", "watch")
    for words in (("list",), ("describe", "watch"), ("load", "watch"), ("status",), ("capture", "status")):
        assert json.loads(said(*words, "--json"))["ok"] is True
    assert cli.main(["unload", "nobody"]) == 1
    assert "No model 'nobody'" in capsys.readouterr().err
    assert server.stop() == 0
