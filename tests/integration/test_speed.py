"""How fast it is. The figures are printed; only gross regressions fail, because the machine is shared."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from support import Here, Server, median, servers

from sluicegate.core.job import JobStatus

pytestmark = pytest.mark.alone

TASKS = 1000
TASKS_PER_SECOND_MIN = 100
FIRST_LINE_SECONDS_MAX = 0.25

NO_OPS = f"""
from sluicegate import bronze
for number in range({TASKS}):
    exec(f"@bronze(name='n{{number}}')\\ndef n(): pass")
"""
SPEAKS = """
import time
from sluicegate import bronze
@bronze
def speaks(): print(time.time(), flush=True)
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """A service with a thousand pipelines that do nothing."""
    with Here(tmp_path_factory.mktemp("many"), NO_OPS) as here:
        yield here


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one pipeline that says when it runs."""
    folder = tmp_path_factory.mktemp("speaks")
    (folder / "pipelines.py").write_text(SPEAKS)
    with servers(folder) as start:
        yield start(folder / "pipelines.py")


def test_a_thousand_small_tasks(many: Here) -> None:
    """Durable at each start and each end."""
    many.run("bronze.n0")
    rates = []
    for _ in range(3):
        job = many.job(many.run())
        assert job.status is JobStatus.SUCCESS
        assert job.completed_tasks == TASKS
        rates.append(TASKS / (job.duration_seconds(job.created_at) or 1))
    print(f"{median(rates):.0f} tasks/s (median), {[round(rate) for rate in rates]}")
    assert median(rates) >= TASKS_PER_SECOND_MIN


def test_from_post_to_a_first_line(server: Server) -> None:
    """By the clock of the task, which is the same as ours; and by what the logs say."""
    run, stored = [], []
    for _ in range(20):
        began = time.time()
        job_id = server.start(pipelines=["bronze.speaks"])
        server.wait(job_id)
        [line] = [one for one in server.logs(job_id) if one["stream"] == "stdout"]
        run.append(float(line["message"]) - began)
        stored.append(datetime.fromisoformat(line["at"]).timestamp() - began)
    print(
        f"POST to the task's first line: {median(run) * 1000:.0f} ms,"
        f" heard after {median(stored) * 1000:.0f} ms (medians)"
    )
    assert median(stored) <= FIRST_LINE_SECONDS_MAX
