"""Real worker processes: what a task does to its own never reaches another task, the server, or anybody else."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from support import SLACK, Here, descriptors, find, gone, kill, until

from sluicegate.core.job import JobStatus, TaskStatus
from sluicegate.core.ports import TaskBegan, TaskEnded, WorkerEvent
from sluicegate.workers.local import LocalWorkers

PIPELINES = '''
import ctypes, faulthandler, gc, json, logging, os, resource, signal, socket, subprocess, sys, threading, time
from sluicegate import Task, bronze
from sluicegate.errors import Cancelled

@bronze
def look(task: Task):
    """What a task finds when it starts."""
    print("cwd", os.getcwd())
    print("environ", os.environ.get("LEAK"))
    print("handlers", signal.getsignal(signal.SIGUSR2), signal.getsignal(signal.SIGTERM))
    old = os.umask(0o22); os.umask(old)
    print("umask", old)
    print("limits", resource.getrlimit(resource.RLIMIT_FSIZE), resource.getrlimit(resource.RLIMIT_NOFILE))
    print("timers", [signal.getitimer(t)[0] for t in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)])
    print("mask", signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    print("threads", len(sys._current_frames()))
    print("gc", gc.isenabled(), "recursion", sys.getrecursionlimit(), "timeout", socket.getdefaulttimeout())
    print("logging", len(logging.root.handlers), logging.root.level, logging.root.manager.disable)
    print("path", "/leak" in sys.path)
    print("user", os.getuid(), "nice", os.getpriority(os.PRIO_PROCESS, 0))

@bronze
def pid(task: Task):
    print("pid", os.getpid(), flush=True)

@bronze
def changes(task: Task):
    """Puts the process into a state that can be put back."""
    os.chdir("/")
    os.environ["LEAK"] = "yes"
    os.environ["TZ"] = "Asia/Tokyo"
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.umask(0o77)
    sys.stdout = open(os.devnull, "w")
    sys.path.insert(0, "/leak")
    signal.alarm(1)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.2)
    logging.basicConfig(level=1)
    logging.disable(logging.CRITICAL)

@bronze
def dirty(task: Task):
    """Does what `kind` says, of what cannot be put back."""
    kind = task.params["kind"]
    print("pid", os.getpid(), flush=True)
    if kind == "thread":
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    elif kind == "raw thread":
        import _thread
        _thread.start_new_thread(time.sleep, (600,))
        time.sleep(0.1)  # it is there once it has begun
    elif kind == "child":
        subprocess.Popen(["sleep", "600"])
    elif kind == "daemon":
        daemon()
    elif kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
    elif kind == "mask":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    elif kind == "closed":
        sys.stdout.close()
    elif kind == "stdout":
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    elif kind == "fds":
        os.closerange(0, 200)
    elif kind == "folder":
        os.mkdir("gone"); os.chdir("gone"); os.rmdir(os.getcwd())
    elif kind == "user":
        os.setegid(65534)
    elif kind == "settings":
        gc.disable(); sys.setrecursionlimit(5000); socket.setdefaulttimeout(1)

def daemon(more=()):
    """Fork twice, in a session of its own, as daemons do."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in more:
                signal.signal(number, signal.SIG_IGN)
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            time.sleep(600)
        os._exit(0)
    os.wait()

@bronze
def says(task: Task):
    """Speaks in every way there is."""
    for n in range(50):
        print("out", n)
        print("err", n, file=sys.stderr)
        task.log.info("log %d", n)
        os.write(1, b"raw %d\\n" % n)
    subprocess.run(["sh", "-c", "for n in 0 1 2; do echo child $n; done; echo oops >&2"])
    task.log.warning("bad %d", "call")
    task.log.error("half a pair: \\udcff")
    print("half a pair: \\udcff")
    os.write(1, b"not utf-8: \\xff\\n")
    os.write(1, b"x" * 100_000 + b"\\n")
    print("no newline at the end", end="")

