"""API keys: what a key is, what it may be called, what each role includes, and what is stored of it."""

from __future__ import annotations

from itertools import product

import pytest
from fakes import T0, FakeClock, MemoryStore

from sluicegate.core.job import ApiKey
from sluicegate.core.keys import (
    InvalidKeyNameError,
    InvalidRoleError,
    Role,
    create_key,
    hash_key,
    looks_like_key,
)
from sluicegate.core.store_errors import KeyExistsError


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_what_is_stored_of_a_key_is_its_hash(store: MemoryStore) -> None:
    """Who reads the store cannot call the API; who has the key is found by it."""
    key, plaintext = create_key(store, FakeClock(), "ci", "operator")
    assert key == ApiKey("ci", "operator", hash_key(plaintext), created_at=T0)
    assert store.list_keys() == [key]
    assert store.find_key(hash_key(plaintext)) == key
    assert plaintext not in repr(key)


def test_a_new_key_has_the_shape_of_keys_and_was_never_there_before(store: MemoryStore) -> None:
    """256 random bits behind a prefix by which people and secret scanners know it."""
    made = {create_key(store, FakeClock(), f"key-{n}", "viewer")[1] for n in range(50)}
    assert len(made) == 50
    assert all(map(looks_like_key, made))
    assert all(key.startswith("sg_") and len(key) == 46 for key in made)


def test_a_hash_is_the_sha_256_of_the_key() -> None:
    """Stored hashes must match for ever, or every key stops working after an upgrade.

    Source: FIPS 180-2, appendix B.1.
    """
    assert hash_key("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("text", "shaped"),
    [
        ("sg_" + "a" * 43, True),
        ("sg_" + "aZ09_-" * 7 + "x", True),
        ("sg_" + "a" * 42, False),
        ("sg_" + "a" * 44, False),
        ("xx_" + "a" * 43, False),
        ("sg_" + "a" * 42 + "=", False),
        ("sg_" + "a" * 43 + "\n", False),
        (" sg_" + "a" * 43, False),
        ("", False),
    ],
)
def test_what_has_not_the_shape_of_a_key_is_known_at_once(text: str, shaped: bool) -> None:
    """It is refused without asking the store."""
    assert looks_like_key(text) is shaped


@pytest.mark.parametrize("name", ["a", "7", "a" * 64, "Ann.B_c@example-1"])
def test_a_name_may_have_letters_digits_and_some_signs(store: MemoryStore, name: str) -> None:
    """As people, machines and mail addresses are called."""
    assert create_key(store, FakeClock(), name, "viewer")[0].name == name


@pytest.mark.parametrize(
    "name", ["", "a" * 65, "-a", ".a", "_a", "@a", "a b", "a:b", "a/b", "a\n", "é"]
)
def test_another_name_is_refused_and_nothing_is_stored(store: MemoryStore, name: str) -> None:
    """A name stands in addresses, in logs and in the history."""
    with pytest.raises(InvalidKeyNameError) as refused:
        create_key(store, FakeClock(), name, "viewer")
    assert (refused.value.code, refused.value.name) == ("invalid_key_name", name)
    assert repr(name) in refused.value.what
    assert "1 to 64 letters, digits" in refused.value.mend
    assert refused.value.mend[0].islower()
    assert store.list_keys() == []


@pytest.mark.parametrize("role", ["", "root", "Admin", "viewer "])
def test_another_role_is_refused_and_nothing_is_stored(store: MemoryStore, role: str) -> None:
    """A key whose role nobody knows would fail at its first call instead."""
    with pytest.raises(InvalidRoleError) as refused:
        create_key(store, FakeClock(), "ci", role)
    assert (refused.value.code, refused.value.role) == ("invalid_role", role)
    assert repr(role) in refused.value.what
    assert "viewer, operator, admin" in refused.value.mend
    assert store.list_keys() == []


def test_a_live_name_is_taken_and_a_revoked_one_is_free(store: MemoryStore) -> None:
    """A name means one key at a time."""
    first, _ = create_key(store, FakeClock(), "ci", "viewer")
    with pytest.raises(KeyExistsError):
        create_key(store, FakeClock(), "ci", "admin")
    assert store.list_keys() == [first]
    store.revoke_key("ci", T0)
    assert create_key(store, FakeClock(), "ci", "admin")[0].role == "admin"


@pytest.mark.parametrize(("role", "needed"), list(product(Role, Role)))
def test_a_role_includes_itself_and_the_lower_ones(role: Role, needed: Role) -> None:
    """Every call asks this; a mistake here opens all of them, or closes them."""
    lowest_first = ["viewer", "operator", "admin"]
    assert role.includes(needed) is (lowest_first.index(role) >= lowest_first.index(needed))
