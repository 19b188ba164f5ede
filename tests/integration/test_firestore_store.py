"""What the store in Firestore promises besides tests/conformance: its documents, its limits, its errors."""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from google.api_core import exceptions as api
from google.cloud import firestore
from google.cloud.firestore_v1.types import ListenResponse
from support import until

from firestore_emulator import Emulator
from sluicegate.core.job import (
    ApiKey,
    Event,
    Job,
    JobNotFoundError,
    JobQuery,
    JobStatus,
    LogEntry,
    TaskRecord,
    TaskStatus,
)
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.core.ports import Accepted, Change, Executor, Refused, Store, Writer
from sluicegate.core.store_errors import (
    RecordTooLargeError,
    StoreDriverMissingError,
    StoreTooNewError,
    StoreUnavailableError,
)
from sluicegate.stores import open_store
from sluicegate.stores.firestore import connection, writing
from sluicegate.stores.firestore.connection import Connection, WriteInDoubtError
from sluicegate.stores.firestore.writing import WRITES_MAX

T0 = datetime(2026, 3, 29, 12, tzinfo=UTC)
PLAN = Plan((PlanStep("bronze.flights"), PlanStep("silver.flights", ("bronze.flights",))))
HEARD_WITHIN_SECONDS = 60.0


@pytest.fixture
def project(firestore_emulator: Emulator) -> str:
    """A project of the test's own: its databases are empty."""
    return f"p-{uuid4().hex[:20]}"


@pytest.fixture
def store(project: str) -> Iterator[Store]:
    """A store in that project."""
    opened = open_store(f"firestore://{project}")
    yield opened
    opened.close()


@pytest.fixture
def console(project: str) -> firestore.Client:
    """The database as a person's console sees it."""
    return firestore.Client(project=project)


def job(number: int = 1, **fields: Any) -> Job:
    given: dict[str, Any] = {
        "job_id": f"0198-{number:06d}",
        "job_name": f"job {number}",
        "status": JobStatus.PENDING,
        "created_at": T0,
        "total_tasks": 2,
    }
    return Job(**given | fields)


def task(of: Job, task_id: str, **fields: Any) -> TaskRecord:
    given: dict[str, Any] = {"status": TaskStatus.RUNNING, "started_at": T0}
    return TaskRecord(task_id, of.job_id, "bronze.flights", **given | fields)


def stored(store: Store, new: Job, plan: Plan | None = PLAN, **fields: Any) -> Job:
    [outcome] = store.commit([Change(new, made_from=0, plan=plan, **fields)])
    assert isinstance(outcome, Accepted)
    return outcome.job


# ------------------------------------------------------------------ the documents


def test_a_person_finds_the_cancelled_jobs_in_the_console(
    store: Store, console: firestore.Client
) -> None:
    """'Firestore console (jobs collection, filter by status: "cancelled")' is how jobs are watched there."""
    new = job(1, user_id="ann", labels={"team": "core"}, job_name="nightly")
    seen = stored(store, new, tasks=(task(new, "t1"),))
    stored(store, job(2))
    [_] = store.commit([Change(replace(seen, status=JobStatus.CANCELLED), made_from=1)])

    query = console.collection("jobs").where(
        filter=firestore.FieldFilter("status", "==", "cancelled")
    )
    [found] = query.stream()
    shown = found.to_dict()
    assert found.id == new.job_id
    assert shown["created_at"] == T0
    assert shown["completed_at"] is None
    assert {k: shown[k] for k in ("user_id", "job_name", "labels", "pipelines", "layers")} == {
        "user_id": "ann",
        "job_name": "nightly",
        "labels": ["team=core"],
        "pipelines": ["bronze.flights", "silver.flights"],
        "layers": ["bronze", "silver"],
    }


def test_pipelines_that_never_started_have_no_documents(
    store: Store, console: firestore.Client
) -> None:
    """'Pending tasks are skipped and not added to Firestore.'"""
    new = job(1)
    stored(store, new, tasks=(task(new, "t1"),))
    tasks = list(console.collection(f"jobs/{new.job_id}/tasks").stream())
    assert [(one.id, one.get("pipeline"), one.get("status")) for one in tasks] == [
        ("t1", "bronze.flights", "running")
    ]


