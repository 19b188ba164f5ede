"""What it costs to be there: a start, memory at rest, an installation."""

from __future__ import annotations

import re
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from bench.figures import Results
from bench.server import serving

STARTS: Final = 5
PIPELINES: Final = "from sluicegate import bronze\n@bronze\ndef n(): pass\n"


def measure(results: Results) -> None:
    """Starts with a new home each, as the first of all and as any other."""
    cold, memory = [], []
    for _ in range(STARTS):
        with serving(PIPELINES) as server:
            cold.append(server.ready_seconds)
            server.wait(server.start("bronze.n"))
            time.sleep(1.5)  # what it prepares for the first task is done
            memory.append(server.memory_mb())
    results.add("start.cold", "s", cold, "command to an answer over HTTP")
    results.add("start.memory", "MB", memory, "PSS of server, guard, zygote and workers")
    packages = installed()
    size = sum(packages.values()) / 2**20
    results.add("install.size", "MB", [size], f"{len(packages)} packages, without extras")


def installed(root: str = "sluicegate") -> dict[str, int]:
    """Return the bytes of a package and of all that it needs on this platform, without extras."""
    found: dict[str, int] = {}
    waiting = [root]
    while waiting:
        name = _normal(waiting.pop())
        if name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform or Python
        found[name] = sum(_size(Path(str(file.locate()))) for file in package.files or ())
        for requirement in package.requires or ():
            needed, _, condition = requirement.partition(";")
            if "extra ==" not in condition:
                waiting.append(re.split(r"[\s\[<>=!~(]", needed.strip())[0])
    found[root] = sum(_size(file) for file in _own_files())  # an editable installation lists none
    return found


def _own_files() -> list[Path]:
    import sluicegate

    return [path for path in Path(sluicegate.__file__).parent.rglob("*") if path.is_file()]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
