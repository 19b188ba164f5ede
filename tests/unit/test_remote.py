"""`sluicegate.remote`: each helper stops its kind of work, registers it before it begins and forgets it at its end.

The clients are fakes with the signatures of the real ones; no network, no server, no Spark. PostgreSQL and DuckDB are
met for real in the integration tests.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import pytest

from sluicegate import remote, stop_callbacks
from sluicegate.errors import Cancelled
from sluicegate.remote import programs
from sluicegate.task import Task


class Told:
    """What a task asked of its worker."""

    def __init__(self) -> None:
        self.remotes: dict[str, tuple[str, int]] = {}
        self.failed: list[str] = []

    def remote(self, number: int, what: str, outcome: str, tries: int) -> None:
        self.remotes[what] = (outcome, tries)

    def failed_callback(self, what: str) -> None:
        self.failed.append(what)

    def uninterrupted(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def progress(self, done: float, total: float | None, unit: str) -> None:
        raise NotImplementedError

    def checkpoints(self, interval_seconds: float) -> None:
        pass

    def shield(self, seconds: float | None) -> None:
        pass


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def task(told: Told, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """A task whose callbacks pause for moments only, and leave no thread behind."""
    monkeypatch.setattr(stop_callbacks, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(stop_callbacks, "PAUSE_SECONDS_MAX", 0.01)
    task = Task(
        job_id="j",
        task_id="t1",
        attempt=2,
        params={},
        log=logging.getLogger("task"),
        runtime=told,
    )
    yield task
    task.callbacks.give_up()
    task.callbacks.settle(succeeded=False)


def until(fact: Callable[[], object], what: str) -> None:
    """Wait for a fact."""
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.001)


def soon(do: Callable[[], object], after: threading.Event) -> None:
    """Do something from another thread once something else has happened."""

    def wait() -> None:
        assert after.wait(20)
        do()

    threading.Thread(target=wait, daemon=True).start()


# ------------------------------------------------------------------ a block around the work


class Database:
    """A connection whose query runs until it is cancelled; a cancel without a query does nothing."""

    def __init__(self) -> None:
        self.info = SimpleNamespace(backend_pid=4711)
        self.running, self.cancelled = threading.Event(), threading.Event()
        self.cancels: list[dict[str, float]] = []

    def execute(self) -> None:
        self.cancelled.clear()
        self.running.set()
        try:
            assert self.cancelled.wait(20)
        finally:
            self.running.clear()
        raise RuntimeError("canceling statement due to user request")

    def cancel_safe(self, *, timeout: float = 30.0) -> None:
        self.cancels.append({"timeout": timeout})
        self.cancelled.set()


def test_a_query_that_the_stop_cancelled_leaves_its_block_as_cancelled(
    task: Task, told: Told
) -> None:
    """The driver raises its own error; a stop is no failure of the query."""
    database = Database()
    soon(task.request_stop, after=database.running)
    with pytest.raises(Cancelled), remote.postgresql(task, database):
        database.execute()
    assert told.remotes == {"postgresql backend 4711": ("confirmed", len(database.cancels))}
    assert database.cancels[0] == {"timeout": 5.0}


def test_a_cancel_that_came_before_the_query_is_made_again(task: Task, told: Told) -> None:
    """It meets an idle connection and does nothing: without another one the query would run for hours."""
    database = Database()
    with pytest.raises(Cancelled), remote.postgresql(task, database):  # noqa: PT012 - the block is what is tested
        task.request_stop()
        until(lambda: database.cancels, "the cancel that comes too early")
        assert told.remotes["postgresql backend 4711"][0] == "unconfirmed"
        database.execute()
    assert told.remotes["postgresql backend 4711"][0] == "confirmed"


def test_an_error_without_a_stop_is_the_authors(task: Task, told: Told) -> None:
    """A wrong query must not look like a stop."""
    with pytest.raises(ValueError, match="syntax"), remote.postgresql(task, Database()):
        raise ValueError("syntax")
    assert told.remotes == {"postgresql backend 4711": ("forgotten", 0)}


def test_after_the_block_the_connection_is_left_alone(task: Task, told: Told) -> None:
    """What it does then was not handed over."""
    database = Database()
    with remote.postgresql(task, database) as work:
        assert work.what == "postgresql backend 4711"
    task.request_stop()
    task.callbacks.settle(succeeded=False)
    assert database.cancels == []


def test_a_block_is_not_entered_after_the_stop(task: Task, told: Told) -> None:
    """Nothing new starts; and nothing was there to be stopped."""
    task.request_stop()
    with pytest.raises(Cancelled), remote.postgresql(task, Database()):
        pytest.fail("it was entered")
    assert told.remotes["postgresql backend 4711"][0] == "forgotten"


def test_without_a_block_it_lasts_to_the_end_of_the_task(task: Task, told: Told) -> None:
    """One line is enough for a task with one connection."""
    database = Database()
    remote.postgresql(task, database)
    task.request_stop()
    until(lambda: len(database.cancels) >= 2, "a second cancel")
    task.callbacks.settle(succeeded=False)
    assert told.remotes["postgresql backend 4711"][0] == "confirmed"


def test_drivers_without_cancel_safe_are_cancelled_as_they_can_be(task: Task, told: Told) -> None:
    """psycopg 2 has `cancel` only; the `cancel_safe` of an asynchronous connection must be awaited."""

    class Asynchronous:
        called = threading.Event()

        async def cancel_safe(self, *, timeout: float = 30.0) -> None:
            raise NotImplementedError

        def cancel(self) -> None:
            self.called.set()

    class Two:
        called = threading.Event()
        cancel = called.set

    for connection in (Asynchronous(), Two()):
        remote.postgresql(task, connection)
    task.request_stop()
    assert Asynchronous.called.wait(20)
    assert Two.called.wait(20)
    assert set(told.remotes) == {"postgresql query"}


def test_duckdb_is_interrupted(task: Task, told: Told) -> None:
    """By the one method that it has for that."""
    called = threading.Event()
    with pytest.raises(Cancelled), remote.duckdb(task, SimpleNamespace(interrupt=called.set)):  # noqa: PT012
        task.request_stop()
        assert called.wait(20)
        task.checkpoint()
    assert told.remotes["duckdb query"][0] == "confirmed"


@pytest.mark.parametrize("helper", [remote.duckdb, remote.postgresql])
def test_what_cannot_be_stopped_is_refused_before_it_is_used(
    task: Task, told: Told, helper: Callable[[Task, Any], object]
) -> None:
    """A pool, an engine, a cursor: told at once, not in the middle of a stop."""
    with pytest.raises(remote.RemoteNotStoppableError, match=r"types\.SimpleNamespace.*has no"):
        helper(task, SimpleNamespace())
    assert told.remotes == {}


# ------------------------------------------------------------------ Spark


class SparkContext:
    """The part of `pyspark.SparkContext` that has to do with tags."""

    def __init__(self) -> None:
        self.tags: set[str] = set()
        self.cancelled: list[str] = []

    def addJobTag(self, tag: str) -> None:
        self.tags.add(tag)

    def removeJobTag(self, tag: str) -> None:
        self.tags.discard(tag)

    def cancelJobsWithTag(self, tag: str) -> None:
        self.cancelled.append(tag)


class Connect:
    """The part of `pyspark.sql.connect.session.SparkSession` that has to do with tags."""

    def __init__(self) -> None:
        self.tags: set[str] = set()
        self.cancelled: list[str] = []

    @property
    def sparkContext(self) -> Any:
        raise NotImplementedError("JVM_ATTRIBUTE_NOT_SUPPORTED")

    def addTag(self, tag: str) -> None:
        self.tags.add(tag)

    def removeTag(self, tag: str) -> None:
        self.tags.discard(tag)

    def interruptTag(self, tag: str) -> list[str]:
        self.cancelled.append(tag)
        return []


Connect.__module__ = "pyspark.sql.connect.session"


@pytest.mark.parametrize("kind", ["classic", "connect"])
def test_spark_jobs_are_cancelled_by_their_tag(task: Task, told: Told, kind: str) -> None:
    """Only those of this task, and only those of the block; the tag is gone afterwards."""
    owner: Any = SparkContext() if kind == "classic" else Connect()
    session = SimpleNamespace(sparkContext=owner) if kind == "classic" else owner
    with pytest.raises(Cancelled), remote.spark(task, session) as work:  # noqa: PT012
        [tag] = owner.tags
        assert tag.startswith("sluicegate-t1-2-")
        assert "," not in tag  # Spark refuses it
        task.request_stop()
        until(lambda: owner.cancelled, "the cancel")
        raise RuntimeError("Job 7 cancelled part of cancelled job tags")
    assert set(owner.cancelled) == {tag}
    assert owner.tags == set()
    assert told.remotes[work.what][0] == "confirmed"


def test_a_spark_without_tags_is_refused(task: Task) -> None:
    """The mend names the way that such an old one has."""
    with pytest.raises(remote.RemoteNotStoppableError, match=r"older than Spark 3\.5"):
        remote.spark(task, SimpleNamespace(sparkContext=SimpleNamespace()))


# ------------------------------------------------------------------ BigQuery


class ApiError(Exception):
    """As `google.api_core.exceptions.GoogleAPICallError`: its `code` is the HTTP status."""

    def __init__(self, code: HTTPStatus) -> None:
        super().__init__(code.phrase)
        self.code = code


class BigQuery:
    """A `google.cloud.bigquery.Client` and the service behind it; jobs run until they are cancelled.

    Args:
        arrives: What a sent query waits for before the service knows it.
        answers: What the answer to the sending waits for after that.
    """

    def __init__(self, location: str | None = None) -> None:
        self.project, self.location = "p1", location
        self.jobs: dict[str, threading.Event] = {}
        self.done = False  # whether a query is over at once
        self.sent, self.arrives, self.answers = (threading.Event() for _ in range(3))
        self.waited_for = threading.Event()
        self.arrives.set()
        self.answers.set()
        self.send_fails: Exception | None = None
        self.home = "EU"
        self.cancels: list[tuple[str, str | None, str | None]] = []
        self.unreachable = 0

    def query(
        self,
        query: str,
        job_config: Any = None,
        job_id: str | None = None,
        job_id_prefix: str | None = None,
        location: str | None = None,
        project: str | None = None,
        retry: Any = None,
        timeout: float | None = None,
        job_retry: Any = "the default: with an id of ours it is warned of",
        api_method: Any = None,
    ) -> SimpleNamespace:
        assert job_id is not None
        assert job_retry is None
        self.sent.set()
        assert self.arrives.wait(20)
        self.jobs[job_id] = threading.Event()
        assert self.answers.wait(20)
        if self.send_fails is not None:
            raise self.send_fails
        return self._job(job_id, project)

    def _job(self, job_id: str, project: str | None) -> SimpleNamespace:
        def result() -> list[int]:
            self.waited_for.set()
            if self.done:
                return [1, 2, 3]
            assert self.jobs[job_id].wait(20)
            raise ApiError(HTTPStatus.BAD_REQUEST)  # job execution was cancelled

        project = project or self.project
        return SimpleNamespace(job_id=job_id, project=project, location=self.home, result=result)

    def get_job(
        self,
        job_id: str,
        project: str | None = None,
        location: str | None = None,
        retry: Any = None,
        timeout: float | None = None,
    ) -> SimpleNamespace:
        return self._job(job_id, project)

    def cancel_job(
        self,
        job_id: str,
        project: str | None = None,
        location: str | None = None,
        retry: Any = "the default: up to ten minutes",
        timeout: float | None = None,
    ) -> SimpleNamespace:
        assert retry is None
        assert timeout is not None
        self.cancels.append((job_id, project, location))
        if self.unreachable:
            self.unreachable -= 1
            raise ConnectionError("unreachable")
        if job_id not in self.jobs or location not in (None, self.home):
            raise ApiError(HTTPStatus.NOT_FOUND)
        self.jobs[job_id].set()
        return SimpleNamespace(state="RUNNING")


def outcome(told: Told) -> tuple[str, int]:
    """Of the one job there is."""
    [(what, found)] = told.remotes.items()
    assert what.startswith("bigquery job sluicegate_t1_2_")
    return found


def test_a_query_returns_its_rows_and_is_forgotten(
    task: Task, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """Its id is in the job's logs, so that it can be found by hand whatever dies."""
    client = BigQuery()
    client.done = True
    with caplog.at_level(logging.INFO, "task"):
        assert remote.bigquery(task, client, "select 1", location="EU") == [1, 2, 3]
    [job_id] = client.jobs
    assert caplog.messages == [f"bigquery job {job_id}"]
    assert told.remotes == {f"bigquery job {job_id}": ("forgotten", 0)}
    assert remote.bigquery(task, client, "select 1") == [1, 2, 3]
    assert len(client.jobs) == 2, "two queries of one attempt have two ids"


