"""Jobs of Apache Spark, by tags: Spark 3.5 and newer, classic and Connect."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import uuid4

from sluicegate.remote.work import RemoteNotStoppableError, RemoteWork
from sluicegate.task import Task


def spark(task: Task, session: Any) -> RemoteWork:
    """End the Spark jobs that this thread starts, from here to the end of the block, when the task stops.

    A tag is put on all jobs of the calling thread, and taken off at the end; the stop cancels what carries it, again
    until the block is left, so that the next job of a long plan is cancelled as well.

    Raises: `RemoteNotStoppableError`: the session is of Spark before 3.5.

    Source: documentation of PySpark 3.5, `SparkContext.addJobTag` and `cancelJobsWithTag`; for Spark Connect of
    `SparkSession.addTag` and `interruptTag`.
    """
    tag = f"sluicegate-{task.task_id}-{task.attempt}-{uuid4().hex[:8]}"
    is_connect = type(session).__module__.startswith("pyspark.sql.connect")
    names = ("addTag", "interruptTag", "removeTag")
    if not is_connect:
        names = ("addJobTag", "cancelJobsWithTag", "removeJobTag")
    owner = session if is_connect else session.sparkContext
    add, cancel, remove = (getattr(owner, name, None) for name in names)
    if add is None or cancel is None or remove is None:
        raise RemoteNotStoppableError(
            "cannot stop the jobs of this Spark session by tags: it is older than Spark 3.5",
            mend="use Spark 3.5 or newer, or task.on_cancel with sparkContext.cancelJobGroup",
        )
    add(tag)
    callback = task.callbacks.add(partial(cancel, tag), f"spark jobs {tag}", until_over=True)
    return RemoteWork(task, callback, at_end=partial(remove, tag))
