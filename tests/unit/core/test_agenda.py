"""The work of the executor's one thread: what it waits for."""

from __future__ import annotations

import threading
from typing import cast

from fakes import FakeClock

from sluicegate.core.agenda import Agenda
from sluicegate.core.ledger import Ledger


def test_a_message_is_waited_for_and_acted_on_once() -> None:
    """Nothing is acted on before it has come: an executor at rest costs nothing."""
    acted: list[object] = []
    agenda: Agenda[str] = Agenda(FakeClock(), cast("Ledger", None), acted.append, lambda _: None)
    come = threading.Timer(0.05, agenda.put, ["stop"])
    come.start()
    agenda.take(20)
    come.join()
    agenda.take(0)
    assert acted == ["stop"]
