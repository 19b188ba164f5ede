"""One line for each kind of work elsewhere: it is ended when the task stops, and the receipt says so.

    with remote.postgresql(task, connection):
        connection.execute("…")

Each registers at once what `Task.on_cancel` would, and forgets it at the end of its block, or when it is called. None
imports a driver: they use the object that they are given.
"""

from sluicegate.remote.databases import duckdb, postgresql
from sluicegate.remote.programs import subprocess
from sluicegate.remote.spark_jobs import spark
from sluicegate.remote.warehouse import bigquery
from sluicegate.remote.work import RemoteNotStoppableError, RemoteWork

__all__ = [
    "RemoteNotStoppableError",
    "RemoteWork",
    "bigquery",
    "duckdb",
    "postgresql",
    "spark",
    "subprocess",
]
