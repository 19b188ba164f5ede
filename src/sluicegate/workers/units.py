"""What an attempt publishes: rows into the writer, whole units into groups, groups into commits.

A commit costs some 20 ms, so small units share one. A saved state is committed where its unit ends, while commits take
but a little of the time; else its group waits until it holds a second of work or 64 MB. Should the pipeline's own code
not come back by then, a thread commits the group meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from sluicegate.errors import Cancelled, SluicegateError
from sluicegate.spec import PipelineSpec
from sluicegate.task import Task
from sluicegate.workers.channel import Message

if TYPE_CHECKING:
    from sluicegate.lake.landing import LandedFile
    from sluicegate.lake.writer import TableWriter, UnitStats

UNIT_SECONDS: Final = 1.0
UNIT_BYTES: Final = 64 * 1024 * 1024
COMMIT_FREE_SECONDS: Final = 0.5
COMMIT_SHARE_MAX: Final = 0.2
STATE_CHARS_MAX: Final = 1024 * 1024
NO_STATE: Final = "{}"

Tell = Callable[[Message], None]


class StateModeError(SluicegateError):
    """`task.state` was used where every run replaces the whole table."""

    code = "state_mode"

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(
            f"{pipeline_id} uses task.state, and its mode is 'overwrite': each run replaces all rows, "
            "so there is nothing to go on from",
            mend="declare mode='append', or mode='merge' with keys=[...]",
        )


class StateValueError(SluicegateError):
    """Something in `task.state` cannot be kept."""

    code = "state_value"


class Units:
    """The units of one attempt. For its main thread; the control thread answers permits.

    Rows are written to the unit in hand; `end_unit` ends it. A failed pipeline keeps the whole ones: `keep_whole`.
    """

    def __init__(
        self,
        order: Message,
        spec: PipelineSpec,
        task: Task,
        settings: Mapping[str, Any],
        tell: Tell,
        user_code: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self._user_code = user_code
        self._order, self._spec, self._task = order, spec, task
        self._settings, self._tell = settings, tell
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._writer: TableWriter | None = None
        self.refused = False
        self._state: dict[str, Any] | None = None
        self._state_ended = self._state_committed = NO_STATE
        self._group: list[LandedFile] = []
        self._group_units = self._group_bytes = 0
        self._began = self._group_began = time.monotonic()
        self._commit_seconds = 0.0
        self.commit_failed = False
        # Held while rows are written and while a group is committed, by whichever thread.
        self._lock = threading.Lock()
        self._watcher: threading.Thread | None = None
        self._watcher_error: BaseException | None = None
        self._closing = threading.Event()

    def answer_permit(self, refused: str | None) -> None:
        """Hand over the answer to the permit that was asked for. Called from the control thread."""
        self._answers.put(refused)

    def open(self) -> TableWriter:
        """Return the writer; the first time, find out where the table is."""
        if self._writer is not None:
            return self._writer
        from sluicegate.lake.commits import WriterIdentity
        from sluicegate.lake.tables import Lake
        from sluicegate.lake.writer import TableWriter

        order, lake = self._order, Lake(self._settings["lake"])
        writer = TableWriter(
            lake,
            self._spec.pipeline_id,
            WriterIdentity(order["job_id"], order["task_id"], order["attempt"], order["epoch"]),
            mode=self._spec.mode,  # type: ignore[arg-type]
            keys=self._spec.keys,
            permit=self._ask_permit,
            fence=order["recovers"],
            full_refresh=order["full_refresh"],
            schema_mode="evolve" if self._spec.schema == "evolve" else "strict",
            checkpoint=self._task.checkpoint,
            user_code=self._user_code,
        )
        writer.open()
        self._writer = writer
        if order["recovers"]:
            # The table refuses earlier attempts from here on; what they wrote and did not commit is waste.
            lake.remove_orphans(
                self._spec.pipeline_id, order["task_id"], before_attempt=order["attempt"]
            )
        return writer

    def stats(self) -> dict[str, Any]:
        """What was committed, earlier attempts included."""
        if self._writer is None:
            return {}
        stats = asdict(self._writer.settled)
        stats.pop("complete")
        return stats

    # ---------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        """Return the table's own state, for the pipeline to change.

        Raises: `StateModeError`: every run replaces the whole table.
        """
        if self._state is None:
            if self._spec.mode == "overwrite":
                raise StateModeError(self._spec.pipeline_id)
            with self._lock:
                self._state_ended = self._state_committed = state_text(self.open().state)
            self._state = json.loads(self._state_committed)
        return self._state

    @property
    def state_changed(self) -> bool:
        """Whether the state differs from that with which the last unit ended. Raises: `StateValueError`."""
        return self._state is not None and state_text(self._state) != self._state_ended

    # ---------------------------------------------------------------- rows and units

    def write(self, part: Any) -> None:
        """Add rows to the unit in hand."""
        with self._mine():
            self.open().write(part)

    def end_unit(self, file: LandedFile | None = None, *, last: bool = False) -> None:
        """The unit in hand is whole: publish it, now or with the next ones.

        Args:
            file: What was read, where `files=` makes the units.
            last: `finish` follows at once.
        """
        with self._mine():
            self._seal(file)
            if self._all_at_once or last:
                return
            if self._is_due(is_file=file is not None):
                self._commit()
            elif file is None and self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="units", daemon=True)
                self._watcher.start()

    def finish(self) -> None:
        """All was written: publish what is left."""
        with self._mine():
            if self._writer is not None:
                self._seal(None)
                self._commit(final=True)
        self._close()

    def keep_whole(self) -> None:
        """The pipeline failed: publish the units that ended before, so that they need not be done again."""
        with self._mine():
            if self.commit_failed:
                return  # it is what failed: their rows are gone, and the state must not say that they are there
            if self._writer is not None and self._group_units and not self._all_at_once:
                self._writer.drop()
                self._commit()

    def abort(self) -> None:
        """Remove what was written and not committed."""
        self._close()
        with self._lock:
            if self._writer is not None:
                self._writer.abort()

    @property
    def _all_at_once(self) -> bool:
        """Whether the whole output is one commit, that replaces what was there."""
        return bool(self._order["full_refresh"]) or self._spec.mode == "overwrite"

    @contextlib.contextmanager
    def _mine(self) -> Iterator[None]:
        """Keep the watcher from committing meanwhile; what went wrong there is raised here."""
        with self._lock:
            if self._watcher_error is not None:
                raise self._watcher_error
            yield

    def _seal(self, file: LandedFile | None) -> None:
        text = NO_STATE if self._state is None else state_text(self._state)
        self.open().seal()
        self._state_ended = text
        self._group_units += 1
        if file is not None:
            self._group.append(file)
            self._group_bytes += file.size

    def _is_due(self, *, is_file: bool) -> bool:
        now = time.monotonic()
        size = max(self._group_bytes, self.open().bytes_waiting)
        if now - self._group_began >= UNIT_SECONDS or size >= UNIT_BYTES:
            return True
        allowed = COMMIT_FREE_SECONDS + COMMIT_SHARE_MAX * (now - self._began)
        return not is_file and self._commit_seconds <= allowed

    def _commit(self, *, final: bool = False) -> None:
        """Publish the whole units. Nothing interrupts it from here on: it is in the log, or nothing of it is."""
        writer, began = self.open(), time.monotonic()
        marks = [(file.path, file.size, file.mtime_ns) for file in self._group]
        changed = self._state_ended != self._state_committed
        state = json.loads(self._state_ended) if changed else None
        self.commit_failed = True
        if writer.commit(marks, state, final=final, seal=False) is not None:
            self._tell({"kind": "committed", "stats": self.stats()})
            if self._spec.mode != "overwrite":
                writer.maintain()
        self.commit_failed = False
        self._state_committed = self._state_ended
        self._group, self._group_units, self._group_bytes = [], 0, 0
        self._group_began = time.monotonic()
        self._commit_seconds += self._group_began - began

    def _ask_permit(self, unit: UnitStats) -> None:
        self._tell({"kind": "permit", "rows": unit.rows, "bytes": unit.bytes})
        refused = self._answers.get()
        if refused is not None:
            self.refused = True
            self._task.log.info("commit refused: %s", refused)
            raise Cancelled

    # ---------------------------------------------------------------- the watcher

    def _watch(self) -> None:
        """Commit a group that is old enough while the pipeline's own code goes on, or waits for something."""
        while not self._closing.wait(UNIT_SECONDS / 4):
            with self._lock:
                if self._group_units and time.monotonic() - self._group_began >= UNIT_SECONDS:
                    try:
                        self._commit()
                    except BaseException as error:  # noqa: BLE001 - raised where the pipeline comes back
                        self._watcher_error = error
                        return

    def _close(self) -> None:
        """End the watcher: a worker with a thread left is not used again."""
        self._closing.set()
        if self._watcher is not None:
            self._watcher.join()


