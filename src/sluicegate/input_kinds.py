"""How an input arrives, read from a parameter's annotation without importing any dataframe library.

The server loads every declaration and must stay light, so a class is known by its module and name,
and an annotation that is only text (`from __future__ import annotations`) by what the text means in
its file.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

DEFAULT_KIND: Final = "pyarrow.RecordBatchReader"
KINDS: Final = (
    "polars.LazyFrame",
    "polars.DataFrame",
    "pyarrow.Table",
    DEFAULT_KIND,
    "duckdb.DuckDBPyRelation",
    "pandas.DataFrame",
    "deltalake.DeltaTable",
)
TASK: Final = "sluicegate.Task"

_USUAL_ALIASES: Final = {"pl": "polars", "pa": "pyarrow", "pd": "pandas"}


def kind_of(annotation: object, namespace: Mapping[str, Any]) -> str | None:
    """Return one of `KINDS`, `TASK`, or `None` when the annotation is neither.

    Args:
        annotation: As `inspect.signature` shows it: a class, text, or `Parameter.empty`.
        namespace: The globals of the function, in which text is looked up.
    """
    if annotation is inspect.Parameter.empty:
        return DEFAULT_KIND
    if isinstance(annotation, str):
        text = annotation.strip("\"' ")
        found = _look_up(text, namespace)
        return _kind_of_text(text) if found is None else _kind_of_class(found)
    return _kind_of_class(annotation)


def _look_up(text: str, namespace: Mapping[str, Any]) -> object | None:
    """Follow a dotted name; `None` where it leads nowhere, as under `TYPE_CHECKING`."""
    first, *rest = text.split(".")
    found = namespace.get(first)
    for name in rest:
        found = getattr(found, name, None)
    return found


def _kind_of_class(found: object) -> str | None:
    if not isinstance(found, type):
        return None
    # DuckDB's classes have lived in a module `_duckdb`.
    root = found.__module__.partition(".")[0].removeprefix("_")
    return _known(f"{root}.{found.__name__}")


def _kind_of_text(text: str) -> str | None:
    """Read a name that nothing defines at run time; alone only if no two kinds share it."""
    module, _, name = text.rpartition(".")
    if not module:
        same = [kind for kind in (*KINDS, TASK) if kind.endswith(f".{name}")]
        return same[0] if len(same) == 1 else None
    root = module.partition(".")[0]
    return _known(f"{_USUAL_ALIASES.get(root, root)}.{name}")


def _known(kind: str) -> str | None:
    return kind if kind == TASK or kind in KINDS else None


def shown_annotation(annotation: object) -> str:
    """Return an annotation as its author wrote it, as far as that is known."""
    if isinstance(annotation, (str, ModuleType)):
        return str(annotation)
    return inspect.formatannotation(annotation)
