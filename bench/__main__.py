"""`python -m bench`: measure, compare with what is committed, keep it, and write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench import flights, history, machine, starting, stopping, throughput, viewers
from bench.figures import TARGETS, Results, compared
from bench.page import write_page

HERE: Final = Path(__file__).parent
COMMITTED: Final = HERE / "results" / "ours.json"
LATEST: Final = HERE / ".work" / "latest.json"

MEASURES: Final[dict[str, Callable[[Results], None]]] = {
    "start": starting.measure,
    "stop": stopping.measure,
    "tasks": throughput.measure,
    "growth": throughput.growth,
    "history": history.measure,
    "demo": flights.measure,
    "viewers": viewers.measure,
}


def main() -> int:
    """Run what was asked for. Returns the exit code: 1 where a figure has become worse."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="MEASURE", help=", ".join(MEASURES))
    parser.add_argument("--keep", action="store_true", help="make these the committed figures")
    parser.add_argument("--page", action="store_true", help="only write docs/benchmarks.md anew")
    asked = parser.parse_args()
    if unknown := set(asked.only) - MEASURES.keys():
        parser.error(f"no measure {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    if asked.page:
        write_page(Results.load(COMMITTED))
        return 0
    results = Results(machine.describe())
    print(f"{results.machine['cores']} cores, {results.machine['processor']}")
    for name in asked.only or MEASURES:
        began = time.monotonic()
        print(name, flush=True)
        MEASURES[name](results)
        print(f"  took {time.monotonic() - began:.0f} s", flush=True)
    results.save(LATEST)
    print()
    for target in TARGETS:
        if (figure := results.figures.get(target.figure)) is not None:
            value = getattr(figure, target.of)
            word = "reached" if target.reached(figure) else "MISSED"
            sign = "at least" if target.at_least else "at most"
            print(f"{word:>8}  {target.what}: {value:.4g} {figure.unit}, {sign} {target.bound:g}")
    lines = compared(Results.load(COMMITTED), results) if COMMITTED.exists() else []
    print("\n".join(["", "against the committed figures:", *lines] if lines else []))
    if asked.keep:
        kept = Results.load(COMMITTED) if COMMITTED.exists() else Results({})
        kept.machine = results.machine
        kept.figures |= results.figures
        kept.save(COMMITTED)
        write_page(kept)
    return int(any(line.startswith("worse") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
