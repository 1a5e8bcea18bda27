"""codepipeline: declarations, executions and their state."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable

from hybridge_cloud.sandbox.control import arns, structure
from hybridge_cloud.sandbox.control.paging import page
from hybridge_cloud.sandbox.control.recipes import token_text
from hybridge_cloud.sandbox.control.store import TOKEN_SECONDS, Store, moment, now, packed
from hybridge_cloud.sandbox.control.wire import Document, Handler, ServiceError


class Pipelines:
    """The pipeline operations. ``wake`` is called when an execution waits to be run."""

    def __init__(self, store: Store, wake: Callable[[], None]) -> None:
        self._store = store
        self._wake = wake

    def handlers(self) -> dict[str, Handler]:
        return {
            "CreatePipeline": self._create,
            "UpdatePipeline": self._update,
            "GetPipeline": self._get,
            "DeletePipeline": self._delete,
            "ListPipelines": self._list,
            "StartPipelineExecution": self._start,
            "GetPipelineExecution": self._execution,
            "ListPipelineExecutions": self._executions,
            "GetPipelineState": self._state,
        }

    def _row(self, name: str, version: int | None = None) -> sqlite3.Row:
        row = self._store.row("SELECT * FROM pipelines WHERE name = ? ORDER BY version DESC LIMIT 1", name)
        if row is None:
            raise ServiceError("PipelineNotFoundException", f"There is no pipeline {name}.")
        if version is not None:
            row = self._store.row("SELECT * FROM pipelines WHERE name = ? AND version = ?", name, version)
            if row is None:
                raise ServiceError("PipelineVersionNotFoundException", f"Pipeline {name} has no version {version}.")
        return row

    def _write(self, pipeline: Document, version: int, created: float) -> Document:
        declared = {"pipelineType": "V1", "executionMode": "SUPERSEDED", **pipeline, "version": version}
        structure.check(declared)
        self._store.execute(
            "INSERT INTO pipelines VALUES (?, ?, ?, ?, ?)", pipeline["name"], version, packed(declared), created, now()
        )
        return declared

    def _create(self, request: Document) -> Document:
        pipeline = request["pipeline"]
        with self._store.transaction():
            if self._store.row("SELECT 1 FROM pipelines WHERE name = ?", pipeline["name"]) is not None:
                raise ServiceError("PipelineNameInUseException", f"A pipeline {pipeline['name']} exists.")
            declared = self._write(pipeline, 1, now())
        return {"pipeline": declared, **({"tags": request["tags"]} if "tags" in request else {})}

    def _update(self, request: Document) -> Document:
        pipeline = request["pipeline"]
        with self._store.transaction():
            row = self._store.row(
                "SELECT * FROM pipelines WHERE name = ? ORDER BY version DESC LIMIT 1", pipeline["name"]
            )
            if row is None:  # UpdatePipeline has no PipelineNotFoundException
                raise ServiceError("InvalidStructureException", f"There is no pipeline {pipeline['name']}.")
            return {"pipeline": self._write(pipeline, row["version"] + 1, row["created"])}

    def _get(self, request: Document) -> Document:
        row = self._row(request["name"], request.get("version"))
        metadata = {
            "pipelineArn": arns.pipeline(row["name"]),
            "created": moment(row["created"]),
            "updated": moment(row["updated"]),
        }
        return {"pipeline": json.loads(row["structure"]), "metadata": metadata}

    def _delete(self, request: Document) -> Document:
        self._store.execute("DELETE FROM pipelines WHERE name = ?", request["name"])
        return {}

    def _list(self, request: Document) -> Document:
        entries: list[Document] = []
        for (name,) in self._store.rows("SELECT DISTINCT name FROM pipelines ORDER BY name"):
            row = self._row(name)
            declared = json.loads(row["structure"])
            entries.append(
                {
                    "name": name,
                    "version": row["version"],
                    "pipelineType": declared["pipelineType"],
                    "executionMode": declared["executionMode"],
                    "created": moment(row["created"]),
                    "updated": moment(row["updated"]),
                }
            )
        return page(entries, request, "pipelines", "InvalidNextTokenException")

    def _start(self, request: Document) -> Document:
        token, text = request.get("clientRequestToken"), token_text(request)
        with self._store.transaction():
            row = self._row(request["name"])
            self._store.execute("DELETE FROM tokens WHERE created < ?", now() - TOKEN_SECONDS)
            if token is not None:
                known = self._store.row("SELECT * FROM tokens WHERE operation = 'execution' AND token = ?", token)
                if known is not None and known["request"] == text:
                    answer: Document = json.loads(known["answer"])
                    return answer
            pipeline = json.loads(row["structure"])
            values = structure.variables(pipeline, request.get("variables", []))
            overrides = _overrides(pipeline, request.get("sourceRevisions", []))
            last = self._store.row("SELECT max(number) AS number FROM executions")
            number = 1 + ((last["number"] if last else None) or 0)
            execution = str(uuid.uuid4())
            self._store.execute(
                "INSERT INTO executions VALUES (?, ?, ?, ?, 'InProgress', 0, '', ?, ?, '[]', ?, ?)",
                execution,
                number,
                row["name"],
                row["version"],
                packed(values),
                packed(overrides),
                now(),
                now(),
            )
            if token is not None:
                self._store.execute(
                    "INSERT OR REPLACE INTO tokens VALUES ('execution', ?, ?, ?, ?)",
                    token,
                    text,
                    packed({"pipelineExecutionId": execution}),
                    now(),
                )
        self._wake()
        return {"pipelineExecutionId": execution}

    def _execution(self, request: Document) -> Document:
        self._row(request["pipelineName"])
        row = self._store.row(
            "SELECT * FROM executions WHERE id = ? AND pipeline = ?",
            request["pipelineExecutionId"],
            request["pipelineName"],
        )
        if row is None:
            raise ServiceError(
                "PipelineExecutionNotFoundException", f"There is no execution {request['pipelineExecutionId']}."
            )
        variables = [{"name": name, "resolvedValue": value} for name, value in json.loads(row["variables"]).items()]
        return {
            "pipelineExecution": {
                "pipelineName": row["pipeline"],
                "pipelineVersion": row["version"],
                "pipelineExecutionId": row["id"],
                "status": row["status"],
                "artifactRevisions": [
                    {"name": entry["artifact"], "revisionId": entry["revision"], "revisionSummary": entry["summary"]}
                    for entry in json.loads(row["revisions"])
                ],
                "variables": variables,
                "trigger": {"triggerType": "StartPipelineExecution"},
                "executionMode": "QUEUED",
                "executionType": "STANDARD",
                **({"statusSummary": row["summary"]} if row["summary"] else {}),
            }
        }

    def _executions(self, request: Document) -> Document:
        self._row(request["pipelineName"])
        rows = self._store.rows(
            "SELECT * FROM executions WHERE pipeline = ? ORDER BY number DESC", request["pipelineName"]
        )
        stage = request.get("filter", {}).get("succeededInStage", {}).get("stageName")
        entries: list[Document] = [
            {
                "pipelineExecutionId": row["id"],
                "status": row["status"],
                "startTime": moment(row["started"]),
                "lastUpdateTime": moment(row["updated"]),
                "sourceRevisions": [
                    {
                        "actionName": entry["action"],
                        "revisionId": entry["revision"],
                        "revisionSummary": entry["summary"],
                    }
                    for entry in json.loads(row["revisions"])
                ],
                "trigger": {"triggerType": "StartPipelineExecution"},
                "executionMode": "QUEUED",
                "executionType": "STANDARD",
                **({"statusSummary": row["summary"]} if row["summary"] else {}),
            }
            for row in rows
            if stage is None or self._stage_status(row, stage) == "Succeeded"
        ]
        return page(entries, request, "pipelineExecutionSummaries", "InvalidNextTokenException")

    def _stage_status(self, execution: sqlite3.Row, stage: str) -> str:
        """How a stage stands in an execution; "" where it was not reached."""
        declared = json.loads(self._row(execution["pipeline"], execution["version"])["structure"])
        actions = [
            action["name"] for entry in declared["stages"] if entry["name"] == stage for action in entry["actions"]
        ]
        runs = self._store.rows("SELECT * FROM actions WHERE execution = ? AND stage = ?", execution["id"], stage)
        if not runs:
            return ""
        if any(run["status"] == "Failed" for run in runs):
            return "Failed"
        if {run["action"] for run in runs if run["status"] == "Succeeded"} == set(actions):
            return "Succeeded"
        return "InProgress" if execution["status"] == "InProgress" else str(execution["status"])

    def _state(self, request: Document) -> Document:
        row = self._row(request["name"])
        stages = [
            self._stage_state(row["name"], stage, first=index == 0)
            for index, stage in enumerate(json.loads(row["structure"])["stages"])
        ]
        return {
            "pipelineName": row["name"],
            "pipelineVersion": row["version"],
            "stageStates": stages,
            "created": moment(row["created"]),
            "updated": moment(row["updated"]),
        }

    def _stage_state(self, pipeline: str, stage: Document, *, first: bool) -> Document:
        latest = self._store.row(
            "SELECT e.* FROM executions e WHERE e.pipeline = ? AND EXISTS "
            "(SELECT 1 FROM actions a WHERE a.execution = e.id AND a.stage = ?) ORDER BY e.number DESC LIMIT 1",
            pipeline,
            stage["name"],
        )
        waiting = self._store.rows(
            "SELECT id FROM executions WHERE pipeline = ? AND status = 'InProgress' AND begun = 0 ORDER BY number",
            pipeline,
        )
        state: Document = {
            "stageName": stage["name"],
            "inboundTransitionState": {"enabled": True},
            "actionStates": [
                self._action_state(pipeline, stage["name"], action["name"]) for action in stage["actions"]
            ],
        }
        if first and waiting:
            state["inboundExecutions"] = [
                {"pipelineExecutionId": entry["id"], "status": "InProgress"} for entry in waiting
            ]
        if latest is not None:
            status = self._stage_status(latest, stage["name"])
            state["latestExecution"] = {"pipelineExecutionId": latest["id"], "status": status}
        return state

    def _action_state(self, pipeline: str, stage: str, action: str) -> Document:
        run = self._store.row(
            "SELECT a.* FROM actions a JOIN executions e ON e.id = a.execution WHERE e.pipeline = ? AND a.stage = ? "
            "AND a.action = ? ORDER BY e.number DESC, a.started DESC LIMIT 1",
            pipeline,
            stage,
            action,
        )
        if run is None:
            return {"actionName": action}
        latest: Document = {
            "actionExecutionId": run["id"],
            "status": run["status"],
            "lastStatusChange": moment(run["updated"]),
            **({"summary": run["summary"]} if run["summary"] else {}),
            **({"externalExecutionId": run["external"]} if run["external"] else {}),
        }
        if run["status"] == "Failed":
            latest["errorDetails"] = {"code": "JobFailed", "message": run["summary"]}
        return {"actionName": action, "latestExecution": latest}


def _overrides(pipeline: Document, asked: list[Document]) -> dict[str, str]:
    """Which object key each source action shall take instead of its own."""
    sources = {action["name"]: action for stage in pipeline["stages"][:1] for action in stage["actions"]}
    chosen: dict[str, str] = {}
    for entry in asked:
        action = sources.get(entry["actionName"])
        if action is None or entry["revisionType"] != "S3_OBJECT_KEY":
            raise ServiceError("ValidationException", f"{entry['actionName']} takes no {entry['revisionType']}.")
        if action["configuration"].get("AllowOverrideForS3ObjectKey") != "true":
            raise ServiceError("ValidationException", f"{entry['actionName']} does not allow another object key.")
        chosen[entry["actionName"]] = entry["revisionValue"]
    return chosen
