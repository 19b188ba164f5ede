"""The demo, killed: SIGKILL of its server at a random instant of the full pipeline, a new start, until `success`.

A job is taken up at most three times, so one job is up to three rounds. Afterwards the checker judges its store and its
tables, and `flights_figures` what is in them.
"""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from uuid import uuid4

import flights_figures

from chaos.checker import RECOVERIES_MAX, gather, orphan_files, violations
from chaos.driver import end_all
from chaos.records import Record, read_store
from chaos.survivors import survivors
from chaos.world import Api, Server, send, until
from sluicegate.demo import deliver, pipelines_path

WORKERS = 2
LEASE_SECONDS = 15
SLACK = 5
READY_SECONDS, SUCCESS_SECONDS, GONE_SECONDS, END_SECONDS = 60.0, 300.0, 10.0, 30.0
SOURCES = {
    "bronze.flights": "flights/*.csv",
    "bronze.weather": "weather/*.csv",
    **{f"bronze.{name}": f"reference/{name}.csv" for name in ("planes", "airports", "airlines")},
}
LAYERS = ("bronze", "silver", "gold")


@dataclass
class Reference:
    """A job that nobody disturbed: how long all of it took, and each of its tasks, in seconds; and its rows."""

    seconds: float
    start_seconds: float
    tasks: dict[str, float]
    rows: dict[str, int]

    def left_seconds(self, tasks: Sequence[Record]) -> float:
        """How long what is left of a job should take: layer by layer, on so many workers."""
        done = {
            t["pipeline"]: 1.0
            if t["status"] == "success"
            else min(1.0, t["stats"]["rows"] / max(1, self.rows[t["pipeline"]]))
            for t in tasks
        }
        left = 0.0
        for layer in LAYERS:
            each = [
                seconds * (1 - done.get(pipeline, 0.0))
                for pipeline, seconds in self.tasks.items()
                if pipeline.startswith(layer)
            ]
            left += max(max(each), sum(each) / WORKERS)
        return left


@dataclass
class Killed:
    """What the rounds came to."""

    rounds: int = 0
    jobs: int = 0
    violations: list[str] = field(default_factory=list)
    progress: Counter[str] = field(default_factory=Counter)
    recoveries: list[tuple[float, float]] = field(default_factory=list)
    """Of each job's last start: seconds to `success`, and what should have been left of it, in seconds."""
    waste: int = 0
    gone_seconds: list[float] = field(default_factory=list)

    def summary(self, reference: Reference) -> list[str]:
        """What is to be printed."""
        took = [seconds for seconds, _ in self.recoveries]
        over = [seconds - left for seconds, left in self.recoveries]
        bound = [seconds - left - LEASE_SECONDS for seconds, left in self.recoveries]
        return [
            f"{self.rounds} rounds of SIGKILL in {self.jobs} jobs; violations: {len(self.violations)}",
            f"an undisturbed job takes {reference.seconds:.1f} s, a start {reference.start_seconds:.1f} s",
            "killed at: " + ", ".join(f"{n} {where}" for where, n in sorted(self.progress.items())),
            f"all processes gone after the kill: {_spread(self.gone_seconds)}",
            f"from the last start to success: {_spread(took)}",
            f"beyond what was left to do, the start included: {_spread(over)}",
            f"over the lease of {LEASE_SECONDS} s and that: {sum(b > 0 for b in bound)} of {len(bound)}",
            f"files that no log names, left in lakes: {self.waste}",
        ]


