"""What the figures were measured on, and how fast it was at that moment."""

from __future__ import annotations

import os
import platform
import sqlite3
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

ADDITIONS: Final = 10_000_000
SYNCS: Final = 100


def describe() -> dict[str, Any]:
    """Return processor, memory, versions, and the speed of an interpreter and of a disk now."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "sluicegate": version("sluicegate"),
        "additions_seconds": round(median(_additions() for _ in range(3)), 3),
        "fdatasync_ms": round(_sync_ms(), 3),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _additions() -> float:
    began, count = time.perf_counter(), 0
    while count < ADDITIONS:
        count += 1
    return time.perf_counter() - began


def _sync_ms() -> float:
    """A page that is overwritten and made durable, as a commit does it."""
    taken = []
    with tempfile.TemporaryFile() as file:
        fd = file.fileno()
        os.pwrite(fd, bytes(4096 * SYNCS), 0)
        os.fsync(fd)
        for n in range(SYNCS):
            began = time.perf_counter()
            os.pwrite(fd, b"x" * 4096, n * 4096)
            os.fdatasync(fd)
            taken.append(time.perf_counter() - began)
    return median(taken) * 1000
