"""Where a worker's cgroup would be, and that all goes on where there is none; on folders that only look like one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sluicegate.workers.cgroup import Cgroup, Cgroups, own_folder
from sluicegate.workers.process_tree import ProcessId, find

MOUNT = "38 31 0:31 {root} {point} rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw"
OTHERS = [
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755",
    "37 31 0:30 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids",
]


def proc(folder: Path, own: str, *mounts: str) -> Path:
    """A folder as `/proc/self`."""
    folder.mkdir(exist_ok=True)
    (folder / "cgroup").write_text(f"8:pids:/elsewhere\n{own}\n")
    (folder / "mountinfo").write_text("\n".join([*OTHERS, *mounts]) + "\n")
    return folder


def hierarchy(folder: Path, below: str) -> Path:
    """A folder as a cgroup below a mount."""
    own = folder / below
    own.mkdir(parents=True)
    (own / "cgroup.procs").touch()
    return own


@pytest.mark.parametrize(
    ("root", "own", "below"),
    [
        ("/", "/", ""),
        ("/", "/user.slice/a.scope", "user.slice/a.scope"),
        ("/box", "/box", ""),
        ("/box", "/box/inner", "inner"),
    ],
)
def test_the_own_cgroup_is_found_wherever_it_is_mounted(
    tmp_path: Path, root: str, own: str, below: str
) -> None:
    """Of a mount, the part that is mounted counts; a space in its path is escaped."""
    point = tmp_path / "uni fied"
    folder = hierarchy(point, below)
    mount = MOUNT.format(root=root, point=str(point).replace(" ", "\\040"))
    assert own_folder(proc(tmp_path / "self", f"0::{own}", mount)) == folder


@pytest.mark.parametrize(
    ("root", "own"),
    [("/box", "0::/"), ("/box", "0::/boxes"), ("/", "0::/../other"), ("/", "4:memory:/")],
)
def test_a_cgroup_that_cannot_be_seen_is_none(tmp_path: Path, root: str, own: str) -> None:
    """It is mounted in part, belongs to another namespace, or there is no cgroup2."""
    point = tmp_path / "unified"
    hierarchy(point, "es")
    mount = MOUNT.format(root=root, point=point)
    assert own_folder(proc(tmp_path / "self", own, mount)) is None


def test_without_proc_there_is_none(tmp_path: Path) -> None:
    """As on other platforms."""
    assert own_folder(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("has_folder", "owner"), [(False, ProcessId(1, 1)), (True, None), (False, None)]
)
def test_none_is_empty_and_quiet(tmp_path: Path, has_folder: bool, owner: ProcessId | None) -> None:
    """Whoever asks need not look first."""
    cgroups = Cgroups(tmp_path if has_folder else None, owner)
    none = cgroups.enter(1)
    assert none == cgroups.of(1) == Cgroup(None)
    assert not none.has_others()
    assert none.members() == set()
    assert none.end() == (0, True)
    assert none.remove()
    cgroups.end_all()
    cgroups.remove_leftovers()


def test_where_it_cannot_be_entered_there_is_none_and_no_folder(tmp_path: Path) -> None:
    """A folder below another that cannot be written, or that is no cgroup."""
    owner = ProcessId(1, 1)
    assert Cgroups(tmp_path, owner).enter(1) == Cgroup(None)
    assert Cgroups(tmp_path / "missing", owner).enter(1) == Cgroup(None)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_ours_of_the_dead_and_empty(tmp_path: Path) -> None:
    """Nothing else below our cgroup is touched."""
    me = find(os.getpid())
    assert me is not None
    names = [
        "sluicegate.1.1.5",  # pid 1 lives, but began at another time
        f"sluicegate.{me.pid}.{me.started}.5",
        "sluicegate.1.1.6",
        "sluicegate.1.1",
        "other.1.1.5",
    ]
    for name in names:
        (tmp_path / name / "made by a task").mkdir(parents=True)
    (tmp_path / "sluicegate.1.1.6" / "made by a task" / "in use").touch()
    Cgroups(tmp_path, me).remove_leftovers()
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])


def test_a_live_process_beside_this_one_is_an_other(tmp_path: Path) -> None:
    """Also below what a task made; a pid of nobody is no member, and one outside our namespace is shown as 0."""
    cgroup = Cgroup(tmp_path)
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    assert not cgroup.has_others()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "cgroup.procs").write_text(f"0\n{os.getppid()}\n{2**22 + 1}\n")
    assert cgroup.has_others()
    assert {process.pid for process in cgroup.members()} == {os.getpid(), os.getppid()}
