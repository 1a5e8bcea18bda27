"""``hybridge recipes`` as people and programs call it, and the page that lists its rules."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridge_cloud.recipes.table import GROUPS, READING, RULES, markdown

Command = Callable[..., int]
ROOT = Path(__file__).resolve().parents[3]
CORPUS = Path(__file__).parent / "corpus"
PAGE = ROOT / "docs" / "recipes.md"
GOOD = (CORPUS / "good" / "platform-runtime.yaml").read_text()
ERROR = (CORPUS / "bad" / "skipif-ignored.yaml").read_text()
WARNING = (CORPUS / "bad" / "shutdown-ignored.yaml").read_text()
CLASSIC = (CORPUS / "bad" / "path-variable-slash.yaml").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one recipe of each kind, and files that are none."""
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "deep" / "error.yml").write_text(ERROR)
    (tmp_path / "deep" / "deeper" / "warning.yaml").write_text(WARNING)
    (tmp_path / ".hidden" / "error.yaml").write_text(ERROR)
    (tmp_path / "package.json").write_text('{"name": "no recipe"}')
    (tmp_path / "notes.md").write_text(ERROR)
    return tmp_path


def test_a_folder_is_walked_and_its_recipes_alone_are_checked(
    folder: Path, hybridge: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hybridge("recipes", "lint", folder) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines[:-1]] == [
        f"{folder}/deep/error.yml:{ERROR[: ERROR.index('Skipif')].count(chr(10)) + 1}",
        f"{folder}/deep/deeper/warning.yaml:{WARNING[: WARNING.index('shutdown:')].count(chr(10)) + 1}",
    ]
    assert " error skipif-ignored (lite): " in lines[0]
    assert " warning shutdown-ignored (lite): " in lines[1]
    assert lines[-1] == "3 recipes: 1 error, 1 warning"


@pytest.mark.parametrize(
    ("text", "nucleus", "code", "counted"),
    [
        (GOOD, "both", 0, "0 errors, 0 warnings"),
        (ERROR, "both", 1, "1 error, 0 warnings"),
        (ERROR, "lite", 1, "1 error, 0 warnings"),
        (ERROR, "classic", 0, "0 errors, 0 warnings"),
        (WARNING, "lite", 0, "0 errors, 1 warning"),
        (CLASSIC, "lite", 0, "0 errors, 0 warnings"),
        (CLASSIC, "classic", 1, "1 error, 0 warnings"),
    ],
)
def test_the_exit_code_says_whether_an_error_hits_the_nucleus_that_was_asked_for(
    text: str, nucleus: str, code: int, counted: str, tmp_path: Path, hybridge: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "any.name"  # a file that is named is checked whatever it is called
    file.write_text(text)
    assert hybridge("recipes", "lint", file, "--nucleus", nucleus) == code
    assert capsys.readouterr().out.splitlines()[-1] == f"1 recipe: {counted}"


def test_json_output_holds_every_finding_whole(
    folder: Path, hybridge: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hybridge("recipes", "lint", folder / "deep" / "error.yml", "--output", "json") == 1
    told = json.loads(capsys.readouterr().out)
    assert {key: told[key] for key in ("format", "files", "errors", "warnings")} == {
        "format": 1, "files": 1, "errors": 1, "warnings": 0,
    }  # fmt: skip
    (finding,) = told["findings"]
    assert (finding["rule"], finding["nucleus"], finding["severity"]) == ("skipif-ignored", "lite", "error")
    assert finding["file"] == str(folder / "deep" / "error.yml")
    assert finding["line"] == ERROR[: ERROR.index("Skipif")].count("\n") + 1
    assert finding["reason"].endswith("Nucleus lite runs the step anyway.")
    assert finding["mend"] == "Test for it at the beginning of the script."


def test_a_recipe_in_a_folder_that_forgot_its_format_is_told_so(
    tmp_path: Path, hybridge: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.json").write_text('{"componentName": "a", "Manifests": []}')
    assert hybridge("recipes", "lint", tmp_path) == 1
    assert "RecipeFormatVersion is missing" in capsys.readouterr().out


def test_a_file_named_twice_is_checked_once(
    folder: Path, hybridge: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hybridge("recipes", "lint", folder / "good.yaml", folder / "good.yaml") == 0
    assert capsys.readouterr().out == "1 recipe: 0 errors, 0 warnings\n"


def test_a_name_that_is_no_text_and_a_file_one_may_not_read_are_told_of(
    tmp_path: Path, hybridge: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.yaml"))
    odd.write_bytes(b"\xff")
    assert hybridge("recipes", "lint", odd) == 1
    assert "unreadable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("/no/such/path",), 2, "There is no '/no/such/path'."),
        (("{folder}/.hidden/..", "--nucleus", "other"), 2, ""),
        (("{empty}",), 1, "There is no recipe in"),
    ],
)
def test_a_mistake_in_the_call_is_one_sentence(
    arguments: tuple[str, ...], code: int, said: str, folder: Path, tmp_path: Path, hybridge: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    words = [word.format(folder=folder, empty=tmp_path / "empty") for word in arguments]
    assert hybridge("recipes", "lint", *words) == code
    assert said in capsys.readouterr().err


def test_rules_have_stable_looking_names_and_whole_sentences() -> None:
    names = [rule.name for rule in (READING, *RULES)]
    assert len(set(names)) == len(names)
    for rule in (READING, *RULES):
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name)
        assert re.fullmatch(r"[^.*\n].*\.", rule.why), rule.why
        assert re.fullmatch(r"[A-Z].*\.", rule.mend), rule.mend


def test_the_page_lists_the_rules_as_the_table_has_them() -> None:
    page = PAGE.read_text()
    assert markdown() in page
    assert re.findall(r"^\| `([a-z-]+)` \|", page, re.M) == [
        READING.name,
        *(rule.name for _, rules in GROUPS for rule in rules),
    ]


def test_the_recipe_that_the_page_shows_is_right_and_what_it_shows_of_a_wrong_one_is_said(
    tmp_path: Path, hybridge: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (shown,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S)
    Path("right.yaml").write_text(shown)
    assert hybridge("recipes", "lint", "right.yaml") == 0
    assert capsys.readouterr().out == "1 recipe: 0 errors, 0 warnings\n"
    script = 'run: |\n        VOLUME=3\n        echo "at ${VOLUME}"'
    comments = "# one\n# two\n# three\n"
    Path("camera.yaml").write_text(comments + GOOD.split("\n", 1)[1].replace("run: exit 0", script, 1))
    assert hybridge("recipes", "lint", "camera.yaml") == 1
    said = capsys.readouterr().out
    (example,) = re.findall(r"\$ hybridge recipes lint camera.yaml\n(.*?)```", PAGE.read_text(), re.S)
    assert " ".join(said.split()) == " ".join(example.split())


def test_the_rules_are_listed_for_people_and_programs(hybridge: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert hybridge("recipes", "rules") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in lines] == [READING.name, *(rule.name for rule in RULES)]
    assert hybridge("recipes", "rules", "--output", "json") == 0
    assert [rule["rule"] for rule in json.loads(capsys.readouterr().out)["rules"]] == [
        line.split(" ")[0] for line in lines
    ]
