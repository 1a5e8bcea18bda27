"""Core devices as the cloud knows them: from what each reports of itself, and from nothing else."""

from __future__ import annotations

import json
import sqlite3

from hybridge_cloud.sandbox.control import arns
from hybridge_cloud.sandbox.control.account import Account
from hybridge_cloud.sandbox.control.paging import page
from hybridge_cloud.sandbox.control.store import Store, moment, now, packed
from hybridge_cloud.sandbox.control.wire import Document, Handler, invalid, not_found

COMPONENT_LIMIT = 500
"""Components one health message may list."""


class Cores:
    """The core device operations."""

    def __init__(self, store: Store, account: Account) -> None:
        self._store = store
        self._account = account

    def handlers(self) -> dict[str, Handler]:
        return {
            "ListCoreDevices": self._list,
            "GetCoreDevice": self._get,
            "DeleteCoreDevice": self._delete,
            "ListInstalledComponents": self._installed,
        }

    def _row(self, thing: str) -> sqlite3.Row:
        row = self._store.row("SELECT * FROM cores WHERE thing = ?", thing)
        if row is None:
            raise not_found("CoreDevice", thing)
        return row

    def _get(self, request: Document) -> Document:
        row = self._row(request["coreDeviceThingName"])
        return {
            "coreDeviceThingName": row["thing"],
            "coreVersion": row["version"],
            "platform": row["platform"],
            "architecture": row["architecture"],
            "runtime": row["runtime"],
            "status": row["status"],
            "lastStatusUpdateTimestamp": moment(row["reported"]),
            "tags": {},
        }

    def _list(self, request: Document) -> Document:
        rows = self._store.rows("SELECT * FROM cores ORDER BY thing")
        if "thingGroupArn" in request:
            members = self._account.members_of(arns.target(request["thingGroupArn"]).name)
            rows = [row for row in rows if row["thing"] in members]
        entries: list[Document] = [
            {
                "coreDeviceThingName": row["thing"],
                "status": row["status"],
                "lastStatusUpdateTimestamp": moment(row["reported"]),
                "platform": row["platform"],
                "architecture": row["architecture"],
                "runtime": row["runtime"],
            }
            for row in rows
            if row["status"] == request.get("status", row["status"])
            and row["runtime"] == request.get("runtime", row["runtime"])
        ]
        return page(entries, request, "coreDevices")

    def _delete(self, request: Document) -> Document:
        thing = request["coreDeviceThingName"]
        self._row(thing)
        with self._store.transaction():
            self._store.execute("DELETE FROM jobs WHERE thing = ?", thing)
            self._store.execute("DELETE FROM cores WHERE thing = ?", thing)
        return {}

    def _installed(self, request: Document) -> Document:
        thing = request["coreDeviceThingName"]
        self._row(thing)
        roots_only = request.get("topologyFilter", "ROOT") == "ROOT"
        rows = self._store.rows("SELECT * FROM installed WHERE thing = ? ORDER BY component", thing)
        entries: list[Document] = [
            {
                "componentName": row["component"],
                "componentVersion": row["version"],
                "lifecycleState": row["state"],
                **({"lifecycleStateDetails": row["details"]} if row["details"] else {}),
                "isRoot": bool(row["root"]),
                "lastStatusChangeTimestamp": moment(row["changed"]),
                "lastReportedTimestamp": moment(row["reported"]),
                "lastInstallationSource": row["source"],
            }
            for row in rows
            if row["root"] or not roots_only
        ]
        return page(entries, request, "installedComponents")

    def thing_groups(self, thing: str) -> Document:
        """The data plane's ListThingGroupsForCoreDevice, which botocore has no model of."""
        groups = [
            {"thingGroupName": name, "thingGroupArn": arns.group(name)} for name in self._account.groups_of(thing)
        ]
        return {"thingGroups": groups}

    def report(self, thing: str, message: Document) -> None:
        """Take a fleet status message; one that came already, by this way or another, changes nothing.

        Args:
            thing: whose message it is, as far as the way it came says.

        Raises:
            ServiceError: the thing is not registered, the message is not one, or speaks of another thing.
        """
        if message.get("thing", thing) != thing:
            raise invalid(f"The status message of {thing} speaks of {str(message['thing'])[:128]!r}.")
        if self._is_old(thing, message):
            return
        if not self._account.target_exists("thing", thing):
            raise not_found("Thing", thing)
        try:
            status = str(message["overallDeviceStatus"])
            listed = [_reported(entry) for entry in message.get("components") or []]
            core = (
                thing,
                status,
                str(message["ggcVersion"]),
                str(message["platform"]),
                str(message["architecture"]),
                str(message.get("runtime") or "aws_nucleus_classic"),
                now(),
                int(message.get("sequenceNumber") or 0),
            )
            whole = message.get("messageType", "COMPLETE") == "COMPLETE"
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise invalid(f"The status message of {thing} is malformed: {error!r}.") from None
        if status not in ("HEALTHY", "UNHEALTHY") or len(listed) > COMPONENT_LIMIT:
            raise invalid(f"The status message of {thing} says {status} with {len(listed)} components.")
        with self._store.transaction():
            self._store.execute(
                "INSERT INTO cores VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (thing) DO UPDATE SET "
                "status = excluded.status, version = excluded.version, platform = excluded.platform, "
                "architecture = excluded.architecture, runtime = excluded.runtime, reported = excluded.reported, "
                "sequence = excluded.sequence",
                *core,
            )
            for component, version, state, details, root, source in listed:
                self._store.execute(
                    "INSERT INTO installed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (thing, component) "
                    "DO UPDATE SET changed = CASE WHEN state = excluded.state AND version = excluded.version "
                    "THEN changed ELSE excluded.changed END, version = excluded.version, state = excluded.state, "
                    "details = excluded.details, root = excluded.root, source = excluded.source, "
                    "reported = excluded.reported",
                    thing,
                    component,
                    version,
                    state,
                    details,
                    root,
                    source,
                    now(),
                    now(),
                )
            if whole:
                named = packed([entry[0] for entry in listed])
                self._store.execute(
                    "DELETE FROM installed WHERE thing = ? AND component NOT IN (SELECT value FROM json_each(?))",
                    thing,
                    named,
                )

    def _is_old(self, thing: str, message: Document) -> bool:
        """Whether this message, or a later one, was taken already. Numbers begin anew on a device that is made anew."""
        row = self._store.row("SELECT sequence, reported FROM cores WHERE thing = ?", thing)
        number = message.get("sequenceNumber")
        if row is None or not isinstance(number, int) or number > row["sequence"]:
            return False
        made = message.get("timestamp")  # by the clock that the devices of a sandbox share with it
        anew = message.get("trigger") == "NUCLEUS_LAUNCH" and isinstance(made, int) and made / 1000 > row["reported"]
        return not anew


def _reported(entry: Document) -> tuple[str, str, str, str, int, str]:
    """One component of a status message: name, version, state, details, root, where it came from."""
    sources = [
        str(arn).rpartition("configuration:")[2].rpartition(":")[0] for arn in entry.get("fleetConfigArns") or []
    ]
    details = entry.get("statusDetails") or ""
    return (
        str(entry["componentName"]),
        str(entry["version"]),
        str(entry["status"]),
        details if isinstance(details, str) else json.dumps(details),
        int(bool(entry.get("isRoot"))),
        sources[0] if sources else "LOCAL",
    )
