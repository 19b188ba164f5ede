"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh project."""
    return Project(tmp_path)
