"""Whatever stands in a file, the linter answers with a finding, soon, and never with a traceback."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridge_cloud.recipes import document
from hybridge_cloud.recipes.document import MAX_DEPTH, MAX_NODES, Items, Table, Text, Unreadable, read
from hybridge_cloud.recipes.lint import MAX_FILE_BYTES, MAX_HITS, check, check_file
from hybridge_cloud.recipes.table import UNREADABLE

PIECES = (b"{", b"}", b"'", b": ", b"\n", b"- ", b"[", b"null", b"\xff")
SOON_SECONDS = 20.0
HERE = Path("recipe.yaml")
CORPUS = sorted((Path(__file__).parent / "corpus").rglob("*.*"))
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 30)
)

UNREADABLES = {
    "nothing": (b"", "holds nothing"),
    "a comment": (b"# only\n", "holds nothing"),
    "a list": (b"- 1\n- 2\n", "holds no mapping"),
    "a word": (b"hello", "holds no mapping"),
    "an open bracket": (b"Manifests: [\n", "the node content"),
    "half a JSON object": (b'{"Manifests": [', "the node content"),
    "a tab": (b"a:\n\tb: 1\n", "cannot start any token"),
    "bytes": (bytes(range(256)), "no UTF-8"),
    "UTF-16": ("Manifests: []\n".encode("utf-16"), "no UTF-8"),
    "control characters": (b"a: \x00\x07b\n", "special characters are not allowed"),
    "two documents": (b"a: 1\n---\nb: 2\n", "more than one document"),
    "a long file": (b"a: 1\n" * 20_000, "over 65536 bytes"),
    "deep lists": (b"a: " + b"[" * 500, f"deeper than {MAX_DEPTH}"),
    "deep JSON": (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, f"deeper than {MAX_DEPTH}"),
    "deep blocks": ("".join(" " * level + "a:\n" for level in range(200)).encode(), f"deeper than {MAX_DEPTH}"),
    "an alias to nothing": (b"a: *b\n", "stands for nothing"),
    "an alias to itself": (b"a: &b [*b]\n", "stands for nothing"),
    "an alias bomb": (BOMB.encode(), f"more than {MAX_NODES} values"),
    "a chain of aliases": (
        b"a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2_000)).encode(),
        f"more than {MAX_NODES} values",
    ),
    "a list for a key": (b"? [a]\n: b\n", "key is no text"),
}


@pytest.mark.parametrize("name", UNREADABLES)
def test_what_is_no_recipe_is_one_finding_that_says_why(name: str) -> None:
    data, said = UNREADABLES[name]
    started = time.monotonic()
    (finding,) = check(data, HERE)
    assert time.monotonic() - started < SOON_SECONDS
    assert finding.rule == UNREADABLE
    assert said in finding.reason
    assert 1 <= finding.line <= data.count(b"\n") + 1


def test_files_that_cannot_be_opened_are_findings_too(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    assert [finding.rule for finding in check_file(pipe)] == [UNREADABLE]
    assert [finding.rule for finding in check_file(tmp_path)] == [UNREADABLE]
    assert [finding.rule for finding in check_file(tmp_path / "gone.yaml")] == [UNREADABLE]
    assert [finding.rule for finding in check_file(Path("/dev/zero"))] == [UNREADABLE]


def test_a_json_recipe_with_tabs_and_escapes_is_read_with_its_lines() -> None:
    read_ = read('{\n\t"a": [\n\t\t{"b": "x\\ty \\ud83d\\ude00 \\/"},\n\t\t0.5\n\t]\n}\n')
    assert read_.is_json
    assert isinstance(read_.root, Table)
    found = read_.root.entries[0].value
    assert isinstance(found, Items)
    inner = found.values[0]
    assert isinstance(inner, Table)
    assert inner.entries[0] == document.Entry("b", 3, Text("x\ty \U0001f600 /", 3, 3, "text", '"'))
    assert found.values[1] == Text("0.5", 4, 4, "float")


def test_a_yaml_value_knows_what_a_typed_reader_makes_of_it() -> None:
    root = read("[1, 0.5, yes, ~, text, '1', 2020-01-25, 1.2.3]").root
    assert isinstance(root, Items)
    kinds = [item.kind for item in root.values if isinstance(item, Text)]
    assert kinds == ["int", "float", "bool", "null", "text", "text", "text", "text"]


@pytest.mark.parametrize(
    "text", ["Manifests:\n", "Manifests: []\n", "Manifests:\n  []\n", "Manifests: ~\n", 'Manifests: ""\n', "a: 1"]
)
def test_a_part_that_is_empty_is_missing(text: str) -> None:
    said = [finding.reason.split(".")[0] for finding in check(text.encode(), HERE) if finding.rule == "required-key"]
    assert "Manifests is missing or empty" in said


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_windows_ends_of_lines_and_a_byte_order_mark_do_not_shift_lines(end: str, mark: str) -> None:
    text = mark + end.join(
        ["Manifests:", "  - Platform: {os: linux}", "    Lifecycle:", "      run: |", "        a", "        ${b}", ""]
    )
    (finding,) = (finding for finding in check(text.encode(), HERE) if finding.rule == "script-brace")
    assert finding.line == 6


def test_a_key_that_stands_twice_in_json_is_found_too() -> None:
    found = check(b'{\n"ComponentName": "a",\n"ComponentName": "b"}', HERE)
    assert [(finding.rule, finding.line) for finding in found if finding.rule == "duplicate-key"] == [
        ("duplicate-key", 3)
    ]


def test_an_alias_stands_for_its_value_and_is_remembered() -> None:
    found = read("a: &x {b: 1}\nc: *x\n")
    assert found.aliases == (2,)
    assert isinstance(found.root, Table)
    assert found.root.entries[0].value == found.root.entries[1].value


def test_findings_of_one_rule_are_bounded_and_the_rest_is_counted() -> None:
    steps = "".join(f"      step{number}: exit 0\n" for number in range(100))
    recipe = f'RecipeFormatVersion: "2020-01-25"\nManifests:\n  - Lifecycle:\n{steps}'
    found = [finding for finding in check(recipe.encode(), HERE) if finding.rule == "unknown-step"]
    assert len(found) == MAX_HITS
    assert "(and 80 more like it)" in found[-1].reason


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    (finding,) = (item for item in check(b'"\\e[2J\\e]0;x\\a": 1\n', HERE) if item.rule == "unknown-key")
    assert finding.reason.isprintable()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_damaged_recipes_are_answered_not_raised(data: st.DataObject) -> None:
    text = bytearray(data.draw(st.sampled_from(CORPUS)).read_bytes()[:4096])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(text)))
        match data.draw(st.integers(0, 2)):
            case 0:
                del text[at : at + data.draw(st.integers(1, 40))]
            case 1:
                text[at:at] = data.draw(st.sampled_from(PIECES))
            case _:
                text[at:at] = text[at : at + data.draw(st.integers(1, 80))]
    findings = check(bytes(text), HERE)
    assert all(1 <= finding.line <= text.count(b"\n") + 1 and finding.reason.isprintable() for finding in findings)


def test_reading_is_refused_by_an_error_of_ours_only() -> None:
    with pytest.raises(Unreadable) as caught:
        read("a: [\nb: ]\n}")
    assert caught.value.line >= 2
    assert MAX_FILE_BYTES == 65_536
