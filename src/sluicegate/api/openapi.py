"""`/openapi.json` in version 3.0, which is what the bundled documentation page can read."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi


def install(app: FastAPI) -> None:
    """Make the application describe itself in OpenAPI 3.0."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = get_openapi(
                title=app.title,
                version=app.version,
                openapi_version="3.0.3",
                description=app.description,
                routes=app.routes,
            )
            app.openapi_schema = _as_3_0(described)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _as_3_0(node: Any) -> Any:
    """Say 3.1 in the words of 3.0: `nullable`, one-valued `enum`, boolean exclusive bounds."""
    if isinstance(node, list):
        return [_as_3_0(one) for one in node]
    if not isinstance(node, dict):
        return node
    node = {key: _as_3_0(value) for key, value in node.items()}
    if isinstance(node.get("anyOf"), list) and {"type": "null"} in node["anyOf"]:
        others = [one for one in node.pop("anyOf") if one != {"type": "null"}]
        node |= {"nullable": True} | (
            others[0] if len(others) == 1 and "$ref" not in others[0] else {"anyOf": others}
        )
    if isinstance(node.get("type"), str) and "const" in node:
        node["enum"] = [node.pop("const")]
    for bound in ("Minimum", "Maximum"):
        if isinstance(node.get(f"exclusive{bound}"), int | float):
            node[bound.lower()], node[f"exclusive{bound}"] = node[f"exclusive{bound}"], True
    return node
