"""What can go wrong between a task and its table, its inputs or its files.

Facts in, two lines out. Every class has a stable `code`; the facts stay as attributes.
"""

from __future__ import annotations

from collections.abc import Iterable

from sluicegate.errors import SluicegateError


class LakeUnsupportedError(SluicegateError):
    """The lake is at a place that this version cannot write to safely."""

    code = "lake_unsupported"

    def __init__(self, root: str) -> None:
        super().__init__(
            f"cannot keep the lake at {root!r}: only a folder can be used",
            mend="set LAKE to a folder, for example one on a mounted volume",
        )
        self.root = root


class TableNotFoundError(SluicegateError):
    """There is no such table in the lake."""

    code = "table_not_found"

    def __init__(self, table: str, because: str = "nothing was written to it yet") -> None:
        super().__init__(
            f"cannot read table {table!r}: {because}",
            mend="run the pipeline that fills it, or look at the list of tables for its name",
        )
        self.table = table


class TableVersionNotFoundError(SluicegateError):
    """The table exists, but not in the version that was asked for."""

    code = "table_version_not_found"

    def __init__(self, table: str, version: int, latest: int, because: str) -> None:
        super().__init__(
            f"cannot read version {version} of table {table!r}: {because}",
            mend=f"ask for a version from 0 to {latest} that is still kept",
        )
        self.table, self.version, self.latest = table, version, latest


class TableUnsupportedError(SluicegateError):
    """The table uses a feature that our writer would break."""

    code = "table_unsupported"

    def __init__(self, table: str, feature: str) -> None:
        super().__init__(
            f"cannot write table {table!r}: another program gave it {feature}",
            mend="copy it to a table without that, or give the pipeline another name",
        )
        self.table, self.feature = table, feature


class StaleWriterError(SluicegateError):
    """A later writer has taken the table; this attempt may not write any more."""

    code = "stale_writer"

    def __init__(self, table: str, epoch: int, current: int) -> None:
        super().__init__(
            f"cannot write table {table!r}: writer {epoch} was replaced by writer {current}",
            mend="nothing to do: the later attempt goes on from what is in the table",
        )
        self.table, self.epoch, self.current = table, epoch, current


class TableMovedError(SluicegateError):
    """Somebody else changed the table's data while this attempt was writing."""

    code = "table_moved"

    def __init__(self, table: str, version: int, seen: int, by: str) -> None:
        super().__init__(
            f"cannot commit to table {table!r}: {by} changed its data in version {version} "
            f"since this attempt read version {seen}",
            mend="the attempt has to be done again; keep other programs from writing this table",
        )
        self.table, self.version, self.seen = table, version, seen


class TableChangedError(SluicegateError):
    """Somebody else changed a table after a job that is to be taken back."""

    code = "table_changed"

    def __init__(self, table: str, job_id: str, by: str, version: int) -> None:
        super().__init__(
            f"cannot roll back job {job_id!r}: {by} changed table {table!r} since, in version {version}",
            mend="roll that back first, or run the pipeline again with full_refresh",
        )
        self.table, self.job_id, self.version = table, job_id, version


class ContentGoneError(SluicegateError):
    """What a table held before a job cannot be read any more."""

    code = "content_gone"

    def __init__(self, table: str, job_id: str) -> None:
        super().__init__(
            f"cannot roll back job {job_id!r}: what table {table!r} held before it was removed",
            mend="run the pipeline again with full_refresh",
        )
        self.table, self.job_id = table, job_id


class SchemaMismatchError(SluicegateError):
    """The columns of an output are not the columns of its table."""

    code = "schema_mismatch"

    def __init__(self, table: str, differences: Iterable[str]) -> None:
        self.table, self.differences = table, tuple(differences)
        lines = "".join(f"\n  {line}" for line in self.differences)
        super().__init__(
            f"cannot write table {table!r}: its columns changed{lines}",
            mend='put the columns back, declare schema="evolve" to add new ones, '
            "or run with full_refresh to start the table anew",
        )


class OutputTypeError(SluicegateError):
    """A pipeline returned or yielded something that cannot become rows of a table."""

    code = "output_type"


class MergeKeysError(SluicegateError):
    """The rows of a unit cannot be matched by key: a key is null, there twice, or no column at all."""

    code = "merge_keys"


class InputMissingError(SluicegateError):
    """An upstream table has no data yet."""

    code = "input_missing"

    def __init__(self, table: str) -> None:
        super().__init__(
            f"cannot read input {table!r}: it has no data yet",
            mend="run it first, or run this pipeline with its dependencies",
        )
        self.table = table


class InputKindError(SluicegateError):
    """An input was asked for in a form that we do not know or that is not installed."""

    code = "input_kind"


class LandingPathError(SluicegateError):
    """A landing-zone path or pattern that does not stay inside the landing zone."""

    code = "landing_path"


class FileUnreadableError(SluicegateError):
    """A file of the landing zone could not be read as what its name says it is."""

    code = "file_unreadable"

    def __init__(self, path: str, because: str, *, line: int | None = None, mend: str = "") -> None:
        where = f", line {line}" if line is not None else ""
        super().__init__(
            f"cannot read file {path!r}{where}: {because}",
            mend=mend or "correct the file and put it into the landing zone again",
        )
        self.path, self.line = path, line


class LakeUnreadableError(SluicegateError):
    """A table or its log could not be read."""

    code = "lake_unreadable"

    def __init__(self, error: Exception) -> None:
        super().__init__(
            f"could not read the lake: {type(error).__name__}: {error}",
            mend="look whether its disk answers, and at the table's files",
        )
