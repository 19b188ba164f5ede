"""Following a job to its end: live in a terminal, in plain lines elsewhere; Ctrl-C stops it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from sluicegate.cli.report import is_over, pipeline_of
from sluicegate.cli.terminal import count, counted, duration, err, plain, state
from sluicegate.core.job import JobNotRunningError
from sluicegate.errors import SluicegateError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sluicegate.cli.backend import Backend

Json = Mapping[str, Any]
Pause = Callable[[float], object]

TICK_SECONDS: Final = 0.2
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BAR_WIDTH: Final = 16


class Stopper:
    """What Ctrl-C means while a job is followed: stop it, then stop it by force, then leave it.

    The handler only counts; the stop is asked for where the job is followed.
    """

    def __init__(self, backend: Backend, job_id: str) -> None:
        self._backend, self._job_id = backend, job_id
        self._asked, self._sent = 0, 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals that ask for an end for as long as the block lasts."""
        before = {number: signal.signal(number, self._count) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def act(self) -> None:
        """Ask for the stop that is due. Raises: `KeyboardInterrupt` at the third time."""
        if self._asked >= 3:
            raise KeyboardInterrupt
        if self._sent < self._asked:
            self._sent = self._asked
            mode = "graceful" if self._asked == 1 else "force"
            # The job may have ended, or be stopping already, by the time that somebody asks.
            with _unless_not_running():
                self._backend.cancel(self._job_id, reason="Ctrl-C", mode=mode)

    @property
    def hint(self) -> str:
        """What the next Ctrl-C does."""
        return (
            "Ctrl-C stops it",
            "stopping; Ctrl-C again stops it by force",
            "stopping by force; Ctrl-C again leaves it alone",
            "leaving",
        )[min(self._asked, 3)]

    @property
    def asked(self) -> bool:
        """Whether a stop was asked for here."""
        return self._asked > 0

    def _count(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1


class Watcher:
    """The same place for `jobs watch`, where Ctrl-C only ends the watching."""

    hint = "Ctrl-C ends the watching, not the job"
    asked = False

    def act(self) -> None:
        """Do nothing."""


@contextmanager
def _unless_not_running() -> Iterator[None]:
    """Let it pass when a job had ended before it could be stopped."""
    try:
        yield
    except SluicegateError as error:
        if error.code != JobNotRunningError.code:
            raise


def follow(
    backend: Backend, job: Json, stopper: Stopper | Watcher, pause: Pause = time.sleep
) -> Json:
    """Show a job's progress on stderr until nothing about it can move any more, and return it.

    Args:
        pause: Waits that many seconds, or less when the job ends sooner.
    """
    console = err()
    if console.is_terminal and not console.is_dumb_terminal:
        return _follow_live(backend, job["job_id"], stopper, pause)
    return _follow_plainly(backend, job["job_id"], stopper, pause)


def _snapshots(
    backend: Backend, job_id: str, stopper: Stopper | Watcher, pause: Pause
) -> Iterator[Json]:
    """Yield the job again and again; the last is over. A slow answer is asked for less often."""
    while True:
        stopper.act()
        began = time.monotonic()
        job = backend.get(job_id)
        yield job
        if is_over(job):
            return
        pause(max(TICK_SECONDS, 3 * (time.monotonic() - began)))


# ------------------------------------------------------------------ plain lines


def _follow_plainly(
    backend: Backend, job_id: str, stopper: Stopper | Watcher, pause: Pause
) -> Json:
    console = err()
    seen: dict[str, tuple[str, int]] = {}
    said = ""
    job: Json = {}
    for job in _snapshots(backend, job_id, stopper, pause):
        for task in job["tasks"]:
            now = (task["status"], task["attempt"])
            if seen.get(task["task_id"]) != now:
                seen[task["task_id"]] = now
                console.print(plain(_task_line(task)))
        if stopper.asked and stopper.hint != said:
            said = stopper.hint
            console.print(plain(f"{datetime.now():%H:%M:%S}  {said}"))
    return job


def _task_line(task: Json) -> str:
    at = task["completed_at"] or task["started_at"]
    clock = f"{datetime.fromisoformat(at).astimezone():%H:%M:%S}" if at else " " * 8
    parts = [f"{clock}  {pipeline_of(task)} {task['status']}"]
    if task["attempt"] > 1:
        parts.append(f"attempt {task['attempt']}")
    if task["status"] not in ("pending", "running"):
        parts.append(duration(task["duration_seconds"]))
        if task["stats"]["units"]:
            parts.append(counted(task["stats"]["rows"], "row"))
    if task["message"] and task["status"] in ("failed", "pending"):
        parts.append(str(task["message"]).splitlines()[0])
    return ", ".join(parts)


# ------------------------------------------------------------------ live


def _follow_live(backend: Backend, job_id: str, stopper: Stopper | Watcher, pause: Pause) -> Json:
    from rich.live import Live

    console = err()
    job: Json = {}
    with Live(console=console, transient=True, auto_refresh=False) as live:
        for job in _snapshots(backend, job_id, stopper, pause):
            live.update(view(job, console.width, console.height, stopper.hint), refresh=True)
    return job


def view(job: Json, width: int, height: int, hint: str) -> RenderableType:
    """Return one picture of a job: a line a task, or only what runs when they are too many."""
    from rich.console import Group

    room = max(3, height - 4)
    tasks = {pipeline_of(task): task for task in job["tasks"]}
    steps = [step["pipeline"] for step in job["plan"]]
    lines: list[RenderableType] = []
    if len(steps) > room:
        steps = [p for p in steps if p in tasks and tasks[p]["status"] in ("running", "pending")]
        if len(steps) > room:
            lines.append(plain(f"… and {len(steps) - room} more"))
            steps = steps[:room]
    lines.insert(0, _task_table(steps, tasks, wide=width >= 72))
    lines.append(_status_line(job, hint, width))
    return Group(*lines)


def _task_table(steps: list[str], tasks: Mapping[str, Json], *, wide: bool) -> RenderableType:
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=1)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1 if not wide else None)
    if wide:
        table.add_column(no_wrap=True, overflow="ellipsis", min_width=BAR_WIDTH + 10)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, justify="right")
    for pipeline in steps:
        task = tasks.get(pipeline)
        cells: list[Any]
        if task is None:
            cells = [state("not started", word=False), plain(pipeline), "", "", ""]
        else:
            cells = [
                state(task["status"], word=False),
                plain(pipeline),
                _doing(task),
                counted(task["stats"]["rows"], "row") if task["stats"]["units"] else "",
                duration(task["duration_seconds"], ticking=task["status"] == "running"),
            ]
        if not wide:
            del cells[2]
        table.add_row(*cells, style="dim" if task is None else "")
    return table


