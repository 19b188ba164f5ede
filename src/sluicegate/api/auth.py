"""Who is calling, and what they may do: API keys, session cookies, roles and rate limits."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from sluicegate.api.deps import Service
from sluicegate.api.errors import (
    CrossSiteRequestError,
    InvalidApiKeyError,
    RateLimitedError,
    RoleTooLowError,
    UnauthorizedError,
)
from sluicegate.api.rate_limit import Buckets, RateLimit, parse_rate_limit
from sluicegate.api.sessions import Session, Sessions, SignInTokens
from sluicegate.core.job import ApiKey
from sluicegate.core.keys import Role, hash_key, looks_like_key
from sluicegate.core.ports import Clock, KeyStore
from sluicegate.core.store_errors import KeyNotFoundError

CACHE_SECONDS: Final = 2.0
CACHED_MAX: Final = 4096
FAILED_SIGN_INS: Final = RateLimit(20, 60.0)
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


# A stop is never refused for having asked too much: whoever polled hard must still be able to stop.
STOP_PATH: Final = "/cancel"


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: its key, by name, and the role of it. `session` is set where a cookie came."""

    name: str
    role: Role
    key_hash: str
    session: Session | None = None


class KeyCache:
    """The keys of recent callers, so that not every call reads the store. Safe from any thread.

    A key revoked through this process is refused from that moment; one revoked elsewhere, two
    seconds later.
    """

    def __init__(self, store: KeyStore, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._known: OrderedDict[str, tuple[ApiKey, float]] = OrderedDict()
        self._generation = 0
        self._lock = threading.Lock()

    def recall(self, key_hash: str) -> ApiKey | None:
        """Return the live key if it was read a moment ago. Touches no store."""
        with self._lock:
            found = self._known.get(key_hash)
        if found is None or self._clock.monotonic() - found[1] > CACHE_SECONDS:
            return None
        return found[0]

    def read(self, key_hash: str) -> ApiKey | None:
        """Return the live key of this hash from the store. Raises: `StoreUnavailableError`."""
        with self._lock:
            generation = self._generation
        read_at = self._clock.monotonic()
        key = self._store.find_key(key_hash)
        with self._lock:
            self._known.pop(key_hash, None)
            if key is None or key.revoked_at is not None:
                return None
            # What was read before a revocation must not be remembered after it.
            if generation == self._generation:
                self._known[key_hash] = (key, read_at)
                while len(self._known) > CACHED_MAX:
                    self._known.popitem(last=False)
        return key

    def forget(self) -> None:
        """Forget all keys: one was revoked."""
        with self._lock:
            self._generation += 1
            self._known.clear()


class Access:
    """All that judges callers; one for each application."""

    def __init__(self, service: Service) -> None:
        self._clock, self._store = service.clock, service.store
        self.keys = KeyCache(service.store, service.clock)
        self.sessions = Sessions(service.session_secret)
        self.sign_in_tokens = SignInTokens()
        self._calls = Buckets(parse_rate_limit(service.rate_limit))
        self._failures = Buckets(FAILED_SIGN_INS)

    async def find(self, key_hash: str) -> ApiKey | None:
        """Return the live key of this hash, without blocking the event loop."""
        return self.keys.recall(key_hash) or await run_in_threadpool(self.keys.read, key_hash)

    async def still_valid(self, principal: Principal) -> bool:
        """Whether the key still lives and its session has not ended: long streams ask again."""
        if principal.session is not None and (
            self.sessions.is_ended(principal.session.session_id)
            or self._clock.now() >= principal.session.expires_at
        ):
            return False
        return await self.find(principal.key_hash) is not None

    def read_session(self, cookie: str) -> Session | None:
        """Return the session of a cookie, if it is one of ours and not over."""
        return self.sessions.read(cookie, self._clock.now())

    def count_call(self, principal: Principal) -> None:
        """Take one call from the key's allowance. Raises: `RateLimitedError`."""
        if wait_seconds := self._calls.take(principal.key_hash, self._clock.monotonic()):
            raise RateLimitedError(f"too many calls with the key {principal.name!r}", wait_seconds)

    def count_failure(self, request: Request) -> None:
        """Take one failed sign-in from the address's allowance. Raises: `RateLimitedError`.

        It is asked after the key was found wrong, never before: a right key works from any address,
        so that nobody can lock out others who share one.
        """
        address = request.client.host if request.client else "unknown"
        if wait_seconds := self._failures.take(address, self._clock.monotonic()):
            raise RateLimitedError("too many failed sign-ins from this address", wait_seconds)

    def issue_sign_in_token(self, key_name: str) -> str:
        """Return a token to sign in with the live key of this name. Raises: `KeyNotFoundError`."""
        for key in self._store.list_keys():
            if key.name == key_name and key.revoked_at is None:
                return self.sign_in_tokens.issue(key.key_hash, self._clock.monotonic())
        raise KeyNotFoundError(key_name)


def access_of(request: Request) -> Access:
    """Return what judges the callers of this application."""
    access: Access = request.app.state.access
    return access


def issue_sign_in_token(app: FastAPI, key_name: str) -> str:
    """Return a token for `GET /signin?token=…`: good once, for ten minutes, in this process.

    Raises: `KeyNotFoundError` when no live key has the name.
    """
    access: Access = app.state.access
    return access.issue_sign_in_token(key_name)


def cookie_name(request: Request) -> str:
    """Name the session cookie. Cookies ignore ports, so two servers of one host need two names."""
    port = request.url.port
    return f"sluicegate_session_{port}" if port else "sluicegate_session"


_bearer = HTTPBearer(auto_error=False, description="An API key, or the page's session cookie.")


async def verify_api_key(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Principal:
    """Return the caller, by `Authorization: Bearer <api key>` or by session cookie.

    Raises:
        UnauthorizedError: neither was sent.
        InvalidApiKeyError: the key is wrong or revoked, or the session is over.
        CrossSiteRequestError: a cookie came with a change that another site's page asked for.
        RateLimitedError: too many calls with this key (stops do not count), or too many wrong ones from this address.
    """
    access = access_of(request)
    if "Authorization" in request.headers:
        session, key_hash = None, _key_hash(credentials)
    elif cookie := request.cookies.get(cookie_name(request)):
        session = access.read_session(cookie)
        key_hash = session.key_hash if session else None
    else:
        raise UnauthorizedError
    key = await access.find(key_hash) if key_hash else None
    if key is None:
        # A page whose session is over asks on until someone signs in: that is no guessing of keys.
        if "Authorization" in request.headers:
            access.count_failure(request)
        raise InvalidApiKeyError
    principal = Principal(key.name, Role(key.role), key.key_hash, session)
    if session is not None and request.method not in SAFE_METHODS:
        refuse_cross_site(request)
    if not (request.method == "POST" and request.scope["path"].endswith(STOP_PATH)):
        access.count_call(principal)
    return principal


def _key_hash(credentials: HTTPAuthorizationCredentials | None) -> str | None:
    text = credentials.credentials if credentials else ""
    return hash_key(text) if looks_like_key(text) else None


def refuse_cross_site(request: Request) -> None:
    """Raise `CrossSiteRequestError` unless the browser says that our own page asked.

    `SameSite=Strict` already keeps the cookie from other sites; but another port of this host is
    the same site, and not the same origin. What comes with neither header is no browser, and has
    keys to use.

    Source: Fetch Metadata (W3C), section 2.3; the Fetch standard, section 3.2, "Origin".
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None and site != "same-origin":
        raise CrossSiteRequestError
    if site is None and (origin is None or urlsplit(origin).netloc != request.headers.get("Host")):
        raise CrossSiteRequestError


def require(role: Role) -> Callable[..., Awaitable[Principal]]:
    """Return the dependency that lets this role and higher ones pass; others get 403."""

    async def verify_role(caller: Annotated[Principal, Depends(verify_api_key)]) -> Principal:
        return _with_role(caller, role)

    return verify_role


async def operator_of(request: Request) -> Principal:
    """Return the caller as `Operator` does, for who is not called by FastAPI."""
    return _with_role(await verify_api_key(request, await _bearer(request)), Role.OPERATOR)


def _with_role(caller: Principal, role: Role) -> Principal:
    if not caller.role.includes(role):
        raise RoleTooLowError(caller.role, role)
    return caller


Viewer = Annotated[Principal, Depends(require(Role.VIEWER))]
Operator = Annotated[Principal, Depends(require(Role.OPERATOR))]
Admin = Annotated[Principal, Depends(require(Role.ADMIN))]
