"""A world to call the API in: a real SQLite store, no executor, a client without a socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import uvicorn
from anyio.from_thread import BlockingPortal
from fastapi import FastAPI

from sluicegate.api import Service, close_event_streams
from sluicegate.core.ids import new_id
from sluicegate.core.job import Job, TableRollback, TaskRecord, TaskStats, TaskStatus
from sluicegate.core.ledger import Ledger
from sluicegate.core.ports import Change, Settled, Store, Writer
from sluicegate.core.transitions import Ended, TaskEvent, end_attempt, end_job, start_task
from sluicegate.errors import SluicegateError
from sluicegate.spec import PipelineSpec

DEADLINE_SECONDS = 20.0


class StepClock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        return self._seconds

    def advance(self, seconds: float) -> None:
        self._seconds += seconds


class TableMissingError(SluicegateError):
    """As the lake raises it."""

    code = "table_not_found"


class OneTable:
    """A lake that holds `bronze.flights`, which each job has taken from version 2 to 3."""

    def __init__(self) -> None:
        self.put_back: list[TableRollback] = []

    def plan_rollback(self, table: str, job_id: str) -> TableRollback | None:
        return TableRollback(table, 3, 2)

    def roll_back(self, step: TableRollback, writer: Writer) -> None:
        self.put_back.append(step)

    def settle(self, table: str, task_id: str) -> Settled:
        return Settled(TaskStats(), complete=False)

    def authors(self) -> dict[str, str | None]:
        return {"bronze.flights": None}

    def list_tables(self) -> list[dict[str, Any]]:
        columns = [{"name": "n", "type": "int64"}]
        return [{"name": "bronze.flights", "version": 3, "row_count": 2, "columns": columns}]

    def describe(self, table: str, *, limit: int, version: int | None) -> dict[str, Any]:
        if table != "bronze.flights":
            raise TableMissingError(f"cannot read table {table!r}")
        rows = [
            {"n": 2**60, "x": float("nan"), "at": datetime(2013, 1, 1, 5, tzinfo=UTC)},
            {"n": 2, "x": 1.5, "at": None},
        ]
        shown = 3 if version is None else version
        schema = [{"name": "n", "type": "int64"}]
        preview = rows[:limit]
        return {
            "name": table,
            "schema": schema,
            "version": shown,
            "row_count": 2,
            "preview": preview,
        }


def pipeline(pipeline_id: str, *depends_on: str) -> PipelineSpec:
    layer, _, name = pipeline_id.partition(".")
    return PipelineSpec(pipeline_id, layer, name, "python", depends_on, source="def x(): ...")


SPECS = {
    spec.pipeline_id: spec
    for spec in (
        pipeline("bronze.flights"),
        pipeline("bronze.weather"),
        pipeline("silver.flights", "bronze.flights"),
    )
}


@dataclass
class World:
    """One application, and all that it stands on."""

    service: Service
    ledger: Ledger
    app: FastAPI
    clock: StepClock
    portal: BlockingPortal
    keys: dict[str, str]

    @property
    def store(self) -> Store:
        return self.service.store

    def client(self, key: str | None = "operator", **headers: str) -> httpx.Client:
        """Return a client that sends the key of this name, as a browser would send cookies."""
        if key is not None:
            headers["Authorization"] = f"Bearer {self.keys.get(key, key)}"
        return httpx.Client(
            transport=_AppTransport(self.app, self.portal),
            base_url="http://testserver",
            headers=headers,
        )

    def run(self, *pipelines: str, **fields: Any) -> str:
        """Create a job over HTTP and return its id."""
        answer = self.client().post("/api/jobs", json={"pipelines": list(pipelines), **fields})
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["job_id"]
        return job_id

    def start(self, job_id: str, pipeline_id: str, **fields: Any) -> TaskRecord:
        """Start a task of the job, as an executor would."""
        task = TaskRecord(new_id(), job_id, pipeline_id, TaskStatus.RUNNING, **fields)
        task = replace(task, started_at=self.clock.now())

        def decide(job: Job) -> Change:
            after, started = start_task(job, task, self.clock.now())
            return Change(after, made_from=job.version, tasks=(started,))

        assert self.ledger.write(job_id, decide).changed
        return task

    def end(self, task: TaskRecord, event: TaskEvent, stats: TaskStats | None = None) -> None:
        """End a task of a job, as an executor would."""
        ended = Ended(event, self.clock.now(), stats or TaskStats())

        def decide(job: Job) -> Change | None:
            after, done = end_attempt(job, task, ended)
            return Change(after, made_from=job.version, tasks=(done,))

        assert self.ledger.write(task.job_id, decide).changed

    def close(self, job_id: str) -> None:
        """End a job whose tasks have ended, as an executor would."""

        def decide(job: Job) -> Change | None:
            after = end_job(job, self.clock.now(), not_started=(), kept=())
            return Change(after, made_from=job.version)

        assert self.ledger.write(job_id, decide).changed

    def stopped(self, *pipelines: str) -> str:
        """Create a job, cancel it before it starts, and return its id; it is over."""
        job_id = self.run(*pipelines)
        self.client().post(f"/api/jobs/{job_id}/cancel").raise_for_status()
        self.close(job_id)
        return job_id


class _AppTransport(httpx.BaseTransport):
    """Calls the application on the portal's loop; `TestClient` would want another library."""

    def __init__(self, app: FastAPI, portal: BlockingPortal) -> None:
        self._inner = httpx.ASGITransport(app)
        self._portal = portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def call() -> httpx.Response:
            answer = await self._inner.handle_async_request(request)
            body = await answer.aread()
            return httpx.Response(answer.status_code, headers=answer.headers, content=body)

        return self._portal.call(call)


MakeWorld = Callable[..., World]


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve the application on a free loopback port; yield its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for("the server's socket", lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        close_event_streams(app)
        server.should_exit = True
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive(), "the server did not shut down"


def wait_for(what: str, fact: Callable[[], bool]) -> None:
    """Wait for a fact, with a deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not fact():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)
