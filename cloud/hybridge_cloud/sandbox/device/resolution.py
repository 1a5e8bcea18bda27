"""Which version of every component a device is to run: its deployments' roots, and all that these depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybridge_cloud.sandbox.control import versions
from hybridge_cloud.sandbox.device.cloud_link import Cloud, Resolved
from hybridge_cloud.sandbox.device.environment import TOKEN_EXCHANGE
from hybridge_cloud.sandbox.device.mode import Limits, Mode
from hybridge_cloud.sandbox.device.recipe import Recipe, architecture, parse
from hybridge_cloud.sandbox.device.state import Target
from hybridge_edge.contract.errors import Conflict, InvalidDocument, Refused

BUILT_IN = (TOKEN_EXCHANGE, "aws.greengrass.Nucleus", "aws.greengrass.NucleusLite")
"""Components that are part of the device here."""
_QUESTIONS = 500
"""To the cloud, for one deployment."""


@dataclass(frozen=True, slots=True)
class Found:
    """A chosen component version."""

    recipe: Recipe
    text: bytes


def merge_roots(targets: Mapping[str, Target]) -> dict[str, tuple[str, str]]:
    """Component name to (target, version) over all targets of a device.

    Raises:
        Conflict: two targets name one component.
    """
    roots: dict[str, tuple[str, str]] = {}
    for target, wanted in sorted(targets.items()):
        for name, version in wanted.roots.items():
            if name in roots:
                other, its_version = roots[name]
                raise Conflict(
                    f"{name} is named by the deployments of {other} ({its_version}) and {target} ({version}).",
                    "Name a component at one target of a device only.",
                )
            if name not in BUILT_IN:
                roots[name] = (target, version)
    return roots


def resolve(
    roots: Mapping[str, tuple[str, str]],
    cloud: Cloud,
    mode: Mode,
    limits: Limits,
    local: Mapping[tuple[str, str], bytes] | None = None,
) -> dict[str, Found]:
    """Ask the cloud for each component until every requirement of every chosen recipe is met.

    Args:
        local: recipes that local deployments brought, by name and version; they go before the cloud's.

    Raises:
        Refused: a component has no version that meets all, or its recipe is refused. Unavailable: no answer.
    """
    platform = {"os": "linux", "architecture": architecture(), "runtime": limits.runtime}
    chosen: dict[str, Found] = {}
    asked: dict[str, dict[str, str]] = {}
    for _ in range(_QUESTIONS):
        needed = _requirements(roots, chosen)
        chosen = {name: found for name, found in chosen.items() if name in needed}
        open_names = [name for name in needed if name not in chosen or asked.get(name) != needed[name]]
        if not open_names:
            return chosen
        name = open_names[0]
        answer = _on_device(name, needed[name], local or {})
        recipe = parse(answer.recipe, mode, limits, local=True) if answer is not None else None
        if answer is None or recipe is None:
            answer = cloud.resolve(name, "", needed[name], platform)
            recipe = parse(answer.recipe, mode, limits)
        if (recipe.name, recipe.version) != (name, answer.version):
            raise InvalidDocument(
                f"The recipe given for {name} {answer.version} is of {recipe.name} {recipe.version}.", "Publish again."
            )
        chosen[name], asked[name] = Found(recipe, answer.recipe), needed[name]
    raise Refused("The deployment's components do not settle on versions.", "Loosen their version requirements.")


def _on_device(name: str, requirements: Mapping[str, str], local: Mapping[tuple[str, str], bytes]) -> Resolved | None:
    """The newest version that a local deployment brought and that meets all requirements."""
    try:
        fitting = [
            version
            for found, version in local
            if found == name and all(versions.satisfies(version, wanted) for wanted in requirements.values())
        ]
        newest = max(fitting, key=versions.key, default=None)
    except ValueError as error:
        raise InvalidDocument(f"{name}: {error}.", "Write semantic versions, and ranges of them.") from None
    return None if newest is None else Resolved(name, newest, local[name, newest])


def _requirements(roots: Mapping[str, tuple[str, str]], chosen: Mapping[str, Found]) -> dict[str, dict[str, str]]:
    """What is asked of each component by the deployments and by the chosen recipes that can be reached from them."""
    needed: dict[str, dict[str, str]] = {name: {target: f"={version}"} for name, (target, version) in roots.items()}
    pending = list(roots)
    seen = set(pending)
    while pending:
        name = pending.pop()
        if name not in chosen:
            continue
        for dependency in chosen[name].recipe.dependencies:
            if dependency.name in BUILT_IN:
                continue
            needed.setdefault(dependency.name, {})[name] = dependency.requirement
            if dependency.name not in seen:
                seen.add(dependency.name)
                pending.append(dependency.name)
    return needed