def state_text(state: dict[str, Any]) -> str:
    """Return a state as it is kept, the same text for the same state.

    Raises:
        StateValueError: JSON cannot hold a value, or it is too large.
    """
    for key, value in state.items():
        if not isinstance(key, str):
            raise StateValueError(
                f"task.state has the key {key!r}, which is no text", mend="write str(key)"
            )
        if (why := _unkept(value)) is not None:
            raise StateValueError(
                f"task.state[{key!r}] cannot be kept: {why}",
                mend="keep texts, numbers, booleans, None, and lists and dicts of these; "
                "a date as text: value.isoformat()",
            )
    text = json.dumps(state, sort_keys=True)
    if len(text) > STATE_CHARS_MAX:
        largest = max(state, key=lambda key: len(json.dumps(state[key])))
        raise StateValueError(
            f"task.state takes {len(text)} characters, over the limit of {STATE_CHARS_MAX}; "
            f"most of it is task.state[{largest!r}]",
            mend="keep a position in the source there, not what was read",
        )
    return text


def _unkept(value: Any) -> str | None:
    """Say what about a value JSON cannot hold, or would give back as something else."""
    if isinstance(value, dict):
        odd = [key for key in value if not isinstance(key, str)]
        if odd:
            return f"its key {odd[0]!r} is no text"
        return next((why for one in value.values() if (why := _unkept(one))), None)
    if isinstance(value, (list, tuple)):
        return next((why for one in value if (why := _unkept(one))), None)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value!r} is no JSON number"
    if value is None or isinstance(value, (str, int, float)):
        return None
    return f"{value!r} is of type {type(value).__name__}"
