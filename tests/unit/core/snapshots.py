"""Copies of a running world, closures included, and a text that is the same for two worlds in the same state."""

from __future__ import annotations

import contextlib
import enum
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

# What is never changed once it is made: shared by all copies, and told once.
VALUE_MODULES: Final = frozenset(
    f"sluicegate.{name}"
    for name in ("core.job", "core.plan", "core.ports", "core.receipt", "core.transitions", "spec")
)
ATOMS: Final = (type(None), bool, int, float, str, bytes, datetime, type, types.ModuleType)


def is_value(kind: type) -> bool:
    """Whether things of a type are never changed."""
    if issubclass(kind, (enum.Enum, BaseException)) or kind in ATOMS:
        return True
    return kind.__module__ in VALUE_MODULES and is_dataclass(kind)


def is_of_threads(kind: type) -> bool:
    """Locks and threads: nobody waits here, so that they can be shared."""
    return kind.__module__ in ("threading", "_thread", "itertools", "logging")


# Types of which things are shared by all copies, and types that were found to have none; both grow as they are met.
_shared: set[type] = set()
_copied: set[type] = set()


def is_shared(kind: type) -> bool:
    """Whether things of a type need not be copied."""
    if kind in _shared:
        return True
    if kind not in _copied:
        (_shared if is_value(kind) or is_of_threads(kind) else _copied).add(kind)
    return kind in _shared


class Copier:
    """One copy of everything that can be reached from what it is given.

    Args:
        shared: What copies have in common.
    """

    def __init__(self, shared: Iterable[object] = ()) -> None:
        self._made: dict[int, Any] = {id(thing): thing for thing in shared}

    def copy(self, thing: Any) -> Any:
        """Return the copy of one thing; the same one each time."""
        kind = type(thing)
        if kind in _shared or is_shared(kind):
            return thing
        made = self._made.get(id(thing))
        if made is not None:
            return made
        return _COPIES.get(kind, Copier._object)(self, thing)

    def _object(self, thing: Any) -> Any:
        kind = type(thing)
        made = self._made[id(thing)] = object.__new__(kind)
        copy = self.copy
        if (held := getattr(thing, "__dict__", None)) is not None:
            new = made.__dict__
            for name, value in held.items():
                new[name] = value if type(value) in _shared else copy(value)
        elif is_dataclass(kind):
            for name in field_names(kind):
                object.__setattr__(made, name, copy(getattr(thing, name)))
        else:
            raise TypeError(f"cannot copy {thing!r}")
        return made

    def _dict(self, thing: dict[Any, Any]) -> Any:
        made = self._made[id(thing)] = type(thing)()
        if isinstance(thing, defaultdict):
            made.default_factory = thing.default_factory
        copy = self.copy
        for key, value in thing.items():
            made[key] = copy(value)  # keys are values
        return made

    def _items(self, thing: Iterable[Any]) -> Any:
        made = self._made[id(thing)] = type(thing)()  # type: ignore[call-arg]
        copy = self.copy
        made.extend([one if type(one) in _shared else copy(one) for one in thing])
        return made

    def _set(self, thing: set[Any]) -> Any:
        made = self._made[id(thing)] = set(thing)  # what is in a set are values
        return made

    def _tuple(self, thing: tuple[Any, ...]) -> Any:
        copy = self.copy
        return tuple([one if type(one) in _shared else copy(one) for one in thing])

    def _function(self, thing: types.FunctionType) -> Any:
        if thing.__closure__ is None and thing.__defaults__ is None:
            return thing
        cells = tuple([self._cell(cell) for cell in thing.__closure__ or ()])
        made = types.FunctionType(
            thing.__code__, thing.__globals__, thing.__name__, self.copy(thing.__defaults__), cells
        )
        made.__qualname__, made.__kwdefaults__ = thing.__qualname__, self.copy(thing.__kwdefaults__)
        return self._made.setdefault(id(thing), made)

    def _cell(self, cell: Any) -> Any:
        if (made := self._made.get(id(cell))) is None:
            made = self._made[id(cell)] = types.CellType()
            with contextlib.suppress(ValueError):  # an empty one
                made.cell_contents = self.copy(cell.cell_contents)
        return made

    def _method(self, thing: types.MethodType) -> Any:
        return types.MethodType(thing.__func__, self.copy(thing.__self__))

    def _builtin(self, thing: types.BuiltinMethodType) -> Any:
        owner = thing.__self__
        return (
            thing
            if isinstance(owner, types.ModuleType)
            else getattr(self.copy(owner), thing.__name__)
        )

    def _partial(self, thing: partial[Any]) -> Any:
        return partial(self.copy(thing.func), *self.copy(thing.args), **self.copy(thing.keywords))


