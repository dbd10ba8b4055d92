"""`raftbroker cluster ...` and `raftbroker node ...`: how the cluster is, and who leads what."""

import sys
import time
from typing import Annotated

import msgspec
import typer

from raftbroker.cli.api import Api, Broker, Group, GroupReplica, Health
from raftbroker.cli.failure import CommandError
from raftbroker.cli.options import (
    DEFAULT_URL,
    JsonOption,
    UrlOption,
    counted,
    make_api,
    note,
    say,
    show_table,
    write_json,
)

cluster_app = typer.Typer(no_args_is_help=True, help="How the cluster is.")
node_app = typer.Typer(no_args_is_help=True, help="Nodes: what they hold, and moving leadership away.")

NodeArgument = Annotated[int, typer.Argument(help="The node's id.", metavar="NODE", min=1)]


class ClusterStatus(msgspec.Struct, frozen=True):
    cluster_id: str
    health: Health
    nodes: list[Broker]
    groups: list[Group]


class NodeStatus(msgspec.Struct, frozen=True):
    node: Broker
    leads: list[int]
    """Raft groups that it leads."""
    follows: list[int]


@cluster_app.command(epilog="Example:\n\n  raftbroker cluster status")
def status(url: UrlOption = DEFAULT_URL, json: JsonOption = False) -> None:
    """Show the nodes and every Raft group: leader, term, what is committed."""
    api = make_api(url)
    found = ClusterStatus(api.cluster_id(), api.health(), api.brokers(), api.groups())
    if json:
        write_json(found)
        return
    say(f"cluster {found.cluster_id}: {describe_health(found.health)}")
    _show_nodes(found.nodes, found.groups)
    rows = [
        (
            "control" if group.group == 0 else group.group,
            "none" if group.leader is None else group.leader,
            group.term,
            ", ".join(_describe_replica(replica) for replica in group.replicas),
            group.commit,
            group.applied,
            group.partitions,
        )
        for group in found.groups
    ]
    columns = ["group", "leader", "term", "members", "committed", "applied", "partitions"]
    show_table("Raft groups", columns, rows, right=["leader", "term", "committed", "applied", "partitions"])


@cluster_app.command(
    epilog="Examples:\n\n  raftbroker cluster health\n\n  raftbroker cluster health --wait 30 && ./start-load"
)
def health(
    wait: Annotated[
        float, typer.Option(help="Wait up to this many seconds for the cluster to be healthy.", min=0)
    ] = 0.0,
    url: UrlOption = DEFAULT_URL,
    json: JsonOption = False,
) -> None:
    """Say whether the cluster is healthy; exit status 0 only if it is."""
    deadline = time.monotonic() + wait
    while True:
        try:
            found = make_api(url, patience=max(2.0, wait)).health()
        except CommandError:
            if time.monotonic() >= deadline:
                raise
        else:
            if found.is_healthy or time.monotonic() >= deadline:
                break
        time.sleep(0.2)
    if json:
        write_json(found)
    else:
        say(describe_health(found))
    if not found.is_healthy:
        raise typer.Exit(1)


def describe_health(found: Health) -> str:
    """A sentence."""
    if found.is_healthy:
        return f"healthy, {counted(len(found.all_nodes), 'node')}"
    problems = []
    if found.controller_id < 0:
        problems.append("the control group has no leader")
    if found.nodes_down:
        problems.append(f"down: node {', '.join(map(str, found.nodes_down))}")
    for names, what in (
        (found.leaderless_partitions, "without a leader"),
        (found.under_replicated_partitions, "with too few replicas in sync"),
    ):
        if names:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            problems.append(f"{counted(len(names), 'partition')} {what} ({shown})")
    return "not healthy: " + "; ".join(problems or ["the node gives no reason"])


@node_app.command("list", epilog="Example:\n\n  raftbroker node list")
def list_nodes(url: UrlOption = DEFAULT_URL, json: JsonOption = False) -> None:
    """List the cluster's nodes."""
    api = make_api(url)
    nodes = api.brokers()
    if json:
        write_json(nodes)
    else:
        _show_nodes(nodes, api.groups())