def test_the_id_is_registered_before_the_query_is_sent(task: Task, told: Told) -> None:
    """Whoever kills the worker the moment after finds the id in the receipt."""
    client = BigQuery()
    client.done = True
    seen: list[dict[str, tuple[str, int]]] = []
    send = client.query

    def query(*args: Any, **options: Any) -> Any:
        seen.append(dict(told.remotes))
        return send(*args, **options)

    client.query = query  # type: ignore[method-assign]
    remote.bigquery(task, client, "select 1")
    assert seen == [{f"bigquery job {next(iter(client.jobs))}": ("unconfirmed", 0)}]


def test_a_running_query_is_cancelled_by_its_id(task: Task, told: Told) -> None:
    """In the project and the location that the answer named: the client itself knows no location."""
    client = BigQuery()
    soon(task.request_stop, after=client.waited_for)
    with pytest.raises(Cancelled):
        remote.bigquery(task, client, "select 1", project="p2")
    task.callbacks.settle(succeeded=False)
    [job_id] = client.jobs
    assert set(client.cancels) == {(job_id, "p2", "EU")}
    assert outcome(told)[0] == "confirmed"


def test_a_stop_before_the_query_has_arrived_finds_it_when_it_does(task: Task, told: Told) -> None:
    """`jobs.cancel` says 404 for a job that is still on its way: that is not the end of it."""
    client = BigQuery()
    client.arrives.clear()
    soon(task.request_stop, after=client.sent)

    def let_it_arrive() -> None:
        until(lambda: len(client.cancels) >= 3, "cancels that find nothing")
        client.arrives.set()

    soon(let_it_arrive, after=client.sent)
    with pytest.raises(Cancelled):
        remote.bigquery(task, client, "select 1")
    task.callbacks.settle(succeeded=False)
    assert outcome(told)[0] == "confirmed"
    assert any("has not arrived yet" in line for line in told.failed)


