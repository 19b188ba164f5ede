"""Where pipelines are declared: a file, a folder or a dotted module, found without running it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sluicegate.errors import SluicegateError


class TargetNotFoundError(SluicegateError):
    """There is no such file, folder or module."""

    code = "target_not_found"

    def __init__(self, target: str, why: str = "") -> None:
        super().__init__(
            f"there is no file, folder or module {target!r}{why}",
            mend="give a .py file, a folder of them, or a module such as my_project.pipelines",
        )
        self.target = target


@dataclass(frozen=True, slots=True)
class Target:
    """The files to read, each with the name to import it by, and where its helpers are found."""

    root: Path
    """The folder that holds them all."""
    modules: tuple[tuple[str, Path], ...]
    search_paths: tuple[Path, ...]
    code: tuple[Path, ...]
    """Those files and the helpers beside them: what a change of would be a change of the code."""


def find_target(target: str) -> Target:
    """Return what `target` names; a path that exists comes before a module of that name.

    Folders are read with their sub-folders, in order. Names that begin with `.`, `_` or `test_` are
    no pipelines (`__init__.py` may be), and virtual environments are left out.

    Raises:
        TargetNotFoundError: there is none.
    """
    path = Path(target).resolve()
    if path.is_dir() or (path.is_file() and path.suffix == ".py"):
        base = path.parent if path.is_file() else path
        while (base / "__init__.py").exists():  # a package is imported from outside of it
            base = base.parent
    elif all(part.isidentifier() for part in target.split(".")):
        path = _module_path(target)
        base = path.parents[target.count(".")]
    else:
        raise TargetNotFoundError(target)
    root = path if path.is_dir() else path.parent
    code = tuple(_python_files(root)) if path.is_dir() else (path, *sorted(root.glob("_*.py")))
    chosen = [file for file in code if _declares(file)] if path.is_dir() else [path]
    beside = () if (root / "__init__.py").exists() else (file.parent for file in chosen)
    return Target(
        root=root,
        modules=tuple((_dotted(file.relative_to(base)), file) for file in chosen),
        search_paths=tuple(dict.fromkeys([base, *beside])),
        code=code,
    )


def _module_path(name: str) -> Path:
    """Find a module as `python -m` would, from the current folder too; only its parents run."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        importlib.invalidate_caches()
        spec = importlib.util.find_spec(name)
    except Exception as error:  # a parent package can raise anything
        raise TargetNotFoundError(name, why=f" ({type(error).__name__}: {error})") from error
    finally:
        sys.path.remove(here)
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise TargetNotFoundError(name)
    return Path(spec.origin).resolve()


def _python_files(folder: Path) -> Iterator[Path]:
    """Yield what could be code of pipelines below `folder`, helpers included, sorted."""
    entries = sorted(folder.iterdir())
    for entry in entries:
        if entry.is_file() and entry.suffix == ".py" and not entry.name.startswith((".", "test_")):
            yield entry
    for entry in entries:
        skipped = entry.name.startswith((".", "_", "test_")) or (entry / "pyvenv.cfg").exists()
        if entry.is_dir() and not entry.is_symlink() and not skipped:
            yield from _python_files(entry)


def _declares(file: Path) -> bool:
    return file.name == "__init__.py" or not file.name.startswith("_")


def _dotted(path: Path) -> str:
    parts = path.parent.parts if path.name == "__init__.py" else path.with_suffix("").parts
    return ".".join(part.replace(".", "_") for part in parts) or "__init__"
