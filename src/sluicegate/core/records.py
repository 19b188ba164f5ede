"""Copies of records, as of headers, of which thousands are made a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import replace as replace
else:

    def replace(record, /, **changes):
        """As `dataclasses.replace`, in a quarter of its time."""
        return _copier(type(record))(record, changes)


@cache
def _copier(kind: type[Any]) -> Callable[[Any, dict[str, Any]], Any]:
    """How instances of one class are copied: slot by slot, without asking each field what it is.

    Frozen classes raise on assignment; the descriptors of their slots do not, which is how `__init__` must do it, too.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    is_plain = all(hasattr(vars(kind).get(name), "__set__") for name in names)
    if hasattr(kind, "__post_init__") or not is_plain:
        return lambda record, changes: dataclasses.replace(record, **changes)
    setters = {name: vars(kind)[name].__set__ for name in names}
    # As `dataclass` itself writes an `__init__`: a loop over the fields would cost more than what it does.
    known: dict[str, Any] = {f"set_{name}": setter for name, setter in setters.items()}
    known |= {"make": object.__new__, "kind": kind, "setters": setters}
    lines = [
        "def copy(record, changes):",
        "    made = make(kind)",
        *(f"    set_{name}(made, record.{name})" for name in names),
        "    for name, value in changes.items():",
        "        setters[name](made, value)",
        "    return made",
    ]
    exec("\n".join(lines), known)  # noqa: S102 - made of field names alone
    copy: Callable[[Any, dict[str, Any]], Any] = known["copy"]
    return copy