def test_a_plan_of_ten_thousand_is_stored_and_found(
    store: Store, console: firestore.Client
) -> None:
    """A document holds 1 MiB, and an index takes 40,000 entries of one."""
    steps = [PlanStep(f"bronze.table_{n:05}") for n in range(5_000)]
    steps += [
        PlanStep(f"silver.table_{n:05}", (f"bronze.table_{n:05}", f"bronze.table_{n // 2:05}"))
        for n in range(5_000)
    ]
    plan = Plan(tuple(steps), by_layer=True)
    large, small = stored(store, job(1, total_tasks=10_000), plan), stored(store, job(2))
    assert store.plan(large.job_id) == plan

    def found(**fields: Any) -> list[str]:
        return [one.job_id for one in store.list(JobQuery(**fields))]

    assert found(pipelines=("silver.table_04999",)) == [large.job_id]
    assert found(pipelines=("silver.table_05000",)) == []
    assert found(pipelines=("bronze.table_00000", "bronze.flights")) == [
        small.job_id,
        large.job_id,
    ]
    assert found(layers=("silver",), pipelines=("bronze.flights",)) == [small.job_id]
    shown = console.document(f"jobs/{large.job_id}").get().to_dict()
    assert len(json.dumps(shown, default=str)) < 10_000


def test_long_texts_come_back_whole(store: Store) -> None:
    """A receipt or a traceback can be long; the header must fit in its document."""
    text = "".join(random.choices("abcdef 0123456789äöü€", k=200_000))
    params = {"text": text}
    seen = stored(store, job(1, error=text, params=params))
    assert store.get(seen.job_id) == replace(job(1, error=text, params=params), version=1)
    entries = [LogEntry(seen.job_id, T0, text[:16_000], "t1") for _ in range(60)]
    store.append_logs(entries)
    assert [line.message for line in store.logs(seen.job_id)] == [text[:16_000]] * 60
    assert len(store.logs(seen.job_id, task_id="t1", limit=7)) == 7


def test_databases_of_one_project_are_apart(project: str) -> None:
    """Staging and production may share a project."""
    first, other = (
        open_store(f"firestore://{project}/(default)"),
        open_store(f"firestore://{project}/staging"),
    )
    try:
        stored(first, job(1))
        assert [len(one.list(JobQuery())) for one in (first, other)] == [1, 0]
    finally:
        first.close()
        other.close()


# ------------------------------------------------------------------ decisions


def test_of_sixteen_openings_exactly_one_wins_each_decision(project: str) -> None:
    """Sixteen servers, each with its own connection, decide about one job at once."""
    contenders, rounds = 16, 3
    stores = [open_store(f"firestore://{project}") for _ in range(contenders)]
    seen = stored(stores[0], job(1))
    gate = threading.Barrier(contenders)

    def contend(mine: Store) -> list[int]:
        won, now = [], seen
        gate.wait(timeout=30)
        while now.version <= rounds:
            events = (Event(f"{now.version}", now.job_id, T0),)
            [outcome] = mine.commit([Change(now, made_from=now.version, events=events)])
            if isinstance(outcome, Accepted):
                won.append(outcome.job.version)
                now = outcome.job
            else:
                assert outcome.stored is not None
                now = outcome.stored
        return won

    try:
        with ThreadPoolExecutor(contenders) as pool:
            won = [version for versions in pool.map(contend, stores) for version in versions]
        assert sorted(won) == list(range(2, rounds + 2))
        assert [e.type for e in stores[0].events()] == [f"{n}" for n in range(1, rounds + 1)]
    finally:
        for one in stores:
            one.close()


