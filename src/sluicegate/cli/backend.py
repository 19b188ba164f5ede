"""What commands talk to: a server over HTTP, or the store itself. Both answer the same JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from sluicegate.client import Client
    from sluicegate.config import Settings

Json = dict[str, Any]

USER_AGENT: Final = "sluicegate-cli"


class Backend(Protocol):
    """The verbs of commands, to the core of the API or to a server."""

    @property
    def where(self) -> str:
        """What answers, as a person would say it."""
        ...

    @property
    def runs_jobs(self) -> bool:
        """Whether jobs are run there."""
        ...

    def run(self, request: Mapping[str, Any], /) -> Json:
        """Create a job and return it."""
        ...

    def get(self, job_id: str, /) -> Json:
        """Return a job with its plan and tasks. Raises: `JobNotFoundError`, or its `ApiError`."""
        ...

    def list(self, query: Mapping[str, Any], /) -> Json:
        """Return `jobs`, `count`, `next_cursor`."""
        ...

    def cancel(self, job_id: str, /, *, reason: str | None = None, mode: str = "graceful") -> Json:
        """Stop a job."""
        ...

    def preview_cancel(self, job_id: str, /, *, mode: str = "graceful") -> Json:
        """Return what a stop would do."""
        ...

    def cancel_task(
        self, job_id: str, task_id: str, /, *, reason: str | None = None, mode: str = "graceful"
    ) -> Json:
        """Stop one task and return it."""
        ...

    def cancel_many(
        self,
        *,
        job_ids: Iterable[str] | None = None,
        filter: Mapping[str, Any] | None = None,
        reason: str | None = None,
        mode: str = "graceful",
        dry_run: bool = False,
        match_token: str | None = None,
    ) -> Json:
        """Stop many jobs: these, or those that a filter means."""
        ...

    def preview_resume(self, job_id: str, /) -> Json:
        """Return what a resume would do."""
        ...

    def resume(self, job_id: str, /) -> Json:
        """Go on with a job and return the new one."""
        ...

    def rerun(self, job_id: str, /) -> Json:
        """Run a job's plan again and return the new job."""
        ...

    def preview_rollback(self, job_id: str, /) -> Json:
        """Return what a rollback would do."""
        ...

    def rollback(self, job_id: str, /) -> Json:
        """Put a job's tables back and return them."""
        ...

    def prune(self, request: Mapping[str, Any], /) -> Json:
        """Do a step of a prune: `jobs`, `kept`, `tables`, and `cursor` for the next one."""
        ...

    def logs(
        self, job_id: str, /, *, task_id: str | None = None, after: int = 0, limit: int = 1000
    ) -> Json:
        """Return `logs` and `next_after`."""
        ...

    def follow(self, job_id: str, /, *, after: int | None = None) -> Iterator[Json]:
        """Yield the job's events as they happen."""
        ...

    def pipelines(self) -> Json:
        """Return `pipelines`."""
        ...

    def tables(self) -> Json:
        """Return `tables`."""
        ...

    def table(self, name: str, /, *, limit: int = 20, version: int | None = None) -> Json:
        """Return one table with a preview."""
        ...

    def keys(self) -> Json:
        """Return `keys`."""
        ...

    def create_key(self, name: str, role: str, /) -> Json:
        """Make a key; the answer holds the secret."""
        ...

    def revoke_key(self, name: str, /) -> Json:
        """Revoke a key."""
        ...


# ------------------------------------------------------------------ which one


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A server that lives on this home."""

    url: str
    pid: int
    api_key: str | None


@contextmanager
def open_backend(settings: Settings, *, create: bool = False) -> Iterator[Backend]:
    """Open what the command should talk to.

    It is `SLUICEGATE_URL` if set, else a server that lives on this home, else its store.
    With `create` that store is made if there is none yet; without, an empty one answers.
    """
    if url := os.environ.get("SLUICEGATE_URL"):
        with connect(url, os.environ.get("SLUICEGATE_API_KEY")) as client:
            yield client
    elif server := find_server(settings):
        with connect(server.url, server.api_key) as client:
            yield client
    else:
        from sluicegate.app import open_local
        from sluicegate.cli.local import LocalBackend

        with _existing_home(settings, create=create) as usable, open_local(usable) as service:
            yield LocalBackend(service)


@contextmanager
def _existing_home(settings: Settings, *, create: bool) -> Iterator[Settings]:
    """These settings; or, since looking must make no files, ones of an empty store that goes."""
    if create or settings.store_may_exist:
        yield settings
        return
    from sluicegate.app import check_not_emptied

    check_not_emptied(settings)
    with TemporaryDirectory(prefix="sluicegate-") as folder:
        yield replace(settings, home=Path(folder), store=f"sqlite:///{folder}/jobs.db")


def find_server(settings: Settings) -> LiveServer | None:
    """Return the server that lives on this home; what a dead one left behind is none."""
    try:
        stated = json.loads((settings.home / "server.json").read_text(encoding="utf-8"))
        url, pid = str(stated["url"]), int(stated["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not _is_alive(pid):
        return None
    with connect(url, None) as client:
        if not client.answers():
            return None
    return LiveServer(url, pid, _api_key(settings))


def connect(url: str, api_key: str | None) -> Client:
    """Return a client for a server."""
    from sluicegate.client import Client

    return Client(url, api_key, user_agent=USER_AGENT)


def _api_key(settings: Settings) -> str | None:
    if key := os.environ.get("SLUICEGATE_API_KEY"):
        return key
    try:
        return (settings.home / "admin.key").read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return pid > 0
