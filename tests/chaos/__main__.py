"""`python -m chaos run --minutes 10` and `python -m chaos kill-demo --rounds 30`."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from chaos.driver import chaos
from chaos.kill_demo import kill_demo


def main() -> int:
    """Returns: 0 where nothing was found wrong, else 1."""
    parser = argparse.ArgumentParser(prog="chaos")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="chaos, then the checker")
    run.add_argument("--minutes", type=float, default=10.0)
    kills = verbs.add_parser("kill-demo", help="kill the demo's server, again and again")
    kills.add_argument("--rounds", type=int, default=500)
    kills.add_argument("--days", type=int, default=None, help="of the year of flights")
    for verb in (run, kills):
        verb.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    folder = Path(tempfile.mkdtemp(prefix="sluicegate-chaos-"))
    log = folder / "chaos.log"
    try:
        if given.verb == "run":
            print(f"chaos for {given.minutes:g} minutes, seed {seed}", flush=True)
            found = chaos(folder, seed, given.minutes * 60)
            wrong, summary = found.violations, found.summary
        else:
            print(f"{given.rounds} rounds of SIGKILL, seed {seed}", flush=True)
            result, summary = kill_demo(folder, seed, given.rounds, given.days)
            wrong = result.violations
    except BaseException:
        print(log.read_text() if log.exists() else "", f"seed {seed}; what is left is in {folder}")
        raise
    for line in summary:
        print(f"  {line}")
    if not wrong:
        print("no violation")
        shutil.rmtree(folder)
        return 0
    if log.exists():
        print(log.read_text())
    print(f"{len(wrong)} violations with seed {seed}; what is left is in {folder}:")
    print("\n".join(wrong))
    return 1


if __name__ == "__main__":
    sys.exit(main())
