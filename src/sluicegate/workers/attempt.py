"""One attempt at one pipeline inside a worker: its inputs, its code, its units, its stop. Main thread only.

Heavy libraries are imported where a table is first touched, so that a pipeline without one costs nothing.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sluicegate.declare import Pipeline
from sluicegate.errors import Cancelled, SluicegateError
from sluicegate.spec import PipelineSpec
from sluicegate.task import Task
from sluicegate.workers.channel import Message
from sluicegate.workers.commands import run_command
from sluicegate.workers.units import Units

if TYPE_CHECKING:
    from sluicegate.lake.landing import LandedFile
    from sluicegate.lake.tables import Lake

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
        self._units = Units(order, self._spec, task, settings, tell, user_code)
        self._bad_file: str | None = None

    def answer_permit(self, refused: str | None) -> None:
        """Hand over the answer to the permit that was asked for. Called from the control thread."""
        self._units.answer_permit(refused)

    def state(self) -> dict[str, Any]:
        """Return what `task.state` is."""
        return self._units.state()

    def run(self) -> Message:
        """Run it to its end. Returns: the message that says how it ended; it never raises."""
        ended: Message
        try:
            self._run()
            ended = {"outcome": "success"}
        except Cancelled:
            ended = {"outcome": "cancelled"}
            if not self._task.cancelled and not self._units.refused:
                told = "the pipeline raised Cancelled, but nobody stopped it\nraise an error of your own instead"
                ended = {"outcome": "failed", "error": told, "again": False}
        except BaseException as error:  # noqa: BLE001 - SystemExit too: a pipeline must not end its worker
            ended = self._failure(error)
        with contextlib.suppress(Exception, Cancelled):
            self._task.flush_progress()
        with contextlib.suppress(Exception, Cancelled):
            if ended["outcome"] != "success":
                self._units.abort()
        ended["stats"] = self._units.stats()
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
        elif spec.kind == "command":
            run_command(spec, self._task, self._user_code)
        else:
            arguments = self._arguments()
            self._task.checkpoint()
            with self._user_code():
                output = self._pipeline(**arguments)
            self._publish(output)

    def _is_done(self) -> bool:
        """Whether an earlier attempt had committed everything; fences the table while looking."""
        return self._units.open().settled.complete

    def _publish(self, output: Any) -> None:
        """Write all that was returned or yielded: as one unit, but for states that were saved between."""
        units, is_stream = self._units, _is_stream(output)
        try:
            for part in self._parts(output) if is_stream else [output]:
                self._task.checkpoint()
                if part is not None:
                    units.write(part)
                if is_stream and units.state_changed:
                    units.end_unit()
        except Exception:
            units.keep_whole()
            raise
        self._task.checkpoint()
        units.finish()

    def _run_query(self) -> None:
        from sluicegate.lake.sql import run_sql

        versions = self._pin_inputs(self._spec.depends_on)
        self._task.checkpoint()
        assert self._spec.query is not None
        try:
            result = run_sql(
                self._lake(), self._spec.query, versions, on_start=self._end_in_process
            )
            self._publish(result.reader)
        except Exception:
            self._task.checkpoint()  # an interrupted query raises: that is the stop, not a failure
            raise

    def _ingest(self) -> None:
        """Run the pipeline once a file; files share a commit until it holds enough work."""
        from sluicegate.lake.landing import list_files, new_files

        units = self._units
        landing = Path(self._settings["landing"])
        fresh, changed = new_files(list_files(landing, self._spec.files or ""), units.open().marks)
        for file in changed:
            self._task.log.warning(
                "%s changed after it was ingested; only a full refresh reads it again", file.path
            )
        arguments = self._arguments()
        for done, file in enumerate(fresh):
            self._task.checkpoint()
            self._task.progress(done, len(fresh), "files")
            try:
                self._ingest_file(landing, file, arguments)
                units.end_unit(file, last=done + 1 == len(fresh))
            except Exception:
                self._bad_file = None if units.commit_failed else file.path
                # The files before it are whole: they must not be read again and again for this one.
                units.keep_whole()
                raise
        self._task.checkpoint()
        units.finish()
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
                self._units.write(part)

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
                self._lake(),
                table,
                one.kind,
                versions[table],
                connection=connection,
                checkpoint=self._task.checkpoint,
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

    def _lake(self) -> Lake:
        from sluicegate.lake.tables import Lake

        return Lake(self._settings["lake"])

    # ---------------------------------------------------------------- what went wrong

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
        if _is_of_the_disk(error) and not _is_own(error, self._spec.file):
            why = " ".join(str(error).split())
            lake = self._settings["lake"]
            return f"cannot use the lake for {self._spec.pipeline_id}: {why}\n{_mend_of_disk(why, lake)}"
        return _described(error, self._spec.file)


_END: Final = object()
_MEND_OF_FOLDER: Final = (
    "make {lake} a folder that this user can write, or set SLUICEGATE_LAKE to one that is"
)
_MENDS_OF_DISKS: Final = {
    "No space left on device": "free some space on the disk of {lake}, then run it again",
    "Disk quota exceeded": "free some space of this user's on the disk of {lake}, then run it again",
    "Read-only file system": "mount the disk of {lake} so that it can be written, then run it again",
    "Input/output error": "look at the disk of {lake} and at the system's log, then run it again",
}


def _is_stream(output: Any) -> bool:
    """Whether it is stepped through: a generator or another iterator that is not itself a table."""
    if hasattr(output, "__arrow_c_stream__") or hasattr(output, "__arrow_c_array__"):
        return False
    return inspect.isgenerator(output) or hasattr(output, "__next__")


def _is_of_the_disk(error: BaseException) -> bool:
    """Whether an error is the file system's, which deltalake tells in an error of its own."""
    if any(kind.__name__ == "DeltaError" for kind in type(error).__mro__):  # it may not be loaded
        return any(words in str(error) for words in ("os error", *_MENDS_OF_DISKS))
    return isinstance(error, OSError)


def _mend_of_disk(why: str, lake: str) -> str:
    mend = next((mend for words, mend in _MENDS_OF_DISKS.items() if words in why), _MEND_OF_FOLDER)
    return mend.format(lake=lake)


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
