"""`python -m jepsen`: the commands of the chaos harness."""

import gc
import sys
from pathlib import Path
from random import Random
from typing import Annotated

import typer

from jepsen.check import check as check_history
from jepsen.checkers import WORKLOADS
from jepsen.commands import register
from jepsen.synthetic import Shape, events, lines

app = typer.Typer(
    name="jepsen",
    help="Chaos tests of clusters: run, break, record, judge.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def jepsen() -> None:
    """Makes even a single command one that has to be named."""


@app.command()
def check(
    history: Annotated[Path, typer.Argument(metavar="HISTORY.edn", help="The history to judge.")],
    workload: Annotated[
        str | None,
        typer.Option(
            help=f"What the history is of: {', '.join(WORKLOADS)}. [default: as test.json beside it says, or log]",
            show_default=False,
        ),
    ] = None,
    sub_via: Annotated[
        str | None,
        typer.Option(
            metavar="assign|subscribe",
            help="How consumers got their keys: with subscribe, skips between polls are allowed. "
            "[default: as test.json beside it says, or assign]",
            show_default=False,
        ),
    ] = None,
    jepsen_rules: Annotated[
        bool, typer.Option("--jepsen-rules", help="Judge exactly as Jepsen's own checker for Kafka does.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the verdict as JSON, for programs.")] = False,
) -> None:
    """Judges any history in this form; exits with 0 if it is valid, 1 if not, 2 if that cannot be told."""
    gc.disable()  # a history is millions of small objects without cycles, and this process ends with the verdict
    sys.exit(check_history(history, workload, sub_via, jepsen_rules=jepsen_rules, as_json=as_json))


@app.command()
def generate(
    history: Annotated[Path, typer.Argument(metavar="HISTORY.edn", help="Where to write it.")],
    operations: Annotated[int, typer.Option(min=1, help="How many, not counting the final reads.")] = 1_000_000,
    keys: Annotated[int, typer.Option(min=1, help="Topic-partitions.")] = 12,
    clients: Annotated[int, typer.Option(min=1, help="How many operations may be open at once.")] = 10,
    seed: Annotated[int, typer.Option(help="The same seed makes the same history.")] = 1,
) -> None:
    """Writes a valid history of a perfect log: something to measure `check` by, or to break by hand."""
    shape = Shape(
        operations=operations, keys=keys, clients=clients, polled_max=20, info=0.01, crash=0.001, transactions=0.01
    )
    with history.open("wb") as file:
        file.writelines(lines(events(shape, Random(seed))))


register(app)


if __name__ == "__main__":
    app()
