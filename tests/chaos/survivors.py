"""Who is left: processes that carry a mark in the environment they were started with. Imports nothing of ours."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

MARK = "CHAOS_MARK"
"""Set in the environment of every server; whatever it starts inherits it."""


@dataclass(frozen=True, order=True)
class Process:
    """A process by its identity: a pid is used again, a pid with its time of start is not."""

    pid: int
    started_ticks: int
    parent: int
    mark: str
    command: str
    state: str

    def __str__(self) -> str:
        return f"{self.pid} ({self.state}) {self.command}"


def survivors(mark: str) -> list[Process]:
    """Return every live process whose mark begins with `mark`. A zombie has ended."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names are enough
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
            marks = [v for v in variables if v.startswith(wanted)]
            if not marks:
                continue
            stat = Path(f"/proc/{entry}/stat").read_bytes()
            fields = stat[stat.rindex(b")") + 2 :].split()
            if fields[0] in (b"Z", b"X"):
                continue
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            own = marks[0].decode().removeprefix(f"{MARK}=")
            found.append(
                Process(
                    int(entry),
                    int(fields[19]),
                    int(fields[1]),
                    own,
                    command.strip(),
                    fields[0].decode(),
                )
            )
    return sorted(found)
