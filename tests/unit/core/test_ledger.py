"""The one write path: what is gathered, what is evaluated again, and who is told what."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decisions import Results, adding, by_another, job, setting, store_of_two
from fakes import T0, DirectLedger, MemoryStore

from sluicegate.core import ledger as module
from sluicegate.core.job import Event, Job, JobNotFoundError, JobStatus, LogEntry
from sluicegate.core.ledger import (
    LOG_BACKLOG_MAX,
    READ_AHEAD_MIN,
    WRITE_ATTEMPTS_MAX,
    StoreContentionError,
)
from sluicegate.core.ports import Accepted, Change, Refused, Writer
from sluicegate.core.store_errors import StoreUnavailableError


@pytest.fixture
def store() -> MemoryStore:
    return store_of_two()


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def ledger(store: MemoryStore, told: list[Event]) -> DirectLedger:
    return DirectLedger(store, told.extend)


@pytest.fixture
def results() -> Results:
    return Results()


# ------------------------------------------------------------------ gathering


def test_what_is_submitted_together_is_one_step_in_order(
    store: MemoryStore, ledger: DirectLedger, results: Results
) -> None:
    """The end of a task and the start of the next share an fsync."""
    store.commits.clear()
    ledger.submit_all([("j1", adding(c), results.of(c)) for c in "abc"])
    assert store.commits == [3]
    assert results.shown == [
        ("a", ("a", True, False)),
        ("b", ("ab", True, False)),
        ("c", ("abc", True, False)),
    ]


def test_answers_come_in_the_order_of_the_questions_whatever_they_are(
    ledger: DirectLedger, results: Results
) -> None:
    """A refused permit must not overtake, nor be overtaken by, the end that was decided after it."""

    def fail(_: Job) -> Change | None:
        raise KeyError

    ledger.submit_all(
        [
            ("j1", adding("a"), results.of("a")),
            ("j1", lambda _: None, results.of("none")),
            ("j2", fail, results.of("fail")),
            ("j1", adding("b"), results.of("b")),
        ]
    )
    assert [name for name, _ in results] == ["a", "none", "fail", "b"]


def test_a_decision_sees_what_the_one_before_it_in_the_batch_decided(
    store: MemoryStore, ledger: DirectLedger
) -> None:
    """So a stop, a permit and a completion of one process never race."""
    ledger.held = True
    seen: list[str | None] = []

    def look(header: Job) -> Change | None:
        seen.append(header.error)
        return None

    ledger.submit_all([("j1", adding("a"), lambda _: None)])
    ledger.submit_all([("j1", look, lambda _: None)])
    ledger.release()
    assert seen == ["a"]


@pytest.mark.parametrize(
    ("lines", "expected"), [(True, ["stop", "lines", "end"]), (False, ["end", "stop"])]
)
def test_what_somebody_waits_for_passes_the_lines_that_wait(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, lines: bool, expected: list[str]
) -> None:
    """A task that prints a lot must not delay its own stop; else all go in the order in which they came."""
    order: list[str] = []
    ledger = DirectLedger(store, lambda _: None)
    monkeypatch.setattr(store, "append_logs", lambda _: order.append("lines"))
    ledger.held = True
    if lines:
        ledger.log([LogEntry("j1", T0, "x")])
    ledger.submit_all([("j1", adding("end "), lambda _: order.append("end"))])
    ledger.write_soon("j1", adding("stop "), lambda _: order.append("stop"))
    assert order == expected
    assert (store.get("j1").error or "").split() == [one for one in expected if one != "lines"]


def test_a_header_is_read_once_and_kept(store: MemoryStore, ledger: DirectLedger) -> None:
    """The holder of a job reads it again only when it was refused."""
    store.reads = 0
    for _ in range(10):
        ledger.write("j1", adding("x"))
    assert store.reads == 1


def test_the_headers_of_many_jobs_are_read_in_one_step(
    store: MemoryStore, ledger: DirectLedger, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that stops a thousand jobs of others asks once; what could not be read so is asked for alone."""
    names = [f"n{n}" for n in range(READ_AHEAD_MIN)]
    store.commit([Change(job(name), made_from=0) for name in names])
    asked = [(name, adding("a"), results.of(name)) for name in names]
    expected = [(name, ("a", True, False)) for name in names]
    with monkeypatch.context() as patched:
        patched.setattr(store, "get_many", lambda _: store.get("nope"))
        store.reads = 0
        DirectLedger(store, lambda _: None).submit_all(asked)
    assert store.reads == 1 + len(names)
    assert results.shown == expected
    store.reads = 0
    ledger.submit_all([*asked[1:], ("nope", adding("a"), results.of("nope"))])
    assert store.reads == 2, "all in one step, and alone what was not there"
    assert results.shown[len(names) :] == [
        *((name, ("aa", True, False)) for name in names[1:]),
        ("nope", JobNotFoundError),
    ]