def test_a_stop_between_arrival_and_answer_finds_it(task: Task, told: Told) -> None:
    """The client knows no job yet; its id is known here."""
    client = BigQuery()
    client.answers.clear()
    soon(task.request_stop, after=client.sent)

    def answer() -> None:
        until(lambda: any(job.is_set() for job in client.jobs.values()), "the cancel")
        client.answers.set()

    soon(answer, after=client.sent)
    with pytest.raises(Cancelled):
        remote.bigquery(task, client, "select 1")
    task.callbacks.settle(succeeded=False)
    assert outcome(told)[0] == "confirmed"


def test_a_job_in_another_location_is_found_once_the_answer_names_it(
    task: Task, told: Told
) -> None:
    """`jobs.cancel` looks in one location only, and the client's default may not be the tables'."""
    client = BigQuery(location="US")
    client.answers.clear()
    soon(task.request_stop, after=client.sent)

    def answer() -> None:
        until(lambda: client.cancels, "a cancel in the wrong location")
        client.answers.set()

    soon(answer, after=client.sent)
    with pytest.raises(Cancelled):
        remote.bigquery(task, client, "select 1")
    task.callbacks.settle(succeeded=False)
    assert {location for _, _, location in client.cancels} == {"US", "EU"}
    assert outcome(told)[0] == "confirmed"