@bronze
def live(task: Task):
    print("first", flush=True)
    deadline = time.monotonic() + 30
    while not os.path.exists(task.params["go"]) and time.monotonic() < deadline:
        time.sleep(0.01)
    print("second")

@bronze
def threads_say(task: Task):
    """Lines of two threads and a child at once must not mix."""
    def say(who):
        for n in range(2000):
            print(who, n, "." * 50)
    code = "import os\\nfor n in range(2000): os.write(1, f'c {n} {chr(46) * 50}\\\\n'.encode())"
    child = subprocess.Popen([sys.executable, "-c", code])
    threads = [threading.Thread(target=say, args=(who,)) for who in "ab"]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    child.wait()

@bronze
def flood(task: Task):
    for n in range(25_000):
        print("line", n)

@bronze
def flood_two(task: Task):
    for n in range(25_000):
        task.log.info("line %d", n)

@bronze
def dies(task: Task):
    kind = task.params["kind"]
    print("pid", os.getpid())
    if kind == "exit": exit(3)
    if kind == "_exit": os._exit(4)
    if kind == "segfault": ctypes.string_at(0)
    if kind == "memory": raise MemoryError
    if kind == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if kind == "group": os.killpg(0, signal.SIGKILL)
    if kind == "cancelled": raise Cancelled
    if kind == "str":
        class Odd(Exception):
            def __str__(self): raise ValueError
        raise Odd
    if kind == "surrogate": raise ValueError("half \\udcff")
    if kind == "garbage":
        for fd in range(3, 30):
            try: os.write(fd, b"\\xff" * 64)
            except OSError: pass
        time.sleep(600)
    if kind == "interrupt": signal.raise_signal(signal.SIGINT)

@bronze
def forks(task: Task):
    """Both of them return; only one is the task."""
    child = os.fork()
    task.log.info("%s %d", "parent" if child else "child", os.getpid())
    task.progress(1, 2)
    if child:
        time.sleep(0.5)
        print("the task returns")

@bronze
def progress(task: Task):
    import numpy, decimal
    task.progress(numpy.int64(3), decimal.Decimal(4), "files")
    for odd in (float("nan"), "many", None):
        try:
            task.progress(odd, 10)
        except (TypeError, ValueError) as error:
            print("refused", error)

@bronze
def sleeps(task: Task):
    print("pid", os.getpid(), flush=True)
    time.sleep(float(task.params.get("seconds", 600)))

