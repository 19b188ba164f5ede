"""What a small task costs, counted: commits, statements, messages. A figure in seconds would depend on the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import pytest
from support import Here

from sluicegate.core.job import JobStatus
from sluicegate.stores.sql import SqlStore
from sluicegate.workers.local import LocalWorkers

TASKS = 200
NO_OPS = f"""
from sluicegate import bronze
for number in range({TASKS}):
    exec(f"@bronze(name='n{{number}}')\\ndef n(): pass")
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with Here(tmp_path_factory.mktemp("counts"), NO_OPS) as service:
        service.run("bronze.n0", "bronze.n1")  # its workers have loaded
        yield service


def test_a_small_task_costs_a_message_and_a_part_of_a_commit(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a durable start and a durable end. Several share a commit, or a disk would set the pace."""
    seen: Counter[str] = Counter()
    workers, store = cast("LocalWorkers", here.service.tables), cast("SqlStore", here.service.store)
    said, commit = workers._said, store.commit

    def hear(worker: Any, message: dict[str, Any]) -> None:
        seen[f"message {message['kind']}"] += 1
        said(worker, message)

    def count(changes: Any) -> Any:
        seen["commits"] += 1
        seen["changes"] += len(changes)
        return commit(changes)

    monkeypatch.setattr(workers, "_said", hear)
    monkeypatch.setattr(store, "commit", count)
    assert store._writer is not None
    driver: Any = store._writer.connection.driver_connection
    driver.set_trace_callback(lambda _: seen.update(["statements"]))
    job = here.job(here.run())
    driver.set_trace_callback(None)

    assert (job.status, job.completed_tasks) == (JobStatus.SUCCESS, TASKS)
    print(dict(seen))
    assert seen["message ended"] == TASKS
    assert sum(n for what, n in seen.items() if what.startswith("message")) == TASKS
    assert seen["changes"] == 2 * TASKS + 2  # and the job is created and ended
    assert seen["commits"] <= 0.8 * TASKS
    assert seen["statements"] <= 14 * seen["commits"]
