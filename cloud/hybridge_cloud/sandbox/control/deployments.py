"""Deployments: revisions of a target, and the job each of its devices gets.

A device's jobs are made when they are asked for, from the latest active deployment of each group it is in at that
moment: a device that joins later gets it too, and a revision that was superseded before a device took it never arrives.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable

from hybridge_cloud.sandbox.control import arns, tokens
from hybridge_cloud.sandbox.control.account import Account
from hybridge_cloud.sandbox.control.components import Components
from hybridge_cloud.sandbox.control.paging import page
from hybridge_cloud.sandbox.control.store import Store, moment, now, packed
from hybridge_cloud.sandbox.control.wire import Document, Handler, ServiceError, invalid, not_found

ROLLBACK = "ROLLBACK"
POLICIES = ("componentUpdatePolicy", "configurationValidationPolicy")
"""What a deployment may say to the components of a device before it changes them."""
OPEN = ("QUEUED", "IN_PROGRESS")
FINAL = ("SUCCEEDED", "FAILED", "REJECTED")


class Deployments:
    """The deployment operations. ``changed`` is called when devices may have something new to fetch."""

    def __init__(self, store: Store, account: Account, components: Components, changed: Callable[[], None]) -> None:
        self._store = store
        self._account = account
        self._components = components
        self._changed = changed

    def handlers(self) -> dict[str, Handler]:
        return {
            "CreateDeployment": lambda request: tokens.once(self._store, "deployment", request, self._create),
            "GetDeployment": self._get,
            "ListDeployments": self._list,
            "CancelDeployment": self._cancel,
            "ListEffectiveDeployments": self._effective,
        }

    def _create(self, request: Document) -> Document:
        target = arns.target(request["targetArn"])
        if not self._account.target_exists(target.kind, target.name):
            raise not_found("target", request["targetArn"])
        for name, component in request.get("components", {}).items():
            if not self._components.exists(name, component["componentVersion"]):
                raise not_found("Component", arns.component_version(name, component["componentVersion"]))
            _merge(name, component)
        deployment = str(uuid.uuid4())
        with self._store.transaction():
            last = self._store.row("SELECT max(revision) AS revision FROM deployments WHERE target_arn = ?", target.arn)
            revision = 1 + ((last["revision"] if last else None) or 0)
            self._supersede(target.arn)
            self._store.execute(
                "INSERT INTO deployments VALUES (?, ?, ?, ?, ?, 'ACTIVE', ?)",
                deployment,
                target.arn,
                revision,
                request.get("deploymentName", ""),
                now(),
                packed(request),
            )
        self._changed()
        return {"deploymentId": deployment, "iotJobId": _job_id(deployment), "iotJobArn": arns.job(_job_id(deployment))}

    def _supersede(self, target_arn: str) -> None:
        """A new revision takes the place of the target's last one; jobs no device has taken are withdrawn."""
        self._store.execute(
            "UPDATE jobs SET status = 'CANCELED', modified = ? WHERE status = 'QUEUED' AND deployment IN "
            "(SELECT id FROM deployments WHERE target_arn = ?)",
            now(),
            target_arn,
        )
        self._store.execute(
            "UPDATE deployments SET status = 'INACTIVE' WHERE target_arn = ? AND status = 'ACTIVE'", target_arn
        )

    def _row(self, deployment: str) -> sqlite3.Row:
        row = self._store.row("SELECT * FROM deployments WHERE id = ?", deployment)
        if row is None:
            raise not_found("Deployment", deployment)
        return row

    def _is_latest(self, row: sqlite3.Row) -> bool:
        newer = self._store.row(
            "SELECT 1 FROM deployments WHERE target_arn = ? AND revision > ?", row["target_arn"], row["revision"]
        )
        return newer is None

    def _summary(self, row: sqlite3.Row) -> Document:
        request = json.loads(row["request"])
        return {
            "targetArn": row["target_arn"],
            "revisionId": str(row["revision"]),
            "deploymentId": row["id"],
            "deploymentStatus": row["status"],
            "creationTimestamp": moment(row["created"]),
            "isLatestForTarget": self._is_latest(row),
            **({"deploymentName": row["name"]} if row["name"] else {}),
            **({"parentTargetArn": request["parentTargetArn"]} if "parentTargetArn" in request else {}),
        }

    def _get(self, request: Document) -> Document:
        row = self._row(request["deploymentId"])
        asked = json.loads(row["request"])
        kept = ("components", "deploymentPolicies", "iotJobConfiguration", "tags")
        return {
            **self._summary(row),
            "iotJobId": _job_id(row["id"]),
            "iotJobArn": arns.job(_job_id(row["id"])),
            **{key: asked[key] for key in kept if key in asked},
        }

    def _list(self, request: Document) -> Document:
        rows = self._store.rows("SELECT * FROM deployments ORDER BY created DESC, revision DESC")
        if "targetArn" in request:
            rows = [row for row in rows if row["target_arn"] == request["targetArn"]]
        entries = [self._summary(row) for row in rows]
        if "parentTargetArn" in request:
            entries = [entry for entry in entries if entry.get("parentTargetArn") == request["parentTargetArn"]]
        if request.get("historyFilter", "LATEST_ONLY") == "LATEST_ONLY":
            entries = [entry for entry in entries if entry["isLatestForTarget"]]
        return page(entries, request, "deployments")

    def _cancel(self, request: Document) -> Document:
        with self._store.transaction():
            row = self._row(request["deploymentId"])
            if row["status"] != "ACTIVE":
                raise ServiceError(
                    "ConflictException",
                    f"Deployment {row['id']} is {row['status']} and cannot be cancelled.",
                    resourceId=row["id"],
                    resourceType="Deployment",
                )
            self._store.execute("UPDATE deployments SET status = 'CANCELED' WHERE id = ?", row["id"])
            self._store.execute(
                "UPDATE jobs SET status = 'CANCELED', modified = ? WHERE deployment = ? AND status = 'QUEUED'",
                now(),
                row["id"],
            )
        return {"message": f"Deployment {row['id']} was cancelled; devices it reached keep it."}

    def _effective(self, request: Document) -> Document:
        thing = request["coreDeviceThingName"]
        if self._store.row("SELECT 1 FROM cores WHERE thing = ?", thing) is None:
            raise not_found("CoreDevice", thing)
        self.assign(thing)
        rows = self._store.rows(
            "SELECT d.id, d.name, d.target_arn, j.status, j.details, j.created, j.modified, max(d.revision) "
            "FROM jobs j JOIN deployments d ON d.id = j.deployment WHERE j.thing = ? GROUP BY d.target_arn "
            "ORDER BY j.modified DESC",
            thing,
        )
        return page([_effective_entry(row) for row in rows], request, "effectiveDeployments")

    def assign(self, thing: str) -> None:
        """Make the jobs that the device's groups have for it now."""
        targets = [arns.thing(thing), *(arns.group(group) for group in self._account.groups_of(thing))]
        marks = ", ".join("?" for _ in targets)
        waiting = (
            f"SELECT id FROM deployments WHERE target_arn IN ({marks}) AND status = 'ACTIVE' "  # noqa: S608 - marks only
            "AND id NOT IN (SELECT deployment FROM jobs WHERE thing = ?)"
        )
        if not self._store.rows(waiting, *targets, thing):
            return  # the common case of a poll: nothing to write
        with self._store.transaction():
            for (deployment,) in self._store.rows(waiting, *targets, thing):
                self._store.execute(
                    "INSERT INTO jobs VALUES (?, ?, ?, 'QUEUED', '{}', ?, ?)",
                    _job_id(deployment),
                    deployment,
                    thing,
                    now(),
                    now(),
                )

    def next_job(self, thing: str) -> Document | None:
        """The job a device shall work on: the one it began, else the oldest that waits; None where there is none."""
        self.assign(thing)
        row = self._store.row(
            "SELECT j.id AS job, d.* FROM jobs j JOIN deployments d ON d.id = j.deployment WHERE j.thing = ? "
            "AND j.status IN ('QUEUED', 'IN_PROGRESS') ORDER BY j.status = 'QUEUED', j.created, d.created LIMIT 1",
            thing,
        )
        return {"jobId": row["job"], "document": _document(row)} if row is not None else None

    def report(self, thing: str, job: str, status: str, details: Document) -> str:
        """Take a device's word on a job.

        Returns:
            the job's status now: what the device said, or the final status it had already.

        Raises:
            ServiceError: no such job, or no such status.
        """
        if status not in ("IN_PROGRESS", *FINAL):
            raise invalid(f"{status!r} is not a status a device may report.")
        with self._store.transaction():
            row = self._store.row("SELECT * FROM jobs WHERE id = ? AND thing = ?", job, thing)
            if row is None:
                raise not_found("Job", job)
            if row["status"] not in OPEN:
                return str(row["status"])
            self._store.execute(
                "UPDATE jobs SET status = ?, details = ?, modified = ? WHERE id = ? AND thing = ?",
                status,
                packed(details),
                now(),
                job,
                thing,
            )
            deployment = self._row(row["deployment"])
            if status in FINAL and ":thing/" in deployment["target_arn"] and deployment["status"] == "ACTIVE":
                ended = "COMPLETED" if status == "SUCCEEDED" else "FAILED"  # a single device's deployment has an end
                self._store.execute("UPDATE deployments SET status = ? WHERE id = ?", ended, deployment["id"])
        return status


