"""Disks that are full or cannot be written, a store that is damaged or away: one clear error, no loss, and it goes on.

With real processes and file systems. Where this user may not mount any, these are skipped by name; in CI they fail.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from deltalake import DeltaTable
from support import MARK, Here, Server, environment, servers, until

import warm_start
from postgresql_server import Programs
from postgresql_server import Server as PostgreSQL
from postgresql_server import server as postgresql
from sluicegate.backup import back_up
from sluicegate.config import Settings
from sluicegate.core.job import JobStatus, TaskStatus
from sluicegate.core.store_errors import StoreUnavailableError

PIPELINES = """
import os, time
from pathlib import Path
import pyarrow as pa
from sluicegate import Task, bronze

GO = Path(__file__).with_name("go")

@bronze
def small(): return [{"n": 1}]

@bronze
def waits(task: Task):
    print("it waits", flush=True)
    while not GO.exists():
        time.sleep(0.01)
        task.checkpoint()
    return [{"n": 1}]

@bronze(mode="append")
def large(task: Task):
    for n in range(task.params.get("batches", 1)):
        yield pa.table({"n": [n] * 100, "bytes": [os.urandom(10_000) for _ in range(100)]})
        task.log.info("a batch of 1 MB")
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers on homes of this test."""
    with servers(tmp_path) as start_one:
        (tmp_path / "pipelines.py").write_text(PIPELINES)
        yield lambda **options: start_one(tmp_path / "pipelines.py", **options)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB, to be filled."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = mount("-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder))
    if mounted.returncode and not os.environ.get("CI"):
        pytest.skip(f"no file system of its own: {mounted.stderr.strip()}")
    assert not mounted.returncode, mounted.stderr
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("mount") is None:
        return subprocess.CompletedProcess([], 1, "", "there is no mount")
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Leave no byte free for the length of the block."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    assert shutil.disk_usage(disk).free == 0
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Take away the right to write for the length of the block, also from root."""
    changed = mount("-o", "remount,ro", str(disk))
    assert changed.returncode == 0, changed.stderr
    try:
        yield
    finally:
        assert mount("-o", "remount,rw", str(disk)).returncode == 0


def is_out_of_order(answer: httpx.Response, *told: str) -> bool:
    """Whether a call was refused as it should be: 503, what and mend, and no incident."""
    assert answer.status_code in (200, 201, 503), answer.text
    if answer.status_code != 503:
        return False
    problem = answer.json()
    assert problem["code"] == "store_unavailable"
    assert problem["mend"]
    assert "Retry-After" in answer.headers
    assert all(text in problem["detail"] + problem["mend"] for text in told), problem
    return True


def said(server: Server, job_id: str, text: str) -> None:
    until(lambda: any(text in line["message"] for line in server.logs(job_id)), f"{text!r}")


def two_lines(command: subprocess.CompletedProcess[str], *told: str) -> None:
    """A command that could not do it: exit code 1, one line what, one line how to mend it."""
    assert command.returncode == 1, command.stderr
    what, mend = command.stderr.splitlines()
    assert what.startswith("error: ")
    assert mend.startswith(" mend: ")
    assert all(text in command.stderr for text in told), command.stderr


def sluicegate(folder: Path, *arguments: str, **settings: str) -> Any:
    return warm_start.run(arguments, cwd=folder, env=environment(folder, "bad-days", **settings))


# ------------------------------------------------------------------ disks


def test_a_home_whose_disk_is_full_goes_on_when_there_is_room(
    start: Callable[..., Server], disk: Path, tmp_path: Path
) -> None:
    """What was answered is kept, what cannot be kept is refused, and what runs waits with its end."""
    server = start(home="disk", lake=str(tmp_path / "lake"), landing=str(tmp_path / "landing"))
    before = server.start(pipelines=["bronze.small"])
    server.wait(before)
    running = server.start(pipelines=["bronze.waits"])
    said(server, running, "it waits")
    with filled(disk):
        # The log of the database may have some room in it yet.
        until(
            lambda: is_out_of_order(
                server.post(
                    "/api/jobs", {"pipelines": ["bronze.small"], "params": {"x": "y" * 60_000}}
                ),
                "full",
                "free some space",
            ),
            "a refusal",
        )
        assert server.job(before)["status"] == "success"
        (tmp_path / "go").touch()
        refused = [
            is_out_of_order(server.post("/api/jobs", {"pipelines": ["bronze.small"]}))
            for _ in range(3)
        ]
    job = server.wait(running)
    assert (job["status"], job["tasks"][0]["attempt"]) == ("success", 1)
    assert server.wait(server.start(pipelines=["bronze.small"]))["status"] == "success"
    listed = server.get("/api/jobs", limit=500)["jobs"]
    assert {before, running} < {job["job_id"] for job in listed}
    assert any(refused) or len(listed) > 3


