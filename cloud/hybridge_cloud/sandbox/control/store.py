"""The control service's own store: SQLite in the sandbox's folder, synchronised fully, so that it survives kill -9."""

from __future__ import annotations

import datetime
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE components (
  arn TEXT PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL, recipe TEXT NOT NULL, created REAL NOT NULL,
  tags TEXT NOT NULL, UNIQUE (name, version));
CREATE TABLE deployments (
  id TEXT PRIMARY KEY, target_arn TEXT NOT NULL, revision INTEGER NOT NULL, name TEXT NOT NULL, created REAL NOT NULL,
  status TEXT NOT NULL, request TEXT NOT NULL, UNIQUE (target_arn, revision));
CREATE TABLE jobs (
  id TEXT NOT NULL, deployment TEXT NOT NULL REFERENCES deployments (id), thing TEXT NOT NULL, status TEXT NOT NULL,
  details TEXT NOT NULL, created REAL NOT NULL, modified REAL NOT NULL, PRIMARY KEY (deployment, thing));
CREATE TABLE cores (
  thing TEXT PRIMARY KEY, status TEXT NOT NULL, version TEXT NOT NULL, platform TEXT NOT NULL,
  architecture TEXT NOT NULL, runtime TEXT NOT NULL, reported REAL NOT NULL, sequence INTEGER NOT NULL);
CREATE TABLE installed (
  thing TEXT NOT NULL REFERENCES cores (thing) ON DELETE CASCADE, component TEXT NOT NULL, version TEXT NOT NULL,
  state TEXT NOT NULL, details TEXT NOT NULL, root INTEGER NOT NULL, source TEXT NOT NULL, changed REAL NOT NULL,
  reported REAL NOT NULL, PRIMARY KEY (thing, component));
CREATE TABLE tokens (
  operation TEXT NOT NULL, token TEXT NOT NULL, request TEXT NOT NULL, answer TEXT NOT NULL, created REAL NOT NULL,
  PRIMARY KEY (operation, token));
CREATE TABLE pipelines (
  name TEXT NOT NULL, version INTEGER NOT NULL, structure TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
  PRIMARY KEY (name, version));
CREATE TABLE executions (
  id TEXT PRIMARY KEY, number INTEGER UNIQUE NOT NULL, pipeline TEXT NOT NULL, version INTEGER NOT NULL,
  status TEXT NOT NULL, begun INTEGER NOT NULL, summary TEXT NOT NULL, variables TEXT NOT NULL,
  overrides TEXT NOT NULL, revisions TEXT NOT NULL, started REAL NOT NULL, updated REAL NOT NULL);
CREATE TABLE actions (
  id TEXT PRIMARY KEY, execution TEXT NOT NULL REFERENCES executions (id), stage TEXT NOT NULL, action TEXT NOT NULL,
  status TEXT NOT NULL, summary TEXT NOT NULL, external TEXT NOT NULL, pid INTEGER NOT NULL,
  pid_started INTEGER NOT NULL, started REAL NOT NULL, updated REAL NOT NULL);
"""
TOKEN_SECONDS = 8 * 3600
"""How long a client token is remembered (Greengrass API reference, clientToken)."""


class Store:
    """One connection, used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._connection = sqlite3.connect(folder / "control.sqlite", check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        with self.transaction():
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    if statement.strip():
                        self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise RuntimeError(f"the store has schema {version}, this program knows {SCHEMA_VERSION}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is written, or nothing; an inner transaction joins the outer one."""
        with self._lock:
            outer = self._depth == 0
            self._depth += 1
            try:
                if outer:
                    self._connection.execute("BEGIN IMMEDIATE")
                yield
                if outer:
                    self._connection.execute("COMMIT")
            except BaseException:
                if outer and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def row(self, query: str, *values: Any) -> sqlite3.Row | None:
        with self._lock:
            found: sqlite3.Row | None = self._connection.execute(query, values).fetchone()
            return found

    def execute(self, query: str, *values: Any) -> int:
        """Run a statement in a transaction of its own, or the one that is open; returns how many rows it changed."""
        with self.transaction():
            return self._connection.execute(query, values).rowcount

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def now() -> float:
    """Seconds since 1970."""
    return datetime.datetime.now(datetime.UTC).timestamp()


def moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def packed(value: Any) -> str:
    """A value as the store keeps it: JSON, with keys in order, so that equal values are equal text."""
    return json.dumps(value, sort_keys=True)
