"""Which tables a SQL query reads, found by DuckDB's own parser; nothing is executed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from sluicegate.errors import SluicegateError
from sluicegate.spec import LAYERS

_ONE_SELECT: Final = "write one SELECT (with CTEs if it helps); its result becomes the table"


class QueryError(SluicegateError):
    """A query that cannot fill a table."""

    code = "query_invalid"


def tables_read(query: str) -> tuple[str, ...]:
    """Return the `layer.name` tables that `query` reads, sorted; names of CTEs do not count.

    Raises:
        QueryError: it cannot be parsed, is no single SELECT, or reads what is no table of a layer.
    """
    paths = sorted(set(_references(_parse(query), frozenset())))
    strange = [".".join(path) for path in paths if len(path) != 2 or path[0] not in LAYERS]
    if strange:
        raise QueryError(
            f"the query reads {', '.join(map(repr, strange))}, which is no table of a layer",
            mend=f"write layer.name, the layer being one of {', '.join(LAYERS)}",
        )
    return tuple(".".join(path) for path in paths)


def _parse(query: str) -> Any:
    """Return the query's syntax tree as DuckDB's JSON."""
    try:
        import duckdb
    except ModuleNotFoundError:
        raise QueryError(
            "a SQL pipeline needs DuckDB, which is not installed",
            mend="pip install 'sluicegate[frames]'",
        ) from None
    try:
        statements = duckdb.extract_statements(query)
    except duckdb.Error as error:
        raise QueryError(
            f"DuckDB cannot read the query: {str(error).strip()}", mend="correct the query"
        ) from None
    if len(statements) != 1:
        raise QueryError(f"the query holds {len(statements)} statements", mend=_ONE_SELECT)
    with duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"}) as connection:
        asked = connection.execute("select json_serialize_sql(?::varchar)", [query])
        [(text,)] = asked.fetchall()
    tree = json.loads(text)
    if tree["error"]:
        kind = statements[0].type.name
        raise QueryError(f"the query is no single SELECT but {kind}", mend=_ONE_SELECT)
    return tree


def _references(node: Any, ctes: frozenset[str]) -> Iterator[tuple[str, ...]]:
    """Yield the path of each table named at or below `node` that is none of the visible `ctes`."""
    if isinstance(node, list):
        for child in node:
            yield from _references(child, ctes)
    if not isinstance(node, dict):
        return
    if (kind := str(node.get("type"))) == "SHOW_REF" or kind.endswith("_QUERY_NODE"):
        # DESCRIBE and SHOW parse as SELECT, and so does INSERT, UPDATE or DELETE inside a CTE.
        raise QueryError("the query does more than to select", mend=_ONE_SELECT)
    if kind == "BASE_TABLE":
        path = (node.get("catalog_name"), node.get("schema_name"), node["table_name"])
        named = tuple(part.lower() for part in path if part)
        if len(named) > 1 or named[0] not in ctes:
            yield named
    if "cte_name" in node:  # a recursive CTE sees itself
        ctes |= {node["cte_name"].lower()}
    for cte in (node.get("cte_map") or {}).get("map", ()):  # each sees those before it
        yield from _references(cte["value"], ctes)
        ctes |= {cte["key"].lower()}
    for key, child in node.items():
        if key != "cte_map":
            yield from _references(child, ctes)
