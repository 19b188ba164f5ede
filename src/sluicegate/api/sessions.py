"""Sessions of the web page: signed cookies, and one-time sign-in links. No framework, no store.

A session is a signed statement, not a row: it survives a restart (when the secret does), needs no
write, and holds for every server with the same secret. It names its key by hash and is worth what
the key is worth: each request looks the key up, so that revoking the key ends its sessions. Signing
out is remembered in memory until the session would have expired; after a restart only the browser's
deleted cookie remembers it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

SESSION_SECONDS: Final = 7 * 86400
SIGN_IN_SECONDS: Final = 600
REMEMBERED_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Session:
    """Who holds it, by the key's hash, and until when."""

    session_id: str
    key_hash: str
    expires_at: datetime


class Sessions:
    """Issues and reads session cookies. Safe from any thread."""

    def __init__(self, secret: bytes) -> None:
        self._secret = hashlib.sha256(b"sluicegate session v1\0" + secret).digest()
        self._ended: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def issue(self, key_hash: str, now: datetime) -> str:
        """Return the cookie of a new session of this key."""
        expires = int(now.timestamp()) + SESSION_SECONDS
        stated = f"1.{secrets.token_urlsafe(12)}.{key_hash}.{expires}"
        return f"{stated}.{self._sign(stated)}"

    def read(self, cookie: str, now: datetime) -> Session | None:
        """Return the session of a cookie that we signed, that has not expired and was not ended."""
        stated, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(stated).encode()):
            return None
        _, session_id, key_hash, expires = stated.split(".")
        session = Session(session_id, key_hash, datetime.fromtimestamp(int(expires), UTC))
        return None if now >= session.expires_at or self.is_ended(session_id) else session

    def end(self, session: Session, now: datetime) -> None:
        """Sign out: the cookie is worth nothing from now on."""
        with self._lock:
            self._ended[session.session_id] = session.expires_at
            if len(self._ended) > REMEMBERED_MAX:
                self._ended = {i: at for i, at in self._ended.items() if at > now}

    def is_ended(self, session_id: str) -> bool:
        """Whether the session was signed out."""
        return session_id in self._ended

    def _sign(self, stated: str) -> str:
        digest = hmac.digest(self._secret, stated.encode(), "sha256")
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


class SignInTokens:
    """Tokens of sign-in links: each is good once, for ten minutes, in this process. Thread-safe."""

    def __init__(self) -> None:
        self._issued: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def issue(self, key_hash: str, now_seconds: float) -> str:
        """Return a new token that signs in with this key."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._issued = {t: known for t, known in self._issued.items() if known[1] > now_seconds}
            self._issued[_hashed(token)] = (key_hash, now_seconds + SIGN_IN_SECONDS)
        return token

    def redeem(self, token: str, now_seconds: float) -> str | None:
        """Return the hash of the token's key, once; `None` for one unknown, used or too old."""
        with self._lock:
            key_hash, expires = self._issued.pop(_hashed(token), (None, 0.0))
        return key_hash if now_seconds < expires else None


def _hashed(token: str) -> str:
    """Tokens are looked up by hash, so that the time of a lookup tells nothing about them."""
    return hashlib.sha256(token.encode()).hexdigest()
