"""`python -m jepsen test|cover|prove|serve|report`: see `jepsen.__main__`, which knows them as its own."""

import asyncio
import contextlib
import logging
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jepsen import plants
from jepsen.cover import Cover, table
from jepsen.faults import FAULTS, chosen
from jepsen.net import KINDS
from jepsen.options import Options
from jepsen.progress import Progress, tell
from jepsen.prove import Prover
from jepsen.prove import table as proof_table
from jepsen.report import write_all
from jepsen.runner import Run, faults_of, run_test
from jepsen.serve import serve
from jepsen.store import STORE
from jepsen.workloads import WORKLOADS

EXIT = {True: 0, False: 1, None: 2}
FAULT_NAMES = ", ".join(FAULTS)


def _pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """`name=TEMPLATE`, as often as given. Raises BadParameter."""
    found = {}
    for each in given or ():
        name, equals, template = each.partition("=")
        if not equals or not name or not template:
            raise typer.BadParameter(f"{each!r} is not NAME=COMMAND", param_hint=option)
        found[name] = template
    return found


def _one_of(given: str, choices: Sequence[str], option: str) -> str:
    if given not in choices:
        raise typer.BadParameter(f"{given!r} is none of {', '.join(choices)}", param_hint=option)
    return given


def _check(options: Options) -> None:
    """Raises BadParameter for a workload, fault or plant that there is not, and for what does not go together."""
    _one_of(options.workload, list(WORKLOADS), "--workload")
    if options.plant:
        _one_of(options.plant, plants.names(), "--plant")
    if not options.urls and (options.fault_commands or options.heal_commands or options.kafka or options.ssh):
        reason = "commands and addresses are of a cluster that runs already: name its nodes"
        raise typer.BadParameter(reason, param_hint="--url")
    if options.urls and options.plant:
        raise typer.BadParameter("bugs are planted only into nodes that are started here", param_hint="--plant")
    speaks_kafka = options.client != "http" or options.workload in ("txn", "groups")
    if options.urls and len(options.kafka) != len(options.urls) and (options.kafka or speaks_kafka):
        reason = f"{options.workload}'s clients need host:port of each of the {len(options.urls)} nodes"
        raise typer.BadParameter(reason, param_hint="--kafka")
    try:
        chosen(options.faults, faults_of(options))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--faults") from error


