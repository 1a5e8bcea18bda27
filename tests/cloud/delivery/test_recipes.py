"""Our recipes keep the rules that hold on both nuclei; each rule is shown to catch its breach."""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridge_cloud.components import recipe
from hybridge_cloud.components.build import COMPONENTS
from hybridge_cloud.components.target import here
from hybridge_cloud.recipes.rules.structure import LITE_BYTES
from hybridge_cloud.sandbox.device.interpolate import Scope, interpolate
from hybridge_cloud.sandbox.device.mode import Mode, limits_of
from hybridge_cloud.sandbox.device.recipe import parse

Recipe = dict[str, Any]
TEMPLATES = {**{name: f"hybridge.{name}" for name in COMPONENTS}, recipe.MODEL: "hybridge.model.toy"}
KEYS = {
    "": {"RecipeFormatVersion", "ComponentName", "ComponentVersion", "ComponentType", "ComponentDescription",
         "ComponentPublisher", "ComponentConfiguration", "ComponentDependencies", "Manifests"},
    "manifest": {"Platform", "Artifacts", "Lifecycle"},
    "artifact": {"Uri", "Unarchive", "Permission", "Digest", "Algorithm"},
    "step": {"Script", "Setenv", "Timeout", "RequiresPrivilege"},
    "dependency": {"VersionRequirement", "DependencyType"},
}  # fmt: skip
VARIABLES = re.compile(
    r"\{(artifacts:path|artifacts:decompressedPath|work:path|kernel:rootPath|iot:thingName|configuration:/[\w/]+)\}"
)
RANGE = re.compile(r"(>=|<=|=|>|<)\d+\.\d+\.\d+( (>=|<=|=|>|<)\d+\.\d+\.\d+)*")
FOLDERS = re.compile(r"\{(?:artifacts:path|artifacts:decompressedPath|work:path)\}(.?)")


def steps(found: Recipe) -> Iterator[tuple[str, Recipe]]:
    for manifest in found["Manifests"]:
        for name, step in manifest["Lifecycle"].items():
            yield name, step if isinstance(step, dict) else {"Script": step}


def scripts(found: Recipe) -> list[str]:
    return [str(step["Script"]) for _, step in steps(found)]


def keys_are_canonical(found: Recipe) -> bool:
    return (
        set(found) <= KEYS[""]
        and all(set(item) <= KEYS["manifest"] for item in found["Manifests"])
        and all(set(item) <= KEYS["artifact"] for manifest in found["Manifests"] for item in manifest["Artifacts"])
        and all(set(step) <= KEYS["step"] for _, step in steps(found))
        and all(set(item) <= KEYS["dependency"] for item in found.get("ComponentDependencies", {}).values())
    )


def steps_are_known_to_both(found: Recipe) -> bool:
    return {name for name, _ in steps(found)} <= {"install", "run"}


def platform_is_complete(found: Recipe) -> bool:
    return all(
        manifest.get("Platform", {}).get("os") == "linux"
        and manifest["Platform"].get("runtime") == "*"
        and set(manifest["Platform"]) <= {"os", "runtime", "architecture"}
        and manifest["Platform"].get("architecture", "amd64") in ("amd64", "aarch64")
        for manifest in found["Manifests"]
    )


def dependencies_say_their_type_and_a_plain_range(found: Recipe) -> bool:
    return all(
        item.get("DependencyType") in ("HARD", "SOFT") and RANGE.fullmatch(item.get("VersionRequirement", ""))
        for item in found.get("ComponentDependencies", {}).values()
    )


def braces_are_variables_only(found: Recipe) -> bool:
    return all(not set("{}") & set(VARIABLES.sub("", script)) for script in scripts(found))


def folders_end_with_a_slash(found: Recipe) -> bool:
    """Lite's folders end with one, classic's do not; right on both is to write one, unless the folder stands alone."""
    return all(follows in ("/", "'") for script in scripts(found) for follows in FOLDERS.findall(script))


def values_stand_in_single_quotes(found: Recipe) -> bool:
    return all("{" not in re.sub(r"'[^']*'", "", script) for script in scripts(found))


def every_variable_has_a_default(found: Recipe) -> bool:
    configuration = found["ComponentConfiguration"]["DefaultConfiguration"]

    def there(path: str) -> bool:
        value: Any = configuration
        for part in path.split("/"):
            value = value.get(part) if isinstance(value, dict) else None
        return isinstance(value, str)

    return all(there(path) for script in scripts(found) for path in re.findall(r"\{configuration:/([^}]+)\}", script))


def values_are_texts(found: Recipe) -> bool:
    """YAML scalars become texts on lite; writing texts makes both nuclei give the same."""

    def texts(value: object) -> bool:
        if isinstance(value, dict):
            return all(texts(item) for item in value.values())
        return all(texts(item) for item in value) if isinstance(value, list) else isinstance(value, str)

    return texts(found["ComponentConfiguration"]["DefaultConfiguration"])


def install_has_a_timeout(found: Recipe) -> bool:
    return all("Timeout" in step for name, step in steps(found) if name == "install")


