"""PostgreSQL: how its connections are made and what its errors mean. All else is in `sql`.

One connection writes. Readers have their own; each of their transactions sees one state of the database
and can change nothing. What a session needs is set by the session itself, since the server's own defaults
may be others: durability, isolation, time limits.

No call waits for ever. The server ends what takes too long, TCP ends a line that is dead, and a server that
is silent for all that is given up here.
"""

from __future__ import annotations

import contextlib
import re
import select
import time
from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar

import psycopg
from psycopg import IsolationLevel
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import InvalidatePoolError

from sluicegate.core.store_errors import StoreUnavailableError, UnknownStoreError
from sluicegate.stores.postgresql_watch import ANNOUNCE, watch
from sluicegate.stores.sql import SqlStore

FORM: Final = "postgresql://user:password@host:5432/database"

_READERS_MAX: Final = 8
_BUSY_SECONDS: Final = 10
# Longer than what the server itself is given, so that it can say what was wrong.
_SILENCE_SECONDS: Final = 15.0
# Half a transaction holds up all who write. Whoever sleeps in one (a process that is stopped, a machine
# that is gone) loses it before the others' patience ends.
_IDLE_SECONDS: Final = 8

# What the URL does not say itself. Source: PostgreSQL's documentation, libpq, parameter key words.
_CONNECTING: Final = {
    "connect_timeout": str(_BUSY_SECONDS),
    "tcp_user_timeout": str(_BUSY_SECONDS * 1000),  # milliseconds
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "application_name": "sluicegate",
}
_ALWAYS: Final = {"client_encoding": "UTF8"}

# Settings of a session, by PostgreSQL's names; times in milliseconds, or seconds for TCP's.
_SESSION: Final = {
    "statement_timeout": _BUSY_SECONDS * 1000,
    "lock_timeout": _BUSY_SECONDS * 1000,
    "idle_in_transaction_session_timeout": _IDLE_SECONDS * 1000,
    # The server's side of a dead line: it must not keep our locks for the two hours of the system's default.
    "tcp_keepalives_idle": 5,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": 3,
}
# A commit that was answered survives a loss of power, whatever the server's default is. Stronger ones stay.
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') = 'off'"
)
# PostgreSQL's own limits end a session between two commands, but not one that has heard some of a batch
# and waits for the rest: that counts as active. So who has waited for a lock in vain ends such sessions of ours.
# Source: PostgreSQL's documentation, pg_stat_activity: `ClientRead` is the wait for the client.
_END_SLEEPERS: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
    " AND application_name = current_setting('application_name')"
    " AND xact_start IS NOT NULL AND wait_event = 'ClientRead'"
    " AND state_change < clock_timestamp() - make_interval(secs => %s)"
)
_WAITED_IN_VAIN: Final = frozenset({"55P03", "57014"})  # lock_timeout, statement_timeout
# Held while the schema is made: of two who open a new database together, one finds it done. The number is
# this program's own and means nothing else.
_HOLD_SCHEMA: Final = "SELECT pg_advisory_xact_lock(7318349471226)"

# By SQLSTATE, which is the same in every language. Source: PostgreSQL's documentation, appendix A.
_MENDS_BY_STATE: Final = {
    "53100": "free some space on the server's disk, then try again",
    "53200": "give the server more memory, then try again",
    "53300": "raise the server's max_connections, or end other clients",
    "57014": "the server is too slow, or another process holds the database; look at pg_stat_activity",
    "55P03": "another process is writing to it for long; stop that one, or try again",
    "25006": "connect to the primary: this server is a standby, or set to be read only",
    "42501": "give it to this user: GRANT ALL ON DATABASE ... TO ..., GRANT ALL ON SCHEMA public TO ...",
}
# An error in connecting has no SQLSTATE.
_MENDS: Final = (
    (
        "password authentication failed",
        "check the user and the password in STORE, or set PGPASSWORD",
    ),
    ("no password supplied", "put the password into STORE, or set PGPASSWORD"),
    ("no pg_hba.conf entry", "allow this user and host in the server's pg_hba.conf"),
    ("does not exist", "create it, or name another in STORE"),
    ("too many", "raise the server's max_connections, or end other clients"),
    ("remaining connection slots", "raise the server's max_connections, or end other clients"),
    ("closed the connection unexpectedly", "check that the server runs, and look at its log"),
    ("starting up", "try again when the server has started"),
    ("shutting down", "try again when the server has started again"),
    ("resolve", "check the host's name in STORE"),
    ("Name or service not known", "check the host's name in STORE"),
    ("connection to server", "check that the server runs, and its host and port in STORE"),
    ("timeout", "check that the server runs and can be reached from here"),
    ("did not answer", "check that the server runs and can be reached from here"),
)
_OUR_MISTAKES: Final = (psycopg.IntegrityError, psycopg.ProgrammingError, psycopg.DataError)
_NO_PRIVILEGE: Final = "42501"

_T = TypeVar("_T")


