"""The only module that talks to the driver: every call has a deadline, and its errors become ours."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar

from google.api_core import exceptions as api
from google.api_core.retry import Retry, if_exception_type
from google.auth.exceptions import GoogleAuthError
from google.cloud import firestore
from google.cloud.firestore_v1.base_query import FieldFilter
from google.cloud.firestore_v1.types import ListenRequest, TargetChange

from sluicegate.core.store_errors import StoreUnavailableError
from sluicegate.stores.firestore.documents import Write, askable
from sluicegate.stores.firestore.wire import commit_request

Snapshot: TypeAlias = "firestore.DocumentSnapshot[Any]"
Query: TypeAlias = firestore.Query

CALL_SECONDS: Final = 10.0
# A stream that is older is opened anew: some are reported to fall silent for good without breaking.
# Source: googleapis/python-firestore, issue 18.
STREAM_SECONDS: Final = 300.0

_Result = TypeVar("_Result")

# A read can be done again at once. A write cannot: `WriteInDoubtError`.
_READ_AGAIN: Final = Retry(
    predicate=if_exception_type(api.ServiceUnavailable, api.InternalServerError),
    initial=0.1,
    maximum=0.5,
    timeout=1.0,
)
_NEVER_AGAIN: Final = Retry(predicate=lambda _: False)

_SIGN_IN: Final = (
    "sign in with `gcloud auth application-default login`, "
    "or name a key file in GOOGLE_APPLICATION_CREDENTIALS"
)
_MENDS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (GoogleAuthError, _SIGN_IN),
    (api.Unauthenticated, _SIGN_IN),
    (
        api.Forbidden,
        "let this account read and write there (role Cloud Datastore User), and enable the Firestore API",
    ),
    (api.NotFound, "check the project, and create the database there in native mode"),
    (api.TooManyRequests, "wait, or raise the project's quota"),
    (api.DeadlineExceeded, "check the network, then try again"),
    (
        api.ServiceUnavailable,
        "check the network, and FIRESTORE_EMULATOR_HOST if it is set, then try again",
    ),
)
# What a stream breaks with; of these, what it ends with when it has had its time.
STREAM_ERRORS: Final = (api.GoogleAPICallError,)
STREAM_IS_OLD: Final = api.DeadlineExceeded
# The connection broke, or the service did, while it had the write.
_IN_DOUBT: Final = (api.ServiceUnavailable, api.InternalServerError, api.Unknown)
_INDEX_MEND: Final = (
    "deploy firestore.indexes.json, as docs/reference/settings.md says, "
    "and wait until its indexes are built"
)


class WriteConflict(Exception):  # noqa: N818 - never leaves the store
    """Somebody else was first; nothing of the batch was written."""


class WriteInDoubtError(StoreUnavailableError):
    """The answer to a write was lost: the write has happened, or may happen yet, or will not."""


class Connection:
    """One database. Safe from any thread.

    Args:
        where: The database as users know it; for errors.
    """

    def __init__(self, project: str, database: str, where: str) -> None:
        self.where = where
        self._closed = False
        with self._translated():
            self._client = firestore.Client(project=project, database=database)

    # ---------------------------------------------------------------- what is asked for

    def collection(self, path: str) -> Query:
        """Return the query of all documents of a collection."""
        return firestore.Query(self._client.collection(path))

    def group(self, name: str) -> Query:
        """Return the query of all documents of all collections of that name."""
        return self._client.collection_group(name)

    def read(
        self, paths: Iterable[str], fields: Sequence[str] | None = None
    ) -> dict[str, Snapshot]:
        """Return the documents that there are, by path.

        Where one was read later than another, the first had not changed until then.

        Source: Firestore API, `BatchGetDocumentsResponse.read_time`.
        """
        references = [self._client.document(path) for path in paths]
        if not references:
            return {}

        def read() -> dict[str, Snapshot]:
            found = self._client.get_all(
                references, fields, retry=_NEVER_AGAIN, timeout=CALL_SECONDS
            )
            return {one.reference.path: one for one in found if one.exists}

        return self._again(read)

    def run(self, query: Query) -> list[Snapshot]:
        """Return what a query finds, in order. Its caller bounds it."""
        return self._again(lambda: list(query.stream(retry=_NEVER_AGAIN, timeout=CALL_SECONDS)))

    # ---------------------------------------------------------------- what is written

    def write(self, writes: Sequence[Write]) -> datetime:
        """Write all of them in one step, durably. Returns the update time of the first.

        Raises:
            WriteConflict: a condition does not hold; nothing was written.
            WriteInDoubtError: it is not known whether anything was.
            StoreUnavailableError: nothing was written, or it is found by reading again.
        """
        request = commit_request(self._client._database_string, writes)
        with self._translated():
            try:
                answer = self._client._firestore_api.commit(
                    request=request,
                    metadata=self._client._rpc_metadata,
                    retry=None,
                    timeout=CALL_SECONDS,
                )
            except (api.FailedPrecondition, api.Conflict, api.NotFound) as error:
                # `Conflict` is both Aborted and AlreadyExists; NotFound: a document to update is gone.
                raise WriteConflict(str(error)) from error
            except _IN_DOUBT as error:
                raise self._unavailable(error, WriteInDoubtError) from error
        written: datetime = answer.write_results[0].update_time
        return written

    def delete(self, path: str) -> None:
        """Remove a document; one that is not there is no error."""
        document = self._client.document(path)
        self._again(lambda: document.delete(retry=_NEVER_AGAIN, timeout=CALL_SECONDS))

    # ---------------------------------------------------------------- what is heard

    def listen(self, path: str, is_over: threading.Event) -> Any:
        """Return a stream of responses about a document; `cancel()` ends it.

        Args:
            is_over: Set when the stream is wanted no more: a thread of the driver's waits for it, since a stream
                whose requests end is ended by the server.
        """

        def requests() -> Iterator[ListenRequest]:
            documents = [f"{self._client._database_string}/documents/{path}"]
            target = {"documents": {"documents": documents}, "target_id": 1}
            yield ListenRequest(database=self._client._database_string, add_target=target)
            is_over.wait()

        # The driver's own `on_snapshot` opens a broken stream again without a pause, or gives up in a thread of
        # its own with an exception that nobody can catch.
        with self._translated():
            return self._client._firestore_api.listen(
                requests=requests(),
                metadata=self._client._rpc_metadata,
                retry=None,
                timeout=STREAM_SECONDS,
            )

    def close(self) -> None:
        """Let go of the connection. May be called twice."""
        if not self._closed:
            self._closed = True
            self._client._firestore_api.transport.close()

    # ---------------------------------------------------------------- errors

    def _again(self, call: Callable[[], _Result]) -> _Result:
        """Do what can be done twice, again for a moment while the service is away.

        The whole of it: the driver would go on with a broken query by itself, past the query's limit.
        """
        with self._translated():
            return _READ_AGAIN(call)()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the driver says of the world into our error."""
        if self._closed:
            raise StoreUnavailableError(self.where, "it was closed", mend="open it again")
        try:
            yield
        except (api.GoogleAPICallError, api.RetryError, GoogleAuthError) as error:
            raise self._unavailable(error) from error
        except ValueError as error:
            if not self._closed:
                raise
            # A call was on its way when another thread closed it.
            raise StoreUnavailableError(
                self.where, "it was closed", mend="open it again"
            ) from error

    def _unavailable(
        self, error: Exception, kind: type[StoreUnavailableError] = StoreUnavailableError
    ) -> StoreUnavailableError:
        if isinstance(error, api.RetryError) and isinstance(error.cause, Exception):
            error = error.cause
        why = str(getattr(error, "message", None) or error).partition("\n")[0]
        mend = next((mend for cause, mend in _MENDS if isinstance(error, cause)), "try again")
        if isinstance(error, api.FailedPrecondition) and "index" in why:
            mend = _INDEX_MEND
        if isinstance(error, api.DeadlineExceeded):
            why = f"it did not answer within {CALL_SECONDS:.0f} s"
        return kind(self.where, why, mend=mend)


def is_refused(response: Any) -> bool:
    """Whether a stream says that it will tell no more, and stays open: the account may not read any longer, say."""
    return bool(response.target_change.target_change_type == TargetChange.TargetChangeType.REMOVE)


def meets(field: str, operator: str, value: Any) -> FieldFilter:
    """Return a condition of a query. Texts are asked for as they would be stored."""
    if isinstance(value, str):
        return FieldFilter(field, operator, askable(value))
    if isinstance(value, list | tuple):
        return FieldFilter(field, operator, [askable(one) for one in value])
    return FieldFilter(field, operator, value)
