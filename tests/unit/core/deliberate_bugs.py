"""Deliberate bugs: lines that are changed in a copy of the code, and what a Python program says of that copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import sluicegate

SOURCES = Path(sluicegate.__file__).parent
HERE = Path(__file__).parent


def said_of(folder: Path, file: str, good: str, bad: str, program: str, *arguments: str) -> str:
    """Put a bug into a copy of the package, or of a module beside this one, and return what a program says of it.

    Where the lines that the bug changes are not there any more, the test fails: choose others.
    """
    shutil.copytree(SOURCES, folder / "sluicegate")
    changed = folder / "sluicegate" / file
    if not changed.exists():
        changed = Path(shutil.copy(HERE / file, folder))
    text = changed.read_text()
    assert text.count(good) == 1, "the lines that this bug changes are not there any more"
    changed.write_text(text.replace(good, bad))
    path = os.pathsep.join((str(folder), str(HERE)))
    ran = subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()
