"""A thousand people who watch: how far behind they are while the jobs go on, and whether they see everything."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import datetime
from typing import Final

from bench.figures import Results, percentile
from bench.server import Server, serving

VIEWERS: Final = 1000
CHANGES_PER_SECOND: Final = 200
SECONDS: Final = 15
QUIET_SECONDS: Final = 3.0

PIPELINES: Final = """
from sluicegate import bronze
for number in range(64):
    exec(f"@bronze(name='n{number}')\\ndef n(): pass")
"""


class Viewer:
    """One stream of all events: the ids that came, and how late each was."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.late_ms: list[float] = []

    async def watch(self, server: Server, connected: asyncio.Semaphore) -> None:
        """Read until the stream is closed."""
        host, _, port = server.address.partition(":")
        async with connected:
            reader, writer = await asyncio.open_connection(host, int(port), limit=2**22)
            key = server.headers["Authorization"]
            writer.write(
                f"GET /api/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: {key}\r\n\r\n".encode()
            )
            while (await reader.readline()).strip():
                pass
            await reader.readline()  # the first piece: where the stream begins
        try:
            while line := await reader.readline():
                if not line.startswith(b"data: "):
                    continue
                now = time.time()
                event = json.loads(line[6:])
                self.ids.append(event["event_id"])
                self.late_ms.append((now - datetime.fromisoformat(event["at"]).timestamp()) * 1000)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


def measure(results: Results) -> None:
    """All streams are open before the first job starts."""
    with serving(PIPELINES) as server:
        viewers = asyncio.run(_all(server))
    late = [ms for viewer in viewers for ms in viewer.late_ms]
    seen = {number for viewer in viewers for number in viewer.ids}
    lost = sum(len(seen.difference(viewer.ids)) for viewer in viewers)
    twice = sum(len(viewer.ids) - len(set(viewer.ids)) for viewer in viewers)
    note = f"{len(viewers)} streams, {len(seen)} events each in {SECONDS} s"
    results.add("viewers.behind", "ms", [percentile(late, n / 200) for n in range(200)], note)
    results.add("viewers.lost", "events", [lost + twice], "or told twice")


async def _all(server: Server) -> list[Viewer]:
    viewers = [Viewer() for _ in range(VIEWERS)]
    some = asyncio.Semaphore(50)
    watching = [asyncio.create_task(viewer.watch(server, some)) for viewer in viewers]
    await asyncio.sleep(QUIET_SECONDS)
    work = threading.Thread(target=_work, args=(server,))
    work.start()
    while work.is_alive():
        await asyncio.sleep(0.2)
    await asyncio.sleep(QUIET_SECONDS)
    for one in watching:
        one.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    return viewers


def _work(server: Server) -> None:
    """Start jobs so that some 200 tasks a second start or end."""
    connection = server.connect()
    began, tasks = time.monotonic(), 0
    while (passed := time.monotonic() - began) < SECONDS:
        if tasks * 2 > passed * CHANGES_PER_SECOND:
            time.sleep(0.005)
            continue
        pipelines = [f"bronze.n{n}" for n in range(8)]
        server.ask("POST", "/api/jobs", {"pipelines": pipelines}, connection=connection)
        tasks += len(pipelines)
    connection.close()