def _doing(task: Json) -> Any:
    """What a task is at: its bar while it runs, else its status and what it says."""
    from rich.text import Text

    progress = task["progress"]
    if task["status"] != "running" or progress is None:
        words = task["status"]
        if task["attempt"] > 1:
            words += f", attempt {task['attempt']}"
        return Text(words, style="dim")
    done, total, unit = progress["done"], progress["total"], progress["unit"]
    if not total:
        return Text(f"{count(done)} {unit}", style="cyan")
    filled = round(BAR_WIDTH * min(1.0, max(0.0, done / total)))
    return Text.assemble(
        ("━" * filled, "cyan"),
        ("━" * (BAR_WIDTH - filled), "bright_black"),
        (f" {count(done)}/{count(total)} {unit}", "cyan"),
    )


def _status_line(job: Json, hint: str, width: int) -> Any:
    from rich.text import Text

    ended = job["completed_tasks"] + job["failed_tasks"] + job["cancelled_tasks"]
    running = sum(task["status"] == "running" for task in job["tasks"])
    parts = [f"{ended} of {job['total_tasks']} tasks", f"{running} running"]
    if job["failed_tasks"]:
        parts.append(f"{job['failed_tasks']} failed")
    parts.append(duration(job["duration_seconds"], ticking=True) or "waiting to start")
    line = Text(" · ".join(parts), style="bold")
    line.append(f" · {hint}", style="dim" if not job["stopping"] else "yellow")
    line.truncate(width - 1, overflow="ellipsis")
    return line
