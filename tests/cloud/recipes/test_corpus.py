"""Every rule trips on its bad recipes, at their lines and with nothing else, and keeps quiet on the good ones."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from hybridge_cloud.recipes.lint import check, check_file
from hybridge_cloud.recipes.rule import Nucleus
from hybridge_cloud.recipes.table import READING, RULES

SMALL_BYTES = 4096
CORPUS = Path(__file__).parent / "corpus"
BAD = sorted((CORPUS / "bad").iterdir())
GOOD = sorted((CORPUS / "good").iterdir())
NAMES = [rule.name for rule in (READING, *RULES)]


def named(file: Path, word: str) -> str:
    """What the first comment of a recipe says after ``trips:`` or ``keeps:``; JSON says it in its description."""
    found = re.search(rf'(?:^# |": "){word}: ([^\n"]+)', file.read_text(), re.M)
    assert found, file
    return found[1]


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_a_bad_recipe_trips_exactly_the_rules_it_names_at_their_lines(file: Path) -> None:
    wanted = Counter(item.strip() for item in named(file, "trips").split(","))
    assert Counter(f"{finding.rule} at {finding.line}" for finding in check_file(file)) == wanted


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_a_good_recipe_trips_nothing(file: Path) -> None:
    assert check_file(file) == ()


def test_every_rule_has_a_bad_recipe_and_a_good_one() -> None:
    tripped = {word for file in BAD for word in re.findall(r"([\w-]+) at \d+", named(file, "trips"))}
    kept = {named(file, "keeps") for file in GOOD}
    assert tripped == set(NAMES)
    assert kept == set(NAMES)


def test_who_asks_for_one_nucleus_hears_all_of_it_and_nothing_of_the_other() -> None:
    left_out = {Nucleus.LITE: 0, Nucleus.CLASSIC: 0}
    for file in (file for file in BAD if file.stat().st_size < SMALL_BYTES):
        everything = check_file(file)
        for asked, other in ((Nucleus.LITE, Nucleus.CLASSIC), (Nucleus.CLASSIC, Nucleus.LITE)):
            wanted = tuple(finding for finding in everything if finding.nucleus is not other)
            assert check(file.read_bytes(), file, asked) == wanted
            left_out[asked] += len(everything) - len(wanted)
    assert all(left_out.values())
