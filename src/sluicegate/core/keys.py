"""API keys: how they are made, hashed and ranked. The command line makes keys with this too."""

from __future__ import annotations

import hashlib
import re
import secrets
from enum import StrEnum
from typing import Final

from sluicegate.core.job import ApiKey
from sluicegate.core.ports import Clock, KeyStore
from sluicegate.errors import SluicegateError

KEY_PREFIX: Final = "sg_"
KEY_BYTES: Final = 32
_KEY_SHAPE: Final = re.compile(r"sg_[A-Za-z0-9_-]{43}")
_NAME_SHAPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Role(StrEnum):
    """What a key may do; each role may do all that the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, needed: Role) -> bool:
        """Whether this role may do what `needed` may."""
        ranked = list(Role)
        return ranked.index(self) >= ranked.index(needed)


class InvalidKeyNameError(SluicegateError):
    """The name of a key has another shape than names have."""

    code = "invalid_key_name"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"a key cannot be named {name!r}",
            mend="use 1 to 64 letters, digits, '.', '_', '@' or '-'; begin with a letter or digit",
        )
        self.name = name


class InvalidRoleError(SluicegateError):
    """There is no such role."""

    code = "invalid_role"

    def __init__(self, role: str) -> None:
        super().__init__(
            f"there is no role {role!r}", mend=f"the roles are {', '.join(Role)}, lowest first"
        )
        self.role = role


def create_key(store: KeyStore, clock: Clock, name: str, role: str) -> tuple[ApiKey, str]:
    """Make a key, store its hash, and return what was stored and the key, shown only now.

    Raises:
        InvalidKeyNameError, InvalidRoleError: nothing was stored.
        KeyExistsError: a live key has the name; nothing was stored.
    """
    if not _NAME_SHAPE.fullmatch(name):
        raise InvalidKeyNameError(name)
    if role not in list(Role):
        raise InvalidRoleError(role)
    plaintext = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    key = ApiKey(name, str(role), hash_key(plaintext), clock.now())
    store.add_key(key)
    return key, plaintext


def hash_key(plaintext: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal digits.

    A slow, salted hash protects secrets that can be guessed. A key is 256 random bits: no guess
    succeeds however fast it is, and a fast hash lets every request look the key up by its hash, in
    one indexed read that compares no secret byte by byte.
    """
    return hashlib.sha256(plaintext.encode()).hexdigest()


def looks_like_key(text: str) -> bool:
    """Whether `text` has the shape of a key: what has not is refused without asking the store."""
    return _KEY_SHAPE.fullmatch(text) is not None
