"""`raftbroker group ...`: look at consumer groups and how far behind they are, put them somewhere else, delete them."""

import datetime
import sys
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from raftbroker.cli.api import Api, decode
from raftbroker.cli.consume import parse_time
from raftbroker.cli.failure import CommandError
from raftbroker.cli.options import DEFAULT_URL, JsonOption, UrlOption, counted, make_api, say, show_table, write_json

app = typer.Typer(no_args_is_help=True, help="Look at consumer groups and their lag, reset and delete them.")

GroupArgument = Annotated[str, typer.Argument(help="The group's name.")]


class GroupSummary(msgspec.Struct, frozen=True):
    consumer_group_id: str
    state: str
    type: str
    partition_assignor: str


class _Groups(msgspec.Struct, frozen=True):
    data: list[GroupSummary]


class MemberSummary(msgspec.Struct, frozen=True):
    consumer_id: str
    instance_id: str | None
    client_id: str
    client_host: str


class _Members(msgspec.Struct, frozen=True):
    data: list[MemberSummary]


class Lag(msgspec.Struct, frozen=True):
    topic_name: str
    partition_id: int
    current_offset: int | None
    log_end_offset: int
    lag: int | None
    consumer_id: str | None
    client_id: str | None


class _Lags(msgspec.Struct, frozen=True):
    data: list[Lag]


class GroupDescription(msgspec.Struct, frozen=True):
    group: GroupSummary
    members: list[MemberSummary]
    partitions: list[Lag]


class PlaceToReset(msgspec.Struct, frozen=True):
    topic_name: str
    partition_id: int


class Reset(msgspec.Struct, frozen=True, omit_defaults=True):
    to: str
    value: int | None = None
    topics: list[str] | None = None
    partitions: list[PlaceToReset] | None = None
    dry_run: bool = False


class MovedOffset(msgspec.Struct, frozen=True):
    topic_name: str
    partition_id: int
    before: int | None
    after: int


class MovedOffsets(msgspec.Struct, frozen=True):
    group: str
    offsets: list[MovedOffset]


def _path(api: Api, *parts: str) -> str:
    return "/".join(("/v3/clusters", api.cluster_id(), "consumer-groups", *(quote(part, safe="") for part in parts)))


def _shown(value: object | None) -> object:
    return "-" if value is None else value


@app.command("list", epilog="Example:\n\n  raftbroker group list --json")
def list_groups(url: UrlOption = DEFAULT_URL, json: JsonOption = False) -> None:
    """List all consumer groups."""
    api = make_api(url)
    groups = api.get(_path(api), _Groups).data
    if json:
        write_json(groups)
    else:
        rows = [(one.consumer_group_id, one.state.lower(), one.type.lower(), one.partition_assignor) for one in groups]
        show_table("", ["group", "state", "type", "assignor"], rows)


@app.command(epilog="Example:\n\n  raftbroker group describe billing")
def describe(group: GroupArgument, url: UrlOption = DEFAULT_URL, json: JsonOption = False) -> None:
    """Show a group's members, and how far behind it is in each partition."""
    api = make_api(url)
    found = GroupDescription(
        api.get(_path(api, group), GroupSummary),
        api.get(_path(api, group, "consumers"), _Members).data,
        api.get(_path(api, group, "lags"), _Lags).data,
    )
    if json:
        write_json(found)
        return
    total = sum(one.lag or 0 for one in found.partitions)
    summary = found.group
    say(
        f"{group}: {summary.state.lower()}, {summary.type.lower()}, {counted(len(found.members), 'member')},"
        f" {total:,} behind in all"
    )
    if found.members:
        rows = [(one.consumer_id, _shown(one.instance_id), one.client_id, one.client_host) for one in found.members]
        show_table("", ["member", "instance", "client", "host"], rows)
    if found.partitions:
        show_table(
            "",
            ["topic", "partition", "committed", "end", "lag", "member"],
            [
                (
                    one.topic_name,
                    one.partition_id,
                    _shown(one.current_offset),
                    one.log_end_offset,
                    _shown(one.lag),
                    _shown(one.consumer_id),
                )
                for one in found.partitions
            ],
            right=["partition", "committed", "end", "lag"],
        )


