"""A child that is below no task: its worker's cgroup holds it, where there is one; without, it ends with the server.

What is expected of this machine is asked of a trial, so that the tests hold something on every one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from support import MARK, SLACK, Here, Server, end_marked, find, gone, kill, servers, until

from sluicegate.core.job import JobStatus
from sluicegate.workers import cgroup
from sluicegate.workers.cgroup import NAME, Cgroup, Cgroups, is_usable, open_cgroups, own_folder
from sluicegate.workers.process_tree import ProcessId

PIPELINES = """
import ctypes, os, platform, signal, time
from sluicegate import CancelPolicy, Task, bronze

CLONE_PARENT = 0x8000
CLONE = {"x86_64": 56, "aarch64": 220}[platform.machine()]

@bronze(cancel=CancelPolicy(interrupt_after="0.2s", terminate_after="0.4s", kill_after="20s"))
def sibling(task: Task):
    kind = task.params["kind"]
    if ctypes.CDLL(None).syscall(CLONE, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        if kind == "told":
            def told(*_):
                os.write(1, b"the sibling was told\\n")
                os._exit(0)
            signal.signal(signal.SIGTERM, told)
            os.write(1, b"sibling %d\\n" % os.getpid())
            while True:
                time.sleep(600)
        os.write(1, b"sibling %d\\n" % os.getpid())
        os.execvp("sleep", ["sleep", "600"])
    while kind == "told":  # deaf to the interrupt
        try:
            time.sleep(600)
        except BaseException:
            pass
    if kind == "hangs":
        time.sleep(600)
    time.sleep(0.5)  # its sibling says which it is

@bronze
def pid(task: Task):
    print("pid", os.getpid(), flush=True)
"""


@pytest.fixture(scope="module")
def usable() -> bool:
    """Whether a worker has a cgroup on this machine."""
    return is_usable()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    """A service, and no folder of its cgroups when it is closed."""
    with Here(tmp_path / "here", PIPELINES) as service:
        guard = find(service.guard)
        yield service
    assert folders(guard) == []


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers on the pipelines."""
    target = tmp_path / "pipelines.py"
    target.write_text(PIPELINES)
    with servers(tmp_path) as start_server:
        yield lambda: start_server(target)


def folders(guard: ProcessId | None) -> list[Path]:
    """The folders of the cgroups of a guard's workers."""
    if (folder := own_folder()) is None or guard is None:
        return []
    return list(folder.glob(f"sluicegate.{guard.pid}.{guard.started}.*"))


def sibling(here: Here, kind: str) -> tuple[str, ProcessId]:
    job_id = here.start("bronze.sibling", params={"kind": kind})
    process = find(int(here.said(job_id, "sibling")))
    assert process is not None
    return job_id, process


@pytest.mark.parametrize("mode", ["graceful", "force"])
def test_a_sibling_of_the_worker_is_gone_when_the_task_has_stopped(
    here: Here, usable: bool, mode: str
) -> None:
    """Without a cgroup it lives on, which is documented, and ends with the server."""
    job_id, process = sibling(here, "hangs")
    job = here.stop(job_id, mode)
    assert gone(process) is usable
    assert job.cancellation is not None
    [stopped] = job.cancellation.stopped
    assert stopped.processes_killed == usable + (mode == "force")


def test_a_sibling_is_gone_when_the_task_has_succeeded(here: Here, usable: bool) -> None:
    """Its worker is not clean, and is replaced."""
    job_id, process = sibling(here, "succeeds")
    assert here.wait(job_id).status is JobStatus.SUCCESS
    assert gone(process) is usable


def test_a_sibling_is_told_by_sigterm(here: Here, usable: bool) -> None:
    """It may clean up as anybody in the tree."""
    job_id, process = sibling(here, "told")
    here.stop(job_id)
    assert ("the sibling was told" in here.lines(job_id)) is usable
    assert gone(process) is usable


@pytest.mark.parametrize("who", [["guard"], ["zygote"], ["guard", "zygote"]])
def test_a_sibling_ends_with_the_guard_or_the_zygote(here: Here, who: list[str]) -> None:
    """Also by those that are left; without both, a cgroup is needed."""
    job_id, process = sibling(here, "hangs")
    for pid in [getattr(here, name) for name in who]:
        kill(pid)
    here.wait(job_id)
    if who != ["guard", "zygote"] or is_usable():
        until(lambda: gone(process), "the sibling to end", 2 * SLACK)
    here.run("bronze.pid")


@pytest.mark.parametrize(
    "who",
    [
        ["server"],
        pytest.param(["server", "guard"], marks=pytest.mark.proof),
        pytest.param(["server", "guard", "zygote"], marks=pytest.mark.proof),
    ],
)
def test_a_sibling_ends_when_the_server_is_killed(
    start: Callable[..., Server], usable: bool, who: list[str]
) -> None:
    """Also when those die that would have ended it; the next start removes the folders that they left."""
    server = start()
    job_id = server.start(pipelines=["bronze.sibling"], params={"kind": "hangs"})

    def said() -> list[str]:
        lines = [line["message"] for line in server.logs(job_id)]
        return [line for line in lines if line.startswith("sibling")]

    process = find(int(until(said, "the sibling to speak")[0].split()[1]))
    assert process is not None
    [guard] = children(server.process.pid)
    watchers = {"server": server.process.pid, "guard": guard, "zygote": min(children(guard))}
    identity = find(guard)
    assert bool(folders(identity)) is usable
    for name in who[1:]:
        kill(watchers[name], 19)  # SIGSTOP: so that none can act before the last is hit
    for name in who:
        kill(watchers[name])
    server.process.wait(10)
    if usable or "zygote" not in who:
        until(lambda: gone(process), "the sibling to end", 2 * SLACK)
    until(lambda: not [p for p in watchers.values() if find(p)], "all watchers gone", 2 * SLACK)
    server = start()
    until(lambda: not folders(identity), "the folders to be removed", 2 * SLACK)
    assert server.post(f"/api/jobs/{job_id}/cancel", {"mode": "force"}).status_code == 200
    server.wait(job_id)


def children(pid: int) -> list[int]:
    return [
        int(child)
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for child in (thread / "children").read_text().split()
    ]


def test_folders_of_ended_workers_go_while_the_server_lives(here: Here, usable: bool) -> None:
    """As many as there are workers, also after many of them."""
    guard = find(here.guard)
    for _ in range(3):
        job_id, _ = sibling(here, "hangs")
        here.stop(job_id, "force")
    until(lambda: len(folders(guard)) == 2 * usable, "one folder for each worker")


def test_without_a_cgroup_all_else_is_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing depends on it: here none can be made, and the sibling lives until the server ends."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'sluicegate.workers.guard' in sys.orig_argv:\n"
        "    from sluicegate.workers import cgroup\n"
        "    cgroup.own_folder = lambda: None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(cgroup, "own_folder", lambda: None)
    with Here(tmp_path / "here", PIPELINES) as here:
        job_id, process = sibling(here, "hangs")
        job = here.stop(job_id, "force")
        assert job.cancellation is not None
        assert job.cancellation.missing_means == ()
        assert not gone(process)
        assert here.job(here.run("bronze.pid")).status is JobStatus.SUCCESS
    assert gone(process)


@pytest.mark.parametrize("kill_file", [True, False])
def test_what_is_in_a_cgroup_is_ended_and_counted_once(
    usable: bool, monkeypatch: pytest.MonkeyPatch, kill_file: bool
) -> None:
    """Also in one that it made below, and on a kernel before 5.14, which has no `cgroup.kill`."""
    if not usable:
        assert open_cgroups(os.getpid()).of(1).end() == (0, True)
        return
    if not kill_file:
        write = cgroup._write

        def refuse(file: Path, text: str) -> None:
            if file.name == "cgroup.kill":
                raise FileNotFoundError(file)
            write(file, text)

        monkeypatch.setattr(cgroup, "_write", refuse)
    ours = open_cgroups(os.getpid()).of(1)
    assert ours.path is not None
    below = ours.path / "below"
    below.mkdir(parents=True)
    mark = uuid4().hex
    script = (
        "import os, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write('0'); os.fork(); input()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", script, str(folder)],
            stdin=subprocess.PIPE,
            env={**os.environ, MARK: mark},
        )
        for folder in (ours.path, below)
    ]
    try:
        until(lambda: len(ours.members()) == 4, "two processes in each")
        assert not ours.remove()
        assert ours.end() == (4, True)
        assert ours.members() == set()
        assert ours.remove()
        assert not ours.path.exists()
    finally:
        end_marked(mark)
        for process in processes:
            process.communicate()


def test_a_folder_that_is_in_use_is_never_removed(usable: bool) -> None:
    """A leftover is one whose guard is dead, and that is empty."""
    if not usable:
        assert open_cgroups(os.getpid()).enter(2) == Cgroup(None)
        return
    dead = Cgroups(own_folder(), ProcessId(2**22 + 1, 1)).of(2)
    alive = open_cgroups(os.getpid()).of(2)
    assert dead.path is not None
    assert alive.path is not None
    assert NAME.fullmatch(dead.path.name)
    for path in (dead.path, alive.path):
        path.mkdir()
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            (dead.path / "cgroup.procs").write_text(str(process.pid))
            open_cgroups(os.getpid()).remove_leftovers()
            assert dead.path.exists()
            assert alive.path.exists()
        finally:
            Cgroup(dead.path).end()
    open_cgroups(os.getpid()).remove_leftovers()
    assert not dead.path.exists()
    assert alive.remove()
