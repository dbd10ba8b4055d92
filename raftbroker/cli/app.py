"""Puts the commands together, and turns their failures into messages and exit statuses.

Exit statuses: 0 success, 1 the command failed, 2 wrong usage or configuration, 130 interrupted.
"""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from raftbroker.cli import cluster, configuration, group, queue, topics, webhook
from raftbroker.cli.consume import consume
from raftbroker.cli.failure import CommandError
from raftbroker.cli.options import note
from raftbroker.cli.produce import produce

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A replicated log and queue broker. `raftbroker dev` runs a whole cluster on this machine; the other commands"
    " talk to a cluster over HTTP (--url, RAFTBROKER_URL, default http://127.0.0.1:8082).",
    epilog="First steps:\n\n  raftbroker dev\n\n  raftbroker topic create hello\n\n"
    "  raftbroker produce hello 'first record'\n\n  raftbroker consume hello",
)
_started = time.monotonic()


@app.callback(invoke_without_command=True)
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    if show_version:
        from importlib.metadata import version

        sys.stdout.write(f"raftbroker {version('raftbroker')}\n")
        raise typer.Exit


@app.command(
    epilog="Examples:\n\n  raftbroker dev\n\n  raftbroker dev --nodes 5 --data /tmp/five --port-offset 100\n\n"
    "Node i (from 1) listens on HTTP 8081+i, Kafka 9091+i and peers 7081+i, each plus the port offset. Its files are in"
    " DIR/node-i/, its pid in DIR/node-i/node.pid, its log in DIR/node-i/node.log."
)
def dev(
    nodes: Annotated[int, typer.Option("--nodes", "-n", help="How many nodes.", min=1, max=9)] = 3,
    data: Annotated[
        Path, typer.Option("--data", "-d", metavar="DIR", help="Where the cluster's files are kept.")
    ] = Path("raftbroker-dev"),
    port_offset: Annotated[
        int, typer.Option("--port-offset", metavar="K", help="Added to every port.", min=0, max=50_000)
    ] = 0,
    no_restart: Annotated[bool, typer.Option("--no-restart", help="Leave a node that dies dead.")] = False,
) -> None:
    """Run a whole cluster on this machine until Ctrl-C."""
    import asyncio

    from raftbroker.cli.dev import DevCluster, locked, prepare

    directory = data.absolute()
    with locked(directory):
        plans, _ = prepare(directory, nodes, port_offset)

        def ready() -> None:
            from raftbroker.cli.cluster import show_addresses

            rows = [(plan.number, f"http://{plan.http}", plan.kafka, plan.peers, str(plan.directory)) for plan in plans]
            show_addresses(rows, took=time.monotonic() - _started)

        status = asyncio.run(DevCluster(plans, note, restart=not no_restart).run(ready))
    raise typer.Exit(status)


@app.command(
    epilog="Examples:\n\n  raftbroker server --config config/one-node.toml\n\n"
    "  raftbroker server --config node.toml --set http.listen=127.0.0.1:8090\n\n"
    "Without --config it is a single node on loopback with its data in ./data. The environment sets keys too:"
    " RAFTBROKER_HTTP__LISTEN=127.0.0.1:8090."
)
def server(config: configuration.ConfigFileOption = None, set_: configuration.SetOption = None) -> None:
    """Run one node until SIGTERM or Ctrl-C."""
    from raftbroker.cli.server import run as run_server

    raise typer.Exit(run_server(config, set_ or []))


app.add_typer(topics.app, name="topic")
app.command(
    epilog="Examples:\n\n  raftbroker produce orders 'one record' 'and another'\n\n"
    "  raftbroker produce orders --file orders.txt --key-separator ,\n\n"
    "  tail -f app.log | raftbroker produce logs --batch 1"
)(produce)
app.command(
    epilog="Examples:\n\n  raftbroker consume orders\n\n  raftbroker consume orders --from-time 15m --follow\n\n"
    "  raftbroker consume orders -p 0 --offset -10 --format '{offset}\\t{key}\\t{value}'\n\n"
    "  raftbroker consume orders --json | jq .value"
)(consume)
app.add_typer(group.app, name="group")
app.add_typer(queue.app, name="queue")
app.add_typer(webhook.app, name="webhook")
app.add_typer(cluster.cluster_app, name="cluster")
app.add_typer(cluster.node_app, name="node")
app.add_typer(configuration.app, name="config")


def run(started: float) -> int:
    """Runs the command in sys.argv; returns the exit status. `started`: monotonic seconds, for `dev`."""
    global _started
    _started = started
    try:
        app()
    except CommandError as error:
        note(f"raftbroker: {error}")
        return error.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0
