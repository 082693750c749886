"""`--version` of both commands."""

from importlib.metadata import version
from typing import Annotated

import typer


def _tell(asked: bool) -> None:
    if asked:
        print(f"sapiens-curation {version('sapiens-curation')}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="Print the version and leave.", callback=_tell, is_eager=True)]


def common(_: Version = False) -> None:
    """What a command takes before the name of what it is to do."""
