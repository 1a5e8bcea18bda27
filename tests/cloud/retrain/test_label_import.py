"""Labels taken in and given out: a file or nothing of it, the same thing once, and an export that is filled in."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from labelled import DAY, NOW, ROOT, at, known, objects, said_on

from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.data import label_file, label_import, labels
from hybridge_cloud.data.label import Label
from hybridge_cloud.data.label_file import Given
from hybridge_cloud.data.label_import import Importer, take_returned
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import HybridgeError, Refused, Unavailable
from hybridge_edge.contract.manifest import Manifest


def importer(bucket: Bucket, model: str, now: int = NOW) -> Importer:
    return Importer(bucket, Given(model, "people", 1.0, now), lambda _: None)


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_file_is_imported_once_whatever_its_format_or_order(bucket: Bucket, model: str, tmp_path: Path) -> None:
    rows = ["r/1,walk,0.5,2026-09-21T14:13:20.250Z", "r/2,run,,", "r/3,walk,1,2026-09-21T15:13:20.250+01:00"]
    file = write(tmp_path / "a.csv", "sample_id,label,confidence,labelled_at", *rows)
    report = importer(bucket, model).take(file)
    assert (report.lines, report.taken[model], report.known) == (3, 3, 0)
    moment = NOW + 250
    assert known(bucket, model) == {
        Label("r/1", "walk", "people", 0.5, moment),
        Label("r/2", "run", "people"),
        Label("r/3", "walk", "people", 1.0, moment),
    }
    before = objects(bucket, model)
    lines = [
        {"sample_id": "r/3", "label": "walk", "at_ms": moment},
        {"sample_id": "r/2", "label": "run", "source": "people", "confidence": 1},
        {"sample_id": "r/1", "label": "walk", "confidence": 0.5, "model": model},
    ]
    again = [file, write(tmp_path / "a.jsonl", *map(json.dumps, lines))]
    again.append(write(tmp_path / "b.csv", "sample_id,label,confidence,labelled_at", *rows[::-1]))
    for path in again:
        report = importer(bucket, model, NOW + DAY).take(path)
        assert (report.known, report.keys, sum(report.taken.values())) == (3, [], 0)
    assert objects(bucket, model) == before


def test_importers_at_once_leave_one_import(bucket: Bucket, model: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "sample_id,label", *(f"r/{n},walk" for n in range(50)))
    both = [importer(bucket, model, NOW + n) for n in range(4)]
    threads = [threading.Thread(target=each.take, args=(file,)) for each in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(objects(bucket, model)) == 2  # one part, one manifest
    assert len(known(bucket, model)) == 50


def test_an_import_that_died_before_its_manifest_says_nothing(bucket: Bucket, model: str) -> None:
    found = [Label("r/1", "walk", "people")]
    part = labels.put_part(bucket, model, found)
    assert known(bucket, model) == set()
    entry, new = labels.commit(bucket, model, (part,), NOW)
    assert new
    assert labels.store(bucket, model, found, NOW + 1) == (entry, False)
    (label,) = labels.load(bucket, [entry])
    assert label.imported_at_ms == NOW, "the first time stays"


@pytest.mark.parametrize("effect", range(4))
def test_an_import_that_died_at_any_write_is_finished_by_the_next_one(
    effect: int, bucket: Bucket, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "PART_LABELS", 10)
    file = write(tmp_path / "a.csv", "sample_id,label", *(f"r/{n},walk" for n in range(25)))
    real, left = Bucket.put, effect

    def dying(*given: Any, **named: Any) -> str:
        nonlocal left
        if left == 0:
            raise Unavailable("The account is gone.")
        left -= 1
        return real(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "put", dying)
        with pytest.raises(Unavailable):
            importer(bucket, model).take(file)
    assert known(bucket, model) == set(), "nothing counts before the manifest"
    assert importer(bucket, model, NOW + DAY).take(file).taken[model] == 25
    assert len(known(bucket, model)) == 25
    assert len(objects(bucket, model)) == 3 + 1


def test_a_long_file_is_stored_in_parts_and_said_how_far(
    bucket: Bucket, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "PART_LABELS", 10)
    monkeypatch.setattr(label_import, "PROGRESS_LINES", 20)
    file = write(tmp_path / "a.csv", "sample_id,label", *(f"r/{n},walk" for n in range(45)))
    said: list[str] = []
    Importer(bucket, Given(model, "people", 1.0, NOW), said.append).take(file)
    assert said[:2] == ["20 lines read", "40 lines read"]
    assert said[-1] == "40 labels stored"
    assert len(objects(bucket, model)) == 5 + 1
    assert len(known(bucket, model)) == 45


def test_bad_lines_are_named_and_nothing_is_taken_unless_they_may_be_skipped(
    bucket: Bucket, model: str, champion: Manifest, tmp_path: Path
) -> None:
    file = write(
        tmp_path / "bad.csv", "sample_id,label,confidence,labelled_at,model", "r/1,walk,,,", "r/2,walk,high,,",
        "no good,walk,,,", "r/4,jump,,,", "r/5,jump,,,", "r/6,walk,7,,", "r/7,walk,,yesterday,",
        "r/8,walk,,2026-11-28T09:30:00,", "r/9,walk,,2999-01-01,", "r/10,walk,,,other", "r/11,,,,", "a,b,c,d,e,f",
        "r/12,run",
    )  # fmt: skip
    with pytest.raises(Refused) as refused:
        importer(bucket, model).take(file)
    said = str(refused.value)
    assert [n for n in range(1, 16) if f"line {n}: " in said] == [3, 4, 5, 6, 7, 8, 9, 10, 11, 13]
    assert "'jump' 2 times" in said
    assert objects(bucket, model) == []
    report = importer(bucket, model).take(file, skip_bad=True)
    assert (report.bad, report.unfilled, report.unknown["jump"]) == (10, 1, 2)
    assert known(bucket, model) == {Label("r/1", "walk", "people"), Label("r/12", "run", "people")}
    report = importer(bucket, model).take(file, skip_bad=True, new_classes=True)
    assert (report.bad, report.known, report.taken[model]) == (8, 2, 2)
    many = write(tmp_path / "many.jsonl", *["no"] * 30)
    with pytest.raises(Refused, match="and 10 more"):
        importer(bucket, model).take(many)


def test_files_that_are_no_labels_are_one_sentence(bucket: Bucket, model: str, tmp_path: Path) -> None:
    contents = {
        "empty.jsonl": b"", "none.csv": None, "short.csv": b"id,label\n1,2\n",
        "latin.csv": b"sample_id,label\n\xff\xfe\n",
        "twice.csv": b"sample_id,label,label\na,b,c\n", "other.txt": b"", "nul.csv": b"sample_id,label\n\0,b\n",
        "long.jsonl": b'{"sample_id":"' + b"x" * 20_000 + b'"}\n', "deep.jsonl": b"[" * 5000 + b"\n",
        "twice.jsonl": b'{"sample_id":"a","sample_id":"b","label":"c"}\n', "when.jsonl":
        b'{"sample_id":"a","label":"c","at_ms":1,"labelled_at":"2026-11-28"}\n', "bytes.jsonl": b"\xff\n",
    }  # fmt: skip
    for name, content in contents.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(HybridgeError):
            importer(bucket, model).take(path)
    assert objects(bucket, model) == []
    long = tmp_path / "long.jsonl"
    long.write_bytes(long.read_bytes() + b'{"sample_id":"r/1","label":"walk"}\n')
    with pytest.raises(Refused, match="line 1: it is longer"):
        importer(bucket, model).take(long)
    importer(bucket, model).take(long, skip_bad=True)
    assert known(bucket, model) == {Label("r/1", "walk", "people")}


def test_a_file_or_an_account_with_too_much_is_refused_before_anything_is_stored(
    bucket: Bucket, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.csv", "sample_id,label", "r/1,walk", "r/2,walk", "r/3,walk")
    for module, limit in ((label_file, "MAX_LINES"), (label_file, "MAX_FILE_BYTES"), (labels, "MAX_LABELS")):
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, 2)
            with pytest.raises(Refused, match=r"(more|larger) than 2"):
                importer(bucket, model).take(file)
    assert objects(bucket, model) == []
    with monkeypatch.context() as patch:
        patch.setattr(labels, "MAX_IMPORTS", 1)
        for _ in range(2):
            labels.store(bucket, model, [Label("r/1", "walk", "people")], NOW)
        with pytest.raises(Refused, match="has 1 imports"):
            labels.store(bucket, model, [Label("r/2", "walk", "people")], NOW)


def test_a_line_may_name_its_model_and_several_models_go_into_one_file(
    bucket: Bucket, model: str, hybridge: Callable[..., int], tmp_path: Path
) -> None:
    other = model + "-b"
    file = write(tmp_path / "a.csv", "sample_id,label,model", f"r/1,walk,{model}", f"r/2,run,{other}")
    assert hybridge("labels", "import", file, "--source", "annotator-1", "--confidence", "0.9") == 0
    assert known(bucket, model) == {Label("r/1", "walk", "annotator-1", 0.9)}
    assert known(bucket, other) == {Label("r/2", "run", "annotator-1", 0.9)}
    assert hybridge("labels", "import", file, "--model", model) == 1
    assert hybridge("labels", "import", write(tmp_path / "b.csv", "sample_id,label", "r/1,walk")) == 1
    assert hybridge("labels", "import", file, "--returned") == 2
    assert hybridge("labels", "import", "--returned") == 2


def test_labels_said_on_devices_are_taken_in_once_and_a_bad_object_holds_up_nobody(
    bucket: Bucket, model: str, hybridge: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert hybridge("labels", "import", "--model", model, "--returned") == 1  # nobody has said anything
    said_on(bucket, "left", model, "e1-1", ("r/1", "walk"))
    said_on(bucket, "right", model, "e1-2", ("r/2", "run"))
    bucket.put(names.returned_labels_key("left", "other", "e1-1"), b"not of this model\n")
    bad = names.returned_labels_key("left", model, "e1-9")
    bucket.put(bad, b'{"sample_id":"no good"}\n')
    assert hybridge("labels", "import", "--model", model, "--returned") == 1
    assert bad in capsys.readouterr().err
    both = {Label("r/1", "walk", "nurse", 0.5, NOW, "left"), Label("r/2", "run", "nurse", 0.5, NOW, "right")}
    assert known(bucket, model) == both
    bucket.put(bad, b"")
    assert take_returned(bucket, model, NOW).bad == 1, "an empty object is no label"
    said_on(bucket, "left", model, "e1-9", ("r/3", "run"))
    assert hybridge("labels", "import", "--model", model, "--returned") == 0
    before = objects(bucket, model)
    assert hybridge("labels", "import", "--model", model, "--returned") == 0
    assert "Nothing new." in capsys.readouterr().out
    assert objects(bucket, model) == before
    assert known(bucket, model) == {*both, Label("r/3", "run", "nurse", 0.5, NOW, "left")}


def exported(hybridge: Callable[..., int], capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert hybridge("labels", "export", *options) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("written_as", ["csv", "jsonl"])
def test_an_export_is_filled_in_and_imported(
    written_as: str,
    bucket: Bucket,
    model: str,
    champion: Manifest,
    device: Callable[..., Any],
    hybridge: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    start = int(time.time()) * 1000 - DAY
    for thing, first in (("b", 0), ("a", 3), ("a", 0), ("a", 2)):
        device(thing, model).batch(first, 3, arrays=at(first, 3, start + 10_000 * first))
    device("c", model).batch(0, 2, data=b"not an npz")
    said_on(bucket, "a", model, "e1-1", ("a/e1/1", "run"), at_ms=start)
    take_returned(bucket, model, start)
    options = ("--model", model, "--format", written_as)
    text = exported(hybridge, capsys, *options)
    assert exported(hybridge, capsys, *options) == text
    read: Callable[[str], list[dict[str, Any]]] = (
        (lambda text: list(csv.DictReader(io.StringIO(text))))
        if written_as == "csv"
        else (lambda text: [json.loads(line) for line in text.splitlines()])
    )
    rows = read(text)
    assert [row["sample_id"] for row in rows] == [f"a/e1/{n}" for n in range(6)] + [f"b/e1/{n}" for n in range(3)]
    assert rows[0]["captured_at"] == label_file.written(start)
    assert [(row["prediction"], float(row["prediction_confidence"])) for row in rows[:2]] == [
        ("walk", 0.75),
        ("run", 0.75),
    ]
    assert {row["model_version"] for row in rows} == {"1.0.0"}
    assert [(row["label"], row.get("source", "")) for row in rows[:2]] == [("", ""), ("run", "a/nurse")]
    # What was exported and not touched changes nothing.
    file = tmp_path / f"labels.{written_as}"
    file.write_text(text)
    before = objects(bucket, model)
    assert hybridge("labels", "import", file, "--model", model) == 0
    assert objects(bucket, model) == before
    # Every label filled in, one of them against what the device said, its other columns left as they were.
    for row in rows:
        row["label"] = "walk"
    if written_as == "csv":
        stream = io.StringIO()
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
        file.write_text(stream.getvalue())
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert hybridge("labels", "import", file, "--source", "annotator-1") == 0
    after = read(exported(hybridge, capsys, *options))
    assert [row["label"] for row in after] == ["walk"] * 9
    assert {row["source"] for row in after} == {"annotator-1", "a/nurse"}
    assert read(exported(hybridge, capsys, *options, "--unlabelled")) == []
    some = read(
        exported(hybridge, capsys, *options, "--since", rows[1]["captured_at"], "--until", rows[3]["captured_at"])
    )
    assert [row["sample_id"] for row in some] == ["a/e1/1", "a/e1/2", "b/e1/1", "b/e1/2"]
    assert hybridge("labels", "export", "--model", model, "--since", "yesterday") == 1


def test_the_commands_of_the_page_work_in_their_order(
    bucket: Bucket,
    model: str,
    device: Callable[..., Any],
    hybridge: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    device("left", model).batch(0, 3)
    page = (ROOT / "docs" / "labels.md").read_text().replace("watch", model)
    (block,) = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    for line in block.splitlines():
        words = shlex.split(line.replace("to-label.csv", str(tmp_path / "to-label.csv")), comments=True)
        if ">" in words:
            text = exported(hybridge, capsys, *words[3 : words.index(">")])
            Path(words[-1]).write_text(text.replace(",,,,\n", ",walk,,,\n"))
        elif words:
            assert hybridge(*words[1:]) == 0
    assert "3 labelled (annotator-1 3)" in capsys.readouterr().out
