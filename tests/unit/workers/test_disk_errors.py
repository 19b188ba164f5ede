"""What a task says when a disk is in its way: the system's words in one line, and how to mend it in another."""

from __future__ import annotations

import errno
import os

import pytest
from deltalake.exceptions import DeltaError, SchemaMismatchError

from sluicegate.workers.attempt import _is_of_the_disk, _mend_of_disk

GENERIC = "Generic LocalFileSystem error: Unable to write data to file {}: {} (os error {})"


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "free some space on the disk of /lake"),
        (errno.EDQUOT, "free some space of this user's"),
        (errno.EROFS, "mount the disk of /lake"),
        (errno.EIO, "look at the disk of /lake"),
        (errno.EACCES, "set SLUICEGATE_LAKE"),
    ],
)
def test_each_trouble_of_a_disk_has_its_mend(number: int, mend: str) -> None:
    """Python and Arrow raise it as an OSError, deltalake as an error of its own."""
    words = os.strerror(number)
    told = (
        OSError(number, words, "/lake/bronze"),
        OSError(number, f"Error writing bytes to file. Detail: [errno {number}] {words}"),
        DeltaError(GENERIC.format("/lake/_delta_log", words, number)),
    )
    for error in told:
        assert _is_of_the_disk(error)
        assert mend in _mend_of_disk(str(error), "/lake")


@pytest.mark.parametrize(
    "error", [SchemaMismatchError("Schema of data does not match"), ValueError("No space left")]
)
def test_other_errors_are_none_of_the_disk(error: Exception) -> None:
    """They have words and mends of their own."""
    assert not _is_of_the_disk(error)
