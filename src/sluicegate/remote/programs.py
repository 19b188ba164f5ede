"""Programs that were started with `subprocess.Popen` itself."""

from __future__ import annotations

import signal
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from sluicegate.remote.work import RemoteWork
from sluicegate.task import Task
from sluicegate.workers.process_tree import ProcessId, descendants, find, send_signal, wait_gone

if TYPE_CHECKING:
    from subprocess import Popen

END_SECONDS: Final = 1.0  # for one try


def subprocess(task: Task, program: Popen[Any]) -> RemoteWork:
    """End a program, and all that it started, politely when the task stops: by SIGTERM, once to each process.

    For programs whose end is the end of work elsewhere: `ssh`, `bq`, `spark-submit`. One that does not heed it is ended
    with the task, at the stages `terminate` and `kill`; then the receipt says `unconfirmed`.
    """
    tree = _Tree(program)
    work = RemoteWork(task, task.callbacks.add(tree.end, f"program {_name(program)} {program.pid}"))
    tree.work = work
    if tree.root is None:
        work()
    return work


class _Tree:
    """A program and all below it, asked to end one by one."""

    def __init__(self, program: Popen[Any]) -> None:
        self._program = program
        self.root = find(program.pid) if program.returncode is None else None
        self.work: RemoteWork | None = None
        self._asked: dict[ProcessId, None] = {}

    def end(self) -> None:
        """Ask those that were not asked yet, and wait a moment for all of them."""
        if not self._asked and (self.root is None or find(self.root.pid) != self.root):
            if self.work is not None:
                self.work(began=False)  # it had ended before the stop came
            return
        assert self.root is not None
        for process in (self.root, *descendants(self.root.pid)):
            if process not in self._asked:
                self._asked[process] = None
                send_signal(process, signal.SIGTERM)
                send_signal(process, signal.SIGCONT)  # one that is stopped could not act on it
        if not wait_gone(list(self._asked), END_SECONDS):
            raise TimeoutError("it, or what it started, has not ended on SIGTERM yet")


def _name(program: Popen[Any]) -> str:
    argv = program.args
    first = argv if isinstance(argv, str | bytes) or hasattr(argv, "__fspath__") else list(argv)[0]  # noqa: RUF015
    text = first.decode(errors="replace") if isinstance(first, bytes) else str(first)
    return PurePath(text.split()[0] if isinstance(argv, str) and text.split() else text).name
