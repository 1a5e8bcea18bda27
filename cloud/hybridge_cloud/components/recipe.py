"""Fill a recipe template: the names' prefix, versions and artifact URIs. Everything else stands in the template.

What a nucleus would not take, or would take for something else, is refused before and after it is filled.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from hybridge_cloud.components import checkout
from hybridge_cloud.recipes import lint
from hybridge_cloud.recipes.rule import Finding, Severity
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import InvalidDocument

MODEL = "model"
_TEMPLATE_PREFIX = f"{names.DEFAULT_PREFIX}."
_TEMPLATE_BUCKET = "s3://BUCKET/"


def fill(
    template: str, component: str, version: str, bucket: str, prefix: str, files: Collection[str] | None = None
) -> bytes:
    """The recipe of one component version, as YAML.

    Args:
        template: name of a file in recipes/, without its ending.
        component: the component's full name, such as ``hybridge.InferenceServer``.
        bucket: where its artifacts lie, below ``components/COMPONENT/VERSION/``.
        prefix: the installation's prefix, put in place of the template's in dependencies and policies.
        files: the artifacts that were built; a manifest that names another one is left out. None keeps every manifest.

    Raises:
        InvalidDocument: there is no such template, no manifest of it has its artifacts among ``files``, one of them is
            in none, or the linter finds an error.
    """
    import yaml

    path = checked(template)
    recipe: dict[str, Any] = yaml.safe_load(path.read_text())
    recipe["ComponentName"] = component
    recipe["ComponentVersion"] = names.version(version)
    if "ComponentDependencies" in recipe:
        recipe["ComponentDependencies"] = {
            _renamed(name, prefix): value for name, value in recipe["ComponentDependencies"].items()
        }
    # Policy ids must be unique on a device, so they carry the component's name.
    for policies in recipe["ComponentConfiguration"]["DefaultConfiguration"].get("accessControl", {}).values():
        for name in list(policies):
            policies[_renamed(name, prefix)] = policies.pop(name)
    kept, used = [], set()
    for manifest in recipe["Manifests"]:
        places = [artifact["Uri"].removeprefix(_TEMPLATE_BUCKET) for artifact in manifest["Artifacts"]]
        if files is not None and not set(places) <= set(files):
            continue
        for artifact, place in zip(manifest["Artifacts"], places, strict=True):
            artifact["Uri"] = f"s3://{bucket}/{names.component_artifact_key(component, version, place)}"
        kept.append(manifest)
        used.update(places)
    if not kept or (files is not None and used != set(files)):
        raise InvalidDocument(
            f"recipes/{template}.yaml has no manifest for {', '.join(sorted(set(files or ()) - used)) or 'anything'}.",
            "Write one.",
        )
    recipe["Manifests"] = kept
    text: str = yaml.safe_dump(recipe, sort_keys=False, width=1_000_000, allow_unicode=True)
    data = text.encode()
    _refuse(f"the filled recipe of {component}", lint.check(data, path))
    return data


def checked(template: str) -> Path:
    """A template's file. Raises InvalidDocument: there is none, or the linter finds an error in it."""
    path = checkout.root() / "recipes" / f"{template}.yaml"
    if not path.is_file():
        raise InvalidDocument(f"There is no recipe template {template!r}.", "Name a file of recipes/.")
    _refuse(f"recipes/{path.name}", lint.check_file(path))
    return path


def _refuse(what: str, findings: tuple[Finding, ...]) -> None:
    """Raise InvalidDocument with the first error, where there is one; warnings are for ``hybridge recipes lint``."""
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        first, more = errors[0], len(errors) - 1
        rest = f" {more} more: hybridge recipes lint {what}." if more and first.file.name in what else ""
        raise InvalidDocument(f"{what}, line {first.line}: {first.reason}{rest}", first.mend)


def _renamed(name: str, prefix: str) -> str:
    return f"{prefix}.{name.removeprefix(_TEMPLATE_PREFIX)}" if name.startswith(_TEMPLATE_PREFIX) else name
