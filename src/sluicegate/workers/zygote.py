"""Forks workers from a process that has the libraries loaded, so that a new worker is ready in milliseconds.

It imports libraries and never uses them, and never loads user code: a fork copies only the calling thread, so nothing
here may have started work of its own.

Messages in: `{"preload": [module]}`, `{"spawn": worker_id, "role", "settings"}` with three descriptors: the worker's
channel, its stdout, its stderr. Messages out: `{"spawned": worker_id, "pid", "started"}`, `{"exited": pid, "status"}`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import warnings
from typing import Final, NoReturn

from sluicegate.workers.cgroup import Cgroups
from sluicegate.workers.channel import Channel, ChannelClosedError, Message
from sluicegate.workers.process_tree import become_subreaper, find, kill_below, signal_with_parent

# Told by the kernel when the guard dies: then we do its work.
GUARD_GONE: Final = signal.SIGUSR1


def serve(channel: Channel, guard: int, cgroups: Cgroups) -> None:
    """Fork workers until the executor or the guard is gone; then end them, with all that they started."""
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    for signum in (signal.SIGCHLD, GUARD_GONE):
        signal.signal(signum, lambda *_: None)
    signal_with_parent(GUARD_GONE)
    try:
        while os.getppid() == guard:
            readable, _, _ = select.select([channel.fileno(), wake_reader], [], [])
            if wake_reader in readable:
                os.read(wake_reader, 4096)
                _report_exits(channel)
            if channel.fileno() in readable:
                for message in channel.receive_ready():
                    _obey(channel, message, cgroups, wake_reader, wake_writer)
    except ChannelClosedError:
        pass
    become_subreaper()
    kill_below(os.getpid())
    cgroups.end_all()


def _obey(channel: Channel, message: Message, cgroups: Cgroups, *own_fds: int) -> None:
    if "preload" in message:
        gc.disable()  # nothing of it is dropped
        for module in message["preload"]:
            with contextlib.suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(module)
        # What is loaded now is shared by all workers: keep the collector from touching, and so copying, it.
        gc.collect()
        gc.freeze()
        gc.enable()
    elif "spawn" in message:
        fds = channel.take_fds(3)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # forking beside a library's idle threads
            pid = os.fork()
        if not pid:
            _become_worker(channel, message, cgroups, fds, own_fds)
        for fd in fds:
            os.close(fd)
        process = find(pid)
        channel.send(
            {"spawned": message["spawn"], "pid": pid, "started": process.started if process else 0}
        )


def _become_worker(
    channel: Channel,
    message: Message,
    cgroups: Cgroups,
    fds: list[int],
    own_fds: tuple[int, ...],
) -> NoReturn:
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGCHLD, GUARD_GONE):
            signal.signal(signum, signal.SIG_DFL)
        channel.close()
        for fd in own_fds:
            os.close(fd)
        from sluicegate.workers.main import run_worker

        # By the worker itself, which is in no hurry: the zygote goes on forking. No code of a user has run yet.
        cgroup = cgroups.enter(message["spawn"])
        run_worker(fds, message["settings"], cgroup)
        code = 0
    finally:
        os._exit(code)


def _report_exits(channel: Channel) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        channel.send({"exited": pid, "status": status})