def test_a_query_that_was_not_sent_needs_no_cancel(task: Task, told: Told) -> None:
    """The sending failed and the service does not know the id: there is nothing to stop."""
    client = BigQuery()
    client.arrives.clear()
    soon(task.request_stop, after=client.sent)

    def fail() -> None:
        until(lambda: client.cancels, "a cancel that finds nothing")
        client.send_fails = OSError("connection reset")
        client.jobs = Nowhere()
        client.arrives.set()

    soon(fail, after=client.sent)
    with pytest.raises(Cancelled):
        remote.bigquery(task, client, "select 1")
    task.callbacks.settle(succeeded=False)
    assert outcome(told)[0] == "confirmed"


class Nowhere(dict[str, threading.Event]):
    """Jobs that get lost on their way."""

    def __setitem__(self, job_id: str, job: threading.Event) -> None:
        pass


def test_a_service_that_cannot_be_reached_is_tried_again(task: Task, told: Told) -> None:
    """The cut that broke the answer breaks the cancel, too; until it heals."""
    client = BigQuery()
    client.unreachable = 3
    soon(task.request_stop, after=client.waited_for)
    with pytest.raises(Cancelled):
        remote.bigquery(task, client, "select 1")
    task.callbacks.settle(succeeded=False)
    found, tries = outcome(told)
    assert found == "confirmed"
    assert tries >= 4


def test_the_clients_own_repetition_of_a_send_is_no_failure(task: Task, told: Told) -> None:
    """The answer was lost, the client sent again, and BigQuery says that the id is taken: by us."""
    client = BigQuery()
    client.done = True
    client.send_fails = ApiError(HTTPStatus.CONFLICT)
    assert remote.bigquery(task, client, "select 1") == [1, 2, 3]


