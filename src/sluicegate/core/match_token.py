"""What a dry run showed, as a text that a client sends along: the real call touches exactly these jobs. Pure.

The text holds a digest of each job's id, so that it is true on every server and after any restart, and short enough for
10,000 jobs.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Final

from sluicegate.errors import SluicegateError

DIGEST_BYTES: Final = 8
_PREFIX: Final = "m1."


class MatchTokenError(SluicegateError):
    """The text is no match token."""

    code = "match_token_invalid"

    def __init__(self) -> None:
        super().__init__(
            "the match_token is not one that a dry run answered",
            mend="send it as it came, or leave it out",
        )


def match_token(job_ids: Iterable[str]) -> str:
    """Return the token of these jobs."""
    digests = b"".join(sorted({_digest(job_id) for job_id in job_ids}))
    return _PREFIX + base64.urlsafe_b64encode(digests).decode()


def matched_by(token: str, job_ids: Iterable[str]) -> list[str]:
    """Return those of `job_ids` that the dry run showed. Raises: `MatchTokenError`."""
    try:
        digests = base64.b64decode(token.removeprefix(_PREFIX), altchars=b"-_", validate=True)
    except ValueError:
        raise MatchTokenError from None
    if not token.startswith(_PREFIX) or len(digests) % DIGEST_BYTES:
        raise MatchTokenError
    shown = {digests[n : n + DIGEST_BYTES] for n in range(0, len(digests), DIGEST_BYTES)}
    return [job_id for job_id in job_ids if _digest(job_id) in shown]


def _digest(job_id: str) -> bytes:
    return hashlib.blake2b(job_id.encode(), digest_size=DIGEST_BYTES).digest()
