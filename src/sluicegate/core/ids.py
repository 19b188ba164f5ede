"""Ids of jobs, tasks, executors and rollbacks."""

from __future__ import annotations

import os
import random
import time
import uuid

# Seeded by the operating system. Asking that anew for each id costs more than all else; ids are no secrets.
_random = random.Random()
os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """Return a UUIDv7: ids of one process sort by creation, to a quarter of a microsecond; the rest is random.

    Source: RFC 9562, sections 5.7 and 6.2 (method 3: the 12 bits of rand_a hold the fraction of the millisecond).
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = nanoseconds * 4096 // 1_000_000
    tail = 0b10 << 62 | _random.getrandbits(62)
    return str(uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | tail))
