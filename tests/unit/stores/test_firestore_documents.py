"""How records become documents: within Firestore's limits, and back without loss. No driver, no emulator."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sluicegate.core.job import Job, JobStatus, LogEntry
from sluicegate.core.plan import Plan, PlanStep
from sluicegate.stores.firestore import parse_url
from sluicegate.stores.firestore.documents import (
    BLOCK_LINES_MAX,
    MANY_PIPELINES,
    PIPELINES_MAX,
    TERM_BYTES_MAX,
    executor_path,
    indexable,
    job_path,
    load_job,
    load_lines,
    log_writes,
    new_job,
    size_bytes,
    terms,
    writer_path,
)

T0 = datetime(2026, 3, 29, 0, 59, 59, 999_999, tzinfo=UTC)


def job(**fields: object) -> Job:
    return Job("0198-1", "nightly", JobStatus.PENDING, T0, 1, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("firestore://my-project", ("my-project", "(default)")),
        ("firestore://my-project/", ("my-project", "(default)")),
        ("firestore://my-project/(default)", ("my-project", "(default)")),
        ("firestore://my-project/staging", ("my-project", "staging")),
        ("firestore://example.com:my-project/staging", ("example.com:my-project", "staging")),
        ("firestore://", None),
        ("firestore:///staging", None),
        ("firestore://my project", None),
        ("firestore://my-project/a/b", None),
        ("sqlite:///jobs.db", None),
    ],
)
def test_a_url_names_a_project_and_perhaps_a_database(
    url: str, place: tuple[str, str] | None
) -> None:
    """What is not understood must not fall back to the default database."""
    assert parse_url(url) == place


def test_every_name_makes_a_path_of_its_own() -> None:
    """A slash would lead into another collection, and some names are Firestore's own."""
    names = ["a", "a/b", "a%2Fb", ".", "..", "__a__", "%__a__", "", "ä", "a b", "a.b"]
    names += ["ä" * 2000, "ä" * 2001, "\ud800"]
    paths = [writer_path(name) for name in names]
    assert len(set(paths)) == len(names)
    assert all(path.count("/") == 1 for path in paths)
    assert not {path.partition("/")[2] for path in paths} & {".", "..", "", "__a__"}
    assert all(len(path.encode()) < 1_100 for path in paths)
    assert job_path("0198-1") == "jobs/0198-1"
    assert executor_path("host/1") == "executors/host%2F1"


def test_instants_are_timestamps_and_come_back_exactly() -> None:
    """A person compares them in the console; a resume compares them to the microsecond."""
    document = new_job(job(started_at=T0), None)
    assert document["created_at"] == document["started_at"] == T0
    assert load_job(document) == job(started_at=T0)


def test_a_label_comes_back_whatever_is_in_it() -> None:
    """The list of labels is for people; what is read back must not depend on where its `=` is."""
    labels = {"a=b": "c", "a": "b=c", "": "x", "__x__": "y", "a.b": "\udcff"}
    document = new_job(job(labels=labels), None)
    assert load_job(document).labels == labels
    assert document["labels"][:2] == ["a=b=c", "a=b=c"]


def test_a_wide_plan_has_one_term_for_all_its_pipelines() -> None:
    """A document may have 40,000 entries in indexes, and each term is in several."""
    narrow = Plan(tuple(PlanStep(f"bronze.t{n}") for n in range(PIPELINES_MAX)))
    wide = Plan((*narrow.steps, PlanStep("silver.last")))
    assert "pipeline:bronze.t0" in terms(job(), narrow)
    assert MANY_PIPELINES not in terms(job(), narrow)
    assert MANY_PIPELINES in terms(job(), wide)
    assert {"layer:bronze", "layer:silver", "user:local"} <= set(terms(job(), wide))
    assert len(terms(job(), wide)) == 5
    assert len(new_job(job(), wide)["pipelines"]) == PIPELINES_MAX


def test_a_long_term_keeps_its_kind_and_its_difference() -> None:
    """An index cuts values off at 1,500 bytes: two long labels would be one."""
    long = "label:" + "ä" * TERM_BYTES_MAX
    assert indexable("label:team=core") == "label:team=core"
    assert indexable(long).startswith("label:sha256:")
    assert indexable(long) != indexable(long + "x")


def test_lines_are_packed_by_job_and_keep_their_order() -> None:
    """Each document that is written costs; a line is the smallest thing there is."""
    entries = [
        LogEntry(f"job-{n % 2}", T0, f"line {n}", f"t{n % 3}", log_id=n + 1)
        for n in range(2 * BLOCK_LINES_MAX + 2)
    ]
    writes = list(log_writes(entries))
    assert len(writes) == 4
    lines = [line for one in writes for line in load_lines(one.document)]
    for name in ("job-0", "job-1"):
        assert [e for e in lines if e.job_id == name] == [e for e in entries if e.job_id == name]
    assert all(one.document["log_id"] == load_lines(one.document)[-1].log_id for one in writes)
    big = [LogEntry("job", T0, "x" * 16_000, log_id=n) for n in range(1, 100)]
    assert all(size_bytes(one.document) < 1_000_000 for one in log_writes(big))
