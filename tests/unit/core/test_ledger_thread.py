"""The ledger on a thread of its own: what waits for it, what it is told meanwhile, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from decisions import Results, adding, job, setting, store_of_two
from fakes import T0, MemoryStore

from sluicegate.core import ledger as module
from sluicegate.core.job import Event, Job, JobNotFoundError, LogEntry
from sluicegate.core.ledger import Ledger, Written
from sluicegate.core.ports import Accepted, Change, Refused

WAIT_SECONDS = 10.0


@pytest.fixture
def store() -> MemoryStore:
    return store_of_two()


@pytest.fixture
def threaded(store: MemoryStore) -> Iterator[Ledger]:
    ledger = Ledger(store, lambda _: None)
    yield ledger
    ledger.close()


def held(store: MemoryStore) -> tuple[threading.Event, threading.Event]:
    """From now on each commit says that it has begun, and waits until it may go on."""
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go_on.wait(WAIT_SECONDS)

    store.before_commit = hold
    store.commits.clear()
    return entered, go_on


def test_what_comes_while_a_commit_runs_is_stored_in_one_step(
    store: MemoryStore, threaded: Ledger
) -> None:
    """One fsync for many decisions is what makes thousands of tasks a second durable."""
    entered, go_on = held(store)
    done = threading.Barrier(101, timeout=WAIT_SECONDS)
    with ThreadPoolExecutor(101) as pool:

        def write(n: int) -> Written:
            if n:
                assert entered.wait(WAIT_SECONDS)
                done.wait()
            return threaded.write("j1", adding("x"))

        written = [pool.submit(write, n) for n in range(101)]
        done.wait()
        while threaded._queue.qsize() < 100:
            threading.Event().wait(0.001)
        go_on.set()
        assert {f.result(WAIT_SECONDS).changed for f in written} == {True}
    assert store.commits == [1, 100]
    assert store.get("j1").error == "x" * 101


def test_all_that_somebody_waits_for_passes_the_lines_in_one_step(
    store: MemoryStore, threaded: Ledger
) -> None:
    """Several are stopped at once while a task prints a lot: none of them waits, and none is lost."""
    entered, go_on = held(store)
    first = threaded.write_soon("j1", adding("a"))
    assert entered.wait(WAIT_SECONDS)
    threaded.log([LogEntry("j1", T0, "x")] * 10)
    asked = (("j1", "s"), ("j2", "s"), ("j1", "!"))
    stops = [threaded.write_soon(name, adding(letter)) for name, letter in asked]
    go_on.set()
    assert [one.result(WAIT_SECONDS).job.error for one in (first, *stops)] == [
        "a",
        "as",
        "s",
        "as!",
    ]
    assert store.commits == [1, 3]


def test_many_decisions_are_answered_one_by_one_and_others_write_in_between(
    store: MemoryStore, threaded: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop of a thousand jobs says of each what became of it, and holds nobody up for long."""
    monkeypatch.setattr(module, "BATCH_MAX", 2)
    store.commits.clear()
    results = Results()
    for n, result in enumerate(
        threaded.write_all(
            [
                ("j1", adding("a")),
                ("nope", adding("a")),
                ("j2", adding("b")),
                ("j2", lambda _: None),
                ("j1", adding("c")),
            ]
        )
    ):
        results.of(str(n))(result)
    assert results.shown == [
        ("0", ("a", True, False)),
        ("1", JobNotFoundError),
        ("2", ("b", True, False)),
        ("3", ("b", False, False)),
        ("4", ("ac", True, False)),
    ]
    assert store.commits == [1, 1, 1]


def test_a_new_job_is_stored_when_its_creator_is_answered(
    store: MemoryStore, threaded: Ledger
) -> None:
    """Whoever was given its id can ask for it at once, here or elsewhere."""
    created = Change(job("n1"), made_from=0, events=(Event("job.created", "n1", T0),))
    assert threaded.create(created) == Accepted(store.get("n1"), tuple(store.events(job_id="n1")))
    assert threaded.create(created) == Refused(store.get("n1"))


def test_who_waits_for_a_decision_hears_of_it_first_where_it_is_stored(
    store: MemoryStore, threaded: Ledger
) -> None:
    """What is acted on there must not wait for the turn of another thread."""
    told: list[tuple[str, Job]] = []

    def then(stored: Job) -> None:
        told.append((threading.current_thread().name, stored))

    written = threaded.write("j1", adding("a"), then)
    assert written == Written(store.get("j1"), changed=True)
    assert told == [("ledger", written.job)]


@pytest.mark.filterwarnings("error")
def test_the_thread_survives_those_who_listen(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """One writer thread serves all: a mistake of a listener must not end the service."""

    def fail(_: object) -> None:
        raise RuntimeError

    ledger = Ledger(store, fail)
    ledger.submit_all([("j1", setting("a", events=(Event("x", "j1", T0),)), fail)])
    ledger.submit_all([("j1", adding("b"), lambda _: None)])
    ledger.close()
    assert store.get("j1").error == "ab"
    assert {r.getMessage() for r in caplog.records} == {
        "ledger_answer_failed",
        "ledger_watcher_failed",
    }


def test_closing_stores_what_is_queued(store: MemoryStore) -> None:
    """What was decided before the end of the process is not lost by it."""
    ledger = Ledger(store, lambda _: None)
    for _ in range(2000):
        ledger.submit_all([("j1", adding("x"), lambda _: None)])
    ledger.close()
    assert store.get("j1").error == "x" * 2000


def test_the_writers_thread_keeps_no_process_alive(threaded: Ledger) -> None:
    """A program that fails before it closes the ledger ends; and a dump of its threads can be read."""
    assert threaded is not None
    assert {t.daemon for t in threading.enumerate() if t.name == "ledger"} == {True}
