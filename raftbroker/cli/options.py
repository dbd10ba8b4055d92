"""What all commands share: their common options, and how they show things to people and to programs."""

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import typer

from raftbroker.cli.api import Api

DEFAULT_URL = "http://127.0.0.1:8082"

UrlOption = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="RAFTBROKER_URL",
        help="A node of the cluster; several, separated by commas, are tried in turn.",
        metavar="URL",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]
TopicArgument = Annotated[str, typer.Argument(help="The topic's name.")]


def make_api(url: str, *, patience: float = 40.0) -> Api:
    return Api([part.strip() for part in url.split(",") if part.strip()], patience=patience)


def write_json(value: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()
) -> None:
    """A table on standard output, as wide as it needs where that is not a terminal."""
    from rich.console import Console  # loaded only where it is used: `raftbroker dev` must start quickly
    from rich.markup import escape
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=200)
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console.print(table)


def say(message: str) -> None:
    """A line for people, on standard output."""
    sys.stdout.write(message + "\n")


def note(message: str) -> None:
    """A line for people beside the output proper, on standard error."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def counted(number: int, noun: str) -> str:
    """ "1 record", "2 records"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
