"""Bytes that survive a power cut: a file's content and its name are two flushes.

Source:
    fsync(2): flushing a file does not flush the folder entry that names it.
"""

from __future__ import annotations

import os
from pathlib import Path


def flush_to_disk(path: Path) -> None:
    """Return once the content of the file, or the names in the folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