def run_one(
    workload: Annotated[str, typer.Option(help=f"What clients do: {', '.join(WORKLOADS)}.")] = "log",
    nodes: Annotated[int, typer.Option(min=1, max=5, help="Nodes of the cluster that is started.")] = 3,
    faults: Annotated[
        str,
        typer.Option(help=f"What is broken, by commas: {FAULT_NAMES}; or all, or none. kill:majority takes one form."),
    ] = "all",
    time_limit: Annotated[
        float, typer.Option(min=1, help="Seconds of load and faults; the last reads come on top.")
    ] = 120,
    rate: Annotated[float, typer.Option(min=0.1, help="Operations a second, of all workers together.")] = 200,
    concurrency: Annotated[int, typer.Option(min=1, max=500, help="Workers, each with a client of its own.")] = 20,
    seed: Annotated[int | None, typer.Option(help="Of what is done and broken. Drawn where it is not given.")] = None,
    client: Annotated[str, typer.Option(help="Which clients: http, kafka or both.")] = "http",
    sub_via: Annotated[
        str, typer.Option(metavar="assign|subscribe", help="How Kafka's consumers come by their partitions.")
    ] = "assign",
    net: Annotated[str, typer.Option(help=f"How nodes are cut off: {', '.join(KINDS)}.")] = "auto",
    hold: Annotated[float, typer.Option(help="How long a fault holds, seconds on average.")] = 6.0,
    quiet: Annotated[float, typer.Option(help="How long nothing is broken between faults, seconds on average.")] = 5.0,
    plant: Annotated[str, typer.Option(help="Plants a bug into every node, to see that it is found.")] = "",
    url: Annotated[
        list[str] | None, typer.Option(help="Every node of a cluster that runs already, instead of one of our own.")
    ] = None,
    fault_command: Annotated[
        list[str] | None,
        typer.Option(help="NAME=COMMAND breaks a node of that cluster: {node}, {host} and {url} are filled in."),
    ] = None,
    kafka: Annotated[
        list[str] | None, typer.Option(help="host:port of every node for Kafka clients, in the order of --url.")
    ] = None,
    ssh: Annotated[
        str,
        typer.Option(
            metavar="USER@{host}", help="Commands run there; kill, pause and restart of the systemd unit are known."
        ),
    ] = "",
    heal_command: Annotated[list[str] | None, typer.Option(help="NAME=COMMAND heals it again.")] = None,
    store: Annotated[Path, typer.Option(help="Where the run's folder is made.")] = STORE,
    name: Annotated[str, typer.Option(help="Of the test's folder.")] = "",
    keep_data: Annotated[bool, typer.Option("--keep-data", help="Keep the nodes' data, also of a valid run.")] = False,
) -> None:
    """Runs a cluster, breaks it, and judges it; exits with 0 if it was valid, 1 if not, 2 if that cannot be told."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    names = [each.strip() for each in faults.split(",") if each.strip()]
    options = Options(
        workload=workload,
        nodes=nodes,
        faults=tuple(names),
        time_limit=time_limit,
        rate=rate,
        concurrency=concurrency,
        seed=secrets.randbits(32) if seed is None else seed,
        client=_one_of(client, ("http", "kafka", "both"), "--client"),
        sub_via=_one_of(sub_via, ("assign", "subscribe"), "--sub-via"),
        net=_one_of(net, KINDS, "--net"),
        hold=hold,
        quiet=quiet,
        store=store,
        name=name,
        plant=plant,
        urls=tuple(each.rstrip("/") for each in url or ()),
        fault_commands=_pairs(fault_command, "--fault-command"),
        heal_commands=_pairs(heal_command, "--heal-command"),
        kafka=tuple(kafka or ()),
        ssh=ssh,
        keep_data=keep_data,
    )
    _check(options)
    sys.exit(_carry_out(options, console))


def _carry_out(options: Options, console: Console) -> int:
    """The exit status."""
    logging.basicConfig(level=logging.WARNING)
    try:
        run = asyncio.run(_run(options, console))
    except (ValueError, TimeoutError, OSError) as error:
        console.print(f"[bold]could not run[/]: {error}")
        return 2
    tell(run, console)
    return EXIT[run.results["valid"]]  # type: ignore[index]


async def _run(options: Options, console: Console) -> Run:
    progress = Progress(console)
    following = asyncio.create_task(progress.follow())
    try:
        return await run_test(options, progress.show)
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


def cover_pairs(
    seed: Annotated[int, typer.Option(help="Of the plan and of its runs; the same seed goes on where it stopped.")] = 1,
    time_limit: Annotated[float, typer.Option(min=1, help="Seconds of load and faults of each run.")] = 120,
    rate: Annotated[float, typer.Option(min=0.1, help="Operations a second, of all workers together.")] = 60,
    concurrency: Annotated[int, typer.Option(min=1, max=500, help="Workers, each with a client of its own.")] = 10,
    together: Annotated[int, typer.Option(min=2, help="How many faults a run rotates.")] = 6,
    budget: Annotated[float, typer.Option(help="Begins no run that would end later than so many seconds.")] = 1e9,
    minutes: Annotated[
        float, typer.Option(help="Of load and faults in all: once the plan is done, goes on until there were so many.")
    ] = 0.0,
    again: Annotated[list[int] | None, typer.Option(help="A run to do again, although it is done.")] = None,
    folder: Annotated[Path, typer.Option("--store", help="Where the runs' folders and the table are.")] = STORE,
    show: Annotated[bool, typer.Option("--table", help="Only writes what is done, as Markdown.")] = False,
) -> None:
    """Runs every pair of workload, fault, and 3 or 5 nodes; goes on where it stopped. Exits with 0 if all is valid."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    cover = Cover(seed, time_limit, rate, concurrency, together, folder, budget, minutes)
    try:
        if not show:
            cover.go_on(frozenset(again or ()), console.print)
        for row in table(cover):
            console.print(row)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--together") from error
    rows = cover.rows()
    verdicts = {row.outcome.verdict for row in rows.values()}
    complete = rows.keys() >= set(range(1, len(cover.plan()) + 1))
    sys.exit(1 if "anomalies" in verdicts else 0 if complete and verdicts == {"valid"} else 2)


def prove_plants(
    named: Annotated[list[str] | None, typer.Argument(metavar="[PLANT]...", help="Which bugs; all of them.")] = None,
    time_limit: Annotated[float, typer.Option(min=1, help="Seconds of load and faults of each try.")] = 40,
    tries: Annotated[int, typer.Option(min=1, help="With how many seeds each is looked for.")] = 3,
    seed: Annotated[int, typer.Option(help="The first one.")] = 1,
    folder: Annotated[Path, typer.Option("--store", help="Where the runs' folders and the table are.")] = STORE,
    show: Annotated[bool, typer.Option("--table", help="Only writes what is done, as Markdown.")] = False,
) -> None:
    """Plants bugs, each in turn, and shows that the test made for it finds it. Exits with 0 if all were found."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    unknown = sorted(set(named or ()) - plants.PROOFS.keys())
    for plant in unknown:
        if plant in plants.names():
            again = f"python -m tests.simulation --plant {plant}"
            raise typer.BadParameter(f"a cluster cannot show {plant} in minutes; the simulation does: {again}")
    if unknown:
        raise typer.BadParameter(f"no test is known to find {', '.join(unknown)}; there are {', '.join(plants.PROOFS)}")
    prover = Prover(time_limit, tries, seed, folder)
    if not show:
        prover.prove(named or list(plants.PROOFS), console.print)
    for row in proof_table(prover):
        console.print(row)
    rows = prover.rows()
    sys.exit(0 if all(plant in rows and rows[plant].found for plant in named or plants.PROOFS) else 1)


def write_report(
    store: Annotated[Path, typer.Option(help="Where the runs are.")] = STORE,
) -> None:
    """Writes a page with all runs, and one for each; says where."""
    Console(highlight=False, soft_wrap=True).print(str(write_all(store)))


def serve_runs(
    store: Annotated[Path, typer.Option(help="Where the runs are.")] = STORE,
    port: Annotated[int, typer.Option(help="On loopback.")] = 8088,
) -> None:
    """Shows the runs in a browser, until Ctrl-C."""
    serve(store, port)


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command("test")(run_one)
    app.command("cover")(cover_pairs)
    app.command("prove")(prove_plants)
    app.command("serve")(serve_runs)
    app.command("report")(write_report)
