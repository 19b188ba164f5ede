"""The demo against a script that does nothing but the same work."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Final

from bench.figures import Results
from bench.server import Server, folder
from sluicegate.demo import deliver, pipelines_path

RUNS: Final = 3


def measure(results: Results) -> None:
    """By turns, so that both meet the same machine."""
    bare, ours = [], []
    with folder() as made:
        deliver(made / "landing")
        for n in range(RUNS):
            bare.append(_bare(made, n))
            ours.append(_ours(made))
    results.add(
        "demo.bare", "s", bare, "the functions in order in one process, written by deltalake"
    )
    results.add("demo.ours", "s", ours, "the job, from its creation to its end")
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    results.add("demo.ratio", "times", ratios)


def _bare(made: Path, run: int) -> float:
    command = [
        sys.executable,
        "-m",
        "bench.bare_flights",
        str(made / "landing"),
        str(made / f"bare-{run}"),
    ]
    said = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    return float(said.stdout)


def _ours(made: Path) -> float:
    work = made / "ours"
    work.mkdir()
    shutil.copytree(made / "landing", work / "home" / "landing")
    server = Server(work, "", target=str(pipelines_path()))
    try:
        job = server.wait(server.start(), every=0.05)
        assert job["status"] == "success", job["status"]
    finally:
        server.close()
        shutil.rmtree(work)
    times = [datetime.fromisoformat(job[at]) for at in ("created_at", "completed_at")]
    return (times[1] - times[0]).total_seconds()