@pytest.mark.parametrize("rival_writes", ["the same job", "another job"])
def test_who_was_overtaken_between_reading_and_writing_judges_anew(
    store: Store, project: str, monkeypatch: pytest.MonkeyPatch, rival_writes: str
) -> None:
    """Ids that were given out meanwhile must not be given out again, nor a decision be overwritten."""
    mine, other = stored(store, job(1)), stored(store, job(2))
    rival = open_store(f"firestore://{project}")
    write = Connection.write
    theirs = mine if rival_writes == "the same job" else other
    overtaken = threading.Event()

    def late(self: Connection, writes: Any) -> datetime:
        if not overtaken.is_set():
            overtaken.set()
            first = Change(theirs, made_from=1, events=(Event("theirs", theirs.job_id, T0),))
            assert isinstance(rival.commit([first])[0], Accepted)
        return write(self, writes)

    monkeypatch.setattr(Connection, "write", late)
    try:
        [outcome] = store.commit(
            [Change(mine, made_from=1, events=(Event("mine", mine.job_id, T0),))]
        )
    finally:
        rival.close()
    told = [e.type for e in store.events()]
    if rival_writes == "the same job":
        assert isinstance(outcome, Refused)
        assert outcome.stored is not None
        assert outcome.stored.version == 2
        assert told == ["theirs"]
    else:
        assert isinstance(outcome, Accepted)
        assert told == ["theirs", "mine"]
        assert [e.event_id for e in store.events()] == [1, 2]


def test_a_change_of_more_rows_than_a_batch_is_stored_whole_or_not_at_all(store: Store) -> None:
    """A rollback holds every writer of a wide job: half of them would be none."""
    wide = WRITES_MAX + 100
    seen = stored(store, job(1))
    change = Change(
        seen,
        made_from=1,
        tasks=tuple(task(seen, f"t{n:04}") for n in range(wide)),
        writers=tuple(Writer(f"bronze.t{n}", 1, seen.job_id, "t") for n in range(wide)),
        events=tuple(Event(f"{n}", seen.job_id, T0) for n in range(wide)),
    )
    stale = replace(change, made_from=7)
    assert isinstance(store.commit([stale])[0], Refused)
    assert (store.tasks([seen.job_id]), list(store.held_writers()), store.events()) == ([], [], [])
    assert isinstance(store.commit([change])[0], Accepted)
    assert [t.task_id for t in store.tasks([seen.job_id])] == [f"t{n:04}" for n in range(wide)]
    assert len(store.held_writers()) == wide
    assert [e.type for e in store.events(job_id=seen.job_id)] == [f"{n}" for n in range(wide)]


