"""Import the files of a target, each time anew, and turn whatever they raise into problems."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sluicegate.problems import DeclarationError, Problem
from sluicegate.targets import Target

# What the load before put into the interpreter; guarded by the lock, since `sys` is everybody's.
_one_load_at_a_time: Final = threading.RLock()
_last_modules: Final[list[str]] = []
_last_search_paths: Final[list[str]] = []


def import_target(found: Target) -> list[Problem]:
    """Import every file of the target, after forgetting what the load before left behind.

    Returns: a problem for each file that cannot be imported; the others are imported all the same.
    """
    with _one_load_at_a_time:
        _forget_last_load()
        importlib.invalidate_caches()
        _last_search_paths[:] = [str(p) for p in found.search_paths if str(p) not in sys.path]
        at = _before_installed_packages()
        sys.path[at:at] = _last_search_paths
        before = dict(sys.modules)
        with _no_bytecode():
            problems = [
                problem
                for name, file in found.modules
                for problem in _import_file(name, file, before, found)
            ]
        _last_modules[:] = [
            name
            for name, module in sys.modules.items()
            if before.get(name) is not module and _belongs(getattr(module, "__file__", None), found)
        ]
        return list(dict.fromkeys(problems))


def _forget_last_load() -> None:
    for name in _last_modules:
        sys.modules.pop(name, None)
    for path in _last_search_paths:
        if path in sys.path:
            sys.path.remove(path)


def _before_installed_packages() -> int:
    """Where a helper wins over an installed package, but never over the standard library."""
    for index, entry in enumerate(sys.path):
        if Path(entry).name in ("site-packages", "dist-packages"):
            return index
    return len(sys.path)


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Leave no files beside the user's, and no cache that hides an edit within the same second."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _import_file(
    name: str, file: Path, before: Mapping[str, object], found: Target
) -> tuple[Problem, ...]:
    """Import one file, unless a file before it has; return what went wrong."""
    for other, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == str(file) and before.get(other) is not module:
            return ()
    try:
        _execute(name, file)
    except DeclarationError as error:
        return error.problems
    except SystemExit as error:
        what = f"calls exit({error.code!r}) while it is loaded"
        mend = "let the file only declare; move the rest below if __name__ == '__main__':"
        return (Problem(what, mend, None, *_place(error, file, found)),)
    except Exception as error:  # noqa: BLE001 - a user's file can raise anything, and all is reported
        return (_problem_of(error, file, found),)
    return ()


def _execute(name: str, file: Path) -> None:
    loaded = getattr(sys.modules.get(name), "__file__", None)
    taken = name in sys.modules and loaded != str(file)
    if taken or name.partition(".")[0] in sys.stdlib_module_names:
        name = f"{name}__pipelines"  # a file called statistics.py must not replace the library's
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, "every target is a .py file"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise


def _problem_of(error: Exception, file: Path, found: Target) -> Problem:
    place = _place(error, file, found)
    if isinstance(error, SyntaxError) and error.filename:
        text = f": {error.text.strip()}" if error.text else ""
        what = f"cannot be read: {error.msg}{text}"
        return Problem(what, "correct the line", None, error.filename, error.lineno)
    what = f"raises {type(error).__name__} while it is loaded: {error}"
    mend = "correct the file: loading it must do no more than declare pipelines"
    if isinstance(error, ModuleNotFoundError):
        mend = f"install what provides {error.name!r}, or correct the import"
    return Problem(what, mend, None, *place)


def _place(error: BaseException, file: Path, found: Target) -> tuple[str, int | None]:
    """Return the innermost line of the user's own code that the error passed through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _belongs(frame.filename, found):
            return frame.filename, frame.lineno
    return str(file), None


def _belongs(file: str | None, found: Target) -> bool:
    """Whether a file is the user's code: of the target or beside it, and no installed package."""
    if file is None or not file.endswith(".py") or _OURS in Path(file).parents:
        return False
    if "site-packages" in file or "dist-packages" in file:
        return False
    return any(Path(file).is_relative_to(folder) for folder in (found.root, *found.search_paths))


_OURS: Final = Path(__file__).resolve().parent
