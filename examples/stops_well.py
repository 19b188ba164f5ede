"""Four pipelines that stop well: a loop, a query elsewhere, another program, and an upload.

None of them looks for a stop by itself more than it must; docs/stopping.md says why it works.
"""

import sqlite3
import sys
import time
from pathlib import Path

from sluicegate import CancelPolicy, Task, bronze, gold, silver


@bronze(timeout="10m")
def measured(task: Task):
    """A long loop. Every yield is a checkpoint: here a stop raises `Cancelled`."""
    pages = int(task.params.get("pages", 10))
    seconds = float(task.params.get("seconds_per_page", 0.02))
    try:
        for page in range(pages):
            time.sleep(seconds)  # asking a slow server for a page
            yield [{"page": page, "value": page * 1.5}]
            task.progress(page + 1, pages, "pages")
    finally:
        task.log.info("the connection is closed")  # after the last page, and after a stop


@bronze(cancel=CancelPolicy(interrupt_after="2s", terminate_after="4s", kill_after="6s"))
def counted(task: Task):
    """A long query. No Python runs meanwhile, so say how it is stopped: `on_cancel`."""
    rows = int(task.params.get("rows", 1_000))
    database = sqlite3.connect(":memory:")
    task.on_cancel(database.interrupt)  # called from another thread when a stop comes
    query = """
        with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < ?)
        select count(*), sum(n) from numbers
    """
    [(count, total)] = database.execute(query, [rows])
    return [{"count": count, "total": total}]


@silver
def checked(task: Task, measured):
    """Another program. `task.run` ends it, and all that it started, when the task stops."""
    seconds = str(task.params.get("seconds_to_check", 0))
    task.run([sys.executable, "-c", f"import time; time.sleep({seconds})"])
    yield from measured


@gold
def published(task: Task, checked):
    """An upload of two parts that belong together: a shield lets it finish before the stop."""
    rows = checked.read_all()
    folder = Path(task.params.get("publish_to", "published"))
    folder.mkdir(parents=True, exist_ok=True)
    with task.shield("30s"):
        (folder / "values.txt").write_text("\n".join(map(str, rows["value"].to_pylist())))
        time.sleep(float(task.params.get("seconds_to_upload", 0)))
        (folder / "complete.txt").write_text(f"{rows.num_rows} rows\n")
    return [{"rows": rows.num_rows, "files": 2}]
