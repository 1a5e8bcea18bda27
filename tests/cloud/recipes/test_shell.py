"""What the linter reads off a script: commands, quotes and braces."""

from __future__ import annotations

import pytest

from hybridge_cloud.recipes.shell import Brace, braces, commands, unquoted


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("a b; c", [("a", "b"), ("c",)]),
        ("a && b || c | d & e", [("a",), ("b",), ("c",), ("d",), ("e",)]),
        ("a 'b; c' \"d & e\"", [("a", "b; c", "d & e")]),
        ("X=1 Y='2 3' a $X", [("a", "$X")]),
        ("X=1", []),
        ("a \\\n  b", [("a", "b")]),
        ("a b\\ c", [("a", "b c")]),
        ("# a; b\nc # d", [("c",)]),
        ("if [ -e x ]; then a; fi", [("[", "-e", "x", "]"), ("a",)]),
        ("a > b 2>&1", [("a", ">", "b", "2>&1")]),
        ("a $(b c)", [("a", "$"), ("b", "c")]),
        ("exec a#b", [("exec", "a#b")]),
        ("", []),
        ("a 'b", [("a", "b")]),
        ("a '' b", [("a", "", "b")]),
    ],
)
def test_a_script_is_read_as_its_simple_commands(script: str, words: list[tuple[str, ...]]) -> None:
    assert [command.words for command in commands(script)] == words


def test_a_command_knows_where_it_stands_what_ends_it_and_its_program() -> None:
    first, second = commands("cd /x\n  exec '/opt/a b/run' -v &")
    assert (first.offset, first.end, first.program) == (0, "\n", "cd")
    assert (second.offset, second.end, second.program) == (8, "&", "run")
    assert second.arguments == ("/opt/a b/run", "-v")


@pytest.mark.parametrize(
    ("script", "appends"), [("a >> b", True), ("a >>b", True), ("a > b", False), ("a '>' b", False)]
)
def test_a_command_that_appends_to_a_file_is_known(script: str, appends: bool) -> None:
    assert commands(script)[0].appends is appends


def test_what_stands_in_quotes_and_comments_is_blanked_out() -> None:
    script = 'a \'b\' "c\\"d" \\e # f\ng'
    assert unquoted(script) == "a" + " " * 18 + "\ng"
    assert len(unquoted(script)) == len(script)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a {work:path} b", Brace(2, 13, "work:path")),
        ("${X}", Brace(1, 4, "X")),
        ("{ x }", Brace(0, 1, "")),
        ("{open", Brace(0, 1, "")),
        ("{a{b}", Brace(0, 1, "")),
    ],
)
def test_each_brace_is_found_with_what_it_holds(text: str, found: Brace) -> None:
    assert next(braces(text)) == found


@pytest.mark.parametrize(
    ("inner", "variable", "known", "component"),
    [
        ("work:path", True, True, ""),
        ("configuration:/a/b", True, True, ""),
        ("configuration:a", True, False, ""),
        ("work:folder", True, False, ""),
        ("com.example.Base:artifacts:path", True, False, "com.example.Base"),
        ("com.example.Base:configuration:/a", True, False, "com.example.Base"),
        ("X", False, False, ""),
        ('"a":1', False, False, ""),
    ],
)
def test_a_variable_is_told_from_what_only_stands_in_braces(
    inner: str, variable: bool, known: bool, component: str
) -> None:
    brace = Brace(0, 0, inner)
    assert (brace.is_variable, brace.is_known, brace.component) == (variable, known, component)
