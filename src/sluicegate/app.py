"""Composition root: settings in, wired parts out. Only here is it known which store and which workers are in use."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, cast

from sluicegate.clock import SystemClock
from sluicegate.config import Settings
from sluicegate.core.following import Follower
from sluicegate.core.hub import Hub
from sluicegate.core.ids import new_id
from sluicegate.core.job import Event, Job
from sluicegate.core.job_manager import Catalog, JobManager
from sluicegate.core.keys import create_key
from sluicegate.core.ledger import Ledger
from sluicegate.core.pipeline_executor import PipelineExecutor
from sluicegate.core.ports import Store, Tables
from sluicegate.core.store_errors import StoreUnavailableError
from sluicegate.errors import SluicegateError
from sluicegate.home import (
    ADMIN_KEY_NAME,
    ASIDE,
    announced,
    has_executed,
    locked,
    session_secret,
    succeeded,
    write_private,
)
from sluicegate.stores import open_store

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

ADMIN_KEY: Final = "admin"
LISTEN_BACKLOG: Final = 1024


class PortInUseError(SluicegateError):
    """Something else listens where the server should."""

    code = "port_in_use"


@dataclass(frozen=True, slots=True)
class LocalService:
    """The jobs of a home without an executor: for commands when no server lives there."""

    manager: JobManager
    store: Store
    tables: Tables


@dataclass(frozen=True, slots=True)
class RunningService:
    """Everything that runs jobs, in this process."""

    manager: JobManager
    store: Store
    tables: Tables
    hub: Hub
    executor: PipelineExecutor
    catalog: Catalog

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Wait until nothing of a job can move any more, or `timeout` seconds are over; return it as it is then."""
        changed = threading.Event()
        deadline = None if timeout is None else time.monotonic() + timeout

        def look(events: Sequence[Event]) -> None:
            if any(
                e.job_id == job_id and e.type in ("job.finished", "job.stopped") for e in events
            ):
                changed.set()

        unwatch = self.hub.watch(look)
        try:
            while not (job := self.manager.header(job_id)).is_over:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                changed.wait(left)
                changed.clear()
            return job
        finally:
            unwatch()


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server that is ready. `sign_in_link` is good once, for ten minutes."""

    url: str
    sign_in_link: str | None
    pipelines: int
    first_start: bool


@contextlib.contextmanager
def open_local(settings: Settings) -> Iterator[LocalService]:
    """Open the store of a home for a command; nothing is executed."""
    tables = cast(Tables, _Lazily(settings))
    with ExitStack() as stack:
        store = _open_store(settings, stack)
        ledger = Ledger(store, lambda _: None)
        stack.callback(ledger.close)
        manager = JobManager(store, ledger, SystemClock(), Catalog(), tables=tables)
        yield LocalService(manager, store, tables)


@contextlib.contextmanager
def open_service(settings: Settings, target: str | None) -> Iterator[RunningService]:
    """Take the home, load the pipelines, and run jobs until the block ends; then hand back what is not finished.

    Raises:
        HomeInUseError, LoadError, StoreUnavailableError and their like; then nothing was started.
    """
    with ExitStack() as stack:
        stack.enter_context(locked(settings.home))
        yield _start(settings, target, stack)


def serve(
    settings: Settings,
    target: str | None,
    open_browser: bool,
    on_ready: Callable[[ServerInfo], None],
) -> None:
    """Serve the API and the page, and run jobs, until SIGINT or SIGTERM.

    Args:
        on_ready: Called when it listens.

    Raises:
        PortInUseError, and what `open_service` raises; then nothing was started.
    """
    from sluicegate.api import create_api, issue_sign_in_token

    with ExitStack() as stack, _ended_by_sigterm():
        stack.enter_context(locked(settings.home))
        listener = stack.enter_context(contextlib.closing(_listen(settings)))
        service = _start(settings, target, stack)
        first_start = _ensure_admin_key(settings, service.store)
        clock = SystemClock()
        api = create_api(_api_service(settings, service, clock))
        url = _url(settings.host, listener.getsockname()[1])
        stack.enter_context(announced(settings.home, url, clock.now().isoformat()))
        link = None
        with contextlib.suppress(
            SluicegateError
        ):  # its admin key was revoked: sign in with another
            link = f"{url}/signin?token={issue_sign_in_token(api, ADMIN_KEY)}"

        def ready() -> None:
            on_ready(ServerInfo(url, link, len(service.catalog.specs), first_start))
            if open_browser:
                webbrowser.open(link or url)

        _serve_until_told(api, listener, ready)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Until uvicorn listens to SIGTERM, it ends what was started so far, in order; a second one waits for nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, before)
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(settings: Settings, target: str | None, stack: ExitStack) -> RunningService:
    """Start every part; `stack` stops them in the opposite order."""
    from sluicegate.workers.local import LocalWorkers

    store, hub = _open_store(settings, stack), Hub()
    follower = Follower(store, hub)
    ledger = Ledger(store, follower.wrote)
    stack.callback(ledger.close)
    settings.landing.mkdir(parents=True, exist_ok=True)
    workers = LocalWorkers(
        settings.workers,
        {"target": target, "lake": str(settings.lake), "landing": str(settings.landing)},
        congested=lambda: ledger.congested,
    )
    started = stack.enter_context(ExitStack())
    started.callback(workers.close)
    catalog = _load(workers, target) if target is not None else Catalog()
    clock = SystemClock()
    manager = JobManager(store, ledger, clock, catalog, tables=workers)
    executor_id = new_id()
    executor = PipelineExecutor(
        store=store,
        ledger=ledger,
        manager=manager,
        workers=workers,
        tables=workers,
        hub=hub,
        clock=clock,
        lease_seconds=settings.lease_seconds,
        executor_id=executor_id,
        predecessors=succeeded(settings.home, executor_id),
    )
    manager.wake = executor.wake
    manager.owner = executor.owner_of_new
    manager.rollbacks.freed = executor.tables_freed
    manager.outlook = executor.outlook
    follower.start(executor.hear)
    stack.callback(follower.close)
    executor.start()
    started.pop_all()
    stack.callback(executor.close)
    return RunningService(manager, store, workers, hub, executor, catalog)


def _open_store(settings: Settings, stack: ExitStack) -> Store:
    settings.home.mkdir(parents=True, exist_ok=True)
    check_not_emptied(settings)
    store = open_store(settings.store)
    stack.callback(store.close)
    return store


def check_not_emptied(settings: Settings) -> None:
    """SQLite makes a database of no file or an empty one; but where jobs ran before, that is what is left of one.

    Raises: `StoreUnavailableError`.
    """
    path = Path(settings.store.removeprefix("sqlite:///"))
    if not has_executed(settings.home):
        return
    if not path.exists() and any(path.parent.glob(f"{path.name}.{ASIDE}-*")):
        raise StoreUnavailableError(
            str(path),
            "a restore was cut off after it had moved the store away",
            mend="give `sluicegate restore` the backup again",
        )
    if path.exists() and not path.stat().st_size:
        raise StoreUnavailableError(
            str(path),
            "the file is empty, and jobs have run on this home before",
            mend="put a backup in its place with `sluicegate restore`, or remove it to begin anew",
        )


def _load(workers: Any, target: str) -> Catalog:
    from sluicegate.code_version import code_version

    specs = {spec.pipeline_id: spec for spec in workers.load()}
    version = code_version(target, specs)
    return Catalog(specs, _shown_version(version), target)


def _shown_version(version: dict[str, Any]) -> str:
    """The code's version in one word: its content, and its commit when there is one."""
    content = str(version["hash"])[:12]
    return f"{version['git']}+{content}" if version.get("git") else content


