"""Runs pipeline executions, one at a time for each pipeline, in the order they were started (execution mode QUEUED).

An execution that waits survives kill -9 and is run afterwards. One that had begun is Failed with a reason: what its
build had done by then nobody knows, and a build is not run twice behind the caller's back.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import threading
import uuid
from pathlib import Path

from hybridge_cloud.sandbox import processes
from hybridge_cloud.sandbox.control import build, structure
from hybridge_cloud.sandbox.control.account import Account
from hybridge_cloud.sandbox.control.store import Store, now, packed
from hybridge_cloud.sandbox.control.wire import Document
from hybridge_cloud.sandbox.folder import Recorded, SandboxFolder

KILLED = "The sandbox was killed while this ran; start the pipeline again."
STOP_SECONDS = 12.0


class Executor:
    """Owns one thread for each pipeline that has something to do."""

    def __init__(self, store: Store, account: Account, folder: SandboxFolder, buildspecs: Path) -> None:
        self._store = store
        self._account = account
        self._folder = folder
        self._buildspecs = buildspecs
        self._work = folder.control / "builds"
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def recover(self) -> None:
        """Fail what was running when the service was killed, after ending what is left of its builds."""
        for run in self._store.rows("SELECT * FROM actions WHERE status = 'InProgress'"):
            if run["pid"] and processes.alive(Recorded(run["pid"], run["pid_started"])):
                build.end_session(run["pid"])
            self._finish_action(run["id"], "Failed", KILLED)
        shutil.rmtree(self._work, ignore_errors=True)  # of builds that were killed
        for row in self._store.rows("SELECT * FROM executions WHERE status = 'InProgress' AND begun = 1"):
            self._finish(row["id"], "Failed", KILLED)
        self.wake()

    def wake(self) -> None:
        """Make sure that every pipeline with a waiting execution has a thread."""
        with self._lock:
            if self._stopping.is_set():
                return
            waiting = "SELECT DISTINCT pipeline FROM executions WHERE status = 'InProgress' AND begun = 0"
            for (pipeline,) in self._store.rows(waiting):
                if pipeline not in self._threads:
                    thread = threading.Thread(
                        target=self._drain, args=(pipeline,), name=f"pipeline {pipeline}", daemon=True
                    )
                    self._threads[pipeline] = thread
                    thread.start()

    def stop(self) -> None:
        """End running builds and wait for the threads; their executions are Failed with a reason."""
        self._stopping.set()
        for thread in list(self._threads.values()):
            thread.join(STOP_SECONDS)

    def _drain(self, pipeline: str) -> None:
        waiting = "pipeline = ? AND status = 'InProgress' AND begun = 0"
        query = f"SELECT * FROM executions WHERE {waiting} ORDER BY number LIMIT 1"  # noqa: S608 - a constant
        while True:
            with self._lock:
                row = None if self._stopping.is_set() else self._store.row(query, pipeline)
                if row is None:
                    del self._threads[pipeline]
                    return
            self._run(row)

    def _run(self, row: sqlite3.Row) -> None:
        self._store.execute("UPDATE executions SET begun = 1, updated = ? WHERE id = ?", now(), row["id"])
        declared = self._store.row(
            "SELECT structure FROM pipelines WHERE name = ? AND version = ?", row["pipeline"], row["version"]
        )
        if declared is None:
            self._finish(row["id"], "Failed", "The pipeline was deleted.")
            return
        self._work.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="artifacts-", dir=self._work) as artifacts:
            for stage in json.loads(declared["structure"])["stages"]:
                for action in structure.ordered(stage):
                    if failure := self._action(row, stage["name"], action, Path(artifacts)):
                        self._finish(
                            row["id"], "Failed", f"Action {action['name']} of stage {stage['name']}: {failure}"
                        )
                        return
        self._finish(row["id"], "Succeeded", "")

    def _action(self, row: sqlite3.Row, stage: str, action: Document, artifacts: Path) -> str:
        """Run one action; returns why it failed, or ""."""
        run = str(uuid.uuid4())
        self._store.execute(
            "INSERT INTO actions VALUES (?, ?, ?, ?, 'InProgress', '', '', 0, 0, ?, ?)",
            run,
            row["id"],
            stage,
            action["name"],
            now(),
            now(),
        )
        try:
            if action["actionTypeId"]["category"] == "Source":
                summary = self._source(row, action, artifacts)
            else:
                summary = self._build(row, run, action, artifacts)
        except build.BuildFailed as failure:
            self._finish_action(run, "Failed", str(failure))
            return str(failure)
        except Exception as error:  # whatever it was, the execution must not stay InProgress for ever
            self._finish_action(run, "Failed", f"{type(error).__name__}: {error}")
            return f"{type(error).__name__}: {error}"
        self._finish_action(run, "Succeeded", summary)
        return ""

    def _source(self, row: sqlite3.Row, action: Document, artifacts: Path) -> str:
        bucket = action["configuration"]["S3Bucket"]
        key = json.loads(row["overrides"]).get(action["name"], action["configuration"]["S3ObjectKey"])
        found = self._account.object_revision(bucket, key)
        if found is None:
            raise build.BuildFailed(f"The object s3://{bucket}/{key} does not exist.")
        version, etag = found
        revisions = []
        for artifact in action.get("outputArtifacts", []):
            self._account.download(bucket, key, version, artifacts / artifact["name"])
            revisions.append(
                {"artifact": artifact["name"], "action": action["name"], "revision": version or etag, "summary": key}
            )
        with self._store.transaction():
            before = self._store.row("SELECT revisions FROM executions WHERE id = ?", row["id"])
            known = json.loads(before["revisions"]) if before else []
            self._store.execute(
                "UPDATE executions SET revisions = ? WHERE id = ?", packed([*known, *revisions]), row["id"]
            )
        return f"s3://{bucket}/{key} at {version or etag}"

    def _build(self, row: sqlite3.Row, run: str, action: Document, artifacts: Path) -> str:
        name = action["configuration"]["ProjectName"]
        project = build.load(self._buildspecs / f"{name}.yml")
        external = f"{name}:{uuid.uuid4()}"
        self._store.execute("UPDATE actions SET external = ?, updated = ? WHERE id = ?", external, now(), run)
        values = {f"variables.{key}": value for key, value in json.loads(row["variables"]).items()}
        values["codepipeline.PipelineExecutionId"] = row["id"]
        try:
            variables = {key: structure.resolve(value, values) for key, value in structure.build_variables(action)}
        except KeyError as error:
            raise build.BuildFailed(f"Nothing gives #{{{error.args[0]}}} a value.") from None
        variables["CODEBUILD_BUILD_ID"] = external
        variables["CODEBUILD_INITIATOR"] = f"codepipeline/{row['pipeline']}"
        folder = Path(tempfile.mkdtemp(prefix="build-", dir=self._work))
        (folder / "src").mkdir()
        try:
            build.unpack(artifacts / action["inputArtifacts"][0]["name"], folder / "src")
            log = self._folder.logs / "builds" / f"{external.replace(':', '-')}.log"
            build.run(project, folder, variables, log, lambda process: self._began(run, process), self._stopping.is_set)
        finally:
            shutil.rmtree(folder)
        return f"Log: {os.fspath(log)}"

    def _began(self, run: str, process: Recorded) -> None:
        self._store.execute(
            "UPDATE actions SET pid = ?, pid_started = ? WHERE id = ?", process.pid, process.started, run
        )

    def _finish_action(self, run: str, status: str, summary: str) -> None:
        self._store.execute(
            "UPDATE actions SET status = ?, summary = ?, updated = ? WHERE id = ?", status, summary, now(), run
        )

    def _finish(self, execution: str, status: str, summary: str) -> None:
        self._store.execute(
            "UPDATE executions SET status = ?, summary = ?, updated = ? WHERE id = ?", status, summary, now(), execution
        )
