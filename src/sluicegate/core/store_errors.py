"""What can be wrong with a store: every back end raises these, and the core may catch them."""

from __future__ import annotations

from collections.abc import Iterable

from sluicegate.errors import SluicegateError, without_password


class StoreUnavailableError(SluicegateError):
    """The store did not answer or could not write.

    What was asked did not happen, or is found by reading again.

    Args:
        where: The store as a user knows it: a path or an address, without credentials.
        why: What its driver said.
    """

    code = "store_unavailable"

    def __init__(self, where: str, why: str, *, mend: str) -> None:
        super().__init__(f"the store {where!r} cannot be used: {why}", mend=mend)
        self.where, self.why = where, why


class RecordTooLargeError(SluicegateError):
    """What was to be stored with one decision is more than the store can hold in one piece; nothing was written."""

    code = "record_too_large"

    def __init__(self, where: str, what: str, size_bytes: int, most_bytes: int) -> None:
        super().__init__(
            f"the store {where!r} cannot hold {what!r} in one piece: it is about {size_bytes:,} bytes, "
            f"the most is {most_bytes:,}",
            mend="use smaller parameters, or run fewer pipelines in one job",
        )
        self.where, self.size_bytes, self.most_bytes = where, size_bytes, most_bytes


class StoreTooNewError(SluicegateError):
    """The store was written by a newer version of Sluicegate; it was not touched."""

    code = "store_too_new"

    def __init__(self, where: str, revision: str, known: str) -> None:
        super().__init__(
            f"the store {where!r} has schema revision {revision!r}, newer than {known!r}, "
            "the newest that this version knows",
            mend="upgrade sluicegate, or name another store",
        )
        self.where, self.revision, self.known = where, revision, known


class StoreDriverMissingError(SluicegateError):
    """What a back end needs is not installed, or cannot be loaded.

    Args:
        extra: The extra of this package that brings it.
        why: What Python said.
    """

    code = "store_driver_missing"

    def __init__(self, extra: str, why: str) -> None:
        super().__init__(
            f"the driver of a {extra} store cannot be loaded: {why}",
            mend=f"pip install 'sluicegate[{extra}]'",
        )


class UnknownStoreError(SluicegateError):
    """The store's URL names no back end, or does not say where it is."""

    code = "store_unknown"

    def __init__(self, url: str, known: Iterable[str]) -> None:
        super().__init__(
            f"there is no store behind {without_password(url)!r}",
            mend=f"name one like {', '.join(known)}",
        )


class BackupUnsupportedError(SluicegateError):
    """A store in a database server is not copied by us."""

    code = "backup_unsupported"

    def __init__(self, scheme: str, what: str, tools: str) -> None:
        super().__init__(
            f"a {scheme} store cannot be {what} by this command",
            mend=f"{tools}; after it was put back, run `sluicegate restore` without a file",
        )


class BackupFailedError(SluicegateError):
    """A copy of the store could not be written, or is none."""

    code = "backup_failed"


class KeyExistsError(SluicegateError):
    """A key that is not revoked has this name already."""

    code = "key_exists"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is a key named {name!r} already", mend="revoke it first, or choose another name"
        )
        self.name = name


class KeyNotFoundError(SluicegateError):
    """No key that is not revoked has this name."""

    code = "key_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no live key named {name!r}", mend="list the keys to see their names"
        )
        self.name = name
