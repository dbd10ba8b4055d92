"""`raftbroker config ...`: every key there is, and what a node would run with."""

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from raftbroker.cli.failure import CommandError
from raftbroker.cli.options import JsonOption, write_json
from raftbroker.config import KEYS, ConfigError, Secret, Settings, build, read_settings, render

app = typer.Typer(no_args_is_help=True, help="Every configuration key, and what a node would run with.")

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Set one key; may be repeated.")
]
ConfigFileOption = Annotated[Path | None, typer.Option("--config", help="A node's TOML file.")]


class KeyDocument(msgspec.Struct, frozen=True):
    """One key, its value in force and where that came from, for programs."""

    key: str
    value: bool | int | str | tuple[str, ...] | None
    """None for a secret that is set: it is not shown."""
    origin: str
    default: bool | int | str | tuple[str, ...]
    environment: str
    comment: str


def read(path: Path | None, sets: list[str] | None, environ: dict[str, str]) -> Settings:
    """Raises CommandError with every problem on a line of its own."""
    try:
        return read_settings(path, sets or [], environ)
    except ConfigError as error:
        raise CommandError("\n".join(error.problems), status=2) from error


@app.command(
    epilog="Examples:\n\n  raftbroker config template > node.toml\n\n"
    "  raftbroker config template --set node.id=2 --set http.listen=127.0.0.1:8083 > node-2.toml"
)
def template(set_: SetOption = None) -> None:
    """Write a TOML file of all keys, each with its comment and default."""
    sys.stdout.write(render(read(None, set_, {}).values))


@app.command(epilog="Example:\n\n  raftbroker config show --config node.toml")
def show(config: ConfigFileOption = None, set_: SetOption = None, json: JsonOption = False) -> None:
    """Check a configuration as a node would, environment included, and write what is in force, without secrets."""
    settings = read(config, set_, dict(os.environ))
    try:
        build(settings)
    except ConfigError as error:
        raise CommandError("\n".join(error.problems), status=2) from error
    if not json:
        sys.stdout.write(render(settings.values, settings.origins))
        return
    write_json(
        [
            KeyDocument(
                name,
                _plain(settings.values[name]),
                settings.origins.get(name, "default"),
                _plain(info.default) or "" if info.kind == "secret" else _shown(info.default),
                info.environment,
                info.key.comment,
            )
            for name, info in KEYS.items()
        ]
    )


def _plain(value: object) -> bool | int | str | tuple[str, ...] | None:
    if isinstance(value, Secret):
        return None if value else ""
    return _shown(value)


def _shown(value: object) -> bool | int | str | tuple[str, ...]:
    return value if isinstance(value, (bool, int, tuple)) else str(value)
