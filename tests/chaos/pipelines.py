"""The pipelines that chaos runs: small tasks that checkpoint, every way to write a table, and a family of processes.

Each row says where it came from, so that `truth` can work out what every version of every table must hold.
"""

import os
import subprocess
import time

import pyarrow as pa
import pyarrow.compute as pc

from sluicegate import Task, bronze, gold, silver

EVENTS = pa.schema(
    [("file", pa.string()), ("line", pa.int64()), ("key", pa.int64()), ("amount", pa.int64())]
)
CHANGES = pa.schema([("file", pa.string()), ("key", pa.int64()), ("value", pa.int64())])


def pause(task: Task) -> None:
    """As long as the job wants, with a checkpoint each 10 ms."""
    deadline = time.monotonic() + float(task.params.get("pace_ms", 0)) / 1000
    while True:
        task.checkpoint()
        left = deadline - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, 0.01))


@bronze(files="events/*.csv")
def events(batch: pa.Table, task: Task) -> pa.Table:
    """Appended, file by file, while new files arrive."""
    pause(task)
    return batch.select(EVENTS.names).cast(EVENTS)


@bronze(files="changes/*.csv", mode="merge", keys=["key"])
def changes(batch: pa.Table, task: Task) -> pa.Table:
    """Merged, file by file: of each key the newest file's value."""
    pause(task)
    return batch.select(CHANGES.names).cast(CHANGES)


@bronze(mode="append")
def pages(task: Task):
    """Pages up to the one that the job wants, each with its state a unit."""
    while (page := task.state.get("page", 0)) < int(task.params.get("until", 0)):
        pause(task)
        task.state["page"] = page + 1
        yield pa.table({"page": [page] * 3, "line": [0, 1, 2]})


@bronze(mode="append", retries=1)
def visits(task: Task):
    """One unit of several parts for each task that ran."""
    for part in range(4):
        pause(task)
        yield pa.table({"task": [task.task_id] * 5, "n": [part * 5 + n for n in range(5)]})
    if task.params.get("flaky") and task.attempt == 1:
        raise ValueError("the first attempt fails after all rows were written")


@bronze
def family(task: Task) -> None:
    """Children, one in a session of its own, and a daemon whose parent is gone. No table."""
    subprocess.Popen(["sleep", "300"])
    subprocess.Popen(
        ["sh", "-c", "trap '' TERM INT; sleep 300 & sleep 300"], start_new_session=True
    )
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(300)
        os._exit(0)
    for _ in range(5):
        pause(task)
    with task.shield(timeout=1):
        time.sleep(0.05)


@silver
def totals(events: pa.Table, task: Task) -> pa.Table:
    """Replaced by each run."""
    pause(task)
    if task.params.get("fail"):
        raise ValueError("this job wants it to fail")
    summed = events.group_by("key").aggregate([("amount", "sum"), ("amount", "count")])
    return pa.table(
        {
            "key": summed["key"],
            "amount": summed["amount_sum"].cast(pa.int64()),
            "events": summed["amount_count"].cast(pa.int64()),
        }
    )


@silver(mode="merge", keys=["key"])
def latest(changes: pa.Table, task: Task) -> pa.Table:
    """The even keys, merged: what an input does not name any more stays."""
    pause(task)
    return changes.filter(pc.equal(pc.bit_wise_and(changes["key"], 1), 0))


silver.sql(
    "by_file",
    """select file, count(*)::bigint as events, sum(amount)::bigint as amount
    from bronze.events group by file""",
)


@gold
def summary(totals: pa.Table, latest: pa.Table) -> pa.Table:
    """One row of two tables."""
    return pa.table(
        {
            "keys": pa.array([totals.num_rows], pa.int64()),
            "amount": pa.array([pc.sum(totals["amount"]).as_py() or 0], pa.int64()),
            "values": pa.array([pc.sum(latest["value"]).as_py() or 0], pa.int64()),
        }
    )