def test_a_call_of_many_changes_keeps_their_order_and_its_refusals(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger hands over 512 at once: several steps, in which a refusal counts until the end."""
    sizes: list[int] = []
    write = Connection.write

    def counted(self: Connection, writes: Sequence[Any]) -> datetime:
        sizes.append(len(writes))
        return write(self, writes)

    monkeypatch.setattr(Connection, "write", counted)
    spoiled = stored(store, job(1))
    stale = Change(replace(spoiled, version=9), made_from=9)
    # What follows would fit the stored version: only the refusal before it says no.
    derived = Change(spoiled, made_from=1)
    created = [
        Change(
            new := job(n),
            made_from=0,
            plan=PLAN,
            tasks=(task(new, f"t{n}"),),
            events=(Event(f"{n}", new.job_id, T0),),
        )
        for n in range(2, 512)
    ]
    outcomes = store.commit([stale, *created, derived])
    assert [type(one) for one in outcomes] == [Refused, *[Accepted] * 510, Refused]
    assert outcomes[-1] == Refused(spoiled)
    assert len(sizes) > 3
    assert max(sizes) <= WRITES_MAX
    events = [e for one in outcomes if isinstance(one, Accepted) for e in one.events]
    assert [e.type for e in events] == [f"{n}" for n in range(2, 512)]
    assert store.events() == events
    positions = store.tasks([one.job.job_id for one in created])
    assert [t.task_id for t in positions] == [f"t{n}" for n in range(2, 512)]
    assert len(store.unfinished()) == 511


def test_what_no_document_can_hold_is_refused_with_its_size(store: Store) -> None:
    """The mend is the caller's: trying again would not help."""
    noise = {"noise": random.randbytes(800_000).hex()}
    with pytest.raises(RecordTooLargeError, match=r"jobs/0198-000001.*the most is 600,000"):
        store.commit([Change(job(1, params=noise), made_from=0)])
    with pytest.raises(JobNotFoundError):
        store.get("0198-000001")
    stored(store, job(2))


def test_a_job_as_large_as_one_can_be_has_room_for_its_end(store: Store) -> None:
    """A job that cannot be written any more could not be stopped."""
    noise = {"noise": random.randbytes(500_000).hex()}
    seen = stored(store, job(1, params=noise))
    longest = "".join(random.choices("abcdef 0123456789", k=400_000))
    [outcome] = store.commit([Change(replace(seen, error=longest), made_from=1)])
    assert isinstance(outcome, Accepted)
    assert store.get(seen.job_id).error == longest


def test_one_that_is_too_large_keeps_no_other_from_being_stored(store: Store) -> None:
    """The ledger hands over what many callers ask for; one of them must not be able to hold up the rest."""
    first, second = stored(store, job(1)), stored(store, job(2))
    noise = replace(first, error=random.randbytes(1_500_000).hex())
    changes = [
        Change(job(3), made_from=0),
        Change(noise, made_from=1),
        Change(replace(noise, priority=9), made_from=2),  # derived from it
        Change(replace(second, error="small"), made_from=1),
    ]
    with pytest.raises(RecordTooLargeError):
        store.commit(changes)
    assert store.get(first.job_id) == first
    assert store.get(second.job_id).error == "small"
    assert store.get(job(3).job_id).version == 1


@pytest.mark.parametrize("name", ["", ".", "..", "__x__", "a/b", "a%2Fb", "ü" * 3000, "\ud800"])
def test_a_name_that_no_document_can_have_names_no_job(store: Store, name: str) -> None:
    """Ids come from URLs and bodies: one that is none must be a 404, not a store that is away."""
    with pytest.raises(JobNotFoundError):
        store.get(name)
    assert store.get_many([name]) == {}
    assert store.logs(name, task_id=name) == []
    assert store.events(job_id=name) == []
    assert store.tasks([name]) == []
    assert store.find_idempotent(name) is None
    assert store.list(JobQuery(before_job_id=name, user_ids=(name,))) == []
    store.forget_executor(name)


# ------------------------------------------------------------------ answers that were lost


class LostAnswers:
    """In place of `Connection.write`: the first answers are lost, and the first write was done or was not.

    `then` happens before an answer is missed.
    """

    def __init__(
        self, *, done: bool, times: int, then: Callable[[], object] = lambda: None
    ) -> None:
        self._write = Connection.write
        self._done, self._times, self._then = done, times, then

    def __call__(self, connection: Connection, writes: Any) -> datetime:
        if self._times == 0:
            return self._write(connection, writes)
        self._times -= 1
        if self._done:
            self._done = False
            self._write(connection, writes)
        self._then()
        raise WriteInDoubtError(connection.where, "the connection broke", mend="try again")


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("done", [True, False])
def test_a_write_whose_answer_was_lost_is_known_to_have_happened_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, done: bool, times: int
) -> None:
    """A stop that was stored must not be told as refused, nor its events be written twice."""
    seen = stored(store, job(1))
    lost = LostAnswers(done=done, times=times)
    monkeypatch.setattr(Connection, "write", lambda *a: lost(*a))
    monkeypatch.setattr(writing, "DOUBT_SECONDS", 30.0)
    change = Change(replace(seen, error="once"), made_from=1, events=(Event("e", seen.job_id, T0),))
    [outcome] = store.commit([change])
    assert isinstance(outcome, Accepted)
    assert store.events() == list(outcome.events)
    assert store.get(seen.job_id) == outcome.job == replace(seen, error="once", version=2)
    assert stored(store, job(2)).version == 1