@pytest.mark.parametrize("when", ["before", "while it writes"])
def test_a_lake_whose_disk_is_full_fails_the_task_and_keeps_the_table(
    tmp_path: Path, disk: Path, when: str
) -> None:
    """The error says what to do; no half file takes the room that is missing; the next run is whole."""
    with Here(tmp_path, PIPELINES, lake=str(disk / "lake")) as here:
        first = here.run("bronze.large")
        assert here.job(first).status is JobStatus.SUCCESS, here.task(first).error
        table = disk / "lake" / "bronze" / "large"
        free = shutil.disk_usage(disk).free
        if when == "before":
            with filled(disk):
                job_id = here.run("bronze.large")
        else:
            job_id = here.run("bronze.large", params={"batches": 60})
        assert here.job(job_id).status is JobStatus.FAILED
        what, mend = (here.task(job_id).error or "").splitlines()
        assert "cannot use the lake for bronze.large" in what
        assert "No space left on device" in what
        assert "free some space" in mend
        assert str(disk / "lake") in mend
        until(lambda: shutil.disk_usage(disk).free >= free - 65_536, "the room to be given back")
        assert DeltaTable(str(table)).to_pyarrow_table().num_rows == 100
        again = here.run("bronze.large")
        assert here.job(again).status is JobStatus.SUCCESS, here.task(again).error
        assert DeltaTable(str(table)).to_pyarrow_table().num_rows == 200


@pytest.mark.parametrize("when", ["before", "while it runs"])
def test_a_read_only_lake_can_be_read_and_is_written_again_later(
    tmp_path: Path, disk: Path, when: str
) -> None:
    """A disk with an error is mounted read-only by the system: at any moment."""
    with Here(tmp_path, PIPELINES, lake=str(disk / "lake")) as here:
        for pipeline in ("bronze.small", "bronze.large"):
            here.run(pipeline)
        job_id = None
        if when != "before":
            job_id = here.start("bronze.waits")
            here.said(job_id, "it waits")
        with read_only(disk):
            job_id = job_id or here.start("bronze.waits")
            (tmp_path / "go").touch()
            assert here.wait(job_id).status is JobStatus.FAILED
            what, mend = (here.task(job_id).error or "").splitlines()
            assert "Read-only file system" in what
            assert "mount the disk" in mend
            assert (
                here.service.tables.describe("bronze.small", limit=5, version=None)["row_count"]
                == 1
            )
        job_id = here.run("bronze.waits")
        assert here.job(job_id).status is JobStatus.SUCCESS, here.task(job_id).error


def test_a_read_only_home_is_said_before_anything_starts(tmp_path: Path, disk: Path) -> None:
    """With the lines of every other error, whatever it is that cannot be written first."""
    (tmp_path / "pipelines.py").write_text(PIPELINES)
    assert (
        sluicegate(tmp_path, "run", "pipelines.py", "bronze.small", home="disk/home").returncode
        == 0
    )
    with read_only(disk):
        done = sluicegate(tmp_path, "run", "pipelines.py", "bronze.small", home="disk/home")
        two_lines(done, "disk/home", "Read-only file system", "writable")
    assert (
        sluicegate(tmp_path, "run", "pipelines.py", "bronze.small", home="disk/home").returncode
        == 0
    )


# ------------------------------------------------------------------ damage


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    match how:
        case "garbage":
            path.write_bytes(b"\x9c" * len(content))
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "emptied":
            path.write_bytes(b"")
        case "moved away":  # by a restore that was killed a moment later
            path.rename(path.with_name("jobs.db.before-restore-20260101T000000"))


@pytest.mark.parametrize(
    "how",
    [
        "garbage",
        "moved away",
        pytest.param("truncated", marks=pytest.mark.proof),
        pytest.param("emptied", marks=pytest.mark.proof),
    ],
)
def test_a_damaged_store_is_refused_left_alone_and_can_be_put_back(
    tmp_path: Path, how: str
) -> None:
    """Nothing is begun anew over the remains; with a copy everything is there again."""
    with Here(tmp_path, PIPELINES) as here:
        kept = [here.run("bronze.small") for _ in range(3)]
        back_up(here.settings, tmp_path / "copy.db")
    path = here.settings.home / "jobs.db"
    spoil(path, how)
    before = path.read_bytes() if path.exists() else None
    for command in (("serve", "pipelines.py", "--port", "0"), ("jobs", "list")):
        two_lines(sluicegate(tmp_path, *command), str(path), "backup")
    assert (path.read_bytes() if path.exists() else None) == before
    done = sluicegate(tmp_path, "restore", "copy.db", "--yes")
    assert done.returncode == 0, done.stderr
    with Here(tmp_path, PIPELINES) as here:
        assert {here.job(job_id).status for job_id in kept} == {JobStatus.SUCCESS}
        assert here.job(here.run("bronze.small")).status is JobStatus.SUCCESS