@node_app.command(epilog="Example:\n\n  raftbroker node show 2")
def show(node: NodeArgument, url: UrlOption = DEFAULT_URL, json: JsonOption = False) -> None:
    """Show one node, and its replica of each Raft group."""
    api = make_api(url)
    found = _find_node(api, node)
    groups = [group for group in api.groups() if any(replica.node == node for replica in group.replicas)]
    leads = [group.group for group in groups if group.leader == node]
    if json:
        write_json(NodeStatus(found, leads, [group.group for group in groups if group.leader != node]))
        return
    _show_nodes([found], groups)
    rows = [
        (
            "control" if group.group == 0 else group.group,
            replica.role,
            replica.term,
            replica.commit,
            replica.applied,
            f"{replica.first_index} to {replica.last_index}",
            replica.damaged or "",
        )
        for group in groups
        for replica in group.replicas
        if replica.node == node
    ]
    columns = ["group", "role", "term", "committed", "applied", "log", "damage"]
    show_table("Its replicas", columns, rows, right=["term", "committed", "applied"])


@node_app.command(
    epilog="Examples:\n\n  raftbroker node transfer 2\n\n  raftbroker node transfer 2 --group 3 --target 1\n\n"
    "Do this before stopping a node, and no client notices."
)
def transfer(
    node: NodeArgument,
    group: Annotated[int | None, typer.Option(help="Only this Raft group.", min=0)] = None,
    target: Annotated[
        int | None, typer.Option(help="To this node; the most caught-up one when left out.", min=1)
    ] = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Move leadership away from a node."""
    api = make_api(url)
    _find_node(api, node)
    led = [found.group for found in api.groups() if found.leader == node and group in (None, found.group)]
    if group is not None and not led:
        raise CommandError(f"node {node} does not lead group {group}; `raftbroker cluster status` shows who does")
    failures = 0
    for number in led:
        try:
            api.transfer(number, target)
        except CommandError as error:
            failures += 1
            note(f"group {number}: {error}")
    if failures:
        raise CommandError(
            f"{failures} of {counted(len(led), 'group')} could not be moved away from node {node}; try again"
        )
    say(f"node {node} gave up the leadership of {counted(len(led), 'group')}")


def _find_node(api: Api, number: int) -> Broker:
    brokers = api.brokers()
    for broker in brokers:
        if broker.id == number:
            return broker
    known = ", ".join(str(broker.id) for broker in brokers)
    raise CommandError(f"there is no node {number} in the cluster; its nodes are {known}")


def _describe_replica(replica: GroupReplica) -> str:
    marks = [] if replica.voter else ["learner"]
    if replica.damaged:
        marks.append("damaged")
    elif replica.role == "absent":
        marks.append("absent")
    return f"{replica.node}" + (f" ({', '.join(marks)})" if marks else "")


def _show_nodes(nodes: list[Broker], groups: list[Group]) -> None:
    rows = [
        (
            node.id,
            "up" if node.alive else "down",
            node.http,
            node.kafka or "-",
            node.peer,
            sum(group.leader == node.id for group in groups),
            sum(any(replica.node == node.id for replica in group.replicas) for group in groups),
            "controller" if node.is_controller else "",
        )
        for node in nodes
    ]
    columns = ["node", "state", "http", "kafka", "peers", "leads", "replicas", ""]
    show_table("Nodes", columns, rows, right=["node", "leads", "replicas"])


def show_addresses(rows: list[tuple[int, str, str, str, str]], *, took: float) -> None:
    """The table that `raftbroker dev` prints once every node is ready."""
    show_table("", ["node", "HTTP", "Kafka", "peers", "files"], rows, right=["node"])
    say(f"{counted(len(rows), 'node')} ready in {took:.1f} s. Ctrl-C stops them.")
    sys.stdout.flush()
