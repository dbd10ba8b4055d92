"""`raftbroker topic ...`: create, look at, change and delete topics."""

import sys
from typing import Annotated

import msgspec
import typer

from raftbroker.cli.api import Offsets, Partition, TopicConfig, TopicSummary
from raftbroker.cli.failure import CommandError
from raftbroker.cli.options import (
    DEFAULT_URL,
    JsonOption,
    TopicArgument,
    UrlOption,
    counted,
    make_api,
    say,
    show_table,
    write_json,
)

app = typer.Typer(no_args_is_help=True, help="Create, look at, change and delete topics.")

ConfigOption = Annotated[
    list[str] | None,
    typer.Option("--config", "-c", metavar="NAME=VALUE", help="A topic config by Kafka's name; may be repeated."),
]


class NamedValue(msgspec.Struct, frozen=True, omit_defaults=True):
    """A config as v3 takes it; `operation` DELETE puts it back to its default."""

    name: str
    value: str | None = None
    operation: str | None = None


class NewTopic(msgspec.Struct, frozen=True, omit_defaults=True):
    topic_name: str
    partitions_count: int | None = None
    replication_factor: int | None = None
    configs: list[NamedValue] = []


class Changes(msgspec.Struct, frozen=True):
    data: list[NamedValue]


class PartitionCount(msgspec.Struct, frozen=True):
    partitions_count: int


class PartitionDescription(msgspec.Struct, frozen=True):
    partition: int
    leader: int | None
    replicas: list[int]
    in_sync: list[int]
    beginning_offset: int | None
    end_offset: int | None


class TopicDescription(msgspec.Struct, frozen=True):
    topic: TopicSummary
    configs: list[TopicConfig]
    partitions: list[PartitionDescription]


def parse_configs(items: list[str] | None) -> list[NamedValue]:
    parsed = []
    for item in items or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise CommandError(f"--config {item}: must be NAME=VALUE, for instance --config retention.ms=86400000")
        parsed.append(NamedValue(name.strip(), value.strip()))
    return parsed


@app.command(
    epilog="Examples:\n\n  raftbroker topic create orders --partitions 6\n\n"
    "  raftbroker topic create audit --replication-factor 5 --config retention.ms=-1"
)
def create(
    topic: TopicArgument,
    partitions: Annotated[
        int | None, typer.Option("--partitions", "-p", min=1, help="How many; the cluster's default when left out.")
    ] = None,
    replication_factor: Annotated[
        int | None, typer.Option("--replication-factor", "-r", min=1, help="On how many nodes each record is kept.")
    ] = None,
    config: ConfigOption = None,
    url: UrlOption = DEFAULT_URL,
    json: JsonOption = False,
) -> None:
    """Create a topic."""
    api = make_api(url)
    api.send("POST", api.topics_path(), NewTopic(topic, partitions, replication_factor, parse_configs(config)))
    made = api.topic(topic)
    if json:
        write_json(made)
    else:
        say(
            f"created {topic}: {counted(made.partitions_count, 'partition')},"
            f" replication factor {made.replication_factor}"
        )


@app.command("list", epilog="Example:\n\n  raftbroker topic list --json")
def list_topics(url: UrlOption = DEFAULT_URL, json: JsonOption = False) -> None:
    """List all topics."""
    topics = sorted(make_api(url).topics(), key=lambda topic: topic.topic_name)
    if json:
        write_json(topics)
    else:
        rows = [(topic.topic_name, topic.partitions_count, topic.replication_factor) for topic in topics]
        show_table("", ["topic", "partitions", "replication factor"], rows, right=["partitions", "replication factor"])


