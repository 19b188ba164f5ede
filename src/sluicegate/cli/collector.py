"""Python's garbage collector during a start: it belongs to the whole process, so only a command may set it."""

from __future__ import annotations

import gc
from typing import Final

# Imports make much and drop little, and by default the collector looks through it again after every 700 objects: a
# sixth of a start.
OBJECTS_OF_A_START: Final = 50_000

_as_usual: Final = gc.get_threshold()


def hold_off() -> None:
    """Collect seldom while the command starts."""
    gc.set_threshold(OBJECTS_OF_A_START)


def go_on() -> None:
    """Collect as usual what comes from now on; what the start made stays, and no stop has to wait for a look at it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_as_usual)