@pytest.mark.parametrize("how", ["garbage", pytest.param("truncated", marks=pytest.mark.proof)])
def test_damage_under_a_running_server_is_told_and_ends_nothing(
    start: Callable[..., Server], tmp_path: Path, how: str
) -> None:
    """It answers rightly from what it has in memory, or says that the store is damaged; never anything else."""
    server = start()
    kept = [server.start(pipelines=["bronze.small"]) for _ in range(20)]
    for job_id in kept:
        server.wait(job_id)
    settings = Settings.load({"home": str(tmp_path / "home")}, environ={}, folder=tmp_path)
    back_up(settings, tmp_path / "copy.db")
    path = tmp_path / "home" / "jobs.db"
    with path.open("r+b") as file:
        size = path.stat().st_size
        if how == "truncated":
            file.truncate(size // 2)
        else:
            file.write(b"\x9c" * size)
    for job_id in kept:
        answer = server.http.get(f"/api/jobs/{job_id}")
        if not is_out_of_order(answer):
            assert answer.json()["status"] == "success"
        is_out_of_order(server.http.get(f"/api/jobs/{job_id}/logs"))
    is_out_of_order(server.post("/api/jobs", {"pipelines": ["bronze.small"]}))
    assert server.http.get("/health/live").status_code == 200
    server.terminate(30)
    for beside in tmp_path.glob("home/jobs.db-*"):
        beside.unlink()  # what it may have written over the damage
    spoil(path, "garbage")
    two_lines(sluicegate(tmp_path, "jobs", "list"), "backup")
    assert sluicegate(tmp_path, "restore", "copy.db", "--yes").returncode == 0
    server = start()
    assert [server.job(job_id)["status"] for job_id in kept] == ["success"] * 20


# ------------------------------------------------------------------ a store that is away


@pytest.fixture
def own_server(postgresql_programs: Programs) -> Iterator[PostgreSQL]:
    """A PostgreSQL that can be stopped: nobody else uses it."""
    with postgresql(postgresql_programs) as one:
        yield one


@pytest.mark.parametrize(
    ("lease_seconds", "away_seconds", "attempts"),
    [pytest.param(15, 3, 1, id="within the lease"), pytest.param(3, 6, 2, id="beyond the lease")],
)
def test_a_store_that_was_away_for_a_while_costs_no_job(
    tmp_path: Path,
    own_server: PostgreSQL,
    monkeypatch: pytest.MonkeyPatch,
    lease_seconds: int,
    away_seconds: int,
    attempts: int,
) -> None:
    """Within the lease the task runs on; beyond it, it is ended and taken up again, and that is no recovery."""
    url = own_server.url("head")
    with Here(tmp_path, PIPELINES, store=url, lease_seconds=lease_seconds) as here:
        before = here.run("bronze.small")
        running = here.start("bronze.waits")
        here.said(running, "it waits")
        own_server.stop()
        with pytest.raises(StoreUnavailableError) as caught:
            here.start("bronze.small")
        assert caught.value.mend.startswith("check that the server runs")
        time.sleep(away_seconds)  # what is tried is an absence of this length
        with monkeypatch.context() as without_mark:  # PostgreSQL is none of our processes
            without_mark.delenv(MARK)
            own_server.start()
        until(lambda: _answers(here), "the store to be in use again", 30)
        if attempts > 1:
            until(
                lambda: here.task(running).attempt == attempts, "the task to be taken up again", 60
            )
        (tmp_path / "go").touch()
        job = here.wait(running, 60)
        assert job.status is JobStatus.SUCCESS
        assert job.recoveries == 0
        assert (here.task(running).attempt, here.task(running).status) == (
            attempts,
            TaskStatus.SUCCESS,
        )
        assert here.job(before).status is JobStatus.SUCCESS
        assert here.job(here.run("bronze.small")).status is JobStatus.SUCCESS


def _answers(here: Here) -> bool:
    try:
        here.service.store.last_event_id()
    except StoreUnavailableError:
        return False
    return True
