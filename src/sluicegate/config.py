"""`Settings`: from flags, the environment, `sluicegate.toml` and defaults, the strongest first.

Every value knows where it came from, and all problems are found at once. Reads one file and touches
nothing: folders are made by whoever needs them. The standard library only.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

from sluicegate.errors import SluicegateError, without_password

FILE_NAME: Final = "sluicegate.toml"
PREFIX: Final = "SLUICEGATE_"
LEASE_SECONDS_MIN: Final = 3
LEASE_SECONDS_MAX: Final = 3600
WORKERS_MAX: Final = 1024
_SQLITE: Final = "sqlite:///"

# Variables of the same prefix that are no settings of a server: they say how a command reaches one.
OTHER_VARIABLES: Final = ("SLUICEGATE_URL", "SLUICEGATE_API_KEY", "SLUICEGATE_DEBUG")


class SettingProblem(NamedTuple):
    """One setting that cannot be used, and how to mend it."""

    what: str
    mend: str

    def __str__(self) -> str:
        return self.what


class SettingsError(SluicegateError):
    """Settings that cannot be used; nothing was started. `problems` holds all of them."""

    code = "settings_invalid"

    def __init__(self, problems: list[SettingProblem]) -> None:
        super().__init__(
            "; ".join(problem.what for problem in problems),
            mend="; ".join(problem.mend for problem in problems),
        )
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(f"{problem.what}\n{problem.mend}" for problem in self.problems)


@dataclass(frozen=True)
class Settings:
    """All settings, checked. Paths are absolute; relative ones were read from the working folder.

    `sources` says for each name where its value came from; ask with `source(name)`.
    """

    home: Path
    store: str = field(repr=False)  # it may hold a password
    lake: Path
    landing: Path
    executor: str
    workers: int
    lease_seconds: int
    host: str
    port: int
    rate_limit: str
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def store_path(self) -> Path:
        """The file of the SQLite store."""
        return Path(self.store.removeprefix(_SQLITE))

    @property
    def store_may_exist(self) -> bool:
        """Whether there is a store to look into: a file that is there, or a server, which only opening can tell."""
        return not self.store.startswith(_SQLITE) or self.store_path.exists()

    def source(self, name: str) -> str:
        """Where the value came from: `flag --port`, `environment SLUICEGATE_PORT`, ..."""
        return self.sources.get(name, "default")

    @classmethod
    def load(
        cls,
        flags: Mapping[str, Any] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> Settings:
        """Read and check all settings.

        Args:
            flags: Values by setting name; `None` stands for a flag that was not given.
            environ: The environment, `os.environ` unless given.
            folder: Where `sluicegate.toml` is looked for and relative paths begin; the working
                folder unless given.

        Raises:
            SettingsError: One or more values cannot be used; it holds all of them.
        """
        problems: list[SettingProblem] = []
        folder = (folder or Path.cwd()).absolute()
        found = _found(flags or {}, os.environ if environ is None else environ, folder, problems)
        reader = _Reader(found, problems)
        cores = os.cpu_count() or 1
        home = reader.read("home", folder / ".sluicegate", lambda raw: _path(raw, folder))
        values: dict[str, Any] = {
            "home": home,
            "store": reader.read(
                "store", f"sqlite:///{home / 'jobs.db'}", lambda raw: _store(raw, folder)
            ),
            "lake": reader.read("lake", home / "lake", lambda raw: _folder(raw, folder)),
            "landing": reader.read("landing", home / "landing", lambda raw: _folder(raw, folder)),
            "executor": reader.read("executor", "local", _executor),
            "workers": reader.read("workers", cores, _integer(1, WORKERS_MAX, cores)),
            "lease_seconds": reader.read(
                "lease_seconds", 15, _integer(LEASE_SECONDS_MIN, LEASE_SECONDS_MAX, 15)
            ),
            "host": reader.read("host", "127.0.0.1", _host),
            "port": reader.read("port", 8000, _integer(0, 65535, 8000)),
            "rate_limit": reader.read("rate_limit", "600/minute", _rate_limit),
        }
        if problems:
            raise SettingsError(problems)
        sources = {name: found[name].source for name in values if name in found}
        return cls(**values, sources=MappingProxyType(sources))


NAMES: Final = tuple(name for name in Settings.__dataclass_fields__ if name != "sources")


class _Found(NamedTuple):
    raw: Any
    source: str


class _Unusable(Exception):  # noqa: N818 - never leaves this module
    """A value that a setting cannot have: what it must be, and what could be set instead."""

    def __init__(self, must: str, mend: str) -> None:
        super().__init__(must)
        self.must, self.mend = must, mend


def _found(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    folder: Path,
    problems: list[SettingProblem],
) -> dict[str, _Found]:
    """The strongest value given for each name. An empty variable counts as not given."""
    found = {name: _Found(raw, FILE_NAME) for name, raw in _read_file(folder, problems).items()}
    for name in NAMES:
        variable = f"{PREFIX}{name.upper()}"
        if environ.get(variable, "") != "":
            found[name] = _Found(environ[variable], f"environment {variable}")
        if flags.get(name) is not None:
            found[name] = _Found(flags[name], f"flag --{name.replace('_', '-')}")
    return found


def _read_file(folder: Path, problems: list[SettingProblem]) -> dict[str, Any]:
    path = folder / FILE_NAME
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(
            SettingProblem(f"cannot read {FILE_NAME}: {error}", "mend the file or remove it")
        )
        return {}
    for name in content.keys() - set(NAMES):
        problems.append(
            SettingProblem(
                f"{FILE_NAME} has no setting {name!r}", f"the settings are {', '.join(NAMES)}"
            )
        )
    return {name: raw for name, raw in content.items() if name in NAMES}


_T = TypeVar("_T")


class _Reader:
    """Turns what was given into values, and gathers what cannot be used."""

    def __init__(self, found: Mapping[str, _Found], problems: list[SettingProblem]) -> None:
        self._found, self._problems = found, problems

    def read(self, name: str, default: _T, parse: Callable[[Any], _T]) -> _T:
        """Return the value of a setting, or its default with a problem noted."""
        found = self._found.get(name)
        if found is None:
            return default
        try:
            return parse(found.raw)
        except _Unusable as error:
            what = f"{name.upper()} must be {error.must}, got {_shown(found.raw)}"
            self._problems.append(SettingProblem(what, f"{error.mend} ({found.source})"))
            return default


def _shown(raw: Any) -> str:
    """The value as it was written: numbers bare, text in quotes unless it is a number."""
    text = str(raw)
    if "://" in text:
        return repr(without_password(text))
    return text if re.fullmatch(r"-?\d+(\.\d+)?", text) else repr(raw)


def _integer(least: int, most: int, default: int) -> Callable[[Any], int]:
    mend = f"set it to {default} or remove it"

    def parse(raw: Any) -> int:
        number: int | None = None
        if isinstance(raw, int) and not isinstance(raw, bool):
            number = raw
        elif isinstance(raw, str) and re.fullmatch(r"-?[0-9]{1,9}", raw.strip()):
            number = int(raw)
        if number is None:
            raise _Unusable(f"a whole number from {least} to {most}", mend)
        if number < least:
            raise _Unusable(f"at least {least}", mend)
        if number > most:
            raise _Unusable(f"at most {most}", mend)
        return number

    return parse


def _path(raw: Any, folder: Path) -> Path:
    if not isinstance(raw, str | Path) or not str(raw).strip():
        raise _Unusable("a path", "set it to a folder or remove it")
    return folder / Path(raw).expanduser()


def _folder(raw: Any, folder: Path) -> Path:
    if isinstance(raw, str) and "://" in raw:
        raise _Unusable("a folder in this release", "set it to a local folder or remove it")
    return _path(raw, folder)


def _store(raw: Any, folder: Path) -> str:
    if isinstance(raw, str) and (
        re.fullmatch(r"postgres(ql)?://.+", raw)
        or re.fullmatch(r"firestore://[^/\s]+(/[^/\s]*)?", raw)
    ):
        return raw  # whoever opens it reads the rest
    if not isinstance(raw, str) or not raw.startswith(_SQLITE) or raw == _SQLITE:
        raise _Unusable(
            "an SQLite file, or a PostgreSQL or Firestore database",
            "set it to sqlite:///<path of a file>, postgresql://<user>@<host>/<database> or"
            " firestore://<project>/<database>, or remove it",
        )
    return f"{_SQLITE}{_path(raw.removeprefix(_SQLITE), folder)}"


def _executor(raw: Any) -> str:
    if raw != "local":
        raise _Unusable("'local' in this release", "set it to local or remove it")
    return "local"


def _host(raw: Any) -> str:
    if not isinstance(raw, str) or not raw.strip() or re.search(r"[\s/]", raw):
        raise _Unusable("a host name or address", "set it to 127.0.0.1 or remove it")
    return raw


def _rate_limit(raw: Any) -> str:
    if not isinstance(raw, str) or not re.fullmatch(r"[1-9][0-9]{0,8}/(second|minute|hour)", raw):
        raise _Unusable("requests per second, minute or hour", "set it to 600/minute or remove it")
    return raw
