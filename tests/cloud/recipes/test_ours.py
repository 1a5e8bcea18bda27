"""Our own recipes, as they lie in the checkout and as the build fills them, keep every rule on both nuclei."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hybridge_cloud.cli import main
from hybridge_cloud.components import checkout, recipe, wheelhouse
from hybridge_cloud.components.build import COMPONENTS
from hybridge_cloud.recipes import document
from hybridge_cloud.recipes.lint import check, check_file
from hybridge_cloud.recipes.recipe import Recipe
from hybridge_cloud.recipes.rules.structure import NEAR_BYTES
from hybridge_edge.contract.errors import InvalidDocument

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


@pytest.fixture
def own_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose recipes a test may spoil; returns their folder."""
    for name in ("components", "locks", "edge"):
        (tmp_path / name).symlink_to(FOLDER.parent / name)
    shutil.copytree(FOLDER, tmp_path / "recipes")
    monkeypatch.setattr(checkout, "root", lambda: tmp_path)
    return tmp_path / "recipes"


@pytest.mark.parametrize("command", ["build", "publish"])
def test_a_recipe_with_an_error_is_refused_with_line_and_mend_before_anything_is_built(
    command: str,
    own_checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HYBRIDGE_BUCKET", "nobody-is-asked")
    monkeypatch.setattr(wheelhouse, "build_device_wheel", lambda _: pytest.fail("something was built"))
    broken = own_checkout / "SampleUplink.yaml"  # the last of the three
    text = broken.read_text()
    line = text[: text.index("exec ")].count("\n") + 1
    broken.write_text(text.replace("exec ", "echo ${HOME}; exec ", 1))
    options = ["--out", str(tmp_path / "built")] if command == "build" else []
    monkeypatch.setattr("sys.argv", ["hybridge", "components", command, *options])
    with pytest.raises(SystemExit, match="1"):
        main()
    said = capsys.readouterr().err
    assert f"recipes/SampleUplink.yaml, line {line}: " in said
    assert "Nucleus lite cuts a script" in said
    assert "Write $VAR instead of ${VAR}" in said
    assert "Traceback" not in said
    assert not (tmp_path / "built").exists()


def test_errors_before_and_after_filling_are_refused_and_warnings_are_not(own_checkout: Path) -> None:
    path = own_checkout / "SampleUplink.yaml"
    path.write_text(path.read_text().replace("Timeout: 900", "Skip: 1", 1))
    with pytest.raises(InvalidDocument, match="A step has no 'Skip'"):
        filled("SampleUplink")
    shutil.copy(FOLDER / path.name, path)
    path.write_text(path.read_text().replace("        Timeout: 900\n", "", 1))
    assert filled("SampleUplink")  # install-timeout is a warning
    with pytest.raises(InvalidDocument, match=r"the filled recipe of a b, line \d+: ComponentName is 'a b'"):
        recipe.fill("SampleUplink", "a b", "1.2.3", LONG, "hybridge")
