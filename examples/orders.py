"""A source that is asked page by page, and a table with one row for each order, always the newest.

`task.state` is the position in the source. It is saved in the very commit that holds the rows, so that a stop at any
moment costs at most the page in hand: run it again and it goes on. `merge` then keeps the last change of each order.
"""

import time

import polars as pl

from sluicegate import Task, bronze, gold, silver

PAGE_ROWS = 25
STATUSES = ["ordered", "paid", "sent", "delivered"]


def fetch(after: int, last: int) -> list[dict]:
    """One page of changes from the shop, oldest first; this one makes them up."""
    numbers = range(after + 1, min(after + PAGE_ROWS, last) + 1)
    return [
        {"change_id": n, "order_id": n // 3 + n % 5, "status": STATUSES[n % 4]} for n in numbers
    ]


@bronze(mode="append", timeout="10m", stall_timeout="1m")
def changes(task: Task):
    """Every change, as it came. A yield after `task.state` changed ends a unit."""
    last = int(task.params.get("last_change", 200))
    while page := fetch(task.state.get("change_id", 0), last):
        time.sleep(float(task.params.get("seconds_per_page", 0)))
        task.state["change_id"] = page[-1]["change_id"]  # first the position, then its rows
        yield page
        task.progress(task.state["change_id"], last, "changes")


@silver(mode="merge", keys=["order_id"])
def orders(task: Task, changes: pl.LazyFrame):
    """One row for each order. What was not touched since the last run stays as it is."""
    fresh = changes.filter(pl.col("change_id") > task.state.get("change_id", 0)).collect()
    if fresh.height:
        task.state["change_id"] = fresh["change_id"].max()
        yield fresh.sort("change_id").unique("order_id", keep="last")


gold.sql("by_status", "select status, count(*)::bigint as orders from silver.orders group by all")

# A program can be a part of a job, too. It fills no table, and is stopped with all that it starts.
gold.command("report", ["echo", "the report is sent"], depends_on=["gold.by_status"])