def _api_service(settings: Settings, service: RunningService, clock: SystemClock) -> Any:
    from sluicegate.api import Service

    version = installed_version("sluicegate")

    def ready() -> dict[str, Any]:
        service.store.last_event_id()
        return {
            "ready": True,
            "version": version,
            "pipelines": len(service.catalog.specs),
            "workers": settings.workers,
            "code_version": service.catalog.code_version,
        }

    return Service(
        manager=service.manager,
        store=service.store,
        tables=service.tables,
        hub=service.hub,
        clock=clock,
        version=version,
        rate_limit=settings.rate_limit,
        ready=ready,
        session_secret=session_secret(settings.home),
    )


def _ensure_admin_key(settings: Settings, store: Store) -> bool:
    """Make the first key, for this user's commands and the page. Returns whether it was made now."""
    if store.list_keys():
        return False
    _, plaintext = create_key(store, SystemClock(), ADMIN_KEY, "admin")
    write_private(settings.home / ADMIN_KEY_NAME, plaintext.encode())
    return True


def _listen(settings: Settings) -> socket.socket:
    """Bind first: a port that is taken must be known before anything is started."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise PortInUseError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}",
            mend="stop what listens there, or choose another port with --port (0: any free one)",
        ) from error
    listener.listen(LISTEN_BACKLOG)
    return listener


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - only shown
    return f"http://{f'[{shown}]' if ':' in shown and '[' not in shown else shown}:{port}"


def _serve_until_told(api: FastAPI, listener: socket.socket, ready: Callable[[], None]) -> None:
    import uvicorn

    from sluicegate.api import close_event_streams

    class Server(uvicorn.Server):
        """Ends its event streams first, so that it never waits for them."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            close_event_streams(api)
            self.should_exit = True

    config: uvicorn.Config = uvicorn.Config(
        api,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        lifespan="on",
        ws="none",
    )
    Server(config).run(sockets=[listener])


class _Lazily:
    """A `Tables` that loads Delta Lake when it is first asked: most commands never ask."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __getattr__(self, name: str) -> Any:
        from sluicegate.workers.lake_calls import LakeTables

        return getattr(LakeTables(str(self._settings.lake)), name)