def _job_id(deployment: str) -> str:
    """One IoT job a deployment; its id is derived, so that nothing needs to be looked up."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"greengrass-deployment:{deployment}"))


def _merge(name: str, component: Document) -> Document:
    text = component.get("configurationUpdate", {}).get("merge")
    try:
        merge = json.loads(text) if text else {}
    except ValueError:
        raise invalid(f"configurationUpdate.merge of {name} is not JSON.") from None
    if not isinstance(merge, dict):
        raise invalid(f"configurationUpdate.merge of {name} is not a JSON object.")
    return merge


def _document(row: sqlite3.Row) -> Document:
    """The job document a nucleus gets."""
    request = json.loads(row["request"])
    components = {}
    for name, component in request.get("components", {}).items():
        components[name] = {"version": component["componentVersion"]}
        if update := component.get("configurationUpdate"):
            components[name]["configurationUpdate"] = {
                "merge": _merge(name, component),
                "reset": update.get("reset", []),
            }
    policies = request.get("deploymentPolicies", {})
    return {
        "deploymentId": row["id"],
        "configurationArn": arns.configuration(arns.target(row["target_arn"]), row["revision"]),
        "components": components,
        "failureHandlingPolicy": policies.get("failureHandlingPolicy", ROLLBACK),
        **{name: _policy(policies[name]) for name in POLICIES if name in policies},
    }


def _policy(asked: Document) -> Document:
    """A policy as a nucleus reads it: ``timeoutInSeconds`` is its ``timeout``."""
    names = {"timeoutInSeconds": "timeout"}
    return {names.get(key, key): value for key, value in asked.items()}


def _effective_entry(row: sqlite3.Row) -> Document:
    details = json.loads(row["details"])
    reason = (
        details.get("reason") or details.get("deployment-failure-cause") or details.get("detailed-deployment-status")
    )
    stacks = {"errorStack": details.get("errorStack"), "errorTypes": details.get("errorTypes")}
    given = {key: [str(entry) for entry in value] for key, value in stacks.items() if isinstance(value, list)}
    return {
        "deploymentId": row["id"],
        "deploymentName": row["name"],
        "iotJobId": _job_id(row["id"]),
        "iotJobArn": arns.job(_job_id(row["id"])),
        "targetArn": row["target_arn"],
        "coreDeviceExecutionStatus": row["status"],
        "creationTimestamp": moment(row["created"]),
        "modifiedTimestamp": moment(row["modified"]),
        **({"reason": str(reason)} if reason else {}),
        **({"statusDetails": given} if given else {}),
    }
