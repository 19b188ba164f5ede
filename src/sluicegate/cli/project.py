"""`sluicegate init`: a small project to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from sluicegate.cli.options import AsJson

FILES: Final = ("pipelines.py", "README.md", "sluicegate.toml")
STARTER: Final = Path(__file__).parents[1] / "examples" / "starter"


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where; the working folder if left out.")
    ] = Path(),
    as_json: AsJson = False,
) -> None:
    """Make a small project to start from. What is there already stays as it is."""
    from sluicegate.cli.terminal import out, plain, print_json

    made, kept = _copy_starter(folder)
    if as_json:
        print_json({"folder": str(folder.absolute()), "made": made, "kept": kept})
        return
    console = out()
    for name in made:
        console.print(plain(f"made  {folder / name}"))
    for name in kept:
        console.print(plain(f"kept  {folder / name}, it was there"), style="dim")
    console.print()
    console.print("Run it:", style="bold")
    if folder != Path():
        console.print(plain(f"  cd {folder}"))
    console.print("  sluicegate run pipelines.py")


def _copy_starter(folder: Path) -> tuple[list[str], list[str]]:
    """Copy what is not there. Returns: the names that were made, and those that were there."""
    from sluicegate.cli.edge import fail

    made, kept = [], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            text = (STARTER / name).read_text(encoding="utf-8")
            try:
                with (folder / name).open("x", encoding="utf-8") as file:
                    file.write(text)
                made.append(name)
            except FileExistsError:
                kept.append(name)
    except OSError as error:
        fail(
            f"cannot make a project in {str(folder)!r}: {error.strerror or error}",
            "choose a folder that can be written",
        )
    return made, kept