def open_postgresql(url: str) -> SqlStore:
    """Open the database that libpq finds by this URL; its tables are made when missing.

    Raises:
        UnknownStoreError: it is no such URL, or names no database.
        StoreUnavailableError, StoreTooNewError: as `open_store` says.

    Source: PostgreSQL's documentation, libpq, connection URIs: several hosts, sockets and all parameters.
    """
    try:
        given = {k: str(v) for k, v in conninfo_to_dict(url).items() if v is not None}
    except psycopg.ProgrammingError:
        # The driver's message shows parts of the URL, and one of them may be the password.
        raise UnknownStoreError(url, [FORM]) from None
    if not _is_plain(given):
        raise UnknownStoreError(url, [FORM])
    conninfo = make_conninfo(**{**_CONNECTING, **given, **_ALWAYS})
    where = _where(given)

    def connect() -> _Connection:
        return _connect(conninfo, where)

    def let_nobody_sleep(error: Exception) -> None:
        if getattr(error, "sqlstate", None) in _WAITED_IN_VAIN:
            with contextlib.suppress(psycopg.Error, StoreUnavailableError), connect() as other:
                other.execute(_END_SLEEPERS, [_IDLE_SECONDS])

    return SqlStore(
        where=where,
        writing=_engine(connect, reads_only=False),
        reading=_engine(connect, reads_only=True),
        insert=insert,
        mend=_mend,
        watch=lambda told: watch(connect, told),
        with_changes=ANNOUNCE,
        before_migrating=_HOLD_SCHEMA,
        after_error=let_nobody_sleep,
    )


class _Connection(psycopg.Connection[Any]):
    """One that is given up, and closed, when its server says nothing for long.

    A time limit that the server keeps is worth nothing when it is the server that hangs; and TCP's cannot
    tell, since the system of a stopped process goes on answering for it.
    """

    def wait(self, gen: Generator[Any, Any, _T], *args: Any, **options: Any) -> _T:
        """Consume a generator of the driver, as it asks for on every exchange with the server."""
        try:
            return super().wait(_impatient(gen), *args, **options)
        except _SilentError:
            self.close()
            raise


class _SilentError(psycopg.OperationalError):
    """The server has said nothing for `_SILENCE_SECONDS`."""


def _impatient(gen: Generator[Any, Any, _T]) -> Generator[Any, Any, _T]:
    """Do what `gen` does, until it was told for too long that there is nothing yet."""
    ready: Any = None
    heard_at = time.monotonic()
    while True:
        try:
            wanted = gen.send(ready)
        except StopIteration as ended:
            result: _T = ended.value
            return result
        ready = yield wanted
        if ready:  # 0: nothing came within the driver's interval of a tenth of a second
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at > _SILENCE_SECONDS:
            gen.close()
            raise _SilentError(f"the server did not answer within {_SILENCE_SECONDS:g} s")


def _connect(conninfo: str, where: str) -> _Connection:
    """Return a connection whose session is set up, in autocommit."""
    connection = _Connection.connect(conninfo, autocommit=True)
    try:
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise StoreUnavailableError(
                where,
                f"its encoding is {encoding}, which does not hold every text",
                mend="create the database with: CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8'",
            )
        settings = ", ".join("set_config(%s, %s, false)" for _ in _SESSION)
        values = [str(one) for pair in _SESSION.items() for one in pair]
        connection.execute(f"SELECT {settings}", values)
        connection.execute(_DURABLE)
    except BaseException:
        connection.close()
        raise
    return connection


def _engine(connect: Callable[[], _Connection], *, reads_only: bool) -> Engine:
    def connect_for_transactions() -> _Connection:
        connection = connect()
        connection.autocommit = False
        connection.isolation_level = (
            IsolationLevel.REPEATABLE_READ  # a block of reads sees one state
            if reads_only
            else IsolationLevel.READ_COMMITTED  # after `FOR UPDATE`, what others have committed is seen
        )
        connection.read_only = reads_only
        return connection

    engine = create_engine(
        "postgresql+psycopg://",
        creator=connect_for_transactions,
        pool_size=_READERS_MAX if reads_only else 1,
        max_overflow=0,
        pool_timeout=_BUSY_SECONDS,
        use_native_hstore=False,  # asking for it costs each connection a query
    )

    @event.listens_for(engine, "checkout")
    def see_that_it_is_alive(connection: _Connection, *_: Any) -> None:
        # A server that has ended a session has said so, or has closed the line: nothing else arrives
        # unasked. So a server that was restarted is noticed here, and at no cost.
        if connection.closed or _has_arrived(connection):
            raise InvalidatePoolError

    return engine


def _has_arrived(connection: _Connection) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _is_plain(given: dict[str, str]) -> bool:
    """Whether it names a database, and its parts are what they seem.

    A password with an `@` or `/` that was not escaped ends up in a host, a port or a database, and is shown there.
    """
    return (
        ("dbname" in given or "service" in given)
        and not any("@" in given.get(part, "") for part in ("host", "port", "dbname"))
        and re.fullmatch(r"[0-9,]*", given.get("port", "")) is not None
    )


def _where(given: dict[str, str]) -> str:
    """The database as users know it: no password, and no parameters."""
    host, port, user = (given.get(key, "") for key in ("host", "port", "user"))
    database = given.get("dbname") or f"?service={given.get('service')}"
    if "/" in host:  # the folder of a socket
        database, host = f"{database}?host={host}", ""
    account = f"{user}@" if user else ""
    return f"postgresql://{account}{host}{f':{port}' if port else ''}/{database}"


def _mend(error: Exception) -> str | None:
    state = getattr(error, "sqlstate", None)
    if isinstance(error, _OUR_MISTAKES) and state != _NO_PRIVILEGE:
        return None
    if state in _MENDS_BY_STATE:
        return _MENDS_BY_STATE[state]
    words = str(error)
    return next(
        (mend for word, mend in _MENDS if word in words), "look at the server and at its log"
    )