class Demo:
    """One home after the other, on one landing zone."""

    def __init__(self, folder: Path, seed: int, days: int | None) -> None:
        self._folder, self._chance = folder, random.Random(seed)
        self._mark = uuid4().hex
        self._numbers = iter(range(1_000_000))
        self._landing = folder / "landing"
        deliver(self._landing, days=days)
        self._wanted = flights_figures.expected(self._landing)
        self.result = Killed()

    def reference(self) -> Reference:
        """Run a job to its end, judged as all others; it warms up what can be warm."""
        began = time.monotonic()
        with self._server() as (server, api):
            started = time.monotonic()
            job_id = self._start(server, api)
            until(lambda: _over(server, job_id), "the reference job", SUCCESS_SECONDS)
            seconds = time.monotonic() - started
            records = self._judge(server, job_id, killed=0)
        return Reference(
            seconds,
            started - began,
            {t["pipeline"]: (t["completed_at"] - t["started_at"]) / 1e6 for t in records.values()},
            {t["pipeline"]: t["stats"]["rows"] for t in records.values()},
        )

    def job(self, reference: Reference, rounds: int) -> None:
        """One job that is killed up to `rounds` times, and no more than it may be taken up."""
        result = self.result
        with self._server() as (server, api):
            job_id = self._start(server, api)
            begun, killed = time.monotonic(), 0
            left, starting = reference.seconds, 0.0
            for _ in range(min(rounds, RECOVERIES_MAX)):
                wait = self._chance.uniform(0.0, starting + left)
                while not (over := _over(server, job_id)) and time.monotonic() < begun + wait:
                    time.sleep(min(0.02, max(0.0, begun + wait - time.monotonic())))
                if over:
                    break
                self._kill(server)
                killed += 1
                tasks = _tasks(server, job_id)
                result.progress[_where(tasks, len(reference.tasks))] += 1
                left, starting = reference.left_seconds(tasks), reference.start_seconds
                begun = time.monotonic()
                server.start()
            until(lambda: _over(server, job_id), f"job {job_id} to end", SUCCESS_SECONDS)
            if killed:
                result.recoveries.append((time.monotonic() - begun, left))
                self._judge_time(*result.recoveries[-1])
            result.rounds += killed
            result.jobs += 1
            self._judge(server, job_id, killed=killed)

    @contextmanager
    def _server(self) -> Iterator[tuple[Server, Api]]:
        """A server on a home of its own, which is removed if all was well."""
        home = f"home-{next(self._numbers)}"
        server = Server(
            self._mark,
            self._folder,
            home,
            {
                "landing": str(self._landing),
                "workers": str(WORKERS),
                "rate_limit": "1000000/second",
            },
            pipelines_path(),
        )
        before = len(self.result.violations)
        try:
            server.start()
            until(lambda: server.url, f"server {home}", READY_SECONDS)
            api = Api((server.path / "admin.key").read_text())
            try:
                yield server, api
            finally:
                api.close()
        finally:
            end_all(self._mark)
        if len(self.result.violations) == before:
            shutil.rmtree(server.path)

    def _start(self, server: Server, api: Api) -> str:
        answer = api.call(server, "POST", "/api/jobs", json={})
        assert answer is not None
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job_id"])

    def _kill(self, server: Server) -> None:
        [own] = server.tree()["server"]
        began = time.monotonic()
        assert send(own, signal.SIGKILL)
        assert server.process is not None
        server.process.wait()
        try:
            until(lambda: not survivors(self._mark), "everything to be gone", GONE_SECONDS)
        except TimeoutError:
            self.result.violations += [f"{p} outlives its server" for p in survivors(self._mark)]
        self.result.gone_seconds.append(time.monotonic() - began)

    def _judge(self, server: Server, job_id: str, *, killed: int) -> dict[str, Record]:
        """End the server and look at what is left. Returns: the tasks by id."""
        until(lambda: server.url, "the server to be ready", READY_SECONDS)
        [own] = server.tree()["server"]
        send(own, signal.SIGTERM)
        assert server.process is not None
        server.process.wait(END_SECONDS)
        found = [f"{process} is left" for process in survivors(self._mark)]
        lake = server.path / "lake"
        evidence = gather(
            _store(server),
            lake,
            self._landing,
            acknowledged={"created": [job_id]},
            sources=SOURCES,
            line_tables=SOURCES,
        )
        job = evidence.records.jobs[job_id]
        if job["status"] != "success":
            errors = [task["error"] for task in evidence.records.tasks.values()]
            found.append(f"the job is {job['status']} after {killed} kills: {errors}")
        if job["recoveries"] > killed:
            found.append(f"{job['recoveries']} recoveries after {killed} kills")
        found += violations(evidence)
        found += flights_figures.differences(self._wanted, flights_figures.actual(lake))
        self.result.violations += [f"{server.home}, job {job_id}: {line}" for line in found]
        self.result.waste += len(orphan_files(evidence.tables))
        return evidence.records.tasks

    def _judge_time(self, took: float, left: float) -> None:
        if took > SLACK * (LEASE_SECONDS + left):
            self.result.violations.append(f"{took:.1f} s to success, with {left:.1f} s left to do")


def kill_demo(
    folder: Path, seed: int, rounds: int, days: int | None = None
) -> tuple[Killed, list[str]]:
    """Do it in an empty folder, where the homes of jobs with violations stay. Returns: the result, and its summary.

    Args:
        days: Only the first days of the year of flights; `None`: all of it.
    """
    demo = Demo(folder, seed, days)
    reference = demo.reference()
    while demo.result.rounds < rounds:
        demo.job(reference, rounds - demo.result.rounds)
    return demo.result, demo.result.summary(reference)


def _store(server: Server) -> str:
    return f"sqlite:///{server.path}/jobs.db"


def _over(server: Server, job_id: str) -> bool:
    with closing(sqlite3.connect(server.path / "jobs.db", timeout=10)) as store:
        wanted = "SELECT completed_at IS NOT NULL FROM jobs WHERE job_id = ?"
        return bool(store.execute(wanted, (job_id,)).fetchone()[0])


def _tasks(server: Server, job_id: str) -> list[Record]:
    return read_store(_store(server)).tasks_of(job_id)


def _where(tasks: Sequence[Record], plan: int) -> str:
    """How far a job was: in which layer, and how much of the plan was done."""
    done = sum(task["status"] == "success" for task in tasks)
    layer = tasks[-1]["pipeline"].partition(".")[0] if tasks else "before its first task"
    return f"{layer} ({100 * done // plan // 25 * 25}% and more done)" if tasks else layer


def _spread(seconds: Sequence[float]) -> str:
    if len(seconds) < 2:
        return ", ".join(f"{one:.1f} s" for one in seconds) or "nothing measured"
    ninth = quantiles(seconds, n=10, method="inclusive")[-1]
    return f"median {median(seconds):.1f} s, 90% within {ninth:.1f} s, at most {max(seconds):.1f} s"
