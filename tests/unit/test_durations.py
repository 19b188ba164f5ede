"""Durations: one parser for options, policies and settings."""

from __future__ import annotations

import math

import pytest

from sluicegate.durations import DurationError, parse_duration


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (90, 90.0),
        (1.5, 1.5),
        ("90", 90.0),
        ("90s", 90.0),
        ("500ms", 0.5),
        ("10m", 600.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("1.5h", 5400.0),
        (" 10 s ", 10.0),
    ],
)
def test_seconds_and_texts_with_a_unit_become_seconds(value: object, seconds: float) -> None:
    """Everything the documentation shows must work."""
    assert parse_duration(value) == seconds  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    ["", "soon", "10 minutes", "-5s", "5S", "1e3", "s", -1, math.inf, math.nan, True, None, []],
)
def test_anything_else_is_refused_and_named(value: object) -> None:
    """A typing mistake must not become a timeout of another length."""
    with pytest.raises(DurationError) as caught:
        parse_duration(value)  # type: ignore[arg-type]
    assert repr(value) in str(caught.value)
    assert "90s" in caught.value.mend
