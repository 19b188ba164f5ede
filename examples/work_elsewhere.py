"""Three pipelines whose work is done elsewhere, and ended there when the task stops.

Without that it would run on, and cost, after the task is gone. docs/stopping.md says more.
"""

import subprocess
import sys

import duckdb

from sluicegate import Task, bronze, gold, remote, silver


@bronze
def summed(task: Task):
    """A query on a connection of your own: one line, around the work."""
    rows = int(task.params.get("rows", 1_000))
    with duckdb.connect() as connection, remote.duckdb(task, connection):
        task.log.info("summing")
        query = "select a.range % 3 as part, sum(b.range)::bigint as total from range(?) a, range(?) b group by part"
        return connection.execute(query, [rows, rows]).to_arrow_table()


@silver
def exported(task: Task, summed):
    """A program of another system: its tree is asked to end, and the receipt says whether it did."""
    seconds = str(task.params.get("seconds_to_export", 0))
    program = [sys.executable, "-c", f"import time; time.sleep({seconds})"]
    with subprocess.Popen(program) as export, remote.subprocess(task, export):  # noqa: S603
        task.log.info("exporting")
        export.wait()
    yield from summed


class Report:
    """Stands for a service with an API of its own: a job that runs there until it is told to stop."""

    def __init__(self, polls: int):
        self.polls_left, self.is_stopped = polls, False

    def wait(self) -> bool:
        """Ask whether it is done."""
        self.polls_left -= 1
        return self.polls_left > 0 and not self.is_stopped

    def stop(self) -> None:
        """Called from another thread; should it raise, it is called again."""
        self.is_stopped = True


@gold
def reported(task: Task, exported):
    """Anything else: say how it is stopped, what it is, and where it is over."""
    report = Report(polls=int(task.params.get("polls", 3)))
    with task.on_cancel(report.stop, what="report 2013"):
        task.log.info("reporting")
        while report.wait():
            task.checkpoint()
    return exported
