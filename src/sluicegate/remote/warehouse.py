"""Queries of Google BigQuery, whose id is known before they are sent."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from uuid import uuid4

from sluicegate.task import Task

CANCEL_SECONDS: Final = 10.0


def bigquery(task: Task, client: Any, sql: str, **options: Any) -> Any:
    """Run a query on BigQuery and return its rows, as `client.query(sql, **options).result()` does.

    The job's id is chosen here and registered and logged before the query is sent: a stop finds the job also when it
    comes between the sending and the answer, and it can be found in BigQuery by hand whatever dies. The id is
    `sluicegate_<task id>_<attempt>_<random>`. The stop cancels by that id, and once more until BigQuery has heard it.

    Args:
        client: A `google.cloud.bigquery.Client`.
        options: Those of `Client.query`, except `job_id` and `job_id_prefix`. As with any chosen id, BigQuery's client
            does not run a failed job again by itself (`job_retry`): use the task's `retries`.

    Raises:
        Cancelled: The stop came; the query is cancelled.
        TypeError: An id was given.

    Source: documentation of google-cloud-bigquery, `Client.query` and `Client.cancel_job`; of BigQuery, `jobs.cancel`.
    """
    if given := {"job_id", "job_id_prefix"} & options.keys():
        raise TypeError(f"{' and '.join(sorted(given))} cannot be given: the id is chosen here")
    task.checkpoint()
    job = _Job(task, client, options)
    task.log.info("bigquery job %s", job.job_id)
    forget = task.callbacks.add(job.cancel, f"bigquery job {job.job_id}", until_over=True)
    try:
        rows = job.send(sql).result()
    except BaseException:
        if not task.cancelled:
            forget()
        # Else it is not forgotten: whether the query has ended is only known when a cancel was heard.
        task.checkpoint()
        raise
    forget()
    return rows


class _Job:
    def __init__(self, task: Task, client: Any, options: Mapping[str, Any]) -> None:
        self.job_id = f"sluicegate_{task.task_id}_{task.attempt}_{uuid4().hex}"
        # The client warns of, and some day refuses, repeating a job whose id was chosen.
        self._client, self._options = client, {"job_retry": None, **options}
        self._project = options.get("project") or client.project
        # `None`: BigQuery finds it from the tables, and the answer says it.
        self._location = options.get("location") or client.location
        self._failed = threading.Event()

    def send(self, sql: str) -> Any:
        """Send it. Returns the client's `QueryJob`."""
        try:
            try:
                sent = self._client.query(sql, job_id=self.job_id, **self._options)
            except Exception as error:
                if getattr(error, "code", None) != HTTPStatus.CONFLICT:
                    raise
                # Its own repetition, after an answer that was lost: nobody else has this id.
                sent = self._client.get_job(
                    self.job_id, project=self._project, location=self._location
                )
        except BaseException:
            self._failed.set()
            raise
        self._project, self._location = sent.project, sent.location
        return sent

    def cancel(self) -> None:
        """Cancel it by its id. Raises while it cannot be found and may still arrive, or was not reached."""
        failed = (
            self._failed.is_set()
        )  # asked first: what is not found after that will not come any more
        try:
            self._client.cancel_job(
                self.job_id,
                project=self._project,
                location=self._location,
                retry=None,  # it is tried again by whoever calls this
                timeout=CANCEL_SECONDS,
            )
        except Exception as error:
            if getattr(error, "code", None) != HTTPStatus.NOT_FOUND:
                raise
            if not failed:
                where = f", or not in {self._location}" if self._location else ""
                raise LookupError(f"it has not arrived yet{where}") from error