@app.command(epilog="Example:\n\n  raftbroker topic describe orders")
def describe(
    topic: TopicArgument,
    all_configs: Annotated[bool, typer.Option("--all", help="Show configs that have their default as well.")] = False,
    url: UrlOption = DEFAULT_URL,
    json: JsonOption = False,
) -> None:
    """Show a topic's partitions (leader, replicas, offsets) and the configs that were set for it."""
    api = make_api(url)
    summary = api.topic(topic)
    configs = api.topic_configs(topic)
    partitions = [
        _describe_partition(found, api.offsets(topic, found.partition) if found.leader is not None else None)
        for found in api.partitions(topic)
    ]
    if json:
        write_json(TopicDescription(summary, configs, partitions))
        return
    say(f"{topic} (id {summary.topic_id}), replication factor {summary.replication_factor}")
    show_table(
        "",
        ["partition", "leader", "replicas", "in sync", "first offset", "next offset"],
        [
            (
                found.partition,
                "none" if found.leader is None else found.leader,
                ", ".join(map(str, found.replicas)),
                ", ".join(map(str, found.in_sync)),
                "?" if found.beginning_offset is None else found.beginning_offset,
                "?" if found.end_offset is None else found.end_offset,
            )
            for found in partitions
        ],
        right=["partition", "leader", "first offset", "next offset"],
    )
    shown = [config for config in configs if all_configs or not config.is_default]
    if shown:
        rows = [(config.name, config.value, "default" if config.is_default else "set") for config in shown]
        show_table("", ["config", "value", ""], rows)
    if len(shown) < len(configs):
        say(f"{counted(len(configs) - len(shown), 'config')} at the default; --all shows them")


def _describe_partition(found: Partition, offsets: Offsets | None) -> PartitionDescription:
    return PartitionDescription(
        found.partition,
        found.leader,
        [replica.broker for replica in found.replicas],
        [replica.broker for replica in found.replicas if replica.in_sync],
        None if offsets is None else offsets.beginning_offset,
        None if offsets is None else offsets.end_offset,
    )


@app.command(
    epilog="Examples:\n\n  raftbroker topic alter orders --config retention.ms=3600000\n\n"
    "  raftbroker topic alter orders --unset retention.ms"
)
def alter(
    topic: TopicArgument,
    config: ConfigOption = None,
    unset: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Put a config back to its default; may be repeated.")
    ] = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Change a topic's configs."""
    changes = parse_configs(config) + [NamedValue(name, operation="DELETE") for name in unset or []]
    if not changes:
        raise CommandError("nothing to change; give --config NAME=VALUE or --unset NAME")
    api = make_api(url)
    api.send("POST", api.topics_path(topic, "configs:alter"), Changes(changes), repeatable=True)
    say(f"altered {topic}: {counted(len(changes), 'config')}")


@app.command(epilog="Example:\n\n  raftbroker topic delete orders --yes")
def delete(
    topic: TopicArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Delete a topic and all its records, for good."""
    if not yes:
        if not sys.stdin.isatty():
            raise CommandError(f"deleting {topic} cannot be undone; say --yes to do it without being asked")
        typer.confirm(f"Delete {topic} and all its records?", abort=True)
    api = make_api(url)
    api.send("DELETE", api.topics_path(topic))
    say(f"deleted {topic}")


@app.command("add-partitions", epilog="Example:\n\n  raftbroker topic add-partitions orders 12")
def add_partitions(
    topic: TopicArgument,
    total: Annotated[int, typer.Argument(help="How many partitions the topic has afterwards.", min=1)],
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Raise a topic's number of partitions. Keys may then map to other partitions than before."""
    api = make_api(url)
    api.send("PATCH", api.topics_path(topic), PartitionCount(total), repeatable=True)
    say(f"{topic} now has {counted(total, 'partition')}")


@app.command(
    "delete-records", epilog="Example:\n\n  raftbroker topic delete-records orders --partition 0 --before 1000"
)
def delete_records(
    topic: TopicArgument,
    partition: Annotated[int, typer.Option(help="The partition.", min=0)],
    before: Annotated[int, typer.Option(help="Records below this offset go; -1: all.", min=-1)],
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Delete a partition's records before an offset."""
    start = make_api(url).delete_records(topic, partition, before)
    say(f"{topic}/{partition} now starts at offset {start}")
