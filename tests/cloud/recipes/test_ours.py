"""Our own recipes, as they lie in the checkout and as the build fills them, keep every rule on both nuclei."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridge_cloud.components import recipe
from hybridge_cloud.components.build import COMPONENTS
from hybridge_cloud.recipes import document
from hybridge_cloud.recipes.lint import check, check_file
from hybridge_cloud.recipes.recipe import Recipe
from hybridge_cloud.recipes.rules.structure import NEAR_BYTES

TEMPLATES = {**{name: f"hybridge.{name}" for name in COMPONENTS}, recipe.MODEL: "hybridge.model.toy"}
FOLDER = Path(__file__).resolve().parents[3] / "recipes"
LONG = "a-bucket-whose-name-is-as-long-as-names-of-buckets-may-ever-be1"


def filled(template: str) -> bytes:
    return recipe.fill(template, TEMPLATES[template], "1.2.3", LONG, "hybridge")


def test_every_recipe_of_the_checkout_is_one_that_is_built() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(TEMPLATES)


@pytest.mark.parametrize("template", TEMPLATES)
def test_our_recipe_trips_no_rule_before_and_after_it_is_filled(template: str) -> None:
    assert check_file(FOLDER / f"{template}.yaml") == ()
    assert check(filled(template), Path(template)) == ()


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_rule_broken_in_our_own_recipe_is_seen_where_it_stands(template: str) -> None:
    text = (FOLDER / f"{template}.yaml").read_text()
    broken = text.replace("exec ", "echo ${HOME}; exec ", 1)
    assert broken != text
    (finding,) = check(broken.encode(), Path(template))
    assert finding.rule == "script-brace"
    assert finding.line == text[: text.index("exec ")].count("\n") + 1


@pytest.mark.parametrize("template", TEMPLATES)
def test_our_recipe_leaves_room_for_what_the_cloud_adds(template: str) -> None:
    assert len(filled(template)) < NEAR_BYTES


@pytest.mark.parametrize("template", TEMPLATES)
def test_our_recipe_names_both_the_system_and_the_architecture_of_each_manifest(template: str) -> None:
    read = document.read(filled(template).decode())
    assert isinstance(read.root, document.Table)
    manifests = Recipe(read.root, read, 0).manifests
    assert manifests
    for manifest in manifests:
        assert (manifest.wants("os"), manifest.wants("runtime")) == ("linux", "*")
        assert manifest.wants("architecture") in ("amd64", "aarch64")
