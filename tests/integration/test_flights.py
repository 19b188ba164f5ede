"""The demo through a real server: right figures, and a stop in its middle that leaves only whole files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import flights_figures
import pytest
from deltalake import DeltaTable
from support import SLACK, Server, median, servers, until

from sluicegate.demo import REDELIVERED, deliver, pipelines_path

DAYS = 60
CANCEL_MS = 50
SILENT_AFTER_MS = 250
STOPPED_AFTER_MS = 250


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server on the first weeks of the year."""
    folder = tmp_path_factory.mktemp("demo")
    with servers(folder) as start:
        deliver(folder / "home" / "landing", days=DAYS)
        yield start(pipelines_path())


def landing(server: Server) -> Path:
    return server.folder / "home" / "landing"


def lake(server: Server) -> Path:
    return server.folder / "home" / "lake"


def delivered(server: Server) -> Counter[tuple[int, int, int]]:
    """Rows by day in the files, all deliveries counted."""
    return Counter(
        tuple(map(int, line.split(",", 3)[:3]))  # type: ignore[misc]
        for path in (landing(server) / "flights").glob("*.csv")
        for line in path.read_text().splitlines()[1:]
    )


def ingested(server: Server) -> Counter[tuple[int, int, int]]:
    """Rows by day in the table."""
    path = lake(server) / "bronze" / "flights"
    if not (path / "_delta_log").is_dir():
        return Counter()
    rows = DeltaTable(str(path)).to_pyarrow_table(columns=["year", "month", "day"])
    return Counter(zip(*(rows[name].to_pylist() for name in ("year", "month", "day")), strict=True))


def instant(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_a_stopped_demo_keeps_whole_files_and_a_second_run_the_rest(server: Server) -> None:
    """The promise of the page's red button, measured; and nothing is lost or doubled by pressing it."""
    took = []
    silences, latencies = [], []
    for _ in range(3):
        job_id = server.start(params={"pace_ms": 100})
        before = sum(ingested(server).values())

        def busy(job_id: str = job_id, before: int = before) -> bool:
            task = server.tasks(job_id).get("bronze.flights")
            return bool(task and task["status"] == "running" and task["stats"]["units"] >= 1)

        until(busy, "some files to be published", 30)
        asked = time.time()
        answer = server.post(f"/api/jobs/{job_id}/cancel")
        took.append((time.time() - asked) * 1000)
        assert answer.status_code == 200
        assert answer.json()["status"] == "cancelled"
        started = {task["task_id"] for task in server.job(job_id)["tasks"]}
        job = server.wait(job_id)
        tasks = job["tasks"]
        assert {task["task_id"] for task in tasks} <= started | {
            task["task_id"] for task in tasks if instant(task["started_at"]) <= asked
        }
        said = [
            instant(line["at"])
            for line in server.logs(job_id)
            if line["task_id"] and line["stream"] != "job"
        ]
        silences.append(max([0.0, *(at - asked for at in said)]) * 1000)
        receipt = job["cancellation"]
        assert receipt["outcome"] == "stopped"
        assert "bronze.flights" in [one["pipeline"] for one in receipt["stopped"]]
        assert "gold.busiest_routes" in receipt["not_started"]
        latencies.append(max(one["latency_ms"] for one in receipt["stopped"]))
        # Each day is there once, not at all, or twice where it was delivered twice: never in part.
        whole = delivered(server)
        again = {(day.year, day.month, day.day) for day in REDELIVERED}
        for day, rows in ingested(server).items():
            shares = (whole[day], whole[day] // 2) if day in again else (whole[day],)
            assert rows in shares, f"{day}: {rows} of {whole[day]} rows"
    print(
        f"cancel answered in {median(took):.1f} ms (median); last line {max(silences):.0f} ms after; "
        f"stopped within {median(latencies):.0f} ms (median), {max(latencies):.0f} ms (worst)"
    )
    assert median(took) < CANCEL_MS * SLACK
    assert max(silences) < SILENT_AFTER_MS * SLACK
    assert median(latencies) < STOPPED_AFTER_MS * SLACK

    job = server.wait(server.start())
    assert job["status"] == "success"
    assert ingested(server) == delivered(server)
    wanted = flights_figures.expected(landing(server))
    assert flights_figures.differences(wanted, flights_figures.actual(lake(server))) == []


def test_a_run_with_nothing_new_changes_nothing(server: Server) -> None:
    """Each path is ingested exactly once, however often it is looked at."""
    assert server.wait(server.start())["status"] == "success"
    before = ingested(server)
    job = server.wait(server.start())
    assert job["status"] == "success"
    assert {t["stats"]["rows"] for t in job["tasks"] if t["layer"] == "bronze"} == {0}
    assert ingested(server) == before == delivered(server)


def test_a_full_refresh_comes_to_the_same(server: Server) -> None:
    """Everything again, in one commit a table."""
    job = server.wait(server.start(full_refresh=True))
    assert job["status"] == "success"
    assert {t["stats"]["units"] for t in job["tasks"] if t["layer"] == "bronze"} == {1}
    wanted = flights_figures.expected(landing(server))
    assert flights_figures.differences(wanted, flights_figures.actual(lake(server))) == []
