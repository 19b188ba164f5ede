"""The page's sessions: signing in and out, links, other sites."""

from __future__ import annotations

import httpx
import pytest
from api_world import MakeWorld, World

from sluicegate.api import issue_sign_in_token
from sluicegate.core.store_errors import KeyNotFoundError

OURS = {"Origin": "http://testserver"}


def signed_in(world: World, name: str = "operator") -> httpx.Client:
    client = world.client(None)
    answer = client.post("/api/session", json={"key": world.keys[name]}, headers=OURS)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"name": name, "role": name}
    return client


def test_a_session_is_a_cookie_that_scripts_cannot_read(world: World) -> None:
    """HttpOnly and SameSite=Strict; Secure wherever the page came over TLS."""
    body = {"key": world.keys["viewer"]}
    plain = world.client(None).post("/api/session", json=body).headers["Set-Cookie"]
    tls = world.client(None).post("https://testserver/api/session", json=body)
    assert "HttpOnly" in plain
    assert "SameSite=strict" in plain
    assert "Secure" not in plain
    assert "Secure" in tls.headers["Set-Cookie"]
    assert world.keys["viewer"] not in plain


def test_a_session_calls_as_its_key(world: World) -> None:
    """The same role; what it starts was started in the page."""
    client = signed_in(world)
    assert client.get("/api/session").json() == {"name": "operator", "role": "operator"}
    job = client.post("/api/jobs", json={}, headers=OURS).json()
    assert (job["user_id"], job["trigger"]) == ("operator", "ui")
    assert client.get("/api/keys").status_code == 403


def test_signing_out_ends_the_session_not_only_the_cookie(world: World) -> None:
    """Whoever copied the cookie has nothing."""
    client = signed_in(world)
    cookies = dict(client.cookies)
    assert client.delete("/api/session", headers=OURS).status_code == 204
    assert not client.cookies
    copied = world.client(None)
    copied.cookies.update(cookies)
    assert copied.get("/api/session").status_code == 401


def test_a_session_ends_with_its_key_and_with_its_time(world: World) -> None:
    """Revoking the key is enough; and no session lasts longer than a week."""
    viewer, operator = signed_in(world, "viewer"), signed_in(world)
    assert world.client("admin").delete("/api/keys/viewer").status_code == 200
    assert viewer.get("/api/session").status_code == 401
    assert operator.get("/api/session").status_code == 200
    world.clock.advance(7 * 86400 + 1)
    assert operator.get("/api/session").status_code == 401


def test_a_session_survives_a_restart_when_the_secret_does(make_world: MakeWorld) -> None:
    """An update of the server signs nobody out; another secret knows none of its sessions."""
    client = signed_in(make_world(session_secret=b"kept"))
    for secret, status in ((b"kept", 200), (b"new", 401)):
        restarted = make_world(session_secret=secret).client(None)
        restarted.cookies.update(client.cookies)
        assert restarted.get("/api/session").status_code == status


@pytest.mark.parametrize("cookie", ["", ".", "1.a.b.c.d", "é", "x" * 5000])
def test_a_forged_cookie_is_worth_nothing(world: World, cookie: str) -> None:
    """Its signature is checked before anything else; it costs the address no allowance."""
    headers = [(b"cookie", b"sluicegate_session=" + cookie.encode())]
    for _ in range(25):
        assert world.client(None).get("/api/session", headers=headers).status_code == 401


def test_each_part_of_a_cookie_is_signed(world: World) -> None:
    """A session cannot be moved to another key, nor prolonged."""
    client = signed_in(world)
    ((name, cookie),) = client.cookies.items()
    for part in range(5):
        pieces = cookie.split(".")
        pieces[part] = pieces[part][:-2] + ("00" if pieces[part][-2:] != "00" else "11")
        forged = world.client(None)
        forged.cookies.set(name, ".".join(pieces))
        assert forged.get("/api/session").status_code == 401


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, False),
        ({"Origin": "http://testserver"}, True),
        ({"Origin": "http://testserver:81"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
    ],
)
def test_only_our_own_page_changes_things_by_cookie(
    world: World, headers: dict[str, str], allowed: bool
) -> None:
    """Another page must not stop jobs with the reader's session; with a key, none is involved."""
    job_id = world.run("bronze.flights")
    client = signed_in(world)
    answer = client.post(f"/api/jobs/{job_id}/cancel", headers=headers)
    assert answer.status_code == (200 if allowed else 403)
    if not allowed:
        assert answer.json()["code"] == "cross_site_request"
        assert world.store.get(job_id).status == "pending"
    assert client.get("/api/jobs", headers=headers).status_code == 200
    again = world.client("operator", **headers).post(f"/api/jobs/{job_id}/cancel")
    assert again.status_code in (200, 400)


def test_another_site_signs_nobody_in(world: World) -> None:
    """Nobody works, unknowing, as someone else."""
    body = {"key": world.keys["viewer"]}
    answer = world.client(None).post(
        "/api/session", json=body, headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site_request")


def test_a_wrong_key_does_not_sign_in(world: World) -> None:
    """401, and no cookie."""
    answer = world.client(None).post("/api/session", json={"key": "sg_" + "x" * 43})
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_api_key")
    assert "Set-Cookie" not in answer.headers


def test_two_servers_of_one_host_do_not_share_a_cookie(world: World) -> None:
    """Cookies ignore ports."""
    body = {"key": world.keys["viewer"]}
    names = {
        world.client(None).post(f"http://localhost{port}/api/session", json=body)
        .headers["Set-Cookie"].partition("=")[0]
        for port in ("", ":8000", ":8001")
    }  # fmt: skip
    assert names == {"sluicegate_session", "sluicegate_session_8000", "sluicegate_session_8001"}


def test_a_sign_in_link_works_once(world: World) -> None:
    """It leads to the page, signed in; who clicks twice is there already, others get nothing."""
    token = issue_sign_in_token(world.app, "admin")
    client, late = world.client(None), world.client(None)
    answer = client.get("/signin", params={"token": token})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    assert client.get("/api/session").json() == {"name": "admin", "role": "admin"}
    assert client.get("/signin", params={"token": token}).status_code == 303
    refused = late.get("/signin", params={"token": token})
    assert (refused.status_code, refused.json()["code"]) == (401, "sign_in_link_invalid")


def test_a_sign_in_link_ends_after_ten_minutes_and_with_its_key(world: World) -> None:
    """A link in a terminal's history is worth nothing later."""
    old = issue_sign_in_token(world.app, "viewer")
    world.clock.advance(601)
    revoked = issue_sign_in_token(world.app, "viewer")
    world.client("admin").delete("/api/keys/viewer")
    for token in (old, revoked):
        assert world.client(None).get("/signin", params={"token": token}).status_code == 401
    with pytest.raises(KeyNotFoundError):
        issue_sign_in_token(world.app, "viewer")
