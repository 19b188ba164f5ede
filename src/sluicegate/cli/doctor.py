"""`sluicegate doctor`: every setting with its source, and whether this installation can work."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer

from sluicegate.cli.options import SERVING, AsJson, with_settings
from sluicegate.config import NAMES, OTHER_VARIABLES, PREFIX, Settings
from sluicegate.errors import SluicegateError, without_password

FREE_BYTES_MIN: Final = 1_000_000_000
EXTRAS: Final = ("polars", "duckdb")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `ok` is `None` where it is only worth knowing."""

    name: str
    ok: bool | None
    what: str
    mend: str = ""


@with_settings(*SERVING)
def doctor(settings: Settings, as_json: AsJson = False) -> None:
    """Show all settings and check what is here.

    Exit code 1 when it cannot work.
    """
    from sluicegate.cli.terminal import print_json

    checks = [check for look in CHECKS for check in look(settings)]
    if as_json:
        values = {
            name: {"value": _plain(getattr(settings, name)), "source": settings.source(name)}
            for name in NAMES
        }
        shown = [{"name": c.name, "ok": c.ok, "what": c.what, "mend": c.mend} for c in checks]
        print_json({"settings": values, "checks": shown})
    else:
        _print(settings, checks)
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)


def _print(settings: Settings, checks: list[Check]) -> None:
    from rich.text import Text

    from sluicegate.cli.terminal import columns, grid, out, plain

    console = out()
    table = grid("setting", "value", "source", fold=("value", "source"))
    for name in NAMES:
        source = settings.source(name)
        style = "dim" if source == "default" else ""
        table.add_row(name.upper(), plain(_shown(getattr(settings, name))), source, style=style)
    console.print(table)
    console.print()
    table = columns("left", "left", "left")
    table.columns[2].no_wrap = False
    table.columns[2].overflow = "fold"
    for check in checks:
        sign, style = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "dim")}[check.ok]
        table.add_row(Text(sign, style=style), plain(check.name), plain(check.what))
        if check.mend:
            table.add_row("", "", Text(f"mend: {check.mend}", style="bold"))
    console.print(table)


# ------------------------------------------------------------------ checks


def _check_python(settings: Settings) -> Iterator[Check]:
    from importlib.metadata import PackageNotFoundError, version

    python = ".".join(map(str, sys.version_info[:3]))
    try:
        yield Check("sluicegate", True, f"{version('sluicegate')} on Python {python}")
    except PackageNotFoundError:
        yield Check("sluicegate", True, f"not installed, run from its source, on Python {python}")
    for name in EXTRAS:
        try:
            yield Check(name, True, version(name))
        except PackageNotFoundError:
            what = f"not installed: no pipeline can use {name} here"
            yield Check(name, None, what, "pip install 'sluicegate[frames]' if yours need it")


def _check_platform(settings: Settings) -> Iterator[Check]:
    from sluicegate.workers.cgroup import is_usable

    if sys.platform == "linux":
        found = Path("/proc/self/stat").exists()
        mend = "" if found else "mount /proc"
        what = "Linux: whole process trees can be stopped" if found else "there is no /proc"
        yield Check("stopping", found, what, mend)
        if is_usable():
            yield Check("cgroup", True, "each worker has one: it holds also what left its tree")
        else:
            what = "none can be made: a child by clone(CLONE_PARENT) lives until the server ends"
            yield Check("cgroup", None, what, "only if yours do that: run it with Delegate=yes")
    else:
        yield Check("stopping", None, f"{sys.platform}: some means of stopping are missing here")


def _check_home(settings: Settings) -> Iterator[Check]:
    for name in ("home", "lake", "landing"):
        folder: Path = getattr(settings, name)
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        setting = f"{PREFIX}{name.upper()}"
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            what = f"{existing} cannot be written"
            yield Check(name, False, what, f"mend its permissions, or set {setting} to another")
        elif folder.exists():
            yield Check(name, True, "can be written")
        else:
            yield Check(name, True, "will be made when it is needed")
    existing = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    what = f"{free / 1e9:,.1f} GB free"
    enough = free >= FREE_BYTES_MIN
    yield Check("disk", enough, what, "" if enough else "make room: at least 1 GB")


def _check_store(settings: Settings) -> Iterator[Check]:
    if not settings.store_may_exist:
        yield Check("store", True, "will be made when it is needed")
        return
    try:
        from sluicegate.app import open_local

        with open_local(settings) as service:
            service.store.last_event_id()
            keys = [key for key in service.store.list_keys() if key.revoked_at is None]
    except SluicegateError as error:
        yield Check("store", False, error.what, error.mend)
        return
    yield Check("store", True, f"opens; {len(keys)} live API key{'' if len(keys) == 1 else 's'}")


def _check_server(settings: Settings) -> Iterator[Check]:
    from sluicegate.cli.backend import connect, find_server

    if url := os.environ.get("SLUICEGATE_URL"):
        try:
            with connect(url, os.environ.get("SLUICEGATE_API_KEY")) as client:
                client.list({"limit": 1})
            yield Check("server", True, f"SLUICEGATE_URL: {url} answers")
        except SluicegateError as error:
            yield Check("server", False, error.what, error.mend)
    elif server := find_server(settings):
        yield Check("server", True, f"lives on this home at {server.url}, process {server.pid}")
    else:
        yield Check("server", None, "none lives on this home")


def _check_environment(settings: Settings) -> Iterator[Check]:
    known = {f"{PREFIX}{name.upper()}" for name in NAMES} | set(OTHER_VARIABLES)
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in known:
            what = f"{variable} is no setting, and does nothing"
            yield Check("environment", None, what, "look for a slip of the pen, or unset it")


CHECKS: Final[tuple[Callable[[Settings], Iterator[Check]], ...]] = (
    _check_python,
    _check_platform,
    _check_home,
    _check_store,
    _check_server,
    _check_environment,
)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return without_password(value) if isinstance(value, str) and "://" in value else value


def _shown(value: Any) -> str:
    """A path as it can be said from the working folder."""
    text = str(_plain(value))
    here = f"{Path.cwd()}{os.sep}"
    return text.replace(here, "./") if text.startswith(here) else text