@bronze
def family(task: Task):
    """Everything that one might forget to end."""
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(600)
        time.sleep(600)
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    stopped = os.fork()
    if stopped == 0:
        time.sleep(600)
    os.kill(stopped, signal.SIGSTOP)
    daemon(more=(signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    subprocess.Popen(["sh", "-c", "trap '' TERM INT HUP; sleep 600 & sleep 600"], start_new_session=True)
    print("ready", flush=True)
    time.sleep(600)

@bronze
def bomb(task: Task):
    """Forks for as long as it lives: children that fork while they are killed, and parents that vanish."""
    bound = time.monotonic() + 20
    vanish = task.params["kind"] == "vanish"
    own_session = task.params["kind"] == "sessions"
    print("ready", flush=True)
    for _ in range(4):
        if os.fork() == 0:
            while time.monotonic() < bound:
                if vanish:
                    if os.fork():
                        os._exit(0)
                else:
                    if own_session and os.fork() == 0:
                        os.setsid()
                        time.sleep(bound - time.monotonic())
                        os._exit(0)
                    if not own_session and os.fork() == 0:
                        time.sleep(0.2)
                        os._exit(0)
                    time.sleep(0.002)
            os._exit(0)
    time.sleep(600)

@bronze
def blocked(task: Task):
    """Holds the interpreter's lock in C: no Python thread can run."""
    print("pid", os.getpid(), flush=True)
    ctypes.PyDLL(None).sleep(600)

for number in range(200):
    exec(f"""
@bronze(name="many_{number}")
def many(task: Task):
    print({number})
    if {number} % 20 == 0:
        subprocess.Popen(["sleep", "600"])
""")
'''


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """One service with two workers."""
    with Here(tmp_path_factory.mktemp("workers"), PIPELINES) as service:
        yield service


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """One service with one worker: the next task is in the same process, if that is clean."""
    with Here(tmp_path_factory.mktemp("single"), PIPELINES, workers=1) as service:
        yield service


def pid_of(here: Here, job_id: str) -> int:
    return int(here.said(job_id, "pid"))


# -------------------------------------------------------------------- isolation


def test_what_a_task_changes_is_put_back(single: Here) -> None:
    """The next task finds the process as the first one did, and it is the same process."""
    before = single.lines(single.run("bronze.look"), "stdout")
    first = pid_of(single, single.run("bronze.pid"))
    changed = single.run("bronze.changes")
    assert single.job(changed).status is JobStatus.SUCCESS
    assert single.lines(single.run("bronze.look"), "stdout") == before
    time.sleep(1.1)  # the alarm of the task before would ring now
    assert pid_of(single, single.run("bronze.pid")) == first


@pytest.mark.parametrize(
    "kind",
    [
        "thread",
        "raw thread",
        "child",
        "daemon",
        "limit",
        "mask",
        "closed",
        "stdout",
        "folder",
        "user",
        "settings",
    ],
)
def test_a_worker_that_cannot_be_put_back_is_replaced(single: Here, kind: str) -> None:
    """The task has succeeded; its process runs no other one, and nothing of it is left."""
    if kind == "user" and os.getuid() != 0:
        pytest.skip("only root can change its group")
    before = single.lines(single.run("bronze.look"), "stdout")
    job_id = single.run("bronze.dirty", params={"kind": kind})
    worker = pid_of(single, job_id)
    assert single.job(job_id).status is JobStatus.SUCCESS, single.lines(job_id)
    assert pid_of(single, single.run("bronze.pid")) != worker
    assert single.lines(single.run("bronze.look"), "stdout") == before
    assert find(worker) is None
    until(lambda: len(single.alive()) == 3, "guard, zygote and one worker, nothing else")


def test_a_task_that_closes_every_descriptor_fails_alone(single: Here) -> None:
    """Old daemon code does that; it must not leave a worker that nobody hears."""
    job_id = single.run("bronze.dirty", params={"kind": "fds"})
    assert single.job(job_id).status is JobStatus.FAILED
    assert "its worker died" in (single.task(job_id).error or "")
    assert single.job(single.run("bronze.pid")).status is JobStatus.SUCCESS


def test_a_clean_worker_is_used_again(single: Here) -> None:
    """Warm processes are the point of having them."""
    pids = {pid_of(single, single.run("bronze.pid")) for _ in range(5)}
    assert len(pids) == 1


# -------------------------------------------------------------------- output


def test_all_that_a_task_says_is_in_its_log(here: Here) -> None:
    """In order per stream, attributed to the task, whatever it was written with."""
    job_id = here.run("bronze.says")
    assert here.job(job_id).status is JobStatus.SUCCESS, here.lines(job_id)
    task = here.task(job_id)
    entries = here.entries(job_id)
    out = [e.message for e in entries if e.stream == "stdout"]
    spoken = [f"{kind} {n}" for n in range(50) for kind in ("out", "raw")]
    assert out[:100] == spoken
    assert out[100:105] == [
        "child 0",
        "child 1",
        "child 2",
        "half a pair: \\udcff",
        "not utf-8: \ufffd",
    ]
    assert "".join(out[105:-1]) == "x" * 100_000
    assert out[-1] == "no newline at the end"
    err = [e.message for e in entries if e.stream == "stderr"]
    assert [line for line in err if line.startswith("err")] == [f"err {n}" for n in range(50)]
    assert "oops" in err
    assert any("Logging error" in line for line in err)
    logged = [e.message for e in entries if e.stream == "log"]
    assert logged == [*(f"log {n}" for n in range(50)), "half a pair: ?"]
    assert {e.task_id for e in entries if e.stream in ("stdout", "stderr", "log")} == {task.task_id}


def test_lines_arrive_while_the_task_runs(here: Here, tmp_path: Path) -> None:
    """Somebody watches."""
    job_id = here.start("bronze.live", params={"go": str(tmp_path / "go")})
    here.said(job_id, "first")
    assert here.job(job_id).status is JobStatus.RUNNING
    assert "second" not in here.lines(job_id)
    (tmp_path / "go").touch()
    here.wait(job_id)
    assert here.lines(job_id, "stdout") == ["first", "second"]


def test_lines_of_threads_and_children_do_not_mix(here: Here) -> None:
    """A line is one write."""
    job_id = here.run("bronze.threads_say")
    lines = here.lines(job_id, "stdout")
    assert len(lines) == 6000
    assert [line for line in lines if not re.fullmatch(r"[abc] \d+ \.{50}", line)] == []
    for who in "abc":
        numbers = [int(line.split()[1]) for line in lines if line.startswith(who)]
        assert numbers == list(range(2000))


@pytest.mark.parametrize("pipeline", ["bronze.flood", "bronze.flood_two"])
def test_a_flood_of_output_loses_nothing_and_blocks_nobody(here: Here, pipeline: str) -> None:
    """A task that prints 25,000 lines is no reason for another one, or for a stop, to wait."""
    began = time.monotonic()
    job_id = here.start(pipeline)
    waits = []
    while not here.job(job_id).is_over:
        asked = time.monotonic()
        other = here.start("bronze.sleeps", params={"seconds": 30})
        here.cancel(other)
        waits.append(time.monotonic() - asked)
        here.wait(other)
        assert time.monotonic() - began < 60
    took = time.monotonic() - began
    lines = [e.message for e in here.entries(job_id) if e.stream in ("stdout", "log")]
    assert lines == [f"line {n}" for n in range(25_000)]
    waits.sort()
    middle = waits[len(waits) // 2]
    print(f"{pipeline}: {took:.2f} s, run + cancel beside it: {middle * 1000:.0f} ms (median)")
    assert middle < 0.1 * SLACK


# -------------------------------------------------------------------- deaths


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("exit", "exit(3)"),
        ("_exit", "its worker died: it exited with code 4"),
        ("segfault", "killed by SIGSEGV"),
        ("memory", "MemoryError"),
        ("kill", "killed by SIGKILL"),
        ("group", "killed by SIGKILL"),
        ("cancelled", "raised Cancelled, but nobody stopped it"),
        ("str", "Odd: (its message cannot be read)"),
        ("surrogate", "half ?"),
        ("garbage", "its worker died"),
        ("interrupt", "KeyboardInterrupt"),
    ],
)
def test_a_death_fails_one_attempt_with_a_clear_message(here: Here, kind: str, told: str) -> None:
    """Others go on; the pool is whole again."""
    other = here.start("bronze.sleeps", params={"seconds": 0.3})
    job_id = here.run("bronze.dies", params={"kind": kind})
    task = here.task(job_id)
    assert task.status is TaskStatus.FAILED
    assert told in (task.error or ""), task.error
    assert here.wait(other).status is JobStatus.SUCCESS
    both = [here.start("bronze.pid"), here.start("bronze.pid")]
    assert {here.wait(one).status for one in both} == {JobStatus.SUCCESS}


def test_a_child_that_returns_from_the_pipeline_is_not_the_task(here: Here) -> None:
    """Its parent is; the task ends when the parent does."""
    job_id = here.run("bronze.forks")
    assert here.job(job_id).status is JobStatus.SUCCESS, here.lines(job_id)
    assert "the task returns" in here.lines(job_id, "stdout")
    [parent] = [line for line in here.lines(job_id, "log") if line.startswith("parent")]
    [child] = [line for line in here.lines(job_id, "stderr") if line.startswith("child")]
    assert find(int(child.split()[1])) is None
    assert parent.split()[1] != child.split()[1]


def test_progress_is_a_finite_number_or_an_error_of_the_task(here: Here) -> None:
    """Nonsense must not reach the store, where it would break every reader."""
    job_id = here.run("bronze.progress")
    task = here.task(job_id)
    assert task.status is TaskStatus.SUCCESS, task.error
    assert task.progress is not None
    assert (task.progress.done, task.progress.total) == (3, 4)
    assert len([x for x in here.lines(job_id) if x.startswith("refused")]) == 3


def test_a_worker_killed_between_tasks_is_replaced(here: Here) -> None:
    """Nobody notices."""
    here.run("bronze.pid")
    before = until(lambda: len(here.workers()) == 2 and here.workers(), "two workers")
    dead = [kill(pid) for pid in before]  # type: ignore[union-attr]
    until(lambda: all(map(gone, dead)), "both dead")
    until(lambda: len(here.workers() - set(before)) == 2, "two new workers")  # type: ignore[call-overload]
    job_id = here.run("bronze.pid")
    assert here.job(job_id).status is JobStatus.SUCCESS


@pytest.mark.parametrize("who", [["guard"], ["zygote"], ["guard", "zygote"]])
def test_a_guard_or_zygote_that_dies_is_replaced(here: Here, who: list[str]) -> None:
    """Its tasks end, with all that they started; the server goes on."""
    job_id = here.start("bronze.family")
    here.said(job_id, "ready")
    before = here.alive()
    for pid in [getattr(here, name) for name in who]:
        kill(pid)
    job = here.wait(job_id)
    assert not {p for p in before if not gone(p)}
    assert job.status is JobStatus.FAILED
    assert "its worker died" in (here.task(job_id).error or "")
    again = here.run("bronze.pid")
    assert here.job(again).status is JobStatus.SUCCESS


def test_a_guard_and_a_zygote_that_are_seen_to_die_at_once_are_replaced(here: Here) -> None:
    """What the first is done about closes the channel of the second; the one thread that listens must live."""
    here.run("bronze.pid")
    workers: Any = here.service.tables
    pids = here.guard, here.zygote
    with workers._lock:
        workers._wake()  # it has looked, and waits for the lock
        both = [kill(pid) for pid in pids]
        until(lambda: all(map(gone, both)), "both dead")
        time.sleep(0.1)  # the ends of their sockets are closed a moment later
    again = here.run("bronze.pid")
    assert here.job(again).status is JobStatus.SUCCESS


# -------------------------------------------------------------------- force


ALONE = """
import socket, subprocess, sys, threading
from sluicegate.workers.cgroup import Cgroup
from sluicegate.workers.channel import Channel
from sluicegate.workers.main import Worker

class Slow(Worker):
    def _listen(self):  # its control thread comes too late to see anything
        threading.Event().wait()

child = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(child.pid, flush=True)
theirs, ours = socket.socketpair()
worker = Slow(Channel(ours), {"lake": sys.argv[1]}, Cgroup(None))
worker._inbox.put({"kind": "call", "id": 1, "call": "list_tables", "arguments": {}})
theirs.close()
worker.serve()
"""


def test_a_worker_whose_main_thread_is_first_to_see_that_all_are_gone_ends_its_tree(
    tmp_path: Path,
) -> None:
    """With server, guard and zygote dead nobody else is left to do it, whichever thread comes first."""
    worker = subprocess.Popen(
        [sys.executable, "-c", ALONE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    with worker.stdout:
        child = find(int(worker.stdout.readline()))
    assert child is not None
    try:
        assert worker.wait(30) == -signal.SIGKILL
        until(lambda: gone(child), "its child to be gone")
    finally:
        worker.kill()
        if not gone(child):
            kill(child.pid)


def test_force_ends_the_whole_tree(here: Here) -> None:
    """Child, grandchild, own session, stopped, daemon, and those that ignore every signal; and nobody else."""
    here.run("bronze.pid")
    until(lambda: len(here.alive()) == 4, "guard, zygote and two workers")
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    other = here.start("bronze.sleeps")
    job_id = here.start("bronze.family")
    here.said(job_id, "ready")
    other_pid = pid_of(here, other)
    try:
        assert len(here.alive()) >= 4 + 7
        began = time.monotonic()
        job = here.stop(job_id, "force")
        took = time.monotonic() - began
        assert len(here.alive()) <= 4 + 1  # at once: not a moment later
        assert job.cancellation is not None
        [stopped] = job.cancellation.stopped
        assert stopped.stage == "kill"
        assert stopped.processes_killed >= 8
        print(f"force: {stopped.processes_killed} processes in {took * 1000:.0f} ms")
        assert took < 1 * SLACK
        assert find(other_pid) is not None
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
        here.stop(other, "force")


@pytest.mark.parametrize("kind", ["children", "sessions", "vanish"])
def test_force_ends_a_fork_bomb(here: Here, kind: str) -> None:
    """It forks while it is killed."""
    job_id = here.start("bronze.bomb", params={"kind": kind})
    here.said(job_id, "ready")
    time.sleep(0.3)
    began = time.monotonic()
    here.stop(job_id, "force")
    print(f"bomb of {kind}: {(time.monotonic() - began) * 1000:.0f} ms")
    assert len(here.alive()) <= 4
    assert here.job(here.run("bronze.pid")).status is JobStatus.SUCCESS


def test_force_ends_a_task_that_holds_the_interpreter(here: Here) -> None:
    """No Python thread of the worker can run; the guard needs none."""
    job_id = here.start("bronze.blocked")
    worker = pid_of(here, job_id)
    here.stop(job_id, "force")
    assert find(worker) is None


def test_a_worker_that_is_stopped_by_a_signal_can_be_ended(here: Here) -> None:
    """SIGSTOP is no way out."""
    job_id = here.start("bronze.sleeps")
    worker = pid_of(here, job_id)
    kill(worker, signal.SIGSTOP)
    here.stop(job_id, "force")
    assert find(worker) is None


# -------------------------------------------------------------------- leaks


def test_nothing_leaks_over_many_tasks_and_stops(here: Here) -> None:
    """As many descriptors and processes after 200 tasks and 20 stops as before."""
    here.run("bronze.pid")

    def counts() -> tuple[int, int, int]:
        return descriptors(os.getpid()), descriptors(here.guard), descriptors(here.zygote)

    until(lambda: len(here.alive()) == 4, "guard, zygote and two workers")
    before = counts()
    job_id = here.run(*(f"bronze.many_{n}" for n in range(200)))
    assert here.job(job_id).completed_tasks == 200
    for _ in range(20):
        stopped = here.start("bronze.sleeps")
        here.said(stopped, "pid")
        here.stop(stopped, "force")
    until(lambda: len(here.alive()) == 4, "guard, zygote and two workers")
    assert counts() == before


def test_each_task_is_told_to_have_begun_once(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one of a worker by itself, for it loads before; a later one begins as it is handed over."""
    workers = cast("LocalWorkers", here.service.tables)
    heard: list[tuple[str, str]] = []
    listener = workers._listener

    def listen(event: WorkerEvent) -> None:
        if isinstance(event, TaskBegan | TaskEnded):
            heard.append((event.task_id, type(event).__name__))
        listener(event)

    monkeypatch.setattr(workers, "_listener", listen)
    here.run("bronze.dirty", params={"kind": "thread"})  # at least one worker is new after it
    tasks = [here.task(here.run("bronze.pid")).task_id for _ in range(6)]
    for task_id in tasks:
        of_task = [kind for of, kind in heard if of == task_id]
        assert of_task == ["TaskBegan", "TaskEnded"]
