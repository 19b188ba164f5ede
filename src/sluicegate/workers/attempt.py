"""One attempt at one pipeline inside a worker: its inputs, its code, its units, its stop. Main thread only.

Heavy libraries are imported where a table is first touched, so that a pipeline without one costs nothing.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import queue
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sluicegate.declare import Pipeline
from sluicegate.errors import Cancelled, SluicegateError
from sluicegate.spec import PipelineSpec
from sluicegate.task import Task
from sluicegate.workers.channel import Message

if TYPE_CHECKING:
    from sluicegate.lake.landing import LandedFile
    from sluicegate.lake.tables import Lake
    from sluicegate.lake.writer import TableWriter, UnitStats

UNIT_SECONDS: Final = 1.0
UNIT_BYTES: Final = 64 * 1024 * 1024
PACKAGE: Final = f"{Path(__file__).parents[1]}{os.sep}"  # frames in here are ours
ERROR_CHARS_MAX: Final = 16_000

Tell = Callable[[Message], None]


class Attempt:
    """Runs a pipeline and publishes what it returns.

    Args:
        order: The assignment, as it came over the channel.
        user_code: A context in which a stop may raise `Cancelled` anywhere; outside it, only at checkpoints.
    """

    def __init__(
        self,
        order: Message,
        pipeline: Pipeline,
        task: Task,
        settings: Mapping[str, Any],
        tell: Tell,
        user_code: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self._order, self._pipeline, self._task = order, pipeline, task
        self._spec: PipelineSpec = pipeline.spec
        self._settings, self._tell, self._user_code = settings, tell, user_code
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._writer: TableWriter | None = None
        self._refused = False
        self._bad_file: str | None = None

    def answer_permit(self, refused: str | None) -> None:
        """Hand over the answer to the permit that was asked for. Called from the control thread."""
        self._answers.put(refused)

    def run(self) -> Message:
        """Run it to its end. Returns: the message that says how it ended; it never raises."""
        ended: Message
        try:
            self._run()
            ended = {"outcome": "success"}
        except Cancelled:
            ended = {"outcome": "cancelled"}
            if not self._task.cancelled and not self._refused:
                told = "the pipeline raised Cancelled, but nobody stopped it\nraise an error of your own instead"
                ended = {"outcome": "failed", "error": told, "again": False}
        except BaseException as error:  # noqa: BLE001 - SystemExit too: a pipeline must not end its worker
            ended = self._failure(error)
        with contextlib.suppress(Exception, Cancelled):
            self._task.flush_progress()
        with contextlib.suppress(Exception, Cancelled):
            if self._writer is not None and ended["outcome"] != "success":
                self._writer.abort()
        ended["stats"] = self._stats()
        return ended

    # ---------------------------------------------------------------- the ways of running

    def _run(self) -> None:
        if self._order["recovers"] and self._is_done():
            return
        self._task.checkpoint()
        spec = self._spec
        if spec.files is not None:
            self._ingest()
        elif spec.kind == "sql":
            self._run_query()
        else:
            arguments = self._arguments()
            self._task.checkpoint()
            with self._user_code():
                output = self._pipeline(**arguments)
            self._publish_whole(output)

    def _is_done(self) -> bool:
        """Whether an earlier attempt had committed everything; fences the table while looking."""
        return self._open_writer().settled.complete

    def _publish_whole(self, output: Any) -> None:
        """Write all that was returned or yielded, as one unit."""
        if output is None:
            return
        if _is_stream(output):
            for part in self._parts(output):
                self._task.checkpoint()
                if part is not None:
                    self._write(part)
        else:
            self._task.checkpoint()
            self._write(output)
        self._task.checkpoint()
        if self._writer is not None:
            self._commit((), final=True)

    def _run_query(self) -> None:
        from sluicegate.lake.sql import run_sql

        versions = self._pin_inputs(self._spec.depends_on)
        self._task.checkpoint()
        assert self._spec.query is not None
        try:
            result = run_sql(
                self._lake(), self._spec.query, versions, on_start=self._end_in_process
            )
            self._publish_whole(result.reader)
        except Exception:
            self._task.checkpoint()  # an interrupted query raises: that is the stop, not a failure
            raise

    def _ingest(self) -> None:
        """Run the pipeline once a file; files share a commit until it holds enough work."""
        from sluicegate.lake.landing import list_files, new_files

        writer = self._open_writer()
        landing = Path(self._settings["landing"])
        fresh, changed = new_files(list_files(landing, self._spec.files or ""), writer.marks)
        for file in changed:
            self._task.log.warning(
                "%s changed after it was ingested; only a full refresh reads it again", file.path
            )
        arguments = self._arguments()
        group: list[LandedFile] = []
        began = time.monotonic()
        size = 0
        for done, file in enumerate(fresh):
            self._task.checkpoint()
            self._task.progress(done, len(fresh), "files")
            before = writer.rows_in_unit
            try:
                self._ingest_file(landing, file, arguments)
            except Exception:
                self._bad_file = file.path
                # The files before it are whole: they must not be read again and again for this one.
                if group and writer.rows_in_unit == before and not self._order["full_refresh"]:
                    self._commit(group, final=False)
                raise
            group.append(file)
            size += file.size
            full = time.monotonic() - began >= UNIT_SECONDS or size >= UNIT_BYTES
            if full and not self._order["full_refresh"] and done + 1 < len(fresh):
                self._commit(group, final=False)
                group, began, size = [], time.monotonic(), 0
        self._task.checkpoint()
        if group or self._order["full_refresh"]:
            self._commit(group, final=True)
        self._task.progress(len(fresh), len(fresh), "files")

    def _ingest_file(self, landing: Path, file: LandedFile, arguments: dict[str, Any]) -> None:
        from sluicegate.lake.reading import read_file

        parameter = self._spec.file_parameter
        assert parameter is not None
        rows = read_file(landing, file.path, parameter.kind)
        self._task.checkpoint()
        with self._user_code():
            output = self._pipeline(**{parameter.parameter: rows}, **arguments)
        for part in self._parts(output) if _is_stream(output) else [output]:
            self._task.checkpoint()
            if part is not None:
                self._write(part)

    def _parts(self, stream: Iterator[Any]) -> Iterator[Any]:
        """Step through what user code yields; closing it runs its `finally`."""
        try:
            while True:
                with self._user_code():
                    part = next(stream, _END)
                if part is _END:
                    return
                yield part
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()

    # ---------------------------------------------------------------- inputs

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        if self._spec.takes_task:
            arguments[self._spec.takes_task] = self._task
        if not self._spec.inputs:
            return arguments
        from sluicegate.lake.inputs import load_input

        tables = {one.parameter: one.table or "" for one in self._spec.inputs}
        versions = self._pin_inputs(tuple(dict.fromkeys(tables.values())))
        connection = None
        if any(one.kind == "duckdb.DuckDBPyRelation" for one in self._spec.inputs):
            from sluicegate.lake.sql import open_duckdb

            connection = open_duckdb()
            self._end_in_process(connection.interrupt)
        for one in self._spec.inputs:
            table = tables[one.parameter]
            arguments[one.parameter] = load_input(
                self._lake(), table, one.kind, versions[table], connection=connection
            )
        return arguments

    def _end_in_process(self, interrupt: Callable[[], object]) -> None:
        """Have DuckDB interrupted when a stop comes; again and again, for one before a query starts does nothing."""
        self._task.callbacks.add(interrupt, is_remote=False, until_over=True)

    def _pin_inputs(self, tables: tuple[str, ...]) -> dict[str, int | None]:
        """Fix the version of each input, and have it recorded."""
        from sluicegate.lake.inputs import latest_version

        versions: dict[str, int | None] = {t: latest_version(self._lake(), t) for t in tables}
        self._tell(
            {"kind": "opened", "inputs": [{"table": t, "version": v} for t, v in versions.items()]}
        )
        return versions

    # ---------------------------------------------------------------- output

    def _lake(self) -> Lake:
        from sluicegate.lake.tables import Lake

        return Lake(self._settings["lake"])

    def _open_writer(self) -> TableWriter:
        if self._writer is not None:
            return self._writer
        from sluicegate.lake.commits import WriterIdentity
        from sluicegate.lake.writer import TableWriter

        order = self._order
        writer = TableWriter(
            self._lake(),
            self._spec.pipeline_id,
            WriterIdentity(order["job_id"], order["task_id"], order["attempt"], order["epoch"]),
            mode="append" if self._spec.mode == "append" else "overwrite",
            permit=self._ask_permit,
            fence=order["recovers"],
            full_refresh=order["full_refresh"],
            schema_mode="evolve" if self._spec.schema == "evolve" else "strict",
            checkpoint=self._task.checkpoint,
        )
        writer.open()
        self._writer = writer
        if order["recovers"]:
            # The table refuses earlier attempts from here on; what they wrote and did not commit is waste.
            self._lake().remove_orphans(
                self._spec.pipeline_id, order["task_id"], before_attempt=order["attempt"]
            )
        return writer

    def _write(self, part: Any) -> None:
        self._open_writer().write(part)

    def _commit(self, files: list[LandedFile] | tuple[()], *, final: bool) -> None:
        """Publish a unit. Nothing interrupts it from here on: it is in the log, or nothing of it is."""
        writer = self._open_writer()
        marks = [(file.path, file.size, file.mtime_ns) for file in files]
        unit = writer.commit(marks, final=final)
        if unit is not None:
            self._tell({"kind": "committed", "stats": self._stats()})
        if self._spec.mode == "append":
            writer.maintain()

    def _ask_permit(self, unit: UnitStats) -> None:
        self._tell({"kind": "permit", "rows": unit.rows, "bytes": unit.bytes})
        refused = self._answers.get()
        if refused is not None:
            self._refused = True
            self._task.log.info("commit refused: %s", refused)
            raise Cancelled

    def _stats(self) -> dict[str, Any]:
        if self._writer is None:
            return {}
        stats = asdict(self._writer.settled)
        stats.pop("complete")
        return stats

    def _failure(self, error: BaseException) -> Message:
        told = self._told(error)
        if self._bad_file is not None and self._bad_file not in told:
            told += f"\nit was at the file {self._bad_file!r}: mend the file or the pipeline, then run again"
        again = getattr(error, "code", None) == "table_moved"
        return {"outcome": "failed", "error": told, "again": again}

    def _told(self, error: BaseException) -> str:
        """What went wrong and how to mend it, in the words of who has to mend it."""
        if isinstance(error, SluicegateError):
            return str(error)
        if isinstance(error, SystemExit):
            return f"the pipeline called exit({error.code!r})\nreturn from the function instead"
        if isinstance(error, OSError) and not _is_own(error, self._spec.file):
            return (
                f"cannot use the lake for {self._spec.pipeline_id}: {error}\n"
                f"make {self._settings['lake']} a folder that this user can write,"
                " or set SLUICEGATE_LAKE to one that is"
            )
        return _described(error, self._spec.file)


_END: Final = object()


def _is_stream(output: Any) -> bool:
    """Whether it is stepped through: a generator or another iterator that is not itself a table."""
    if hasattr(output, "__arrow_c_stream__") or hasattr(output, "__arrow_c_array__"):
        return False
    return inspect.isgenerator(output) or hasattr(output, "__next__")


def _is_own(error: BaseException, file: str) -> bool:
    """Whether an error passed through the pipeline's own code."""
    return any(frame.filename == file for frame in traceback.extract_tb(error.__traceback__))


def _described(error: BaseException, file: str) -> str:
    """The error as the author of the pipeline wants to read it: type, message, and the lines of their own code."""
    frames = traceback.extract_tb(error.__traceback__)
    first = next((n for n, frame in enumerate(frames) if frame.filename == file), 0)
    own = [frame for frame in frames[first:] if not frame.filename.startswith(PACKAGE)]
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - the user's own __str__ can fail, too
        message = "(its message cannot be read)"
    lines = [f"{type(error).__name__}: {message}"]
    lines += [
        f"  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line or ''}" for frame in own
    ]
    return "\n".join(lines)[:ERROR_CHARS_MAX]
