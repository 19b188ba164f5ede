"""`/api/keys`: who may call. For admins only."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from sluicegate.api.auth import Admin, access_of
from sluicegate.api.deps import ServiceDep
from sluicegate.api.schemas import (
    CreatedKeyShape,
    CreateKeyRequest,
    KeyShape,
    KeysShape,
    documented,
)
from sluicegate.core.keys import create_key
from sluicegate.core.render import key_dict

router = APIRouter(prefix="/api/keys", tags=["keys"])


@router.get("", responses=documented(200, KeysShape))
def list_keys(caller: Admin, service: ServiceDep) -> JSONResponse:
    """List all keys, oldest first, revoked ones included; never the keys themselves."""
    return JSONResponse({"keys": [key_dict(key) for key in service.store.list_keys()]})


@router.post("", status_code=201, responses=documented(201, CreatedKeyShape, problems=[409, 422]))
def create(caller: Admin, service: ServiceDep, body: CreateKeyRequest) -> JSONResponse:
    """Make a key; `key` is shown only now. 409 `key_exists`. 422 `invalid_key_name`."""
    key, plaintext = create_key(service.store, service.clock, body.name, body.role)
    shown = key_dict(key) | {"key": plaintext}
    return JSONResponse(shown, 201, {"Cache-Control": "no-store"})


@router.delete("/{name}", responses=documented(200, KeyShape, problems=[404]))
def revoke(name: str, request: Request, caller: Admin, service: ServiceDep) -> JSONResponse:
    """Revoke a key: its calls, sessions and event streams end. 404 `key_not_found`."""
    key = service.store.revoke_key(name, service.clock.now())
    access_of(request).keys.forget()
    return JSONResponse(key_dict(key))