def run_replaces_the_shell(found: Recipe) -> bool:
    """SIGTERM goes to what the script started, not to a shell that keeps it."""
    return all(str(step["Script"]).startswith("exec ") for name, step in steps(found) if name == "run")


def is_short_enough(found: Recipe) -> bool:
    return len(yaml.safe_dump(found, sort_keys=False, width=1_000_000)) <= LITE_BYTES


def policies_belong_to_the_component(found: Recipe) -> bool:
    control = found["ComponentConfiguration"]["DefaultConfiguration"].get("accessControl", {})
    return all(
        name.startswith(f"{found['ComponentName']}:") and policy["operations"] and policy["resources"] != ["*"]
        for policies in control.values()
        for name, policy in policies.items()
    )


Change = Callable[[Recipe], object]


def first_step(found: Recipe, name: str = "run") -> Recipe:
    step: Recipe = found["Manifests"][0]["Lifecycle"][name]
    return step


RULES: dict[Callable[[Recipe], object], Change] = {
    keys_are_canonical: lambda found: found["Manifests"][0].update(lifecycle={}),
    steps_are_known_to_both: lambda found: found["Manifests"][0]["Lifecycle"].update(startup={"Script": "true"}),
    platform_is_complete: lambda found: found["Manifests"][0]["Platform"].pop("runtime"),
    dependencies_say_their_type_and_a_plain_range: lambda found: found.update(
        ComponentDependencies={"a.b": {"VersionRequirement": "^1.0.0", "DependencyType": "HARD"}}
    ),
    braces_are_variables_only: lambda found: first_step(found).update(Script="exec echo '${HOME}'"),
    folders_end_with_a_slash: lambda found: first_step(found).update(Script="exec '{work:path}venv/bin/x'"),
    values_stand_in_single_quotes: lambda found: first_step(found).update(Script="exec x {configuration:/tcp}"),
    every_variable_has_a_default: lambda found: first_step(found).update(Script="exec x '{configuration:/nothing}'"),
    values_are_texts: lambda found: found["ComponentConfiguration"]["DefaultConfiguration"].update(n=3),
    install_has_a_timeout: lambda found: found["Manifests"][0]["Lifecycle"].update(install={"Script": "true"}),
    run_replaces_the_shell: lambda found: first_step(found).update(Script="x"),
    is_short_enough: lambda found: first_step(found).update(Script="exec " + "x" * 8_196),
    policies_belong_to_the_component: lambda found: found["ComponentConfiguration"]["DefaultConfiguration"].update(
        accessControl={"aws.greengrass.ipc.pubsub": {"other:1": {"operations": ["*"], "resources": ["*"]}}}
    ),
}


def filled(template: str, prefix: str = "hybridge") -> Recipe:
    name = TEMPLATES[template].replace("hybridge", prefix, 1)
    found: Recipe = yaml.safe_load(recipe.fill(template, name, "1.2.3", "some-bucket", prefix))
    return found


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_our_recipe_keeps_the_rule_and_a_breach_of_it_is_seen(template: str, rule: Callable[[Recipe], object]) -> None:
    found = filled(template)
    assert rule(found)
    broken = copy.deepcopy(found)
    RULES[rule](broken)
    assert not rule(broken)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("mode", Mode)
def test_both_nuclei_of_the_local_core_device_read_it(template: str, mode: Mode, tmp_path: Path) -> None:
    recorded = filled(template)
    for manifest in recorded["Manifests"]:
        for artifact in manifest["Artifacts"]:  # the account adds the digest when a version is created
            artifact.update(Digest=base64.b64encode(bytes(32)).decode(), Algorithm="SHA-256")
    read = parse(yaml.safe_dump(recorded).encode(), mode, limits_of(mode))
    assert (read.name, read.version) == (TEMPLATES[template], "1.2.3")
    place = "model.zip" if template == recipe.MODEL else f"{here().architecture}/wheelhouse.zip"
    assert [item.uri for item in read.artifacts] == [f"s3://some-bucket/components/{read.name}/1.2.3/{place}"]
    scope = Scope(read.name, tmp_path, tmp_path, tmp_path, tmp_path, "thing-1", read.configuration)
    for step in read.steps.values():
        assert "{" not in interpolate(step.script, scope, mode, {})


def test_a_prefix_of_ones_own_reaches_names_dependencies_and_policies() -> None:
    texts = [yaml.safe_dump(filled(template, "acme.edge")) for template in TEMPLATES]
    assert all("hybridge.InferenceServer" not in text and "hybridge.Sample" not in text for text in texts)
    assert all("acme.edge.InferenceServer" in text for text in texts)


def test_nothing_but_names_version_and_uris_is_filled_in() -> None:
    for template in TEMPLATES:
        source = yaml.safe_load((Path(recipe.__file__).parents[3] / "recipes" / f"{template}.yaml").read_text())
        found = filled(template)
        for document in (source, found):
            del document["ComponentName"], document["ComponentVersion"]
            for manifest in document["Manifests"]:
                del manifest["Artifacts"][0]["Uri"]
        assert found == source
