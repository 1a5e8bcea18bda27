"""Component versions: greengrassv2's registry, and the resolving of candidates for a device."""

from __future__ import annotations

import json
import sqlite3

from hybridge_cloud.sandbox.control import arns, recipes, tokens, versions
from hybridge_cloud.sandbox.control.account import Account
from hybridge_cloud.sandbox.control.paging import page
from hybridge_cloud.sandbox.control.store import Store, moment, now, packed
from hybridge_cloud.sandbox.control.wire import Document, Handler, ServiceError, invalid, not_found


class Components:
    """The component operations."""

    def __init__(self, store: Store, account: Account) -> None:
        self._store = store
        self._account = account

    def handlers(self) -> dict[str, Handler]:
        return {
            "CreateComponentVersion": lambda request: tokens.once(self._store, "component", request, self._create),
            "DescribeComponent": self._describe,
            "GetComponent": self._get,
            "ListComponents": self._list,
            "ListComponentVersions": self._list_versions,
            "DeleteComponent": self._delete,
            "ResolveComponentCandidates": self._resolve,
        }

    def exists(self, name: str, version: str) -> bool:
        return self._store.row("SELECT 1 FROM components WHERE name = ? AND version = ?", name, version) is not None

    def _create(self, request: Document) -> Document:
        if "inlineRecipe" not in request:
            raise invalid("An inlineRecipe is needed; the sandbox makes no components of Lambda functions.")
        recipe = recipes.with_digests(recipes.parse(request["inlineRecipe"]), self._account.artifact_digest)
        arn, created = arns.component_version(recipe.name, recipe.version), now()
        with self._store.transaction():
            if self.exists(recipe.name, recipe.version):
                raise ServiceError(
                    "ConflictException",
                    f"Component [{recipe.name} : {recipe.version}] already exists with state: [DEPLOYABLE]",
                    resourceId=arn,
                    resourceType="Component",
                )
            self._store.execute(
                "INSERT INTO components VALUES (?, ?, ?, ?, ?, ?)",
                arn,
                recipe.name,
                recipe.version,
                packed(recipe.document),
                created,
                packed(request.get("tags", {})),
            )
        return {
            "arn": arn,
            "componentName": recipe.name,
            "componentVersion": recipe.version,
            "creationTimestamp": moment(created),
            "status": {"componentState": "REQUESTED", "message": "NONE", "errors": {}, "vendorGuidance": "ACTIVE"},
        }

    def _row(self, arn: str) -> sqlite3.Row:
        row = self._store.row("SELECT * FROM components WHERE arn = ?", arn)
        if row is None:
            raise not_found("Component", arn)
        return row

    def _describe(self, request: Document) -> Document:
        row = self._row(request["arn"])
        recipe = recipes.stored(row["recipe"])
        return {
            "arn": row["arn"],
            "componentName": row["name"],
            "componentVersion": row["version"],
            "creationTimestamp": moment(row["created"]),
            "status": {"componentState": "DEPLOYABLE", "message": "NONE", "errors": {}, "vendorGuidance": "ACTIVE"},
            "platforms": recipe.platforms,
            "tags": json.loads(row["tags"]),
            **_words(recipe),
        }

    def _get(self, request: Document) -> Document:
        row = self._row(request["arn"])
        output = request.get("recipeOutputFormat", "JSON")
        return {
            "recipeOutputFormat": output,
            "recipe": recipes.stored(row["recipe"]).rendered(output),
            "tags": json.loads(row["tags"]),
        }

    def _newest_first(self, name: str) -> list[sqlite3.Row]:
        rows = self._store.rows("SELECT * FROM components WHERE name = ?", name)
        return sorted(rows, key=lambda row: versions.key(row["version"]), reverse=True)

    def _list(self, request: Document) -> Document:
        entries: list[Document] = []
        if request.get("scope", "PRIVATE") == "PRIVATE":  # nothing is published to all accounts here
            for (name,) in self._store.rows("SELECT DISTINCT name FROM components ORDER BY name"):
                latest = self._newest_first(name)[0]
                recipe = recipes.stored(latest["recipe"])
                entries.append(
                    {
                        "arn": arns.component(name),
                        "componentName": name,
                        "latestVersion": {
                            "arn": latest["arn"],
                            "componentVersion": latest["version"],
                            "creationTimestamp": moment(latest["created"]),
                            "platforms": recipe.platforms,
                            **_words(recipe),
                        },
                    }
                )
        return page(entries, request, "components")

    def _list_versions(self, request: Document) -> Document:
        name = request["arn"].rpartition(":components:")[2]
        rows = self._newest_first(name)
        if not rows:
            raise not_found("Component", request["arn"])
        entries: list[Document] = [
            {"componentName": name, "componentVersion": row["version"], "arn": row["arn"]} for row in rows
        ]
        return page(entries, request, "componentVersions")

    def _delete(self, request: Document) -> Document:
        self._row(request["arn"])
        self._store.execute("DELETE FROM components WHERE arn = ?", request["arn"])
        return {}

    def _resolve(self, request: Document) -> Document:
        attributes = request.get("platform", {}).get("attributes", {})
        resolved = [self._candidate(candidate, attributes) for candidate in request.get("componentCandidates", [])]
        return {"resolvedComponentVersions": resolved}

    def _candidate(self, candidate: Document, attributes: dict[str, str]) -> Document:
        name = candidate.get("componentName", "")
        requirements = candidate.get("versionRequirements", {})
        try:
            fitting = [
                row
                for row in self._newest_first(name)
                if all(versions.satisfies(row["version"], wanted) for wanted in requirements.values())
            ]
        except ValueError as error:
            raise invalid(f"A version requirement of {name} cannot be read: {error}") from None
        if not fitting:
            wanted = ", ".join(f"{source} wants {wanted}" for source, wanted in sorted(requirements.items()))
            raise not_found("Component", f"{name} ({wanted or 'any version'})")
        for row in sorted(fitting, key=lambda row: row["version"] != candidate.get("componentVersion")):
            recipe = recipes.stored(row["recipe"])
            if recipe.runs_on(attributes):
                return {
                    "arn": row["arn"],
                    "componentName": name,
                    "componentVersion": row["version"],
                    "recipe": recipe.rendered("JSON"),
                    "vendorGuidance": "ACTIVE",
                }
        raise not_found("Component", f"{name} for the platform {attributes}")


def _words(recipe: recipes.Recipe) -> Document:
    pairs = (("ComponentPublisher", "publisher"), ("ComponentDescription", "description"))
    return {ours: str(recipe.document[theirs]) for theirs, ours in pairs if recipe.document.get(theirs)}