def test_a_write_that_a_rival_was_before_is_judged_anew_although_an_answer_was_lost(
    store: Store, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it was the rival's write which happened is told by its token."""
    seen = stored(store, job(1))
    rival = open_store(f"firestore://{project}")
    rivals = Change(replace(seen, error="rival"), made_from=1)
    lost = LostAnswers(done=False, times=1, then=lambda: rival.commit([rivals]))
    monkeypatch.setattr(Connection, "write", lambda *a: lost(*a))
    [outcome] = store.commit([Change(replace(seen, error="mine"), made_from=1)])
    rival.close()
    assert outcome == Refused(replace(seen, error="rival", version=2))


def test_what_cannot_be_known_is_not_told(
    store: Store, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several others have written since: whether the lost write was before them is found by reading again."""
    seen = stored(store, job(1))
    rival = open_store(f"firestore://{project}")

    def two_others() -> None:
        for number in (2, 3):
            assert isinstance(rival.commit([Change(job(number), made_from=0)])[0], Accepted)

    lost = LostAnswers(done=True, times=1, then=two_others)
    monkeypatch.setattr(Connection, "write", lambda *a: lost(*a))
    with pytest.raises(StoreUnavailableError, match="the connection broke"):
        store.commit([Change(replace(seen, error="mine"), made_from=1)])
    rival.close()
    assert store.get(seen.job_id).error == "mine"


# ------------------------------------------------------------------ out of reach


def test_a_store_that_went_away_says_so_and_goes_on_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decisions wait while it is away, and whoever watches hears of what comes after."""
    emulator = Emulator(tmp_path / "log")
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulator.host)
    told = threading.Event()
    try:
        emulator.start()
        store = open_store("firestore://p")
        seen = stored(store, job(1))
        store.watch(told.set)
        assert told.wait(HEARD_WITHIN_SECONDS)

        emulator.kill()
        for call in (
            lambda: store.get(seen.job_id),
            lambda: store.commit([Change(seen, made_from=1)]),
            lambda: store.append_logs([LogEntry(seen.job_id, T0, "line")]),
            lambda: store.beat(Executor("e", "host", 1, T0)),
            lambda: store.events(),
        ):
            with pytest.raises(StoreUnavailableError, match="check the network") as caught:
                call()
            assert caught.value.where == "firestore://p/(default)"

        emulator.start()  # empty: an emulator keeps everything in memory
        until(lambda: _answers(store), "the connection to be made again", HEARD_WITHIN_SECONDS)
        told.clear()
        again = open_store("firestore://p")
        assert told.wait(HEARD_WITHIN_SECONDS), "nobody was told of the counters"
        told.clear()
        stored(again, job(2))
        assert told.wait(HEARD_WITHIN_SECONDS), "nobody was told of the commit"
        assert stored(store, job(3)).version == 1
        again.close()
        store.close()
    finally:
        emulator.kill()


def _answers(store: Store) -> bool:
    try:
        return store.list(JobQuery()) == []
    except StoreUnavailableError:
        return False


def test_a_stream_that_is_old_is_opened_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some streams are reported to fall silent for good; no stop may depend on one."""
    monkeypatch.setattr(connection, "STREAM_SECONDS", 0.5)
    listen, opened = Connection.listen, threading.Semaphore(0)

    def counted(self: Connection, *arguments: Any) -> Any:
        opened.release()
        return listen(self, *arguments)

    monkeypatch.setattr(Connection, "listen", counted)
    told = threading.Event()
    unwatch = store.watch(told.set)
    for _ in range(3):
        assert opened.acquire(timeout=HEARD_WITHIN_SECONDS), "the stream was not opened anew"
    told.clear()
    stored(store, job(1))
    assert told.wait(HEARD_WITHIN_SECONDS)
    unwatch()


def test_a_query_that_breaks_is_asked_again_as_a_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on behind what has come would begin the query's limit anew."""
    jobs = [stored(store, job(n)) for n in range(4)]
    stream, broken = firestore.Query.stream, threading.Event()

    def breaking(self: Any, **given: Any) -> Iterator[Any]:
        for n, found in enumerate(stream(self, **given)):
            if n == 2 and not broken.is_set():
                broken.set()
                raise api.ServiceUnavailable("the connection broke")
            yield found

    monkeypatch.setattr(firestore.Query, "stream", breaking)
    assert store.list(JobQuery(limit=3)) == jobs[:0:-1]
    assert broken.is_set()


def test_who_watched_a_store_that_is_closed_is_not_told_any_more(
    store: Store, project: str
) -> None:
    """What listens must not outlive what it belongs to."""
    told = threading.Event()
    store.watch(told.set)
    assert told.wait(HEARD_WITHIN_SECONDS)
    store.close()
    told.clear()
    other = open_store(f"firestore://{project}")
    stored(other, job(1))
    other.close()
    assert not told.wait(0.5)


class Refusing(list[Any]):
    """A stream that says it will tell no more."""

    def cancel(self) -> None:
        """It is over already."""


def test_a_stream_that_is_refused_is_opened_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays open and silent: who waited for it to break would hear of no stop any more."""
    listen = Connection.listen
    refusal = ListenResponse(target_change={"target_change_type": "REMOVE"})
    streams = iter([Refusing([refusal])])
    monkeypatch.setattr(Connection, "listen", lambda *asked: next(streams, None) or listen(*asked))
    told = threading.Event()
    store.watch(told.set)
    assert told.wait(HEARD_WITHIN_SECONDS), "nobody was told"


class Failing:
    """A query that fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def stream(self, **_: Any) -> list[Any]:
        raise self._error


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (api.ServiceUnavailable("failed to connect"), "FIRESTORE_EMULATOR_HOST"),
        (api.DeadlineExceeded("Deadline Exceeded"), "check the network"),
        (api.PermissionDenied("Missing or insufficient permissions."), "Cloud Datastore User"),
        (api.Unauthenticated("Request had invalid credentials"), "gcloud auth"),
        (api.NotFound("The database (default) does not exist for project p"), "create the"),
        (api.ResourceExhausted("Quota exceeded."), "quota"),
        (api.FailedPrecondition("The query requires an index."), "firestore.indexes.json"),
        (api.Aborted("Too much contention"), "try again"),
    ],
)
def test_each_error_of_the_service_has_its_mend(
    firestore_emulator: Emulator, error: Exception, mend: str
) -> None:
    """An operator meets these at the first try; what the service says alone does not help."""
    connection = Connection("p", "(default)", "firestore://p/(default)")
    failing: Any = Failing(error)
    with pytest.raises(StoreUnavailableError) as caught:
        connection.run(failing)
    assert mend in caught.value.mend
    connection.close()


