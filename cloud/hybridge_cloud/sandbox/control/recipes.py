"""Recipes as the cloud sees them: parsed, checked, completed with what it adds, and written out again."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from hybridge_cloud.sandbox.control import versions
from hybridge_cloud.sandbox.control.wire import Document, invalid

RECIPE_LIMIT_BYTES = 16_000
FORMAT_VERSION = "2020-01-25"
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checked recipe."""

    name: str
    version: str
    document: Document

    @property
    def platforms(self) -> list[Document]:
        """The platforms its manifests claim, as DescribeComponent lists them."""
        claimed = [
            {str(key): str(value) for key, value in (manifest.get("Platform") or {}).items()}
            for manifest in self.document["Manifests"]
        ]
        return [{"attributes": platform} for platform in claimed]

    def runs_on(self, attributes: dict[str, str]) -> bool:
        """Whether one of its manifests fits a platform; a key that a manifest leaves out fits any."""
        return any(
            all(
                _fits(str(wanted), attributes.get(str(key))) for key, wanted in (manifest.get("Platform") or {}).items()
            )
            for manifest in self.document["Manifests"]
        )

    def rendered(self, output: str) -> bytes:
        """The recipe as JSON or YAML."""
        if output == "YAML":
            return yaml.safe_dump(self.document, sort_keys=False).encode()
        return json.dumps(self.document).encode()


def _fits(wanted: str, found: str | None) -> bool:
    if wanted in ("*", "any"):
        return True
    if found is None:
        return False
    if len(wanted) > 1 and wanted.startswith("/") and wanted.endswith("/"):
        return re.fullmatch(wanted[1:-1], found) is not None
    return wanted == found


def parse(data: bytes) -> Recipe:
    """Read an inline recipe.

    Raises:
        ServiceError: it is too large, is no recipe, or names something that cannot be.
    """
    if len(data) > RECIPE_LIMIT_BYTES:
        raise invalid(f"The recipe has {len(data)} bytes; the limit is {RECIPE_LIMIT_BYTES}.")
    try:
        document = yaml.safe_load(data)  # JSON is YAML
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise invalid(f"The recipe is neither JSON nor YAML: {error}") from None
    if not isinstance(document, dict):
        raise invalid("The recipe is not an object.")
    return checked(document)


def checked(document: dict[str, Any]) -> Recipe:
    """A recipe whose parts are what they must be."""
    for key in ("RecipeFormatVersion", "ComponentName", "ComponentVersion", "Manifests"):
        if key not in document:
            raise invalid(f"The recipe has no {key}.")
    if str(document["RecipeFormatVersion"]) != FORMAT_VERSION:
        raise invalid(f"RecipeFormatVersion must be {FORMAT_VERSION}.")
    name, version = str(document["ComponentName"]), str(document["ComponentVersion"])
    if _NAME.fullmatch(name) is None:
        raise invalid(f"ComponentName {name!r} may hold letters, digits, '.', '_' and '-'.")
    try:
        versions.key(version)
        for dependency, entry in (document.get("ComponentDependencies") or {}).items():
            versions.satisfies("0.0.0", str(entry["VersionRequirement"]))
            if str(entry.get("DependencyType", "HARD")).upper() not in ("HARD", "SOFT"):
                raise invalid(f"DependencyType of {dependency} must be HARD or SOFT.")
        json.dumps(document)  # YAML knows dates and numbers as keys, which a stored recipe has no place for
        for manifest in document["Manifests"]:
            for wanted in (manifest.get("Platform") or {}).values():
                _fits(str(wanted), "")
            for artifact in manifest.get("Artifacts") or []:
                address = urlsplit(str(artifact["Uri"]))
                if address.scheme != "s3" or not address.netloc or not address.path.strip("/"):
                    raise invalid(f"Artifact {artifact['Uri']} does not lie in S3.")
    except (ValueError, TypeError, AttributeError, KeyError, re.error) as error:
        raise invalid(f"The recipe of {name} is malformed: {error}") from None
    return Recipe(name, version, {"ComponentType": "aws.greengrass.generic", **document})


def with_digests(recipe: Recipe, digest_of: Callable[[str], str]) -> Recipe:
    """The recipe with ``Digest`` and ``Algorithm`` of each artifact, which the cloud adds and devices check."""
    manifests = [
        {
            **manifest,
            **(
                {
                    "Artifacts": [
                        {**artifact, "Digest": digest_of(str(artifact["Uri"])), "Algorithm": "SHA-256"}
                        for artifact in manifest["Artifacts"]
                    ]
                }
                if manifest.get("Artifacts")
                else {}
            ),
        }
        for manifest in recipe.document["Manifests"]
    ]
    return Recipe(recipe.name, recipe.version, {**recipe.document, "Manifests": manifests})


def stored(text: str) -> Recipe:
    """A recipe out of the store."""
    document = json.loads(text)
    return Recipe(document["ComponentName"], str(document["ComponentVersion"]), document)


def token_text(value: Any) -> str:
    """A request as text that is equal for equal requests, bytes included."""
    return json.dumps(value, sort_keys=True, default=lambda data: base64.b64encode(data).decode())
