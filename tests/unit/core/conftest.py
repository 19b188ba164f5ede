"""What the tests of the executor share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from executor_world import Made, World, spec


@pytest.fixture
def made() -> Iterator[Made]:
    """Makes worlds, of a chain of three pipelines unless told otherwise, and looks at each when the test is over."""
    worlds: list[World] = []
    logger = logging.getLogger("sluicegate.core")

    def make(*specs: Any, **options: Any) -> World:
        chain = (
            spec("bronze.a"),
            spec("silver.a", "bronze.a"),
            spec("gold.a", "silver.a"),
        )
        world = World(*(specs or chain), **options)
        logger.addHandler(world.failures)
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        logger.removeHandler(world.failures)
        world.is_sound()