def test_no_credentials_say_how_to_sign_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the emulator's variable it is Google that is asked, and Google wants to know by whom."""
    monkeypatch.delenv("FIRESTORE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing.json"))
    with pytest.raises(StoreUnavailableError, match="gcloud auth application-default login"):
        open_store("firestore://p")


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is no dependency of who does not use it."""
    for name in [name for name in sys.modules if name.startswith("sluicegate.stores.firestore.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    with pytest.raises(StoreDriverMissingError, match=r"pip install 'sluicegate\[firestore\]'"):
        open_store("firestore://p")


# ------------------------------------------------------------------ versions of the layout


def test_a_store_that_a_newer_version_wrote_is_not_touched(
    store: Store, project: str, console: firestore.Client
) -> None:
    """An older server must not write what the newer one would misread."""
    console.document("meta/schema").update({"version": 2})
    with pytest.raises(StoreTooNewError, match="schema revision '2', newer than '1'"):
        open_store(f"firestore://{project}")


def test_counters_that_are_gone_are_not_begun_anew(store: Store, console: firestore.Client) -> None:
    """Ids would be given out again, and whoever follows the events would miss the new ones."""
    seen = stored(store, job(1))
    console.document("meta/counters").delete()
    with pytest.raises(StoreUnavailableError, match="meta/counters is gone"):
        store.commit([Change(seen, made_from=1)])
    assert store.get(seen.job_id) == seen


def test_of_many_that_open_an_empty_database_at_once_one_lays_it_out(project: str) -> None:
    """Servers are started together."""
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: open_store(f"firestore://{project}"), range(8)))
    stored(stores[0], job(1))
    assert all(len(one.unfinished()) == 1 for one in stores)
    for one in stores:
        one.close()


# ------------------------------------------------------------------ indexes


def test_every_query_has_its_index(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator answers any query; Firestore refuses one without its composite index."""
    asked: list[Any] = []
    run = Connection.run

    def noted(self: Connection, query: Any) -> Any:
        asked.append(query._to_protobuf()._pb)
        return run(self, query)

    monkeypatch.setattr(Connection, "run", noted)
    _ask_everything(store)
    package = files("sluicegate.stores.firestore")
    listed = json.loads((package / "firestore.indexes.json").read_text())
    have = {
        (one["collectionGroup"], one["queryScope"], _shape(one["fields"]))
        for one in listed["indexes"]
    }
    single = {
        (one["collectionGroup"], index["queryScope"], one["fieldPath"])
        for one in listed["fieldOverrides"]
        for index in one["indexes"]
    }
    off = {
        (o["collectionGroup"], o["fieldPath"]) for o in listed["fieldOverrides"] if not o["indexes"]
    }
    needed = set()
    for query in asked:
        group, scope, equal, ordered = _needs(query)
        assert not {(group, field) for field in (*equal, *dict(ordered))} & off, query
        if len(equal) + len(ordered) > 1 and (ordered or scope == "COLLECTION_GROUP"):
            needed.add((group, scope, (frozenset(equal.items()), ordered)))
        elif scope == "COLLECTION_GROUP":
            assert (group, scope, next(iter({*equal, *dict(ordered)}))) in single, query
    assert needed - have == set()
    assert have - needed == set(), "an index that no query uses costs each write"


