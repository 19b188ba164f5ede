"""Ids of jobs, tasks, executors and rollbacks."""

from __future__ import annotations

import os
import time
import uuid


def new_id() -> str:
    """Return a UUIDv7: ids of one process sort by creation, to a quarter of a microsecond; the rest is random.

    Source: RFC 9562, sections 5.7 and 6.2 (method 3: the 12 bits of rand_a hold the fraction of the millisecond).
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = nanoseconds * 4096 // 1_000_000
    random = int.from_bytes(os.urandom(8)) & (2**62 - 1)
    return str(uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random))
