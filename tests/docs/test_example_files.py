"""The small examples do what they say: they run, they stop, and they leave whole things behind.

`smallest.py` is the README's own block, and runs in `test_doc_blocks.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from doc_pages import ROOT, WAIT_SECONDS, running

from sluicegate.app import RunningService
from sluicegate.core.job import Job, JobStatus, TaskStatus
from sluicegate.core.job_manager import RunRequest
from sluicegate.core.transitions import StopRequest

EXAMPLES = ROOT / "examples"


def run(service: RunningService, **request: Any) -> Job:
    """Run a job to its end."""
    job, _ = service.manager.create(RunRequest(**request), user_id="reader")
    ended = service.wait(job.job_id, WAIT_SECONDS)
    assert ended.is_over, f"waited in vain for {job.job_name} to end"
    return ended


def rows(service: RunningService, table: str, limit: int = 100) -> list[dict[str, Any]]:
    """The rows of a small table."""
    preview: list[dict[str, Any]] = service.tables.describe(table, limit=limit, version=None)[
        "preview"
    ]
    return preview


def until(look: Callable[[], object], what: str) -> None:
    """Wait for a fact."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not look():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def test_a_second_run_reads_only_the_files_that_are_new(tmp_path: Path) -> None:
    """That is the promise of `files=`, and what the example is there to show."""
    landing = tmp_path / ".sluicegate" / "landing" / "readings"
    landing.mkdir(parents=True)
    (landing / "monday.csv").write_text("sensor,celsius\na,1\nb,\nb,7\n")
    with running(tmp_path, EXAMPLES / "new_files.py") as service:
        assert run(service).status is JobStatus.SUCCESS
        (landing / "tuesday.csv").write_text("sensor,celsius\na,3\n")
        second = run(service)
        [readings, _] = service.manager.get(second.job_id).tasks
        assert (readings.pipeline, readings.stats.rows) == ("bronze.readings", 1)
        assert rows(service, "gold.warmest") == [
            {"sensor": "a", "celsius": 3.0},
            {"sensor": "b", "celsius": 7.0},
        ]


