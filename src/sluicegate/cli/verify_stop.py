"""`sluicegate verify-stop`: hostile tasks are run and stopped here and now, and what is left of them is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sluicegate.cli.options import AsJson, with_settings
from sluicegate.config import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from sluicegate.verify import Proof, Stop

SETTINGS: Final = ("home", "executor", "workers", "lease_seconds")


class Modes(StrEnum):
    """Which stops are tried."""

    GRACEFUL = "graceful"
    FORCE = "force"
    BOTH = "both"


@with_settings(*SETTINGS)
def verify_stop(
    settings: Settings,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="TASK", help="Only this task; may be repeated."),
    ] = None,
    mode: Annotated[Modes, typer.Option("--mode", help="How to stop them.")] = Modes.BOTH,
    as_json: AsJson = False,
) -> None:
    """Run hostile tasks here, stop them, and count what survives.

    It starts a runner of its own in a folder below the home, with the settings of this
    installation and the executor that it names. No server and no other job is touched, and
    nothing listens to the network. Memory and processes of the tasks are bounded.

    Exit code 1 when a process survives or a task does not stop.
    """
    from sluicegate.cli.terminal import err, print_json
    from sluicegate.core.job import StopMode
    from sluicegate.verify import verify

    modes = tuple(StopMode(one) for one in (Modes.GRACEFUL, Modes.FORCE) if mode in (one, "both"))
    with err().status("starting workers") as status:
        done: list[str] = []

        def told(stop: Stop, total: int) -> None:
            done.append(stop.task)
            status.update(f"{len(done)} of {total} stops, {stop.task} by {stop.mode}")

        proof = verify(settings, only=only or (), modes=modes, on_stop=told)
    if as_json:
        print_json(_as_json(settings, proof))
    else:
        _print(settings, proof)
    if not proof.is_whole:
        raise typer.Exit(1)


def _as_json(settings: Settings, proof: Proof) -> dict[str, Any]:
    return {
        "ok": proof.is_whole,
        "executor": settings.executor,
        "workers": settings.workers,
        "survivors": proof.survivors,
        "seconds": round(proof.seconds, 1),
        "stops": [asdict(stop) for stop in proof.stops],
        "strays": proof.strays,
        "missing_means": proof.missing_means,
    }


def _print(settings: Settings, proof: Proof) -> None:
    from rich.text import Text

    from sluicegate.cli.terminal import grid, out, plain

    console = out()
    table = grid(
        "task",
        "mode",
        "stopped by",
        "milliseconds",
        "survivors",
        right=("milliseconds", "survivors"),
    )
    for stop in proof.stops:
        sign, style = ("✓", "green") if stop.is_proven else ("✗", "red")
        table.add_row(
            Text.assemble((sign, style), " ", stop.task),
            stop.mode,
            plain(stop.stage or "nothing"),
            "" if stop.took_ms is None else f"{stop.took_ms:,.0f}",
            Text(str(len(stop.survivors)), style="red bold" if stop.survivors else ""),
        )
    console.print(table)
    console.print()
    for stop in proof.stops:
        if not stop.is_proven:
            _print_failure(console, f"{stop.task} ({stop.mode})", stop.problem, stop.survivors)
    if proof.strays:
        _print_failure(console, "of no known task", None, proof.strays)
    for missing in proof.missing_means:
        console.print(Text(f"this platform has {missing}", style="yellow"))
    verdict = Text(_summary(settings, proof), style="green" if proof.is_whole else "red bold")
    console.print(verdict, soft_wrap=True)


def _print_failure(
    console: Console, what: str, problem: str | None, survivors: Sequence[str]
) -> None:
    from rich.text import Text

    said = [problem] if problem else []
    said += [f"process {one} survived, and was ended now" for one in survivors]
    for one in said:
        console.print(Text(f"{what}: {one}", style="red"), soft_wrap=True)


def _summary(settings: Settings, proof: Proof) -> str:
    """The verdict in one sentence."""
    from sluicegate.cli.terminal import counted

    stops = counted(len(proof.stops), "stop")
    where = f"executor {settings.executor}, {counted(settings.workers, 'worker')}"
    if proof.is_whole:
        slowest = max((stop.took_ms or 0.0 for stop in proof.stops), default=0.0)
        return f"{stops}, no process survived; the slowest took {slowest / 1000:.2f} s ({where})"
    unstopped = sum(stop.problem is not None for stop in proof.stops)
    survived = counted(proof.survivors, "process", "processes")
    return f"{stops}: {survived} survived, {unstopped} not stopped as they should ({where})"
