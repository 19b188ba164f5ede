"""One small process per executor: it adopts every orphan of our tasks, and ends all trees when its executor dies.

It starts the zygote, answers requests to end a worker's tree, and otherwise waits. It holds no task's memory, runs no
user code and loads no library, so there is little that could kill it; if something does, the executor replaces it.

Messages in: `{"kill": [pid, started], "worker", "id"}`, `{"terminate": [pid, started], "worker"}`,
`{"sweep": [pid, started], "worker", "id"}`. `worker` is the number that its cgroup has, if there is one.
Messages out: `{"guard": pid, "zygote": pid}` once, then `{"id", "killed", "left"}` for each kill and sweep. What is
`left` could not be ended yet (it waits for a disk that does not answer, say): ask again with the same id.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from typing import Final

from sluicegate.workers.cgroup import Cgroups, open_cgroups
from sluicegate.workers.channel import Channel, ChannelClosedError, Message
from sluicegate.workers.process_tree import (
    GONE_WITHIN_SECONDS,
    ProcessId,
    become_subreaper,
    children,
    is_alive,
    kill_below,
    kill_tree,
    signal_tree,
)

# Long enough for a process that can die; others must not hold up the stops of other tasks.
RETRY_SECONDS: Final = 0.05
# Folders of cgroups go when nothing was asked for so long: that can wait for 15 ms, and a stop should not.
TIDY_SECONDS: Final = 0.2


def main() -> None:
    """Run as `python -m sluicegate.workers.guard CONTROL_FD ZYGOTE_FD`."""
    control_fd, zygote_fd = int(sys.argv[1]), int(sys.argv[2])
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        # A terminal or a service manager signals whole groups; the guard ends when its executor does.
        signal.signal(signum, signal.SIG_IGN)
    become_subreaper()
    cgroups = open_cgroups(os.getpid())
    cgroups.remove_leftovers()
    zygote = _start_zygote(zygote_fd, control_fd, cgroups)
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    control = Channel(socket.socket(fileno=control_fd))
    stuck: dict[ProcessId, int] = {}
    ended: set[int] = set()
    try:
        control.send({"guard": os.getpid(), "zygote": zygote})
        while True:
            pause = TIDY_SECONDS if ended else None
            readable, _, _ = select.select([control.fileno(), wake_reader], [], [], pause)
            if not readable:
                ended = {number for number in ended if not cgroups.of(number).remove()}
            if wake_reader in readable:
                os.read(wake_reader, 4096)
                if _reap(zygote):
                    break  # without a zygote there are no workers: end, and be replaced
            if control.fileno() in readable:
                for message in control.receive_ready():
                    _answer(control, message, zygote, stuck, cgroups)
                    if "id" in message:
                        ended.add(message["worker"])
    except ChannelClosedError:
        pass
    kill_below(os.getpid())
    cgroups.end_all()


def _start_zygote(zygote_fd: int, control_fd: int, cgroups: Cgroups) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(zygote_fd)
        return pid
    try:
        os.close(control_fd)
        from sluicegate.workers.zygote import serve

        serve(Channel(socket.socket(fileno=zygote_fd)), parent, cgroups)
    finally:
        os._exit(0)


def _answer(
    control: Channel,
    message: Message,
    zygote: int,
    stuck: dict[ProcessId, int],
    cgroups: Cgroups,
) -> None:
    """Do what was asked. `stuck`: what could not be ended, with the request that it holds up, and no other."""
    cgroup, killed = cgroups.of(message["worker"]), 0
    if "terminate" in message:
        tree = signal_tree(ProcessId(*message["terminate"]), signal.SIGTERM)
        cgroup.signal_outside(tree, signal.SIGTERM)
        return
    if "kill" in message:
        root = ProcessId(*message["kill"])
        killed = kill_tree(root)
        seconds = GONE_WITHIN_SECONDS
    else:
        root, seconds = ProcessId(*message["sweep"]), RETRY_SECONDS
    for process, request in list(stuck.items()):
        if request == message["id"]:
            killed += kill_tree(process, within_seconds=RETRY_SECONDS)
        if not is_alive(process):
            del stuck[process]
    # What a dead worker left has come to us as orphans; the zygote is our only child of our own.
    spare = frozenset({zygote, *(process.pid for process in stuck)})
    swept = kill_below(os.getpid(), spare=spare)
    killed += swept.killed
    for process in children(os.getpid()):
        if process.pid != zygote:
            stuck.setdefault(process, message["id"])
    beside = cgroup.end({root, *stuck}, seconds)
    killed += beside.killed
    is_clean = swept.is_clean and beside.is_clean
    left = sum(request == message["id"] for request in stuck.values()) or int(not is_clean)
    control.send({"id": message["id"], "killed": killed, "left": left})


def _reap(zygote: int) -> bool:
    """Reap what has exited. Returns whether the zygote was among it."""
    gone = False
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return gone
        if not pid:
            return gone
        gone = gone or pid == zygote


if __name__ == "__main__":
    main()
