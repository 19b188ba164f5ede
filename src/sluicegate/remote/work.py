"""Work elsewhere, from its registration to its end: what the helpers return."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from sluicegate.errors import SluicegateError
from sluicegate.stop_callbacks import StopCallback
from sluicegate.task import Task


class RemoteNotStoppableError(SluicegateError):
    """What a helper of `sluicegate.remote` was given has no way to be stopped."""

    code = "remote_not_stoppable"


class RemoteWork:
    """Ends work elsewhere when the task stops. Use it as a `with` block around that work.

    Whatever the work raises once the stop has come leaves the block as `Cancelled`: a query that was cancelled did not
    fail. Without a block it lasts until it is called, or the task ends.
    """

    def __init__(
        self, task: Task, callback: StopCallback, at_end: Callable[[], object] = lambda: None
    ) -> None:
        self._task, self._callback, self._at_end = task, callback, at_end
        self._ended = False

    @property
    def what(self) -> str:
        """Its name in the receipt."""
        return self._callback.what

    def __call__(self, *, began: bool = True) -> None:
        """Forget it: the work is over; or it never began."""
        self._end(lambda: self._callback(began=began))

    def _end(self, callback: Callable[[], object]) -> None:
        if not self._ended:
            self._ended = True
            try:
                callback()
            finally:
                self._at_end()

    def __enter__(self) -> Self:
        try:
            self._task.checkpoint()
        except BaseException:
            self(began=False)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(lambda: self._callback.__exit__(kind, error, trace))
        if isinstance(error, Exception):
            self._task.checkpoint()