def _ask_everything(store: Store) -> None:
    """Every read, with every combination of what can be asked for."""
    seen = stored(store, job(1))
    flags = (False, True)
    for status, term, time, before in (
        (a, b, c, d) for a in flags for b in flags for c in flags for d in flags
    ):
        store.list(
            JobQuery(
                statuses=(JobStatus.PENDING, JobStatus.FAILED) if status else (),
                user_ids=("ann",) if term else (),
                created_after=T0 if time else None,
                created_before=T0 if time else None,
                before_job_id=seen.job_id if before else None,
            )
        )
    store.unfinished()
    store.unclaimed(10)
    store.tasks([seen.job_id])
    store.tasks([seen.job_id], statuses=[TaskStatus.RUNNING])
    store.latest_tasks(["bronze.flights"])
    store.held_writers()
    store.executors()
    store.events()
    store.events(job_id=seen.job_id)
    store.logs(seen.job_id)
    store.logs(seen.job_id, task_id="t1")
    store.add_key(ApiKey("ci", "viewer", "hash", T0))
    store.list_keys()
    store.revoke_key("ci", T0)
    store.remove_journal([seen.job_id], most=10)
    store.remove([[seen]])


# The fields that queries hold equal, and never order by.
EQUAL = {"status", "terms", "completed_at", "executor_id", "pipeline", "task_ids"}


def _shape(fields: list[dict[str, str]]) -> tuple[Any, Any]:
    """The fields before the order as a set, for their sequence does not matter, and those of the order."""
    kinds = [(f["fieldPath"], f.get("arrayConfig") or f["order"]) for f in fields]
    equal = [k for k in kinds if k[0] in EQUAL]
    if kinds[0] == ("job_id", "ASCENDING") and len(kinds) > 1:
        equal.append(kinds[0])  # the tasks of some jobs
    return frozenset(equal), tuple(k for k in kinds if k not in equal)


def _needs(query: Any) -> tuple[str, str, dict[str, str], tuple[tuple[str, str], ...]]:
    """What a query needs: the collection, its scope, the fields that are equal, and the fields of the order.

    Fields of inequalities that are not in the order follow it, in its last direction.

    Source: Firestore documentation, 'Types of indexes' and 'Range and inequality filters on multiple fields'.
    """
    [source] = query.from_
    filters = list(query.where.composite_filter.filters) or [query.where]
    equal: dict[str, str] = {}
    ranged: dict[str, None] = {}
    for one in filters:
        if one.HasField("unary_filter"):
            field, is_equal = one.unary_filter.field.field_path, one.unary_filter.op == 3  # IS_NULL
            kind = "ASCENDING"
        elif one.HasField("field_filter"):
            name = one.field_filter.DESCRIPTOR.fields_by_name["op"].enum_type.values_by_number
            operator = name[one.field_filter.op].name
            field = one.field_filter.field.field_path
            is_equal = operator in ("EQUAL", "IN") or operator.startswith("ARRAY_CONTAINS")
            kind = "CONTAINS" if operator.startswith("ARRAY") else "ASCENDING"
        else:
            continue
        if is_equal:
            equal[field] = kind
        else:
            ranged[field] = None
    ordered = [
        (o.field.field_path, "DESCENDING" if o.direction == 2 else "ASCENDING")
        for o in query.order_by
    ]
    last = ordered[-1][1] if ordered else "ASCENDING"
    ordered += [(field, last) for field in sorted(ranged) if field not in dict(ordered)]
    scope = "COLLECTION_GROUP" if source.all_descendants else "COLLECTION"
    return source.collection_id, scope, equal, tuple(ordered)
