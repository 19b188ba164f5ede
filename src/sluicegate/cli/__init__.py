"""The command line: parse, call the manager or the client, print. Commands import what is heavy."""

from __future__ import annotations

from sluicegate.cli.commands import app


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    app(prog_name="sluicegate")