_COPIES: Final[dict[type, Callable[[Copier, Any], Any]]] = {
    dict: Copier._dict,
    OrderedDict: Copier._dict,
    defaultdict: Copier._dict,
    list: Copier._items,
    deque: Copier._items,
    set: Copier._set,
    frozenset: lambda _, thing: thing,
    tuple: Copier._tuple,
    types.FunctionType: Copier._function,
    types.MethodType: Copier._method,
    types.BuiltinMethodType: Copier._builtin,
    partial: Copier._partial,
}
_field_names: dict[type, tuple[str, ...]] = {}


def field_names(kind: type) -> tuple[str, ...]:
    if kind not in _field_names:
        _field_names[kind] = tuple(field.name for field in fields(kind))
    return _field_names[kind]


# ------------------------------------------------------------------ what a state is


class Teller:
    """Tells a state as text. Things that can change are numbered as they are met; values are told by what they are.

    Args:
        known: Things that need not be told where they are met.
        untold: Names of fields that decide nothing.
        since: Names of fields that hold seconds of the clock that only grows; told as seconds from `now`.
    """

    def __init__(
        self, known: Iterable[object], untold: frozenset[str], since: frozenset[str], now: float
    ) -> None:
        self.parts: list[str] = []
        self._known = {id(thing): f"={n}," for n, thing in enumerate(known)}
        self._untold, self._since, self._now = untold, since, now

    @property
    def text(self) -> str:
        """What was told so far."""
        return "".join(self.parts)

    def tell(self, thing: Any) -> None:
        kind = type(thing)
        if kind in PLAIN:
            self.parts.append(f"{thing!r},")
        elif kind in _VALUES:
            self.parts.append(value_text(thing))
        elif (known := self._known.get(id(thing))) is not None:
            self.parts.append(known)
        else:
            self._tell(kind, thing)

    def _tell(self, kind: type, thing: Any) -> None:
        if kind in (tuple, list, deque):
            self._many(thing, "[", "]")
        elif kind in (set, frozenset):
            self._many(sorted(thing), "{", "}")
        elif isinstance(thing, dict):
            self.parts.append("{")
            for key, value in thing.items():
                self.tell(key)
                self.tell(value)
            self.parts.append("}")
        elif is_value(kind):
            _VALUES.add(kind)
            self.parts.append(value_text(thing))
        elif kind is partial:
            self._many((thing.func, thing.args, thing.keywords), "partial(", ")")
        elif kind is types.MethodType:
            self.parts.append(thing.__func__.__qualname__)
            self.tell(thing.__self__)
        elif is_of_threads(kind):
            self.parts.append(".")
        else:
            self._known[id(thing)] = f"={len(self._known)},"
            if kind is types.FunctionType:
                self._function(thing)
            else:
                self._object(kind, thing)

    def _many(self, things: Iterable[Any], begin: str, end: str) -> None:
        self.parts.append(begin)
        for one in things:
            self.tell(one)
        self.parts.append(end)

    def _function(self, thing: types.FunctionType) -> None:
        self.parts.append(f"{thing.__qualname__}:{thing.__code__.co_firstlineno}(")
        for cell in thing.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:
                value = None
            self.tell(value)
        self.tell(thing.__defaults__)
        self.parts.append(")")

    def _object(self, kind: type, thing: Any) -> None:
        self.parts.append(f"{kind.__name__}(")
        names = field_names(kind) if is_dataclass(kind) else list(vars(thing))
        for name in names:
            if name in self._untold:
                continue
            value = getattr(thing, name)
            if name in self._since and value is not None:
                value = round(value - self._now, 6)
            self.tell(value)
        self.parts.append(")")


PLAIN: Final = frozenset((type(None), bool, int, float, str))
_VALUES: set[type] = set()
_texts: dict[int, tuple[Any, str]] = {}
TEXTS_MAX: Final = 200_000


def value_text(thing: Any) -> str:
    """What a value is, but for instants: no decision depends on them."""
    kind = type(thing)
    if kind in PLAIN:
        return "~," if kind is float else f"{thing!r},"
    if kind is datetime:
        return "@,"
    if isinstance(thing, enum.Enum):
        return f"{thing.value},"
    if kind in (tuple, list):
        return "[" + "".join(map(value_text, thing)) + "]"
    if isinstance(thing, dict):
        return "{" + "".join(value_text(k) + value_text(v) for k, v in thing.items()) + "}"
    known = _texts.get(id(thing))
    if known is None or known[0] is not thing:
        inside = "".join(value_text(getattr(thing, name)) for name in field_names(kind))
        if len(_texts) > TEXTS_MAX:
            _texts.clear()
        known = _texts[id(thing)] = (thing, f"{kind.__name__}({inside})")
    return known[1]
