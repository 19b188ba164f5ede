"""The command line: parse, call the manager or the client, print. Commands import what is heavy."""

from __future__ import annotations

from sluicegate.cli import collector


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    collector.hold_off()
    from sluicegate.cli.commands import app

    app(prog_name="sluicegate")