@app.command(
    "reset-offsets",
    epilog="Examples:\n\n  raftbroker group reset-offsets billing --to-earliest\n\n"
    "  raftbroker group reset-offsets billing --topic orders --to-time 2h --dry-run\n\n"
    "  raftbroker group reset-offsets billing --topic orders:3 --shift -100",
)
def reset_offsets(
    group: GroupArgument,
    to_earliest: Annotated[bool, typer.Option("--to-earliest", help="To the first record there is.")] = False,
    to_latest: Annotated[bool, typer.Option("--to-latest", help="To the end: only what comes is read.")] = False,
    to_offset: Annotated[int | None, typer.Option("--to-offset", help="To this offset.", min=0)] = None,
    shift: Annotated[int | None, typer.Option("--shift", help="By so many offsets; less than 0 is back.")] = None,
    to_time: Annotated[
        str | None,
        typer.Option(
            "--to-time",
            metavar="TIME",
            help="To the first record of that time or later: a time, epoch milliseconds, or how long ago (15m, 2h).",
        ),
    ] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(
            "--topic",
            "-t",
            metavar="TOPIC[:PARTITION]",
            help="Only here; may be repeated. Without it: wherever the group has committed offsets.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    url: UrlOption = DEFAULT_URL,
    json: JsonOption = False,
) -> None:
    """Put a group somewhere else in its topics. It must have no members."""
    now = datetime.datetime.now().astimezone()
    wanted = [
        *([("earliest", None)] if to_earliest else []),
        *([("latest", None)] if to_latest else []),
        *([("offset", to_offset)] if to_offset is not None else []),
        *([("shift", shift)] if shift is not None else []),
        *([("timestamp", parse_time(to_time, now, "--to-time"))] if to_time is not None else []),
    ]
    if len(wanted) != 1:
        raise CommandError("say where to: exactly one of --to-earliest, --to-latest, --to-offset, --shift, --to-time")
    ((to, value),) = wanted
    topics, places = parse_places(topic)
    api = make_api(url)
    asked = Reset(to, value, topics, places, dry_run)
    path = f"/v1/groups/{quote(group, safe='')}/reset-offsets"
    moved = decode(api.send("POST", path, asked, repeatable=to != "shift"), MovedOffsets)
    if json:
        write_json(moved)
        return
    show_table(
        "",
        ["topic", "partition", "before", "after"],
        [(one.topic_name, one.partition_id, _shown(one.before), one.after) for one in moved.offsets],
        right=["partition", "before", "after"],
    )
    say(f"{'would reset' if dry_run else 'reset'} {group} in {counted(len(moved.offsets), 'partition')}")


def parse_places(given: list[str] | None) -> tuple[list[str] | None, list[PlaceToReset] | None]:
    """Whole topics, and single partitions; None where none is given."""
    topics: list[str] = []
    places: list[PlaceToReset] = []
    for one in given or []:
        name, colon, number = one.rpartition(":")
        if not colon:
            topics.append(one)
        elif number.isdecimal() and name:
            places.append(PlaceToReset(name, int(number)))
        else:
            raise CommandError(f"--topic {one}: must be TOPIC or TOPIC:PARTITION, for instance --topic orders:3")
    return topics or None, places or None


@app.command(epilog="Example:\n\n  raftbroker group delete billing --yes")
def delete(
    group: GroupArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Delete a group and its committed offsets. It must have no members."""
    if not yes:
        if not sys.stdin.isatty():
            raise CommandError(f"deleting {group} cannot be undone; say --yes to do it without being asked")
        typer.confirm(f"Delete {group} and its offsets?", abort=True)
    make_api(url).send("DELETE", f"/v1/groups/{quote(group, safe='')}")
    say(f"deleted {group}")
