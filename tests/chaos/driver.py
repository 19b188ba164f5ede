"""A run of chaos: a world, a schedule that is carried out on it, the peace after it, and the judgement."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import uuid4

from chaos.checker import Evidence, gather, orphan_files, violations
from chaos.faults import Faults, log_to
from chaos.records import Records, read_store
from chaos.schedule import FAULTS, WORK, Step, schedule
from chaos.survivors import Process, survivors
from chaos.truth import LINE_TABLES, SOURCES, differences
from chaos.work import Work
from chaos.world import HOMES, WORKERS, Api, Disk, Server, send, until
from postgresql_server import programs
from postgresql_server import server as postgresql

LEASE_SECONDS = 3
FILES_AT_FIRST = 6
READY_SECONDS, SETTLE_SECONDS, LAST_JOB_SECONDS = 60.0, 120.0, 90.0
END_SECONDS, GONE_SECONDS = 30.0, 10.0


@dataclass
class Outcome:
    """What a run came to."""

    violations: list[str]
    summary: list[str]


@dataclass
class Run:
    """One run. Everything that it does is a line of `chaos.log` in its folder."""

    folder: Path
    store: str
    servers: list[Server]
    disks: dict[str, Disk]
    api: Api
    work: Work
    faults: Faults
    note: Callable[[str, object], None]
    did: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def mark(self) -> str:
        return self.servers[0].run

    def carry_out(self, seed: int, seconds: float) -> None:
        """Do everything that is scheduled, at its time, or when the step before is done."""
        acts = self.work.acts | self.faults.acts
        assert acts.keys() == WORK.keys() | FAULTS.keys()
        for number in range(FILES_AT_FIRST):
            self.work.land(Step(0, "land", number / FILES_AT_FIRST, 0.5, 0))
        began = time.monotonic()
        for step in schedule(seed, seconds, LEASE_SECONDS):
            while (left := began + step.at_seconds - time.monotonic()) > 0:
                self.faults.look_after()
                time.sleep(min(left, 0.05))
            if time.monotonic() > began + seconds:
                break  # a slow machine does less in its minutes
            self.faults.look_after()
            told = acts[step.act](step)
            self.did[step.act if told else f"{step.act} in vain"] += 1
            self.note(step.act, told)

    def settle(self) -> None:
        """Take every fault back, wait until nothing is left to do, and see that everything still works."""
        self.faults.take_all_back()
        until(self._all_are_ready, "both servers to be ready", READY_SECONDS)
        try:
            until(self._is_quiet, "every job to end", SETTLE_SECONDS)
        except TimeoutError as error:
            self.problems.append(f"{error}: {self.records().unfinished}")
        self._last_job()
        self._no_orphans()

    def end(self) -> None:
        """Tell both servers to end, and see that nothing is left of anybody."""
        for server in self.servers:
            if server.is_running:
                [own] = server.tree()["server"]
                send(own, signal.SIGTERM)
        for server in self.servers:
            assert server.process is not None
            try:
                code = server.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.problems.append(f"server {server.home} does not end on SIGTERM")
                continue
            if code:
                self.problems.append(f"server {server.home} ended with {code}: {server.said()}")
        try:
            until(lambda: not survivors(self.mark), "every process to be gone", GONE_SECONDS)
        except TimeoutError:
            self.problems += [f"process {one} is left" for one in survivors(self.mark)]

    def records(self) -> Records:
        """What the store says now."""
        return read_store(self.store)

    def keep(self) -> None:
        """Keep the tables and the store, which end with the run."""
        shutil.copytree(self.folder / "lake", self.folder / "lake-kept", dirs_exist_ok=True)
        (self.folder / "records.json").write_text(json.dumps(vars(self.records()), indent=1))

    def summary(self, evidence: Evidence) -> list[str]:
        """What was done, and what came of it."""
        jobs, tasks = evidence.records.jobs.values(), evidence.records.tasks.values()
        waste = orphan_files(evidence.tables)
        commits = [commit for table in evidence.tables.values() for commit in table.commits]
        return [
            f"did: {_counted(self.did)}",
            f"jobs: {_counted(Counter(job['status'] for job in jobs))}",
            f"tasks: {_counted(Counter(task['status'] for task in tasks))}",
            f"jobs taken up after a crash: {sum(job['recoveries'] > 0 for job in jobs)}; "
            f"attempts beyond the first: {sum(task['attempt'] - 1 for task in tasks)}",
            f"commits: {len(commits)}, of units {sum(c.is_unit for c in commits)}, "
            f"of rollbacks {sum(c.is_rollback for c in commits)}, "
            f"fences {sum(c.facts.get('kind') == 'fence' for c in commits)}",
            f"files: {self.work.landed} landed; "
            f"waste in the lake: {len(waste)} files {waste[:5] or ''}",
            *(
                f"no full {name}: {disk.refused}"
                for name, disk in self.disks.items()
                if disk.refused
            ),
        ]

    def _all_are_ready(self) -> bool:
        self.faults.look_after()
        answers = [self.api.call(one, "GET", "/health/ready") for one in self.servers]
        return all(answer is not None and answer.status_code == 200 for answer in answers)

    def _is_quiet(self) -> bool:
        """Whether nothing is left to do. A rollback that a full disk has cut off is asked for again, as documented."""
        self.faults.look_after()
        records = self.records()
        for job_id in records.unfinished:
            rollback = records.jobs[job_id]["rollback"]
            if rollback and rollback["finished_at"] is None:
                self.note("  rollback again", self.work.roll_back(job_id))
        return not records.unfinished

    def _last_job(self) -> None:
        """A job over everything, that takes in what is left in the landing zone: it must succeed."""
        job_id = self.work.create({"params": {"until": self.work.until_page}, "job_name": "last"})
        if job_id is None:
            self.problems.append("no server takes the last job")
            return
        try:
            until(
                lambda: self.records().jobs[job_id]["completed_at"],
                f"the last job {job_id} to end",
                LAST_JOB_SECONDS,
            )
        except TimeoutError as error:
            self.problems.append(str(error))
            return
        records = self.records()
        if (status := records.jobs[job_id]["status"]) != "success":
            errors = [task["error"] for task in records.tasks_of(job_id) if task["error"]]
            self.problems.append(f"the last job {job_id} is {status}: {errors}")

    def _no_orphans(self) -> None:
        """Of a server that was killed nothing is left, while its successor lives."""
        current = {server.marks[-1] for server in self.servers}

        def orphans() -> list[Process]:
            return [one for one in survivors(self.mark) if one.mark not in current]

        try:
            until(lambda: not orphans(), "what dead servers left", GONE_SECONDS)
        except TimeoutError:
            self.problems += [f"process {p} of a dead server ({p.mark}) is left" for p in orphans()]


def chaos(folder: Path, seed: int, seconds: float) -> Outcome:
    """Do it in an empty folder, and judge what is left. Where something is wrong, tables and store are kept there."""
    with world(folder) as run:
        try:
            run.carry_out(seed, seconds)
            began = time.monotonic()
            run.settle()
            settled = f"settled in {time.monotonic() - began:.1f} s, the last job included"
        except BaseException:
            run.keep()
            raise
        run.end()
        evidence = gather(
            run.store,
            folder / "lake",
            folder / "landing",
            acknowledged=run.work.acknowledged,
            sources=SOURCES,
            line_tables=LINE_TABLES,
        )
        own = [*run.problems, *run.faults.problems]
        found = [*own, *violations(evidence), *differences(evidence)]
        if found:
            run.keep()
        return Outcome(found, [*run.summary(evidence), settled])


@contextmanager
def world(folder: Path) -> Iterator[Run]:
    """PostgreSQL, disks, and two servers that are ready; whatever is left of them at the end is ended."""
    mark = uuid4().hex
    with ExitStack() as stack:
        database = stack.enter_context(postgresql(stack.enter_context(programs())))
        database.execute("CREATE DATABASE chaos TEMPLATE head")
        disks = {name: Disk(folder / name) for name in ("lake", HOMES[1])}
        for disk in disks.values():
            disk.mount()
            stack.callback(disk.unmount)
        (folder / "landing").mkdir()
        settings = {
            "store": database.url("chaos"),
            "lake": str(folder / "lake"),
            "landing": str(folder / "landing"),
            "workers": str(WORKERS),
            "lease_seconds": str(LEASE_SECONDS),
            "rate_limit": "1000000/second",
        }
        stack.callback(end_all, mark)
        servers = [Server(mark, folder, home, settings) for home in HOMES]
        for server in servers:
            server.start()
            until(partial(_url_of, server), f"server {server.home}", READY_SECONDS)
        api = Api((folder / HOMES[0] / "admin.key").read_text())
        stack.callback(api.close)
        note = log_to(folder / "chaos.log")
        faults = Faults(servers, database, disks, note)
        stack.callback(faults.resume_database)
        work = Work(servers, api, folder / "landing")
        yield Run(folder, settings["store"], servers, disks, api, work, faults, note)


def _url_of(server: Server) -> str | None:
    return server.url


def end_all(mark: str) -> None:
    """End what carries a run's mark, after a failure."""
    deadline = time.monotonic() + GONE_SECONDS
    while (left := survivors(mark)) and time.monotonic() < deadline:
        for process in left:
            send(process, signal.SIGKILL)
        time.sleep(0.05)


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items()))
