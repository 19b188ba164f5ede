"""The command line: parse, call the manager or the client, print. Commands import what is heavy."""

from __future__ import annotations

import gc
from typing import Final

# Imports make much and drop nothing, and by default the collector looks through it again after every 700 objects:
# a sixth of a start. A service sets it back once it has started.
OBJECTS_OF_A_START: Final = 50_000


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    gc.set_threshold(OBJECTS_OF_A_START)
    from sluicegate.cli.commands import app

    app(prog_name="sluicegate")
