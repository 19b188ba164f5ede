"""`python -m chaos run --minutes 10` and `python -m chaos kill-demo --rounds 30`."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from chaos.driver import chaos


def main() -> int:
    """Returns: 0 where nothing was found wrong, else 1."""
    parser = argparse.ArgumentParser(prog="chaos")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="chaos, then the checker")
    run.add_argument("--minutes", type=float, default=10.0)
    run.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    folder = Path(tempfile.mkdtemp(prefix="sluicegate-chaos-"))
    print(f"chaos for {given.minutes:g} minutes, seed {seed}", flush=True)
    found = chaos(folder, seed, given.minutes * 60)
    for line in found.summary:
        print(f"  {line}")
    if not found.violations:
        print("no violation")
        shutil.rmtree(folder)
        return 0
    print((folder / "chaos.log").read_text())
    print(f"{len(found.violations)} violations with seed {seed}; what is left is in {folder}:")
    print("\n".join(found.violations))
    return 1


if __name__ == "__main__":
    sys.exit(main())
