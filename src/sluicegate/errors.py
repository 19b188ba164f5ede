"""Every public error: a stable code, what happened, and how to mend it.

Status codes live in `api/errors.py`; here are only the situations. Imports nothing but the standard library.
"""

from __future__ import annotations

import re


class SluicegateError(Exception):
    """Base of every error that a user can meet.

    Args:
        what: One line: what could not be done, to which thing, because what is true.
        mend: One line: what the reader can do about it.
    """

    code = "error"

    def __init__(self, what: str, *, mend: str = "") -> None:
        super().__init__(what)
        self.what, self.mend = what, mend

    def __str__(self) -> str:
        return f"{self.what}\n{self.mend}" if self.mend else self.what


class Cancelled(BaseException):
    """Raised inside a task that is being stopped. Let it through; clean up in `finally`."""


def without_password(url: str) -> str:
    """Return a URL as it may be shown: without the password of its account, or one among its parameters."""
    scheme, separator, rest = url.partition("://")
    account, at, host = rest.rpartition("@")
    host = re.sub(r"(?i)(password=)[^&]*", r"\1***", host)
    return f"{scheme}{separator}{account.partition(':')[0]}{at}{host}"