def test_a_query_that_fails_by_itself_raises_its_error(task: Task, told: Told) -> None:
    """And leaves nothing that a stop would have to look for."""
    client = BigQuery()
    client.send_fails = ApiError(HTTPStatus.BAD_REQUEST)
    with pytest.raises(ApiError):
        remote.bigquery(task, client, "select")
    task.request_stop()
    task.callbacks.settle(succeeded=False)
    assert client.cancels == []


def test_after_a_stop_no_query_is_sent(task: Task, told: Told) -> None:
    """Not even registered."""
    client = BigQuery()
    task.request_stop()
    with pytest.raises(Cancelled):
        remote.bigquery(task, client, "select 1")
    assert not client.sent.is_set()
    assert told.remotes == {}


@pytest.mark.parametrize("option", ["job_id", "job_id_prefix"])
def test_the_id_cannot_be_chosen_by_others(task: Task, option: str) -> None:
    """Then the stop would look for another job than was sent."""
    with pytest.raises(TypeError, match=option):
        remote.bigquery(task, BigQuery(), "select 1", **{option: "mine"})


# ------------------------------------------------------------------ programs

TREE = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)"])
print("up", flush=True)
time.sleep(600)
"""


def started(code: str, lines: int = 1) -> subprocess.Popen[str]:
    """A Python program that has said so many lines."""
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    for _ in range(lines):
        assert program.stdout.readline()
    return program


def test_a_program_and_what_it_started_are_ended(task: Task, told: Told) -> None:
    """The pipe ends when the last of them is gone: its end is the proof."""
    with started(TREE, lines=2) as program, pytest.raises(Cancelled):  # noqa: PT012
        with remote.subprocess(task, program) as work:
            assert work.what.endswith(str(program.pid))
            task.request_stop()
            assert program.wait(20) == -15
            task.checkpoint()
        pytest.fail("it went on")
    assert program.stdout is not None
    until(lambda: told.remotes[work.what][0] == "confirmed", "its end to be told")


def test_a_program_is_ended_also_where_a_checkpoint_is_quicker_than_its_signal(
    task: Task, told: Told
) -> None:
    """A loop that polls leaves the block by the stop itself, maybe before anyone has signalled the program."""
    with started(TREE, lines=2) as program, pytest.raises(Cancelled):  # noqa: PT012
        with remote.subprocess(task, program) as work:
            task.request_stop()
            task.checkpoint()
        pytest.fail("it went on")
    assert program.returncode == -15
    until(lambda: told.remotes[work.what] == ("confirmed", 1), "its end to be told")


def test_a_program_that_does_not_heed_the_signal_is_not_confirmed(
    task: Task, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked once: to many programs a second SIGTERM means to leave everything as it is."""
    monkeypatch.setattr(programs, "END_SECONDS", 0.01)
    deaf = (
        "import signal, sys, time\\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\\n"
        "print('up', flush=True)\\n"
        "while True: time.sleep(600)"
    ).replace("\\n", "\n")
    with started(deaf) as program:
        work = remote.subprocess(task, program)
        task.request_stop()
        until(lambda: told.remotes[work.what][1] >= 3, "a third try")
        assert told.remotes[work.what][0] == "unconfirmed"
        program.kill()
        until(lambda: told.remotes[work.what][0] == "confirmed", "its end to be told")
        assert program.stdout is not None
        assert program.stdout.read() == "asked\n"


def test_a_program_that_ended_before_the_stop_needed_none(task: Task, told: Told) -> None:
    """Its pid may be another's by now."""
    with subprocess.Popen([sys.executable, "-c", ""]) as program:
        work = remote.subprocess(task, program)
        program.wait()
        gone = remote.subprocess(task, program)
    assert told.remotes[gone.what] == ("forgotten", 0)
    task.request_stop()
    until(lambda: told.remotes[work.what][0] == "forgotten", "it to be forgotten")


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/ssh", "host"], "ssh"),
        ([b"bq", "query"], "bq"),
        ("spark-submit job.py", "spark-submit"),
        ((sys.executable, "-c", ""), None),
    ],
)
def test_a_program_is_called_by_its_name(argv: Any, name: str | None) -> None:
    """Not by its arguments: they may hold what nobody should read."""
    found = programs._name(SimpleNamespace(args=argv))  # type: ignore[arg-type]
    assert found == name or (name is None and found.startswith("python"))
