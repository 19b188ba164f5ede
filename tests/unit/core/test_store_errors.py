"""What goes wrong with a store: each error has its code, names what it is about, and says what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sluicegate.core.store_errors import (
    BackupFailedError,
    BackupUnsupportedError,
    KeyExistsError,
    KeyNotFoundError,
    RecordTooLargeError,
    StoreDriverMissingError,
    StoreTooNewError,
    StoreUnavailableError,
    UnknownStoreError,
)
from sluicegate.errors import SluicegateError

FORMS = ["sqlite:///<path>", "postgresql://<host>"]


@pytest.mark.parametrize(
    ("make", "code", "named", "mend"),
    [
        (
            lambda: StoreUnavailableError("jobs.db", "the disk is full", mend="free some space"),
            "store_unavailable",
            ["'jobs.db'", "the disk is full"],
            "free some space",
        ),
        (
            lambda: RecordTooLargeError("firestore://p/d", "jobs/j1", 1_200_000, 1_000_000),
            "record_too_large",
            ["'firestore://p/d'", "'jobs/j1'", "1,200,000 bytes", "1,000,000"],
            "smaller parameters",
        ),
        (
            lambda: StoreTooNewError("jobs.db", "0009", "0004"),
            "store_too_new",
            ["'jobs.db'", "'0009', newer than '0004'"],
            "upgrade",
        ),
        (
            lambda: StoreDriverMissingError("firestore", "no module named 'google'"),
            "store_driver_missing",
            ["firestore", "no module named 'google'"],
            "pip install 'sluicegate[firestore]'",
        ),
        (
            lambda: UnknownStoreError("mysql://db", FORMS),
            "store_unknown",
            ["'mysql://db'"],
            "sqlite:///<path>, postgresql://<host>",
        ),
        (
            lambda: BackupUnsupportedError("postgresql", "copied", "use pg_dump"),
            "backup_unsupported",
            ["postgresql", "copied"],
            "use pg_dump; after it was put back, run `sluicegate restore`",
        ),
        (
            lambda: BackupFailedError("'copy.db' is no whole copy", mend="choose another file"),
            "backup_failed",
            ["'copy.db'"],
            "choose another file",
        ),
        (lambda: KeyExistsError("ci"), "key_exists", ["'ci'"], "revoke it"),
        (lambda: KeyNotFoundError("ci"), "key_not_found", ["'ci'"], "list the keys"),
    ],
)
def test_an_error_names_what_it_is_about_and_how_to_mend_it(
    make: Callable[[], SluicegateError], code: str, named: list[str], mend: str
) -> None:
    """Two lines, by which a person can act and a program can tell the cases apart."""
    error = make()
    assert error.code == code
    assert all(one in error.what for one in named)
    assert mend in error.mend
    assert error.mend[0].islower()
    assert str(error).splitlines() == [error.what, error.mend]


def test_errors_keep_their_facts() -> None:
    """Who catches one need not read its sentence."""
    away = StoreUnavailableError("jobs.db", "the disk is full", mend="free some space")
    assert (away.where, away.why) == ("jobs.db", "the disk is full")
    large = RecordTooLargeError("firestore://p/d", "jobs/j1", 12, 10)
    assert (large.where, large.size_bytes, large.most_bytes) == ("firestore://p/d", 12, 10)
    newer = StoreTooNewError("jobs.db", "0009", "0004")
    assert (newer.where, newer.revision, newer.known) == ("jobs.db", "0009", "0004")
    assert (KeyExistsError("ci").name, KeyNotFoundError("nightly").name) == ("ci", "nightly")


def test_a_store_that_is_unknown_is_named_without_its_password() -> None:
    """The sentence ends up in terminals, logs and tickets."""
    error = UnknownStoreError("mysql://ann:hunter2@db/jobs", FORMS)
    assert "ann@db/jobs" in error.what
    assert "hunter2" not in str(error)
