"""Writers that are stopped, killed or raced for real: what the table shows afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import sluicegate
from sluicegate.lake.tables import Lake
from sluicegate.lake.writer import TableWriter, UnitStats, WriterIdentity

TABLE = "bronze.rows"

PROGRAM = """
import os, signal, sys
import pyarrow as pa
from sluicegate.lake.tables import Lake
from sluicegate.lake.writer import TableWriter, WriterIdentity

root, mode, epoch, pause = sys.argv[1:]
def pause_at(point):
    if point == pause:
        os.kill(os.getpid(), signal.SIGSTOP)

identity = WriterIdentity("job", f"task{epoch}", 1, int(epoch))
writer = TableWriter(
    Lake(root), "bronze.rows", identity, mode=mode, permit=lambda stats: pause_at("permit")
)
pause_at("start")
try:
    writer.open()
    for number in range(3):
        writer.write(pa.table({"who": [int(epoch)] * 200_000, "n": [number] * 200_000}))
    pause_at("written")
    if pause == "race":
        print("ready", flush=True)
        sys.stdin.readline()
    stats = writer.commit(final=True)
    print("committed", stats.version)
except Exception as error:
    print("refused", type(error).__name__)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a writer in a process of its own; whatever still lives at the end is killed."""
    source = str(Path(sluicegate.__file__).parents[1])
    started: list[subprocess.Popen[str]] = []

    def run(mode: str, epoch: int, pause: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(PROGRAM),
                str(tmp_path),
                mode,
                str(epoch),
                pause,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": source},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_until_stopped(process: subprocess.Popen[str]) -> None:
    """Return once the process has stopped itself; fail if it ended instead."""
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"the writer ended instead of pausing: {status}"


def writer(root: Path, mode: str, epoch: int, *, fence: bool = False) -> TableWriter:
    def permit(stats: UnitStats) -> None:
        return None

    identity = WriterIdentity("job", f"task{epoch}", 1, epoch)
    made = TableWriter(
        Lake(str(root)),
        TABLE,
        identity,
        mode=mode,  # type: ignore[arg-type]
        permit=permit,
        fence=fence,
    )
    made.open()
    return made


def write_rows(root: Path, mode: str, epoch: int) -> None:
    successor = writer(root, mode, epoch)
    successor.write(pa.table({"who": [epoch], "n": [0]}))
    successor.commit(final=True)


def writers_in(root: Path) -> set[int]:
    table = Lake(str(root)).load(TABLE).to_pyarrow_table()
    return set(table["who"].to_pylist())


@pytest.mark.parametrize("mode", ["append", "overwrite"])
@pytest.mark.parametrize("exists", [True, False], ids=["version 5", "version 0"])
@pytest.mark.parametrize("pause", ["permit", "start"])
def test_a_writer_that_wakes_after_its_successor_is_refused(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], mode: str, exists: bool, pause: str
) -> None:
    """A permit is only as good as the moment: the table itself must refuse who comes back late."""
    if exists:
        write_rows(tmp_path, "append", 1)
    late = start(mode, 2, pause)
    wait_until_stopped(late)
    write_rows(tmp_path, mode, 3)
    before = Lake(str(tmp_path)).load(TABLE).version()

    late.send_signal(signal.SIGCONT)
    answer, _ = late.communicate(timeout=30)

    assert answer.split() == ["refused", "StaleWriterError"]
    assert writers_in(tmp_path) == ({1, 3} if exists and mode == "append" else {3})
    assert Lake(str(tmp_path)).load(TABLE).version() == before
    assert not list((tmp_path / "bronze/rows").glob("*-task2-*")), "its files are removed"


@pytest.mark.parametrize("exists", [True, False], ids=["version 5", "version 0"])
def test_a_fence_alone_shuts_a_paused_writer_out(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], exists: bool
) -> None:
    """A stop is settled from the log: what was not committed by then may never appear after."""
    if exists:
        write_rows(tmp_path, "append", 1)
    late = start("append", 2, "permit")
    wait_until_stopped(late)
    writer(tmp_path, "append", 3, fence=True)
    lake = Lake(str(tmp_path))
    assert lake.data_version(TABLE) == (0 if exists else None)

    late.send_signal(signal.SIGCONT)
    answer, _ = late.communicate(timeout=30)

    assert answer.split() == ["refused", "StaleWriterError"]
    assert lake.describe(TABLE)["row_count"] == (1 if exists else 0)


def test_a_killed_writer_leaves_nothing_that_shows(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """SIGKILL in the middle: files may lie around, but no reader sees them."""
    write_rows(tmp_path, "append", 1)
    victim = start("append", 2, "written")
    wait_until_stopped(victim)
    victim.kill()
    victim.wait(timeout=30)

    lake = Lake(str(tmp_path))
    assert writers_in(tmp_path) == {1}
    assert lake.settle(TABLE, "task2").units == 0
    removed = lake.remove_orphans(TABLE, "task2")
    assert len(removed) == 1
    assert not list((tmp_path / "bronze/rows").glob("*-task2-*"))
    assert lake.remove_orphans(TABLE, "task1") == [], "committed files stay"
    assert writers_in(tmp_path) == {1}


@pytest.mark.proof
def test_of_many_creators_exactly_one_wins(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Version 0 is put-if-absent; the others learn it and remove their files."""
    creators = [start("append", 7, "race") for _ in range(4)]
    for creator in creators:
        assert creator.stdout is not None
        assert creator.stdout.readline() == "ready\n"
    for creator in creators:
        assert creator.stdin is not None
        creator.stdin.write("go\n")
        creator.stdin.flush()
    answers = sorted(creator.communicate(timeout=30)[0].strip() for creator in creators)

    assert answers == ["committed 0", *["refused TableMovedError"] * 3]
    assert Lake(str(tmp_path)).describe(TABLE, 1)["row_count"] == 600_000
    files = list((tmp_path / "bronze/rows").glob("*.parquet"))
    assert len(files) == len(Lake(str(tmp_path)).load(TABLE).file_uris())
