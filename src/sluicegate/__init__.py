"""Sluicegate runs medallion data pipelines and stops them cleanly."""

from sluicegate.cancel_policy import CancelPolicy
from sluicegate.declare import bronze, gold, silver, table
from sluicegate.errors import Cancelled, SluicegateError
from sluicegate.task import Task

__all__ = [
    "CancelPolicy",
    "Cancelled",
    "SluicegateError",
    "Task",
    "bronze",
    "gold",
    "silver",
    "table",
]