def test_headers_are_forgotten_beyond_a_bound(
    store: MemoryStore, ledger: DirectLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has run a million jobs must not remember them all; what was written last is asked for next."""
    monkeypatch.setattr(module, "HEADERS_KEPT_MAX", 2)
    for name in ("j1", "j2", "j1"):
        ledger.write(name, adding("a"))
    ledger.create(Change(job("n1"), made_from=0))
    store.reads = 0
    for name in ("j1", "n1"):
        ledger.write(name, adding("b"))
    assert store.reads == 0
    ledger.write("j2", adding("b"))
    assert store.reads == 1


# ------------------------------------------------------------------ refusals


def test_a_refused_decision_is_evaluated_again_from_what_is_stored(
    store: MemoryStore, ledger: DirectLedger
) -> None:
    """Another process may have stopped the job meanwhile."""
    ledger.write("j1", adding("a"))
    by_another(store, error="other ")
    assert ledger.write("j1", adding("b")).job.error == "other b"
    assert store.get("j1").version == 4


def test_a_chain_is_evaluated_again_from_its_first_refusal(
    store: MemoryStore, ledger: DirectLedger, results: Results
) -> None:
    """What was derived from what did not happen must not stand, even when its version fits by chance."""
    ledger.write("j1", adding("a"))
    by_another(store, error="other ")
    ledger.submit_all([("j1", adding(c), results.of(c)) for c in "bcd"])
    assert store.get("j1").error == "other bcd"
    assert results.shown[-1] == ("d", ("other bcd", True, False))


def test_a_conclusion_from_what_was_refused_is_drawn_again(
    store: MemoryStore, ledger: DirectLedger, results: Results
) -> None:
    """A stop must not be told `it has ended` because of an end that another process prevented."""
    ledger.write("j1", adding("a"))
    by_another(store, status=JobStatus.PENDING)

    def finish(seen: Job) -> Change | None:
        if seen.status is JobStatus.PENDING:
            return None
        return Change(replace(seen, status=JobStatus.SUCCESS), made_from=seen.version)

    def cancel(seen: Job) -> Change | None:
        if seen.status is JobStatus.SUCCESS:
            raise KeyError("it has ended")
        return Change(replace(seen, status=JobStatus.CANCELLED), made_from=seen.version)

    ledger.submit_all(
        [
            ("j1", finish, results.of("finish")),
            ("j1", cancel, results.of("cancel")),
            ("j1", lambda seen: None, results.of("look")),
        ]
    )
    assert store.get("j1").status is JobStatus.CANCELLED
    assert {name: r.job.status for name, r in results} == {
        "finish": JobStatus.PENDING,
        "cancel": JobStatus.CANCELLED,
        "look": JobStatus.CANCELLED,
    }


def test_nobody_hears_of_a_change_that_the_store_did_not_take(
    store: MemoryStore, ledger: DirectLedger, results: Results
) -> None:
    """An end that could not be stored has not happened; to answer `it has ended` would lose the stop."""

    def cancel(seen: Job) -> Change | None:
        assert seen.status is JobStatus.SUCCESS
        raise KeyError("it has ended")

    def finish(seen: Job) -> Change | None:
        return Change(replace(seen, status=JobStatus.SUCCESS), made_from=seen.version)

    ledger.write("j1", adding("a"))
    store.unavailable = True
    ledger.submit_all([("j1", finish, results.of("finish")), ("j1", cancel, results.of("cancel"))])
    assert results.shown == [("finish", StoreUnavailableError), ("cancel", StoreUnavailableError)]


@pytest.mark.parametrize("raises", [False, True])
def test_a_conclusion_from_a_header_that_is_outdated_is_drawn_again(
    store: MemoryStore, ledger: DirectLedger, raises: bool
) -> None:
    """What was kept in memory may be older than what another process stored."""
    ledger.write("j1", adding("a"))
    by_another(store, error="new")

    def decide(seen: Job) -> Change | None:
        if seen.error == "a":
            if raises:
                raise KeyError
            return None
        return adding("!")(seen)

    assert ledger.write("j1", decide).job.error == "new!"


def test_whoever_concludes_from_an_outdated_header_is_asked_again_each_of_them(
    store: MemoryStore, ledger: DirectLedger, results: Results
) -> None:
    """Of two who ask at once, the second one must not be told what the first was told no more."""
    ledger.write("j1", adding("a"))
    by_another(store, error="new")
    ledger.submit_all([("j1", lambda _: None, results.of(name)) for name in ("first", "second")])
    assert results.shown == [("first", ("new", False, False)), ("second", ("new", False, False))]


def test_a_writer_that_was_taken_is_told_as_a_conflict(
    store: MemoryStore, ledger: DirectLedger, results: Results
) -> None:
    """The job is as it was seen; it is the table that another task holds. To ask again would not help."""
    late = (Writer("bronze.a", 1, "j1", "t1", revision=7),)
    ledger.submit_all(
        [
            ("j1", setting("start", writers=late), results.of("start")),
            ("j1", adding("x"), results.of("x")),
        ]
    )
    assert results.shown == [("start", (None, False, True)), ("x", ("x", True, False))]


def test_a_change_behind_a_refusal_is_no_conflict_even_when_its_version_fits(
    store: MemoryStore, ledger: DirectLedger, results: Results
) -> None:
    """It was refused for what it follows; to take that for a lost table would drop the whole job."""
    ledger.write("j1", adding("a"))
    by_another(store, error="other ")
    ledger.submit_all([("j1", adding("b"), results.of("b")), ("j1", adding("c"), results.of("c"))])
    assert results.shown == [("b", ("other b", True, False)), ("c", ("other bc", True, False))]


def test_endless_contention_ends_with_an_error(store: MemoryStore, ledger: DirectLedger) -> None:
    """Every loop has a bound."""
    store.before_commit = lambda: inner(store)

    def inner(store: MemoryStore) -> None:
        store.before_commit = lambda: None
        by_another(store, error="other")
        store.before_commit = lambda: inner(store)

    store.commits.clear()
    with pytest.raises(StoreContentionError) as refused:
        ledger.write("j1", adding("x"))
    assert refused.value.what == StoreContentionError("j1", WRITE_ATTEMPTS_MAX).what
    assert store.commits == [1] * 2 * WRITE_ATTEMPTS_MAX, "each of ours came after one of another"


def test_who_submits_a_decision_is_told_what_it_came_to(
    ledger: DirectLedger, results: Results
) -> None:
    """Alone or with others, changed or refused."""
    ledger.submit_all([("j1", adding("a"), results.of("change"))])
    ledger.submit_all([("nope", adding("a"), results.of("no job"))])
    assert results.shown == [("change", ("a", True, False)), ("no job", JobNotFoundError)]


def test_a_refused_creation_is_told_with_the_job_that_is_there(ledger: DirectLedger) -> None:
    """A repeated idempotency key answers with the first one's job."""
    first = ledger.create(Change(job("n1", idempotency_key="k"), made_from=0))
    assert isinstance(first, Accepted)
    again = ledger.create(Change(job("n2", idempotency_key="k"), made_from=0))
    assert again == Refused(None, duplicate_of="n1")


# ------------------------------------------------------------------ errors


def test_an_error_of_the_store_reaches_everyone_who_asked(
    store: MemoryStore, ledger: DirectLedger, results: Results
) -> None:
    """Nothing may wait forever for what was not written."""
    ledger.write("j1", adding("a"))
    ledger.write("j2", adding("a"))
    store.unavailable = True
    ledger.submit_all([("j1", adding("b"), results.of("1")), ("j2", adding("b"), results.of("2"))])
    assert results.shown == [("1", StoreUnavailableError), ("2", StoreUnavailableError)]
    with pytest.raises(StoreUnavailableError):
        ledger.create(Change(job("n1"), made_from=0))
    store.unavailable = False
    assert ledger.write("j1", adding("c")).job.error == "ac"


def test_an_error_of_a_commit_is_of_those_alone_who_wanted_to_change_something(
    store: MemoryStore, ledger: DirectLedger, results: Results
) -> None:
    """What another decision came to does not hang on it: a refusal stays the refusal that it was."""
    store.before_commit = lambda: setattr(store, "unavailable", True)

    def refuse(_: Job) -> Change | None:
        raise KeyError

    ledger.submit_all(
        [
            ("j1", adding("a"), results.of("change")),
            ("j1", lambda _: None, results.of("what follows from it")),
            ("j2", lambda _: None, results.of("nothing")),
            ("j2", refuse, results.of("refusal")),
        ]
    )
    assert results.shown == [
        ("change", StoreUnavailableError),
        ("what follows from it", StoreUnavailableError),
        ("nothing", (None, False, False)),
        ("refusal", KeyError),
    ]


def test_what_changes_nothing_costs_no_commit(store: MemoryStore, ledger: DirectLedger) -> None:
    """A commit is an fsync, and most looks at a job decide nothing."""
    store.commits.clear()
    assert not ledger.write("j1", lambda _: None).changed
    assert store.commits == []


def test_an_error_of_one_decision_is_its_own(store: MemoryStore, ledger: DirectLedger) -> None:
    """A stop of a job that is not there must not spoil another's start."""
    with pytest.raises(JobNotFoundError):
        ledger.write("nope", adding("a"))
    assert ledger.write("j1", adding("b")).changed


# ------------------------------------------------------------------ events, logs, the end


def test_events_are_told_in_order_with_their_ids_once_they_are_stored(
    store: MemoryStore, ledger: DirectLedger, told: list[Event]
) -> None:
    """Who follows the stream resumes by id: no gap, no event that is not there on reading again."""
    events = [(Event(name, "j1", T0),) for name in ("one", "two")]
    ledger.submit_all([("j1", setting("a", events=e), lambda _: None) for e in events])
    assert told == store.events()
    assert [e.event_id for e in told] == [1, 2]


def test_log_lines_are_batched_in_order(store: MemoryStore, ledger: DirectLedger) -> None:
    """A task that prints a lot must not cost a commit a line."""
    ledger.held = True
    for n in range(500):
        ledger.log([LogEntry("j1", T0, str(n)), LogEntry("j1", T0, f"{n}b")])
    ledger.release()
    assert store.log_appends == [1000]
    assert [entry.message for entry in store.logs("j1")][:3] == ["0", "0b", "1"]


def test_so_many_lines_are_stored_at_once_however_they_came(
    store: MemoryStore, ledger: DirectLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write of lines holds every decision up; between two of them those that came have their turn."""
    monkeypatch.setattr(module, "LINES_MAX", 3)
    ledger.held = True
    for some in ("ab", "cd", "efghijk"):
        ledger.log([LogEntry("j1", T0, message) for message in some])
    ledger.release()
    assert store.log_appends == [3, 3, 3, 2]
    assert "".join(entry.message for entry in store.logs("j1")) == "abcdefghijk"


def test_congestion_is_told_until_the_lines_are_stored(
    store: MemoryStore, ledger: DirectLedger
) -> None:
    """The source of the lines pauses, so that memory does not grow with what a task prints."""
    ledger.held = True
    ledger.log([LogEntry("j1", T0, "x")] * 30_000)
    assert ledger.congested
    ledger.release()
    assert not ledger.congested
    ledger.held, store.unavailable = False, True
    ledger.log([LogEntry("j1", T0, "x")] * 30_000)
    assert not ledger.congested


def test_congestion_begins_beyond_its_bound(ledger: DirectLedger) -> None:
    """Up to it nobody pauses."""
    ledger.held = True
    ledger.log([LogEntry("j1", T0, "x")] * LOG_BACKLOG_MAX)
    assert not ledger.congested
    ledger.log([LogEntry("j1", T0, "x")])
    assert ledger.congested


def test_congestion_counts_all_lines_that_wait_however_they_came(ledger: DirectLedger) -> None:
    """Many small messages fill the memory as one large one does, and each write empties only its part of it."""
    ledger.held = True
    for _ in range(10):
        ledger.log([LogEntry("j1", T0, "x")] * 1000)
    assert ledger.congested
    ledger._write_some()
    assert ledger.congested, "nine of ten parts wait"
    ledger.release()
    assert not ledger.congested