@pytest.fixture(scope="module")
def stops_well(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The service over `stops_well.py`, after one full run, and the folder that it publishes to."""
    folder = tmp_path_factory.mktemp("stops_well")
    with running(folder, EXAMPLES / "stops_well.py") as service:
        assert (
            run(service, params={"publish_to": str(folder / "first")}).status is JobStatus.SUCCESS
        )
        yield service, folder


def stop(
    service: RunningService, pipeline: str, is_at_work: Callable[[str], object], **params: Any
) -> Job:
    """Start one pipeline, stop it once it is at work, and return the job as it is then."""
    request = RunRequest(pipelines=(pipeline,), params=params)
    job, _ = service.manager.create(request, user_id="reader")
    until(lambda: is_at_work(job.job_id), f"{pipeline} to be at work")
    service.manager.cancel(job.job_id, StopRequest("reader"))
    ended = service.wait(job.job_id, WAIT_SECONDS)
    assert ended.is_over
    assert ended.status is JobStatus.CANCELLED
    [task] = service.manager.get(job.job_id).tasks
    assert task.status is TaskStatus.CANCELLED
    return ended


def test_a_loop_that_yields_stops_at_its_next_checkpoint(stops_well: Any) -> None:
    """And its `finally` runs: the document says that cleaning up belongs there."""
    service, _ = stops_well
    job = stop(
        service,
        "bronze.measured",
        lambda job_id: any(task.progress for task in service.manager.get(job_id).tasks),
        pages=100_000,
    )
    assert job.cancellation is not None
    assert [one.stage for one in job.cancellation.stopped] == ["checkpoint"]
    said = [line.message for line in service.manager.logs(job.job_id)]
    assert "the connection is closed" in said


def test_a_query_is_interrupted_by_on_cancel(stops_well: Any) -> None:
    """No Python of the pipeline runs during a query: without the callback it would wait for the ladder."""
    service, _ = stops_well
    job = stop(
        service,
        "bronze.counted",
        lambda job_id: service.manager.header(job_id).running_tasks,
        rows=10**10,
    )
    assert job.cancellation is not None
    assert [one.stage for one in job.cancellation.stopped] == ["checkpoint"]


def test_a_program_ends_with_its_task(stops_well: Any) -> None:
    """It would run a minute longer; the task ends at once and so does the program."""
    service, _ = stops_well
    job = stop(
        service,
        "silver.checked",
        lambda job_id: service.manager.header(job_id).running_tasks,
        seconds_to_check=60,
    )
    assert job.cancellation is not None
    assert [one.stage for one in job.cancellation.stopped] == ["checkpoint"]


def test_an_upload_under_a_shield_is_finished_before_the_stop(stops_well: Any) -> None:
    """Half an upload is what a shield is there to prevent."""
    service, folder = stops_well
    published = folder / "second"
    stop(
        service,
        "gold.published",
        lambda _: (published / "values.txt").exists(),
        publish_to=str(published),
        seconds_to_upload=0.5,
    )
    assert (published / "complete.txt").read_text() == "10 rows\n"


def test_orders_go_on_from_their_position_after_a_stop(tmp_path: Path) -> None:
    """A stop between two pages, a run to the end, one with nothing new, and one with more."""
    with running(tmp_path, EXAMPLES / "orders.py") as service:
        stop(
            service,
            "bronze.changes",
            lambda job_id: any(task.stats.rows for task in service.manager.get(job_id).tasks),
            last_change=5_000,
            seconds_per_page=0.05,
        )
        kept = service.tables.describe("bronze.changes", limit=0, version=None)["row_count"]
        assert 0 < kept < 5_000
        for last, fresh in ((5_000, 5_000 - kept), (5_000, 0), (5_040, 40)):
            job = run(service, params={"last_change": last})
            assert job.status is JobStatus.SUCCESS
            tasks = {task.pipeline: task for task in service.manager.get(job.job_id).tasks}
            assert tasks["bronze.changes"].stats.rows == fresh
        assert tasks["silver.orders"].stats.rows < 40, "only the orders that were touched"
        changes = rows(service, "bronze.changes", limit=10_000)
        assert sorted(row["change_id"] for row in changes) == list(range(1, 5_041))
        in_order = sorted(changes, key=lambda row: int(row["change_id"]))
        newest = {row["order_id"]: row for row in in_order}
        orders = rows(service, "silver.orders", limit=10_000)
        assert {row["order_id"]: row for row in orders} == newest
        assert len(orders) == len(newest)
        total = sum(row["orders"] for row in rows(service, "gold.by_status"))
        assert total == len(newest)
        said = [line.message for line in service.manager.logs(job.job_id)]
        assert "the report is sent" in said


@pytest.fixture(scope="module")
def work_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The service over `work_elsewhere.py`, after one full run."""
    folder = tmp_path_factory.mktemp("work_elsewhere")
    with running(folder, EXAMPLES / "work_elsewhere.py") as service:
        assert run(service).status is JobStatus.SUCCESS
        assert sum(row["total"] for row in rows(service, "gold.reported")) == 499_500_000
        yield service


@pytest.mark.parametrize(
    ("pipeline", "says", "params", "what"),
    [
        ("bronze.summed", "summing", {"rows": 1_000_000}, "duckdb query"),
        ("silver.exported", "exporting", {"seconds_to_export": 60}, "program python"),
        ("gold.reported", "reporting", {"polls": 10**12}, "report 2013"),
    ],
)
def test_work_elsewhere_ends_with_its_task_and_the_receipt_says_so(
    work_elsewhere: RunningService, pipeline: str, says: str, params: dict[str, Any], what: str
) -> None:
    """Each would run for a minute and more; no stage beyond the first is needed."""
    service = work_elsewhere
    job = stop(
        service,
        pipeline,
        lambda job_id: says in [line.message for line in service.manager.logs(job_id)],
        **params,
    )
    assert job.cancellation is not None
    assert [one.stage for one in job.cancellation.stopped] == ["checkpoint"]
    [found] = job.cancellation.remote
    assert found.what.startswith(what)
    assert found.outcome == "confirmed"
